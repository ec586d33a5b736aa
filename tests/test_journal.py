import asyncio
import re
import selectors
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Outcome
from sync_job.errors import StateDamagedError, StorageError
from sync_job.ledger.journal import INTERVAL_S, LEAST_AHEAD, MOST_SAID, OTHERS, Journal, Reading, Settled

NOW = 5000.0


def _mark(path: Path) -> int:
    with closing(sqlite3.connect(path)) as other:
        return int(other.execute("SELECT mark FROM about").fetchone()[0])


def _settled(path: Path) -> int:
    with closing(sqlite3.connect(path)) as other:
        return int(other.execute("SELECT count(*) FROM settled").fetchone()[0])


class _Selector(selectors.DefaultSelector):
    """Lets the time pass that it is asked to wait for, instead of waiting; but waits for a thread that works."""

    now_s = 0.0
    working = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.working and timeout != 0:
            return super().select()
        assert timeout is not None, "everybody waits for each other"
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class Swift(asyncio.SelectorEventLoop):
    """A loop in virtual time, in which the work of threads takes none."""

    def __init__(self) -> None:
        self._swift = _Selector()
        super().__init__(self._swift)

    def time(self) -> float:
        """Return the virtual seconds since the start."""
        return self._swift.now_s

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        """Do so, and let no time pass meanwhile."""
        self._swift.working += 1
        future = super().run_in_executor(*args)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        self._swift.working -= 1


async def _cleared_at_once(journal: Journal, row: int) -> bool:
    """Clear *row*, and return whether that needed no other turn of the loop."""
    turns: list[None] = []
    asyncio.get_running_loop().call_soon(turns.append, None)
    await journal.clear(row)
    return not turns


def _write(
    path: Path,
    rows: int,
    block: Callable[[Journal], Awaitable[None]],
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run *block* with an open journal."""

    async def main() -> None:
        journal = Journal(path, rows)
        async with journal.writing():
            await block(journal)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def _die(journal: Journal) -> None:
    """Leave the block as a kill would: nothing more is written."""


def _killed(path: Path, rows: int, mark: int, settled: list[Settled]) -> None:
    """Write what a run leaves that was killed with the mark at *mark*."""

    async def main(journal: Journal) -> None:
        for one in settled:
            journal.settle(one)

    _write(path, rows, main)
    again = Journal(path.with_name("another.db"), rows)
    again._commit([], mark)
    with closing(sqlite3.connect(path)) as other, closing(again._connection) as says:
        other.execute("UPDATE about SET mark = ?, seal = ?", says.execute("SELECT mark, seal FROM about").fetchone())
        other.commit()


def test_the_mark_is_durable_before_a_row_is_cleared(tmp_path: Path) -> None:
    """Another connection reads a mark beyond every row that may be dispatched, at any time."""
    path = tmp_path / "journal.db"

    async def main(journal: Journal) -> None:
        for row in range(300):
            await journal.clear(row)
            if row % 16 == 0 or row in (63, 64, 65):
                assert row < _mark(path) <= 300

    _write(path, 300, main)


def test_the_mark_is_ahead_by_no_more_than_it_must(tmp_path: Path) -> None:
    """After a kill the rows up to the mark are in doubt: there are few."""
    path = tmp_path / "journal.db"

    async def main(journal: Journal) -> None:
        await journal.clear(0)
        assert _mark(path) == LEAST_AHEAD
        await asyncio.gather(*(journal.clear(row) for row in range(1, LEAST_AHEAD + 1)))
        assert LEAST_AHEAD < _mark(path) <= 4 * LEAST_AHEAD

    _write(path, 100_000, main)


@pytest.mark.parametrize("per_interval", [10, 70, 900])
def test_a_steady_sender_never_waits_for_the_mark(tmp_path: Path, per_interval: int) -> None:
    """It moves ahead of the rows with each commit, once it has seen how fast they are; and is not far ahead then.

    Commits take no time here, and none is asked for but by time.
    """
    path = tmp_path / "journal.db"
    waited: list[int] = []

    async def main(journal: Journal) -> None:
        for row in range(20 * per_interval):
            if not await _cleared_at_once(journal, row):
                waited.append(row)
            await asyncio.sleep(INTERVAL_S / per_interval)

    _write(path, 100_000, main, Swift)
    warm = 3 * per_interval
    assert waited[:1] == [0]
    assert all(row < warm for row in waited), "while it is not yet known how fast they are"


def test_the_mark_is_ahead_by_what_the_last_two_intervals_dispatched(tmp_path: Path) -> None:
    """Or by LEAST_AHEAD: so few are in doubt after a kill, also when it was faster before. It never goes back."""
    path = tmp_path / "journal.db"
    moves: list[tuple[float, int, int]] = []
    sent: list[float] = []

    async def main(journal: Journal) -> None:
        loop = asyncio.get_running_loop()
        mark = 0
        for per_interval, intervals in ((5, 20), (60, 5), (400, 6), (60, 25), (5, 40)):
            for _ in range(per_interval * intervals):
                await journal.clear(len(sent))
                sent.append(loop.time())
                if len(sent) % max(1, per_interval // 20) == 0:
                    was, mark = mark, _mark(path)
                    assert mark >= max(was, len(sent))
                    if mark > was:
                        moves.append((loop.time(), len(sent), mark))
                await asyncio.sleep(INTERVAL_S / per_interval)

    _write(path, 100_000, main, Swift)
    for at, count, mark in moves:
        # Commits are an interval apart, so that they see two as up to three; and the mark is seen a little later.
        lately = sum(time > at - 3.3 * INTERVAL_S for time in sent[:count])
        assert mark - count <= max(LEAST_AHEAD, lately)
    assert max(mark - count for _, count, mark in moves) > 700
    assert moves[0][2] - moves[0][1] <= LEAST_AHEAD
    assert moves[-1][2] - moves[-1][1] <= LEAST_AHEAD


@pytest.mark.parametrize("rows", [1, 49, 50, 51, 100, 749, 750])
def test_a_commit_of_many_rows_has_all_of_them(tmp_path: Path, rows: int) -> None:
    """They are written fifty at a time, and then the rest: each row with its own outcome."""
    path = tmp_path / "journal.db"

    def settled(row: int) -> Settled:
        outcome = list(Outcome)[1 + row % 4]
        return Settled(row, outcome, attempts=row, message=f"row {row}", first_sent=row / 8, settled=row / 4)

    async def main(journal: Journal) -> None:
        await asyncio.gather(*(journal.clear(row) for row in range(rows)))
        for row in range(rows):
            journal.settle(settled(row))
        assert _settled(path) == 0

    _write(path, rows, main)
    with Reading(path, rows, NOW) as found:
        (part,) = found.parts()
    expected = [settled(row) for row in range(rows)]
    assert part.outcome.tolist() == [one.outcome for one in expected]
    assert part.attempts.tolist() == [one.attempts for one in expected]
    assert part.message.tolist() == [one.message for one in expected]
    assert part.first_sent.tolist() == [one.first_sent for one in expected]
    assert part.settled.tolist() == [one.settled for one in expected]


def test_of_a_row_that_settles_twice_in_one_commit_the_last_counts(tmp_path: Path) -> None:
    """Also where the two are written by different statements."""
    path = tmp_path / "journal.db"
    _killed(
        path,
        120,
        120,
        [Settled(row, Outcome.EXHAUSTED) for row in range(120)] + [Settled(7, Outcome.DELIVERED)],
    )
    with Reading(path, 120, NOW) as found:
        assert np.flatnonzero(found.endings().outcome == Outcome.DELIVERED).tolist() == [7]


def test_many_senders_are_cleared_together(tmp_path: Path) -> None:
    """Each gets its turn, however many wait for the same mark."""
    path = tmp_path / "journal.db"
    cleared: list[int] = []

    async def main(journal: Journal) -> None:
        async def send(row: int) -> None:
            await journal.clear(row)
            cleared.append(row)

        await asyncio.gather(*(send(row) for row in range(500)))

    _write(path, 500, main)
    assert sorted(cleared) == list(range(500))


def test_outcomes_are_committed_in_groups(tmp_path: Path) -> None:
    """What is settled is not yet durable, becomes so without being asked for, and all of it when the block ends."""
    path = tmp_path / "journal.db"

    async def main(journal: Journal) -> None:
        await journal.clear(9)
        for row in range(10):
            journal.settle(Settled(row, Outcome.DELIVERED))
        assert _settled(path) == 0
        await journal.clear(LEAST_AHEAD)  # the next group
        assert _settled(path) == 10
        journal.settle(Settled(10, Outcome.REFUSED))

    _write(path, 200, main)
    assert _settled(path) == 11


def test_everything_of_a_settled_row_is_read_back(tmp_path: Path) -> None:
    """All columns, in the plan's order; what was not said is none, or not a number."""
    path = tmp_path / "journal.db"
    full = Settled(
        2, Outcome.REFUSED, Outcome.DELIVERED, DOUBT_WHOLE | DOUBT_DENIALS, 12.5, 4, 200, 8, "Участник", 10.25, 13.75
    )
    bare = Settled(0, Outcome.DELIVERED)

    async def main(journal: Journal) -> None:
        await journal.clear(2)
        journal.settle(full)
        journal.settle(bare)

    _write(path, 3, main)
    with Reading(path, 3, NOW) as found:
        (part,) = found.parts()
        assert len(part) == 3
        assert part.outcome.tolist() == [Outcome.DELIVERED, Outcome.DEFERRED, Outcome.REFUSED]
        assert part.denials.tolist() == [Outcome.OPEN, Outcome.OPEN, Outcome.DELIVERED]
        assert part.doubt.tolist() == [0, DOUBT_WHOLE, 3]
        assert part.doubt_at.tolist() == [0, NOW, 12.5]
        assert part.attempts.tolist() == [0, 0, 4]
        assert part.status.tolist() == [None, None, 200]
        assert part.code.tolist() == [None, None, 8]
        assert part.message.tolist() == ["", None, "Участник"]
        assert np.isnan(part.first_sent).tolist() == [True, True, False]
        assert (part.first_sent[2], part.settled[2]) == (10.25, 13.75)
        assert found.codes(str) == [
            (Outcome.DELIVERED, None, None, "", 1),
            (Outcome.REFUSED, 200, 8, "Участник", 1),
        ]


def test_answers_are_counted_by_what_tells_them_apart(tmp_path: Path) -> None:
    """Messages that are the same but for an id are one; beyond the most frequent those of an outcome are one line."""
    names = [chr(0x430 + n // 26) + chr(97 + n % 26) for n in range(MOST_SAID + 10)]
    said = [f"client {1000 + n} unknown" for n in range(30)] + ["busy"] * 5 + names
    ended = [Outcome.REFUSED] * 30 + [Outcome.EXHAUSTED] * 5 + [Outcome.REFUSED] * len(names)
    rows = [Settled(row, outcome, message=one) for row, (outcome, one) in enumerate(zip(ended, said, strict=True))]
    rows += [Settled(len(rows) + n, Outcome.DELIVERED, status=200, code=0, message=f"ok {n}") for n in range(20)]

    async def main(journal: Journal) -> None:
        for one in rows:
            await journal.clear(one.row)
            journal.settle(one)

    path = tmp_path / "journal.db"
    _write(path, len(rows), main)
    with Reading(path, len(rows), NOW) as found:
        codes = found.codes(lambda one: re.sub(r"\d+", "…", one))
    assert codes[:3] == [
        (Outcome.REFUSED, None, None, "client … unknown", 30),
        (Outcome.DELIVERED, 200, 0, "", 20),
        (Outcome.EXHAUSTED, None, None, "busy", 5),
    ]
    assert codes[-1] == (Outcome.REFUSED, None, None, OTHERS, 13)
    assert (len(codes), sum(one[-1] for one in codes)) == (MOST_SAID + 1, len(rows))


def test_unsettled_rows_before_the_mark_are_in_doubt(tmp_path: Path) -> None:
    """A killed run may have sent them; those beyond the mark it surely did not."""
    path = tmp_path / "journal.db"
    _killed(path, 6, 4, [Settled(1, Outcome.DELIVERED), Settled(3, Outcome.EXHAUSTED)])
    with Reading(path, 6, NOW) as found:
        endings = found.endings()
    deferred, delivered, exhausted = Outcome.DEFERRED, Outcome.DELIVERED, Outcome.EXHAUSTED
    assert endings.outcome.tolist() == [deferred, delivered, deferred, exhausted, deferred, deferred]
    assert endings.doubt.tolist() == [DOUBT_WHOLE, 0, DOUBT_WHOLE, 0, 0, 0]
    assert endings.doubt_at.tolist() == [NOW, 0, NOW, 0, 0, 0]


def test_stretches_are_read_one_by_one(tmp_path: Path) -> None:
    """A large plan is read in parts, each beginning where the last one ended."""
    path = tmp_path / "journal.db"
    _killed(path, 10, 7, [Settled(row, Outcome.DELIVERED) for row in (0, 3, 4, 6, 9)])
    with Reading(path, 10, NOW) as found:
        parts = list(found.parts(4))
        whole = found.endings()
    assert [(part.start, len(part)) for part in parts] == [(0, 4), (4, 4), (8, 2)]
    assert np.concatenate([part.outcome for part in parts]).tolist() == whole.outcome.tolist()
    assert np.concatenate([part.doubt for part in parts]).tolist() == whole.doubt.tolist()
    assert np.flatnonzero(whole.outcome == Outcome.DELIVERED).tolist() == [0, 3, 4, 6, 9]
    assert np.flatnonzero(whole.doubt).tolist() == [1, 2, 5]


def test_the_last_mark_is_exact(tmp_path: Path) -> None:
    """After an orderly end nothing beyond the last row that was dispatched is in doubt."""
    path = tmp_path / "journal.db"

    async def main(journal: Journal) -> None:
        for row in range(5):
            await journal.clear(row)
            journal.settle(Settled(row, Outcome.DELIVERED))
        assert _mark(path) == LEAST_AHEAD

    _write(path, 1000, main)
    with Reading(path, 1000, NOW) as found:
        assert found.mark == 5
        endings = found.endings()
    assert not endings.doubt.any()
    assert np.count_nonzero(endings.outcome == Outcome.DEFERRED) == 995


def test_an_outcome_that_is_settled_again_is_the_last_one(tmp_path: Path) -> None:
    """There is one row for each row of the plan."""
    path = tmp_path / "journal.db"
    _killed(path, 1, 1, [Settled(0, Outcome.EXHAUSTED), Settled(0, Outcome.DELIVERED)])
    with Reading(path, 1, NOW) as found:
        assert found.endings().outcome.tolist() == [Outcome.DELIVERED]


def test_an_error_in_the_block_loses_nothing_settled(tmp_path: Path) -> None:
    """What settled before it is durable, and the error goes on."""
    path = tmp_path / "journal.db"

    async def main(journal: Journal) -> None:
        await journal.clear(0)
        journal.settle(Settled(0, Outcome.DELIVERED))
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as raised:
        _write(path, 1, main)
    assert raised.group_contains(ZeroDivisionError)
    assert _settled(path) == 1


@pytest.mark.parametrize("waits", ["for a clearance", "for something else"])
def test_a_disk_that_fails_ends_the_block(tmp_path: Path, waits: str) -> None:
    """Who waits is cancelled, and the error names the journal: nothing is sent that cannot be written down."""
    path = tmp_path / "journal.db"
    dispatched: list[int] = []

    async def main(journal: Journal) -> None:
        await journal.clear(0)
        dispatched.append(0)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE settled")
            other.commit()
        journal.settle(Settled(0, Outcome.DELIVERED))
        await (journal.clear(LEAST_AHEAD + 5) if waits == "for a clearance" else asyncio.sleep(60))
        dispatched.append(1)

    with pytest.raises(StorageError, match=r"journal\.db: no such table: settled"):
        _write(path, 1000, main)
    assert dispatched == [0]


def test_a_disk_that_fails_at_the_end_is_told(tmp_path: Path) -> None:
    """The last group is no less durable than the others."""
    path = tmp_path / "journal.db"

    async def main(journal: Journal) -> None:
        await journal.clear(0)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE settled")
            other.commit()
        journal.settle(Settled(0, Outcome.DELIVERED))

    with pytest.raises(StorageError, match="no such table"):
        _write(path, 1, main)


def test_a_journal_that_was_never_begun_says_nothing_was_dispatched(tmp_path: Path) -> None:
    """No file, an empty file, and a database without tables: every row is deferred, none in doubt."""
    empty, bare = tmp_path / "empty.db", tmp_path / "bare.db"
    empty.touch()
    with closing(sqlite3.connect(bare)) as other:
        other.execute("PRAGMA journal_mode = WAL")
    for path in (tmp_path / "none.db", empty, bare):
        with Reading(path, 3, NOW) as found:
            endings = found.endings()
            assert endings.outcome.tolist() == [Outcome.DEFERRED] * 3
            assert endings.doubt.tolist() == [0, 0, 0]
            assert found.codes(str) == []
    assert not (tmp_path / "none.db").exists()


def test_a_journal_without_rows_is_read(tmp_path: Path) -> None:
    """A block that did nothing leaves a mark of 0."""
    _write(tmp_path / "journal.db", 3, _die)
    with Reading(tmp_path / "journal.db", 3, NOW) as found:
        assert found.mark == 0


def test_the_journal_of_another_plan_is_refused(tmp_path: Path) -> None:
    """Its outcomes would be given to the wrong clients."""
    _write(tmp_path / "journal.db", 3, _die)
    with pytest.raises(StateDamagedError, match=r"journal\.db: damaged \(version 1 for 3 rows; expected 1 for 4\)"):
        Reading(tmp_path / "journal.db", 4, NOW)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    """What a newer program wrote is not guessed at."""
    path = tmp_path / "journal.db"
    _write(path, 3, _die)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE about SET version = 2")
        other.commit()
    with pytest.raises(StateDamagedError, match="version 2 for 3 rows; expected 1 for 3"):
        Reading(path, 3, NOW)


@pytest.mark.parametrize("start", [0, 100, 4096, 8192])
def test_a_damaged_journal_is_refused(tmp_path: Path, start: int) -> None:
    """Whole pages of nonsense are noticed before an outcome is believed."""
    path = tmp_path / "journal.db"
    _killed(path, 1000, 1000, [Settled(row, Outcome.DELIVERED) for row in range(1000)])
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * 512)
    with pytest.raises(StateDamagedError, match=r"journal\.db: damaged"):
        Reading(path, 1000, NOW).endings()


def test_a_journal_is_private(tmp_path: Path) -> None:
    """It says what people consented to."""
    _write(tmp_path / "journal.db", 1, _die)
    assert (tmp_path / "journal.db").stat().st_mode & 0o777 == 0o600
