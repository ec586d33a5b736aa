"""The state as it will be once the lists of its inbox are taken in: they bind already. Nothing of it is changed."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from sync_job.config import Settings
from sync_job.errors import StateError
from sync_job.ledger import inbox
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.state import State
from sync_job.runs import limits, owing


@contextmanager
def opened(settings: Settings) -> Iterator[State]:
    """Yield the state to read from, by a ledger that has the lists of the inbox; with lists it is a copy.

    Raises:
        StateError: when there is no state, or a list cannot be read.
    """
    # First: a list that is taken in meanwhile is then seen twice, which changes nothing, and not missed.
    lists = inbox.waiting(settings.state.path)
    target = settings.endpoint.target
    with State.open(settings.state.path, target, write=False) as state:
        if not lists:
            yield state
            return
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "ledger.db"
            state.ledger.copy(path)
            with Ledger.open(path, target, write=True) as ledger:
                _take_in(ledger, lists, settings)
                yield replace(state, ledger=ledger)


def _take_in(ledger: Ledger, lists: list[Path], settings: Settings) -> None:
    erased_at = owing.erased_at(settings, ledger)
    for path in lists:
        try:
            batches, about = inbox.read(path)
            limit_of = partial(limits.of, settings)
            ledger.withdrawals.absorb(batches, about, now=time.time(), limit_of=limit_of, erased_at=erased_at)
        except StateError:
            if path.exists():
                raise
