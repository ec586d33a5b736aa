"""Keeps the Prometheus text file of `[metrics] textfile`: what each run did, and how every one ended.

A file that cannot be written ends no run and changes no exit code: it is a warning in the log.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from sync_job.config import Settings
from sync_job.errors import Exit, exit_of
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.runs import owing

_log = structlog.get_logger()
_MODE = 0o644  # node_exporter is another user, and nothing in it is personal
_PATIENCE_S = 5.0  # others have it for milliseconds


def reported(settings: Settings, state: State, summary: Summary, *, died: bool = False) -> None:
    """Note a run with its report, whatever its kind; *died*: it was reported by another."""
    if settings.metrics.textfile:
        from sync_job.report import metrics

        read = state.ledger.applied.read()
        _change(settings.metrics.textfile, lambda before: metrics.reported(summary, before, read=read, died=died))


def ended(settings: Settings, kind: str, code: Exit) -> None:
    """Note that a command ended now with *code*, and what is owed by then, if the state can be read."""
    if settings.metrics.textfile:
        from sync_job.report import metrics

        target, now = settings.endpoint.target, time.time()
        found = owing.read(settings)
        code = owing.code(found, code)

        def text(before: str) -> str:
            after = metrics.ended(target, kind, code, now, before)
            return metrics.owed(target, found, after) if found else after

        _change(settings.metrics.textfile, text)


def owed(settings: Settings, found: Summary) -> None:
    """Note what is owed to people who withdrew (`owing.figures`), if nothing was sent and so nothing is reported."""
    if settings.metrics.textfile:
        from sync_job.report import metrics

        target = settings.endpoint.target
        _change(settings.metrics.textfile, lambda before: metrics.owed(target, found, before))


@contextmanager
def ending(kind: str, *targets: Settings) -> Iterator[None]:
    """Note the error that ends the block at all of these targets, and let it go on."""
    try:
        yield
    except BaseException as exc:
        for settings in targets:
            ended(settings, kind, exit_of(exc))
        raise


def _change(path: Path, make: Callable[[str], str]) -> None:
    """Put what *make* makes of the file into its place, in one step: who reads it finds the old one or the new."""
    try:
        with _alone(path.parent):
            before = path.read_text("utf-8", errors="replace") if path.exists() else ""
            _replace(path, make(before))
    except OSError as exc:
        _log.warning(
            "metrics.failed",
            textfile=str(path),
            why=exc.strerror or str(exc),
            cure="the run is none the worse; make the folder, or give it to this user, or mend [metrics] textfile",
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold *folder* against others who change a file of it, such as a run that finds this one busy."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ends = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")  # not *.prom: the collector does not look at it
    temporary.unlink(missing_ok=True)  # of one that was killed
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, _MODE)
        file.write(text)
    temporary.replace(path)
