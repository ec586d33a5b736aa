"""Whoever is to hear how a command ends hears of it, also where it ends in an error and leaves no report."""

from collections.abc import Iterator
from contextlib import contextmanager

from sync_job.config import Settings
from sync_job.runs import measuring, notifying


@contextmanager
def how_it_ends(settings: Settings, kind: str, *, called: str = "") -> Iterator[None]:
    """Tell people by message, and Prometheus by its file, how what is done in the block ends.

    *called* is what messages call it, where that is not its *kind*.
    """
    with notifying.telling(settings, called or kind), measuring.ending(kind, settings):
        yield
