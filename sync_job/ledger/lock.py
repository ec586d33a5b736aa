"""The locks of a state folder, freed by the kernel when their process dies, however it dies.

`lock` is held by whoever changes the state. `run.lock` is held by whoever must not meet another of its kind: a run of
an export, and every other command but those that only send what is owed. A run of an export lets go of `lock` while
it reads and reports, and keeps `run.lock` from its begin to its end.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sync_job.errors import BusyError
from sync_job.ledger import files

NAMES = ("lock", "run.lock")
_AGAIN_S = 0.1
_PATIENCE_S = 600.0  # for whoever sends what is owed meanwhile


class Lock:
    """The lock of a state folder while it is held; its holder may let others have it for a while."""

    def __init__(self, folder: Path, handle: int, *, alone: bool) -> None:
        self.alone = alone  # whether `run.lock` is held with it
        self.on_wait: Callable[[], object] = lambda: None  # called when it has to be waited for
        self._folder = folder
        self._handle = handle

    @contextmanager
    def let_go(self, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Let others have the lock while the block runs, and take it again at its end, also after an `Exception`.

        Raises:
            BusyError: when another process does not give it back.
        """
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        try:
            yield
        except Exception:
            self._take_again(sleep)
            raise
        self._take_again(sleep)

    def give_back(self) -> None:
        """Let others have the lock from now on; this process changes nothing any more."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _take_again(self, sleep: Callable[[float], None]) -> None:
        ends, waits = time.monotonic() + _PATIENCE_S, False
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                if time.monotonic() >= ends:
                    raise _busy(self._folder) from exc
                if not waits:
                    self.on_wait()
                waits = True
                sleep(_AGAIN_S)
            else:
                _sign(self._handle)
                return


@contextmanager
def held(folder: Path, *, beside_a_run: bool = False) -> Iterator[Lock]:
    """Hold the locks of *folder* while the block runs.

    Whoever only sends what is owed does so *beside a run* that reads or reports, and needs `lock` alone.

    Raises:
        BusyError: when another process holds one of them; the message says what it is doing.
    """
    with ExitStack() as stack:
        if not beside_a_run:
            stack.enter_context(_locked(folder, "run.lock"))
        yield Lock(folder, stack.enter_context(_locked(folder, "lock")), alone=not beside_a_run)


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[int]:
    path = folder / name
    with files.storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, files.FILE_MODE)
    try:
        try:
            _take(handle)
        except BlockingIOError as exc:
            raise _busy(folder) from exc
        if name == "lock":
            _sign(handle)
        yield handle
    finally:
        os.close(handle)


def _sign(handle: int) -> None:
    """Write into the lock which process holds it; without that nobody can tell, and it is held all the same."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)


def _holder(folder: Path) -> int:
    """Return the process that holds `lock`, 0 if none does or nobody can tell."""
    if is_free(folder):
        return 0
    try:
        return int((folder / "lock").read_text("utf-8"))
    except (OSError, ValueError):
        return 0


def _busy(folder: Path) -> BusyError:
    now, run = running(folder), alive(folder)
    beside = f", beside run {run}" if now and run and run != now.get("run") else ""
    return BusyError(
        f"{folder}: busy, {describe(now)}{beside}. Run again when it has ended; "
        "`consent-sync status` shows how far it is."
    )


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
    """Return whether some process holds a lock of *folder*: it changes the state, or a run is under way."""
    return any(_is_held(folder / name) for name in NAMES)


def is_free(folder: Path) -> bool:
    """Return whether nobody changes the state of *folder* now, be a run under way or not."""
    return not _is_held(folder / "lock")


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that only look do not meet
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def name(folder: Path, run: str) -> None:
    """Say which run holds `run.lock`, so that nobody takes it for dead while others have `lock`; "" for none."""
    path = folder / "run.lock"
    with files.storing(path):
        if run or path.stat().st_size:
            path.write_text(run, "utf-8")


def alive(folder: Path) -> str:
    """Return the run that holds `run.lock`, "" if none does."""
    path = folder / "run.lock"
    if not _is_held(path):
        return ""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def announce(folder: Path, what: dict[str, Any]) -> None:
    """Say what this process is doing, for others to read, unless it has let another one have the lock."""
    if _holder(folder) in (0, os.getpid()):
        files.show_json(folder / "running.json", {"pid": os.getpid(), **what})


def announced(folder: Path) -> dict[str, Any]:
    """Return what was announced last, whoever holds the lock now; empty if it cannot be read."""
    try:
        found = json.loads((folder / "running.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def running(folder: Path) -> dict[str, Any]:
    """Return what the holder of the lock said of itself last; of one that said nothing, its process alone."""
    found, holder = announced(folder), _holder(folder)
    if found and holder not in (0, found.get("pid")):
        return {"pid": holder, "kind": "another command", "run": "", "stage": "changing the state"}
    return found


def describe(what: dict[str, Any]) -> str:
    """Return the words for `running`."""
    if not what:
        return "another process holds its lock"
    unit = {"sending": " rows", "reading": " bytes"}.get(str(what.get("stage")), "")
    done = f", {what['done']} of {what['total']}{unit}" if what.get("total") else ""
    name = f"{what.get('kind', 'a run')} {what.get('run', '')}".strip()
    return f"{name} (process {what.get('pid')}) is {what.get('stage')}{done}"
