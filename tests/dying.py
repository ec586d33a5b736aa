"""Runs commands in processes of their own that die, or are refused by the disk, at a chosen durable operation.

`Commands` starts one process that has imported the product, and forks a child of it for each command: the wire, the
files and the exit code are real, and a command takes no longer than its own work. The child's `os`, `sqlite3` and
clock are wrapped, the product is as it is. Operations below the given folder are counted from 1.
"""

import errno
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_PATIENCE_S = 120.0  # far more than any command here takes: beyond it, it hangs
_ROOT = Path(__file__).parent.parent
_FULL = ("open", "fsync", "replace", "rename", "mkdir", "link", "COMMIT", "WAL")  # what a full disk refuses


class Step(NamedTuple):
    """One durable operation: what, to which file (relative to the folder), and when it began (monotonic).

    *source* is what takes that file's place, where something does.
    """

    name: str
    path: str
    at_s: float
    source: str = ""


class Ended(NamedTuple):
    """How a command ended: its exit code (none: it died), its operations, when it ended, and what it printed."""

    code: int | None
    steps: list[Step]
    at_s: float
    said: str

    @property
    def last(self) -> Step:
        """The operation at which it died, or the last there was."""
        return self.steps[-1]


class Commands:
    """Runs commands one after the other; see `commands`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def killed(self, *arguments: str, after_s: float) -> int | None:
        """Run a command as it is, and kill it after so many seconds; return its exit code, none when it was killed."""
        return self._asked({"arguments": arguments, "kill_after_s": after_s}).code

    def run(self, folder: Path, *arguments: str, at: int = 0, how: str = "die", later_s: float = 0.0) -> Ended:
        """Run a command; at durable operation *at* (0: none) below *folder* it dies, or meets an error.

        Its clock is ahead by *later_s*. *how*: "die" ends the process before the operation; "eio" lets that one
        operation end in an error; "enospc" lets it and every later one that needs room.
        """
        wish = {"folder": str(folder), "arguments": arguments, "at": at, "how": how, "later_s": later_s}
        return self._asked(wish)

    def _asked(self, wish: dict[str, Any]) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wish).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE_S + wish.get("kill_after_s", 0.0))
        assert ready, f"it hangs: {wish}"
        told = json.loads(self._process.stdout.readline())
        steps = [Step(*one) for one in told["steps"]]
        return Ended(told["code"], steps, told["at_s"], told["said"])


@contextmanager
def commands() -> Iterator[Commands]:
    """Start the process that commands are forked from; it is gone when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.dying"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
    ) as process:
        try:
            yield Commands(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


class _Counter:
    """Counts the operations of this process, and lets the chosen one end it or meet an error."""

    def __init__(self, folder: str, at: int, how: str, told: Callable[[int | None], None]) -> None:
        self.steps: list[Step] = []
        self._folder, self._at, self._how, self._told = os.path.join(folder, ""), at, how, told  # noqa: PTH118
        self._lock = threading.Lock()

    def meets(self, name: str, path: str, source: str = "") -> int:
        """Count an operation; return the error that it meets, 0 for none."""
        if not path.startswith(self._folder):
            return 0
        with self._lock:
            below = (one.removeprefix(self._folder) for one in (path, source))
            self.steps.append(Step(name, next(below), time.monotonic(), next(below)))
            number = len(self.steps)
            if self._at and number == self._at and self._how == "die":
                self._told(None)
            if self._at and number == self._at and self._how == "eio":
                return errno.EIO
            if self._at and number >= self._at and self._how == "enospc" and name in _FULL:
                return errno.ENOSPC
        return 0

    def wrap_os(self) -> None:
        """Count what the system is asked to make durable."""
        for name in ("mkdir", "rmdir", "unlink", "remove"):
            setattr(os, name, self._one(name, getattr(os, name)))
        for name in ("replace", "rename", "link"):
            setattr(os, name, self._two(name, getattr(os, name)))
        real_fsync, real_open = os.fsync, os.open

        def fsync(handle: int) -> None:
            if error := self.meets("fsync", _opened(handle)):
                raise OSError(error, os.strerror(error))
            real_fsync(handle)

        def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_CREAT and (error := self.meets("open", _place(path, dir_fd))):
                raise OSError(error, os.strerror(error), os.fspath(path))
            return real_open(path, flags, mode, dir_fd=dir_fd)

        os.fsync, os.open = fsync, open_  # type: ignore[assignment]

    def _one(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def one(path: Any, *more: Any, dir_fd: int | None = None) -> None:
            if error := self.meets(name, _place(path, dir_fd)):
                raise OSError(error, os.strerror(error), os.fspath(path))
            real(path, *more, dir_fd=dir_fd)

        return one

    def _two(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def two(source: Any, target: Any, **more: Any) -> None:
            if error := self.meets(name, _place(target, None), _place(source, None)):
                raise OSError(error, os.strerror(error), os.fspath(target))
            real(source, target, **more)

        return two

    def wrap_sqlite(self) -> None:
        """Count commits, the turn to a write-ahead log, and its end."""
        counter, real = self, sqlite3.connect

        class Counted(sqlite3.Connection):
            path = ""

            def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
                name = "COMMIT" if query == "COMMIT" else "WAL" if "journal_mode" in query else ""
                if name and (error := counter.meets(name, self.path)):
                    if name == "COMMIT":
                        super().execute("ROLLBACK")  # as SQLite does by itself
                    raise _refused(error)
                return super().execute(query, *values)

            def close(self) -> None:
                # The last one of a write-ahead log brings it into the file; others have nothing left to do.
                if os.path.exists(f"{self.path}-wal"):  # noqa: PTH110
                    counter.meets("CLOSE", self.path)
                super().close()

        def connect(path: Any, **more: Any) -> sqlite3.Connection:
            found: Counted = real(path, factory=Counted, **more)
            found.path = str(Path(path).absolute())
            return found

        sqlite3.connect = connect  # type: ignore[assignment]


def _opened(handle: int) -> str:
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def _place(path: Any, dir_fd: int | None) -> str:
    text = os.fsdecode(path)
    within = os.getcwd() if dir_fd is None else _opened(dir_fd)  # noqa: PTH109
    return os.path.join(within, text)  # noqa: PTH118


def _refused(error: int) -> sqlite3.OperationalError:
    full = error == errno.ENOSPC
    refused = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    refused.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
    return refused


def _child(wish: dict[str, Any], out: int, printed: int) -> None:
    """Run a command as it is wished, tell how it ended, and end."""
    from sync_job.cli import main

    os.dup2(printed, 1)
    os.dup2(printed, 2)
    counter: _Counter

    def told(code: int | None) -> None:
        os.lseek(printed, 0, os.SEEK_SET)
        said = os.read(printed, 1 << 20).decode(errors="replace")
        found = {"code": code, "steps": counter.steps, "at_s": time.monotonic(), "said": said}
        rest = json.dumps(found).encode() + b"\n"
        while rest:
            rest = rest[os.write(out, rest) :]
        os._exit(0)

    counter = _Counter(wish["folder"], wish["at"], wish["how"], told)
    counter.wrap_os()
    counter.wrap_sqlite()
    if wish["later_s"]:
        real_time = time.time
        time.time = lambda: real_time() + wish["later_s"]
    code = 0
    try:
        main(list(wish["arguments"]))
    except SystemExit as exc:
        code = int(exc.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    told(code)


def _killed(wish: dict[str, Any]) -> None:
    """Run a command in a child as it is, kill it when its time is over, and tell how it ended."""
    child = os.fork()
    if not child:
        from sync_job.cli import main

        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            main(list(wish["arguments"]))
        except SystemExit as exc:
            os._exit(int(exc.code or 0))
        os._exit(0)
    ends_s = time.monotonic() + wish["kill_after_s"]
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() >= ends_s:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    code = None if os.WIFSIGNALED(ended[1]) else os.waitstatus_to_exitcode(ended[1])
    told = Ended(code, [], time.monotonic(), "")._asdict()
    os.write(1, json.dumps(told).encode() + b"\n")


def _serve() -> None:
    """Fork a child for each wish on standard input, until there is none."""
    # What commands bring in is brought in once; nothing is begun that a fork cannot take along.

    import sync_job.cli
    import sync_job.delivery.endpoint
    import sync_job.runs.drain
    import sync_job.runs.forgetting
    import sync_job.runs.init
    import sync_job.runs.night  # noqa: F401

    for line in sys.stdin.buffer:
        wish = json.loads(line)
        if "kill_after_s" in wish:
            _killed(wish)
            continue
        printed, out = os.memfd_create("printed"), os.dup(1)
        child = os.fork()
        if not child:
            _child(wish, out, printed)
        os.close(out)
        os.close(printed)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _serve()
