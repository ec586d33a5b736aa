"""The lock of a state folder: one run at a time, freed by the kernel when its process dies, however it dies."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sync_job.errors import BusyError
from sync_job.ledger import files


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of *folder* while the block runs.

    Raises:
        BusyError: when another process holds it; the message says what it is doing.
    """
    path = folder / "lock"
    with files.storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, files.FILE_MODE)
    try:
        try:
            _take(handle)
        except BlockingIOError as exc:
            raise BusyError(
                f"{folder}: busy, {describe(running(folder))}. Run again when it has ended; "
                "`consent-sync status` shows how far it is."
            ) from exc
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> None:
    """Take the lock; somebody who only looks has it for a moment, and is waited for."""
    for nap_s in (0.01, 0.03, 0.1):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(nap_s)
        else:
            return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(folder: Path) -> bool:
    """Return whether some process holds the lock of *folder*."""
    try:
        handle = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def announce(folder: Path, what: dict[str, Any]) -> None:
    """Say what the holder is doing, for others to read."""
    files.show_json(folder / "running.json", {"pid": os.getpid(), **what})


def running(folder: Path) -> dict[str, Any]:
    """Return what the holder of the lock last said of itself; empty when it said nothing readable."""
    try:
        found = json.loads((folder / "running.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(what: dict[str, Any]) -> str:
    """Return the words for `running`."""
    if not what:
        return "another process holds its lock"
    done = f", {what['done']} of {what['total']} rows" if what.get("total") else ""
    return f"{what.get('kind', 'a run')} {what.get('run', '')} (process {what.get('pid')}) is {what.get('stage')}{done}"
