"""Retention: what names clients in old reports is removed, by every run for its own target and by `purge`."""

import time
from pathlib import Path

import structlog

from sync_job.config import Settings
from sync_job.errors import StorageError
from sync_job.ledger import files, lock
from sync_job.ledger.state import State
from sync_job.report import kept
from sync_job.report.counts import Summary
from sync_job.runs.report import Findings

_log = structlog.get_logger()
_DAY_S = 86400.0
# They hold no ids, and show years later how often and how well it ran.
_STAY = ("summary.json", "report.html")


def purge(settings: Settings) -> Summary:
    """Remove what is older than `[report] keep_days` now, and return how much that was.

    Raises:
        StorageError: when something cannot be removed.
        StateError, BusyError: when there is no state, or a run is under way, which does it at its end.
    """
    folder, target = settings.state.path, settings.endpoint.target
    State.open(folder, target, write=False).close()  # a folder without state is not given a lock
    with lock.held(folder), State.open(folder, target, write=False) as state:
        return _purge(state, settings, time.time())


def at_end(state: State, settings: Settings, findings: Findings) -> None:
    """Do the same at the end of a run, which does not fail of it: its report says what stayed, and why."""
    try:
        _purge(state, settings, time.time())
    except StorageError as exc:
        findings.reasons.append(f"reports older than {settings.report.keep_days} days stay: {exc}")
        _log.warning("reports.stay", why=str(exc))


def _purge(state: State, settings: Settings, now: float) -> Summary:
    days = settings.report.keep_days
    path = settings.report.path
    runs = {run.run for run in state.ledger.runs() if run.stage == "reported"}
    with files.storing(path):
        old = kept.older_than(path, state.ledger.about.targets(), now - days * _DAY_S, runs)
    removed: list[int] = []
    reports = 0
    for folder in old:
        with files.storing(folder):
            gone = [one for one in folder.iterdir() if one.name not in _STAY]
        reports += bool(gone)
        for one in gone:
            size = _bytes(one)
            files.remove(one)
            removed.append(size)
        if not (folder / "summary.json").exists():
            files.remove(folder)
    if removed:
        _log.info("reports.purged", reports=reports, files=len(removed))
    return {
        "target": settings.endpoint.target,
        "keep_days": days,
        "reports": reports,
        "files": len(removed),
        "bytes": sum(removed),
    }


def _bytes(path: Path) -> int:
    with files.storing(path):
        return path.lstat().st_size
