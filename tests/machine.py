"""A machine on which commands of the product run within this process, in a time of its own.

The clock, the event loop and the platform are simulated: nothing waits, a run of hours takes milliseconds, and a seed
always gives the same history. Files and SQLite are real, but need no disk. A command can be killed at any durable
operation and at any request; what it would have done afterwards never happens.

What a command meets on its way is decided by a `Scene`; what must hold is left to the caller.
"""

import asyncio
import contextlib
import errno
import heapq
import io
import itertools
import math
import os
import selectors
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import typer.main

from sync_job.cli import app as cli_app
from sync_job.delivery import endpoint
from sync_job.delivery.verdict import Answer, Failure
from sync_job.delivery.wire import Reply
from sync_job.standin.contract import Flags, Update
from sync_job.standin.platform import Platform

T = TypeVar("T")
NOT_FOUND, REFUSAL = 8, 5
LATENCY_S = 0.05


class Died(BaseException):
    """Ends a command where it stands, as a kill does."""


class Fate(Enum):
    """What a request meets."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    ERROR = "error 500, not applied"
    ERROR_APPLIED = "error 500, applied"
    LOST = "no answer, applied"
    DROPPED = "no answer, not applied"
    LATE = "no answer, applied later"
    DOWN = "no connection"
    BUSY = "503"


class Request(NamedTuple):
    """What a request states of which client, its place in the log of dispatches, and when it was dispatched."""

    client: int
    flags: Flags
    number: int
    at: float


class Ended(NamedTuple):
    """How a command ended (no code: it was killed) and what it printed."""

    code: int | None
    out: str
    err: str

    @property
    def done(self) -> bool:
        """Whether it did what it was asked to; 7 may be about others."""
        return self.code == 0 or (self.code == 7 and bool(self.out))


@dataclass
class Scene:
    """What one command meets: *dispatched* is told of each request, and returns its fate.

    *dies_at* is the durable operation before which it is killed, *dies_sending* the request that it dies with;
    *happens* comes before a durable operation of a file, by its number, *while_sending* after a request was dispatched.
    After operation *full_at* the disk is full, with 0 before the command begins.
    """

    dispatched: Callable[[Request], Fate]
    happens: dict[int, Callable[[], object]] = field(default_factory=dict)
    while_sending: dict[int, Callable[[], object]] = field(default_factory=dict)
    dies_at: int = 0
    dies_sending: int = 0
    full_at: float = math.inf


class Machine:
    """Clock, platform and death. *now* is the time that the product reads; `later` happens when its time has come."""

    def __init__(self, start: float) -> None:
        self.elapsed = 0.0
        self.offset = start
        self.platform = Platform(clock=lambda: self.now)
        self.members: set[int] = set()
        self.timeout_s = self.linger_s = 1.0
        self.scene: Scene | None = None
        self.acknowledged: Callable[[Request], None] = lambda request: None
        self.dead = False
        self._operations = self._requests = 0
        self._numbers = itertools.count(1)
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    @property
    def now(self) -> float:
        """The time of day, in epoch seconds; a jump of the clock moves it alone."""
        return self.offset + self.elapsed

    def jump(self, seconds: float) -> None:
        """Set the clock forward or back: nothing else happens in that time."""
        self.offset += seconds

    def later(self, after_s: float, happens: Callable[[], None]) -> None:
        """Let something happen after so many seconds."""
        heapq.heappush(self._later, (self.elapsed + after_s, next(self._numbers), happens))

    def let_pass(self, seconds: float) -> None:
        """Let time pass, and what falls into it happen."""
        until = self.elapsed + max(seconds, 0.0)
        while self._later and self._later[0][0] <= until:
            at, _, happens = heapq.heappop(self._later)
            self.elapsed = max(self.elapsed, at)
            happens()
        self.elapsed = max(self.elapsed, until)

    def run(self, arguments: list[str], scene: Scene | None = None) -> Ended:
        """Run a command; one that runs within another, because something happens, meets no scene of its own."""
        outer = self.scene, self._operations, self._requests
        if scene is not None:
            self.scene, self._operations, self._requests, self.dead = scene, 0, 0, False
        out, err = io.StringIO(), io.StringIO()
        code: int | None = None
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli_app.main(arguments)
        except SystemExit as exc:
            code = int(exc.code or 0)
        except BaseException:
            if not self.dead:
                raise
        finally:
            died, self.dead = self.dead, self.dead and scene is None
            self.scene, self._operations, self._requests = outer
        return Ended(None if died else code, out.getvalue(), err.getvalue())

    def durable(self, *, of_a_file: bool = True) -> None:
        """Count a durable operation, and die at the chosen one: after that none takes place."""
        if self.dead:
            raise Died
        if self.scene is None:
            return
        self._operations += 1
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._operations == self.scene.dies_at:
            self.dead = True
            raise Died
        # Others can read the ledger but while a commit is under way.
        if of_a_file and (due := [number for number in self.scene.happens if number <= self._operations]):
            for happens in [self.scene.happens.pop(number) for number in sorted(due)]:
                happens()

    @property
    def is_full(self) -> bool:
        """Whether the disk is full."""
        return self.scene is not None and self.scene.full_at <= self._operations

    async def attempt(self, client: int, sent: int) -> Answer:
        """Carry one request to the platform, as its fate wants it."""
        if self.dead:
            raise Died
        assert self.scene is not None, "a request outside of any command"
        flags = Flags(*((None, False, True, None)[sent >> shift & 3] for shift in (0, 2, 4, 6)))
        request = Request(client, flags, next(self._numbers), self.now)
        fate = self.scene.dispatched(request)
        self._requests += 1
        if self._requests == self.scene.dies_sending:
            if fate in (Fate.DELIVERED, Fate.LOST):
                self._apply(request)
            self.dead = True
            raise Died
        if happens := self.scene.while_sending.pop(self._requests, None):
            happens()
        if fate is Fate.DOWN:
            return Answer(failure=Failure.NOT_CONNECTED, detail="nobody listens")
        if fate in (Fate.LOST, Fate.DROPPED, Fate.LATE):
            if fate is Fate.LOST:
                self._apply(request)
            await asyncio.sleep(self.timeout_s)
            if fate is Fate.LATE:
                self.later(self.linger_s * 0.5, lambda: self._apply(request))
            return Answer(failure=Failure.TIMEOUT, detail="no answer in time")
        await asyncio.sleep(LATENCY_S)
        if fate is Fate.BUSY:
            return Answer(503)
        if fate in (Fate.ERROR, Fate.ERROR_APPLIED):
            if fate is Fate.ERROR_APPLIED:
                self._apply(request)
            return Answer(500)
        if client not in self.members:
            return Answer(200, Reply(NOT_FOUND, "no such member"))
        if fate is Fate.REFUSED:
            return Answer(200, Reply(REFUSAL, "refused"))
        self._apply(request)
        self.acknowledged(request)
        return Answer(200, Reply(0, ""))

    def _apply(self, request: Request) -> None:
        if request.client in self.members:
            self.platform.apply(Update(request.client, request.flags))


class _Running:
    """The machine that is running: the product asks modules of the standard library, of which there is one."""

    machine: Machine


class _Selector(selectors.DefaultSelector):
    """Lets the time pass that it is asked to wait for, instead of waiting."""

    machine: Machine

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits, and no timer will ever wake one"
        if timeout > 0:
            self.machine.let_pass(timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """A loop in the machine's time, without threads."""

    def __init__(self, machine: Machine) -> None:
        selector = _Selector()
        selector.machine = machine
        self._machine = machine
        super().__init__(selector)
        self._clock_resolution = 1e-6  # the clock's last digits are not to keep a timer from being due

    def time(self) -> float:
        return self._machine.elapsed

    def run_in_executor(  # type: ignore[override]  # its arguments have types that nobody can spell
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call it now: what another thread would do takes no time here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as exc:  # noqa: BLE001 - it is raised again where the result is awaited
            future.set_exception(exc)
        return future


class _Connection(sqlite3.Connection):
    """A connection whose commits count as durable operations."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith("COMMIT"):
            try:
                _Running.machine.durable(of_a_file=False)
            except OSError as exc:
                raise _refused("database or disk is full", sqlite3.SQLITE_FULL) from exc
        elif _Running.machine.is_full and sql.startswith(("BEGIN", "PRAGMA journal_mode = WAL")):
            raise _refused("disk I/O error", sqlite3.SQLITE_IOERR)
        elif _Running.machine.dead and not sql.startswith("ROLLBACK"):
            raise Died
        elif sql.startswith("PRAGMA synchronous"):
            sql = "PRAGMA synchronous = OFF"  # no power is lost here
        return super().execute(sql, *parameters)


def _refused(said: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(said)
    error.sqlite_errorcode = code
    return error


class _Endpoint:
    """What a run sends to."""

    url = "http://platform"
    shown_headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    tokens = None

    def body(self, client: int, sent: int) -> bytes:
        return f"{client} {sent}".encode()

    async def attempt(self, client: int, sent: int) -> Answer:
        return await _Running.machine.attempt(client, sent)


@asynccontextmanager
async def _connected(settings: object, **ways: object) -> AsyncIterator[_Endpoint]:
    yield _Endpoint()


def _run(main: Coroutine[Any, Any, T], **ways: object) -> T:
    with contextlib.closing(_Loop(_Running.machine)) as loop:
        return loop.run_until_complete(main)


@contextmanager
def simulated() -> Iterator[Callable[[Machine], None]]:
    """Let commands within the block run on the machine that the yielded function is given, one after the other."""

    def use(machine: Machine) -> None:
        _Running.machine = machine

    real_replace, real_connect = os.replace, sqlite3.connect

    def replace(*arguments: Any, **named: Any) -> None:
        _Running.machine.durable()
        real_replace(*arguments, **named)

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        # The first to open a ledger makes a file beside it.
        if _Running.machine.is_full and not Path(f"{arguments[0]}-shm").exists():
            raise _refused("unable to open database file", sqlite3.SQLITE_CANTOPEN)
        found: sqlite3.Connection = real_connect(*arguments, factory=_Connection, **named)
        sqlite3.Connection.execute(found, "PRAGMA journal_mode")  # opened now, as the product would have it
        return found

    wanted: list[tuple[object, str, object]] = [
        (time, "time", lambda: _Running.machine.now),
        (time, "monotonic", lambda: _Running.machine.elapsed),
        (time, "sleep", lambda seconds: _Running.machine.let_pass(seconds)),
        (os, "fsync", lambda handle: _Running.machine.durable()),
        (os, "replace", replace),
        (sqlite3, "connect", connect),
        (asyncio, "run", _run),
        (endpoint, "connected", _connected),
        # Typer makes its commands anew for each call, which takes longer than most of them do.
        (cli_app, "app", typer.main.get_command(cli_app.app)),
    ]
    before = [(of, name, getattr(of, name)) for of, name, _ in wanted]
    for of, name, value in wanted:
        setattr(of, name, value)
    try:
        yield use
    finally:
        for of, name, value in before:
            setattr(of, name, value)
