"""The command in a process of its own that need not import the product first: it is forked from one that has.

Such a process has its own signals, files, environment, working directory and exit; what it imports takes a second of a
core each time, and is the same each time. Where the start itself is the matter, tests start `python -m sync_job`.
"""

import atexit
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_ROOT = Path(__file__).parent.parent
_LEAST = 1 << 20  # more than a wish has in bytes
_PATIENCE_S = 60.0


class _Server:
    """The process that others are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.end)

    def end(self) -> None:
        """Let it end."""
        self._ours.close()
        self._process.wait(_PATIENCE_S)

    def forks(self, wish: dict[str, Any], handles: list[int]) -> None:
        """Have a process forked with these handles: standard input, output, error, and where its end is told."""
        socket.send_fds(self._ours, [json.dumps(wish).encode()], handles)


_servers: list[_Server] = []


class Forked:
    """The command, started; what `subprocess.Popen` has that tests use."""

    def __init__(
        self,
        *arguments: object,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        cwd: Path = _ROOT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; standard streams are `subprocess.DEVNULL`, `subprocess.PIPE` or handles that are open."""
        if not _servers:
            _servers.append(_Server())
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self._told: list[int | None] = [None, None]
        opened: list[int] = []

        def given(one: int, place: int) -> int:
            if one == subprocess.DEVNULL:
                opened.append(os.open(os.devnull, os.O_RDWR))
            elif one == subprocess.PIPE and not place:
                ours, theirs = os.pipe()[::-1]
                self.stdin = os.fdopen(ours, "wb", 0)
                opened.append(theirs)
            elif one == subprocess.PIPE:
                # A file takes whatever is written, and nobody has to read meanwhile.
                opened.append(os.memfd_create("said"))
                self._told[place - 1] = os.dup(opened[-1])
            else:
                return one
            return opened[-1]

        handles = [given(one, place) for place, one in enumerate((stdin, stdout, stderr))]
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wish = {
            "arguments": [*map(str, arguments)],
            "cwd": str(cwd),
            "env": dict(os.environ if env is None else env),
        }
        with theirs:
            _servers[0].forks(wish, [*handles, theirs.fileno()])
        for handle in opened:
            os.close(handle)
        self._ours.settimeout(_PATIENCE_S)
        self.pid = int(self._ours.recv(64))

    def poll(self) -> int | None:
        """Return what it ended with, none while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return what it ended with: minus the signal, where one ended it."""
        if self.returncode is None:
            self._ours.settimeout(timeout)
            try:
                told = self._ours.recv(64)
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("consent-sync", timeout or 0.0) from None
            assert told, "what it is forked from is gone"
            self.returncode = int(told)
            self._ours.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Wait for its end, and return what it wrote to the streams that are pipes."""
        self.wait(timeout)
        said = []
        for place, handle in enumerate(self._told):
            if handle is not None:
                with os.fdopen(handle, "rb") as file:
                    file.seek(0)
                    said.append(file.read())
                self._told[place] = None
            else:
                said.append(b"")
        return said[0], said[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.stdin:
            self.stdin.close()
        if kind:
            self.kill()
        self.wait()

    def __del__(self) -> None:
        """Leave nothing open of a process that nobody asked any more."""
        self._ours.close()
        for handle in self._told:
            if handle is not None:
                os.close(handle)


def ended(*arguments: object, **said: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as `subprocess.run` with `capture_output` and `text`."""
    process = Forked(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **said)
    out, err = process.communicate()
    return subprocess.CompletedProcess([*map(str, arguments)], process.wait(), out.decode(), err.decode())


def _begin(wish: dict[str, Any], handles: list[int]) -> None:
    """Make this process what was wished."""
    for place, handle in enumerate(handles):
        os.dup2(handle, place)
        os.close(handle)
    os.environ.clear()
    os.environ.update(wish["env"])
    time.tzset()
    os.chdir(wish["cwd"])
    sys.argv = ["consent-sync", *wish["arguments"]]
    for name, place, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        buffering = 1 if name == "stderr" or os.isatty(place) else -1
        file = open(place, mode, buffering, encoding="utf-8", errors=getattr(sys, name).errors)  # noqa: SIM115, PTH123
        assert isinstance(file, io.TextIOWrapper)
        for one in (name, f"__{name}__"):
            setattr(sys, one, file)


def _serve(requests: socket.socket) -> None:
    """Fork a process for each wish, until nobody can wish any more; a second one waits for its end, and tells it."""
    # What commands bring in is brought in once; nothing is begun that a fork cannot take along.
    import cryptography.hazmat.primitives.ciphers  # noqa: F401

    import sync_job.report.people_text
    import sync_job.runs.drain
    import sync_job.runs.forgetting
    import sync_job.runs.init
    import sync_job.runs.night  # noqa: F401
    from sync_job.cli import main

    waiting: list[int] = []
    while True:
        waiting = [one for one in waiting if not os.waitpid(one, os.WNOHANG)[0]]
        try:
            said, handles, _, _ = socket.recv_fds(requests, _LEAST, 4)
        except ConnectionError:
            said = b""
        if not said:
            # What they took is counted as this process's when it ends.
            for one in waiting:
                os.waitpid(one, 0)
            return
        if not (waiter := os.fork()):
            break
        waiting.append(waiter)
        for handle in handles:
            os.close(handle)
    requests.close()
    *streams, told = handles
    child = os.fork()
    if child:
        for handle in streams:
            os.close(handle)
        os.write(told, str(child).encode())
        _, status = os.waitpid(child, 0)
        os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.close(told)
    _begin(json.loads(said), streams)
    main()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
