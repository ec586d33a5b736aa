"""The journal of a leg: the outcome of each row as it settles, and the mark that no dispatch passes.

SQLite in WAL mode with exactly one connection, which one thread uses. Outcomes are committed in groups; the mark
is durable before any row beyond it is dispatched, so that after a kill every row is known to be settled, in doubt
(before the mark) or never dispatched (beyond it).
"""

import asyncio
import sqlite3
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Bytes, Mask
from sync_job.consent.fold import DOUBT_WHOLE, Endings, Outcome
from sync_job.errors import StorageError
from sync_job.ledger import files

VERSION = 1
INTERVAL_S = 0.1  # between group commits: what a kill leaves in doubt beside the requests in flight
MOST_SAID = 200
OTHERS = "(others)"  # in the place of the Messages beyond the most frequent
LEAST_AHEAD = 64  # rows that the mark is ahead of the last dispatch, at least
_SCHEMA = """
CREATE TABLE about (version INTEGER NOT NULL, rows INTEGER NOT NULL, mark INTEGER NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE settled (
    row INTEGER PRIMARY KEY, outcome INTEGER NOT NULL, denials INTEGER NOT NULL, doubt INTEGER NOT NULL,
    doubt_at REAL NOT NULL, attempts INTEGER NOT NULL, status INTEGER, code INTEGER, message TEXT NOT NULL,
    first_sent REAL, settled REAL NOT NULL, seal INTEGER NOT NULL
) WITHOUT ROWID
"""
# Each statement lets go of the interpreter and asks for it again, beside an event loop that wants it too.
_ROWS_AT_ONCE = 50
_COLUMNS = "row, outcome, denials, doubt, doubt_at, attempts, status, code, message, first_sent, settled, seal"
_NO_CODE = -(1 << 63)


class Settled(NamedTuple):
    """How one row of the plan ended; times in epoch seconds.

    *denials* is the outcome of its denials where they were sent again without its grants, else OPEN. *doubt* is
    DOUBT_WHOLE | DOUBT_DENIALS, *doubt_at* when the last attempt in doubt was made. *status*, *code* and *message*
    are of the last answer.
    """

    row: int
    outcome: Outcome
    denials: Outcome = Outcome.OPEN
    doubt: int = 0
    doubt_at: float = 0.0
    attempts: int = 0
    status: int | None = None
    code: int | None = None
    message: str = ""
    first_sent: float | None = None
    settled: float = 0.0


class Journal:
    """Writes a journal; rows are cleared for dispatch and settled by the senders of one event loop."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._rows = rows
        self._mark = 0
        self._cleared = 0
        self._pending: list[Settled] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "journal")
        self._connection = files.connect(path)
        with files.storing(path):
            self._connection.execute("PRAGMA journal_mode = WAL")
        with files.transaction(self._connection, path):
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO about VALUES (?, ?, 0, ?)", (VERSION, rows, _seal(VERSION, rows, 0)))
        files.sync_folder(path.parent)

    async def clear(self, row: int) -> None:
        """Return when *row* may be dispatched: the durable mark is beyond it."""
        while row >= self._mark:
            ready = asyncio.get_running_loop().create_future()
            self._waiting.append(ready)
            self._wake.set()
            await ready
        self._cleared = max(self._cleared, row + 1)

    def settle(self, settled: Settled) -> None:
        """Take the outcome of a row; it is durable within about INTERVAL_S."""
        self._pending.append(settled)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Commit in the background while the block runs, and everything when it ends.

        Raises:
            StorageError: when something could not be made durable; the block is cancelled then.
        """
        try:
            async with asyncio.TaskGroup() as group:
                flushing = group.create_task(self._flush())
                try:
                    yield
                finally:
                    self._closing = True
                    self._wake.set()
                    await flushing
        except* StorageError as errors:
            raise errors.exceptions[0] from None
        finally:
            self._thread.shutdown()
            self._connection.close()

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        passed: deque[tuple[float, int]] = deque([(loop.time(), 0)])
        while True:
            closing = self._closing
            batch, self._pending = self._pending, []
            waiting, self._waiting = self._waiting, []
            self._wake.clear()
            cleared = self._cleared
            # By time, not by commits: rows that wait for the mark bring those about as often as the disk can.
            passed.append((loop.time(), cleared))
            while len(passed) > 2 and passed[1][0] <= loop.time() - 2 * INTERVAL_S:
                passed.popleft()
            ahead = cleared + max(LEAST_AHEAD, cleared - passed[0][1])
            # The last mark is exact: rows beyond it are known never to have been dispatched.
            mark = cleared if closing else min(self._rows, max(self._mark, ahead))
            if batch or mark != self._mark:
                await loop.run_in_executor(self._thread, self._commit, batch, mark)
                self._mark = mark
            for ready in waiting:
                if not ready.done():
                    ready.set_result(None)
            if closing:
                return
            try:
                async with asyncio.timeout(INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _commit(self, batch: list[Settled], mark: int) -> None:
        rows = [(*row, seal) for row, seal in zip(batch, _seals(list(zip(*batch, strict=True))), strict=True)]
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        with files.transaction(self._connection, self._path):
            for start in range(0, whole, _ROWS_AT_ONCE):
                some = rows[start : start + _ROWS_AT_ONCE]
                self._connection.execute(_insert(_ROWS_AT_ONCE), tuple(chain.from_iterable(some)))
            self._connection.executemany(_insert(1), rows[whole:])
            self._connection.execute("UPDATE about SET mark = ?, seal = ?", (mark, _seal(VERSION, self._rows, mark)))


def _seals(columns: Sequence[Sequence[Any]]) -> list[int]:
    """Return what each row is held to when it is read: of what decides, no bit may turn, and SQLite would not see it.

    *columns* are those of a `Settled`. A word is mixed in after the other, as FNV-1a does with bytes: each step can be
    undone, so that two rows that differ in one bit never have the same seal.
    """
    if not columns:
        return []
    row, outcome, denials, doubt, doubt_at, _, _, code, _, _, settled = columns
    whole = [row, outcome, denials, doubt, [_NO_CODE if one is None else one for one in code]]
    words = [np.array(column, np.int64).view(np.uint64) for column in whole]
    words += [np.array(column, np.float64).view(np.uint64) for column in (doubt_at, settled)]
    return list(_mixed(words).view(np.int64).tolist())


def _seal(*said: int) -> int:
    """Return the same of what a journal says of itself."""
    return int(_mixed([np.array([one], np.uint64) for one in said]).view(np.int64)[0])


def _mixed(words: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    mixed = np.full(len(words[0]), 0xCBF29CE484222325, np.uint64)
    for word in words:
        mixed = (mixed ^ word) * np.uint64(0x100000001B3)
    return mixed


@lru_cache
def _insert(rows: int) -> str:
    one = f"({', '.join('?' * (len(Settled._fields) + 1))})"
    return f"INSERT OR REPLACE INTO settled ({_COLUMNS}) VALUES {', '.join([one] * rows)}"


def beside(path: Path) -> sqlite3.Connection:
    """Return a connection on which the journal in *path* stays as it is now, beside the run that writes it.

    It reads alone: only one connection ever writes or checkpoints, which SQLite's WAL mode wants of us.
    """
    with files.loading(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30)
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # From here on it sees no later commit.
        except BaseException:
            connection.close()
            raise
    return connection


@dataclass(frozen=True)
class Part:
    """A stretch of the plan as the journal knows it; arrays in the plan's order, OPEN where nothing is known."""

    start: int
    outcome: Bytes
    denials: Bytes
    doubt: Bytes
    doubt_at: npt.NDArray[np.float64]
    attempts: npt.NDArray[np.int64]
    status: npt.NDArray[np.object_]  # of int or None, as code
    code: npt.NDArray[np.object_]
    message: npt.NDArray[np.object_]  # of str or None
    first_sent: npt.NDArray[np.float64]
    settled: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.outcome)


class Reading:
    """Reads the journal of a leg that ended or died; one that was never begun says nothing of any row."""

    def __init__(self, path: Path, rows: int, now: float) -> None:
        self._path, self._rows, self._now = path, rows, now
        self.mark = 0
        self._connection: sqlite3.Connection | None = None
        if not path.exists():
            return
        with files.loading(path):
            log = path.with_name(f"{path.name}-wal")
            logged, size = log.exists() and log.stat().st_size > 0, path.stat().st_size
            self._connection = sqlite3.connect(path, isolation_level=None)
            if self._connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise ValueError("the database's own check fails")
            ((pages,), (page,)) = (
                self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
            )
            # SQLite reads what is missing of a page as zeros. What a log has is brought in later, page by page.
            if not logged and size < pages * page:
                raise ValueError("it was cut short")
            tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
            if not tables:
                self.close()  # It died before its first commit: nothing was dispatched.
                return
            query = "SELECT version, rows, mark, seal FROM about"
            version, planned, self.mark, seal = self._connection.execute(query).fetchone()
            if version != VERSION or planned != rows:
                raise ValueError(f"version {version} for {planned} rows; expected {VERSION} for {rows}")
            if seal != _seal(version, planned, self.mark):
                raise ValueError("how far it was sent is not what was written")

    def close(self) -> None:
        """Let go of the file."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def parts(self, size: int = 1 << 14) -> Iterator[Part]:
        """Yield the plan's rows in stretches of *size*.

        A row before the mark that did not settle was dispatched by a run that died: deferred, and in doubt since now.
        """
        rows = self._settled(size)
        for start in range(0, self._rows, size):
            with files.loading(self._path):
                part = self._part(start, min(start + size, self._rows), next(rows))
            yield part

    def _settled(self, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the settled rows of each stretch of *size*.

        The whole table is read from its begin to its end: asked for a stretch, SQLite would not meet a row whose
        number is damaged.
        """
        left: list[tuple[Any, ...]] = []
        found = self._connection.execute(f"SELECT {_COLUMNS} FROM settled") if self._connection else None
        before = -1
        for stop in range(size, self._rows + size, size):
            while found and (not left or left[-1][0] < stop) and (more := found.fetchmany(size)):
                numbers = np.array([before, *(row[0] for row in more)], np.int64)
                if (np.diff(numbers) <= 0).any() or numbers[-1] >= self._rows:
                    raise ValueError("its rows are not in the order in which they were written")
                before = int(numbers[-1])
                left += more
            here = bisect_left(left, stop, key=lambda row: int(row[0]))
            yield left[:here]
            left = left[here:]

    def _part(self, start: int, stop: int, rows: list[tuple[Any, ...]]) -> Part:
        count = stop - start
        outcome, denials, doubt = (np.zeros(count, np.uint8) for _ in range(3))
        doubt_at, first_sent, settled = np.zeros(count), np.full(count, np.nan), np.full(count, np.nan)
        attempts = np.zeros(count, np.int64)
        status, code, message = (np.full(count, None, np.object_) for _ in range(3))
        if rows:
            columns = list(zip(*rows, strict=True))
            if list(columns[11]) != _seals(columns[:11]):
                raise ValueError("a row is not what was written")
            at = np.array(columns[0], np.intp) - start
            outcome[at], denials[at], doubt[at], doubt_at[at], attempts[at] = columns[1:6]
            first_sent[at] = np.array(columns[9], np.float64)
            settled[at] = columns[10]
            for one, said in zip((status, code, message), columns[6:9], strict=True):
                one[at] = said
        unsettled = (outcome == Outcome.OPEN) & (np.arange(start, stop) < self.mark)
        outcome[outcome == Outcome.OPEN] = Outcome.DEFERRED
        doubt[unsettled] = DOUBT_WHOLE
        doubt_at[unsettled] = self._now
        return Part(start, outcome, denials, doubt, doubt_at, attempts, status, code, message, first_sent, settled)

    def endings(self) -> Endings:
        """Return how all rows of the plan ended."""
        return self.ended(frozenset())[0]

    def ended(self, not_found: frozenset[int]) -> tuple[Endings, npt.NDArray[np.float64], Mask, Mask]:
        """Return how all rows ended, when, which were refused with a code in *not_found*, and which were tried."""
        outcome, denials, doubt = (np.zeros(self._rows, np.uint8) for _ in range(3))
        doubt_at, settled = np.zeros(self._rows), np.zeros(self._rows)
        unknown, tried = np.zeros(self._rows, np.bool_), np.zeros(self._rows, np.bool_)
        for part in self.parts():
            chosen = slice(part.start, part.start + len(part))
            outcome[chosen], denials[chosen] = part.outcome, part.denials
            doubt[chosen], doubt_at[chosen] = part.doubt, part.doubt_at
            settled[chosen] = part.settled
            tried[chosen] = (part.attempts > 0) | (part.doubt != 0)
            refused = np.flatnonzero(part.outcome == Outcome.REFUSED)
            unknown[part.start + refused] = [part.code[place] in not_found for place in refused]
        return Endings(outcome, denials, doubt, doubt_at), settled, unknown, tried

    def codes(self, plain: Callable[[str], str]) -> list[tuple[Outcome, int | None, int | None, str, int]]:
        """Return how often each outcome, HTTP status, ErrorCode and Message occurred, the most frequent first.

        Messages that *plain* makes the same are one, and of delivered rows there is none. What occurred beside the
        MOST_SAID most frequent is one a line for each outcome.
        """
        if not self._connection:
            return []
        with files.loading(self._path):
            self._connection.create_function("plain", 1, lambda said: plain(said or ""), deterministic=True)
            found = self._connection.execute(
                "SELECT outcome, status, code, '', count(*) FROM settled WHERE outcome = ?1 GROUP BY status, code "
                "UNION ALL SELECT outcome, status, code, plain(message) AS said, count(*) FROM settled "
                "WHERE outcome != ?1 GROUP BY outcome, status, code, said ORDER BY 5 DESC, 1",
                (int(Outcome.DELIVERED),),
            )
            listed = [(Outcome(row[0]), *row[1:]) for row in islice(found, MOST_SAID)]
            rest = Counter[int]()
            for outcome, _, _, _, count in found:
                rest[outcome] += count
        return listed + [(Outcome(outcome), None, None, OTHERS, count) for outcome, count in sorted(rest.items())]
