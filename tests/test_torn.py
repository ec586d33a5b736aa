"""Files that are cut off, or have one bit turned, are refused as damaged or read as they were; and never end in a bug.

Snapshot and plan are cut and turned in `test_ledger_tables`, anchor and tombstones in their own tests. Here are the
databases and the inbox. CONSENT_SYNC_TEST_ALL_MOMENTS=1 turns every byte, and not some of them.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import sync_job
from sync_job.consent.fold import Outcome
from sync_job.errors import ConsentSyncError, StateError
from sync_job.ledger import files, inbox
from sync_job.ledger.journal import Journal, Reading, Settled
from sync_job.ledger.ledger import Ledger
from sync_job.runs.recover import holding
from sync_job.standin.background import Standin
from tests.commands import Cli
from tests.shop import Shop

ALL = os.environ.get("CONSENT_SYNC_TEST_ALL_MOMENTS") == "1"
ROWS = 20


def cuts(whole: bytes, step: int) -> Iterator[bytes]:
    """Yield beginnings of a file, from nothing to all but a byte."""
    for length in sorted({*range(0, len(whole), 1 if ALL else step), len(whole) - 1}):
        yield whole[:length]


def turned(whole: bytes, step: int) -> Iterator[tuple[int, bytes]]:
    """Yield a file with one bit of one byte turned, another bit for each byte, and where that is."""
    for at in range(0, len(whole), 1 if ALL else step):
        changed = bytearray(whole)
        changed[at] ^= 1 << at // step % 8
        yield at, bytes(changed)


def read_or_refused(read: Callable[[], Any]) -> Any:
    """Return what is read, or none when it is refused as an error of the state; any other error goes on."""
    try:
        return read()
    except StateError:
        return None


def _settled(row: int) -> Settled:
    return Settled(
        row, Outcome.DELIVERED if row % 3 else Outcome.REFUSED, attempts=1, status=200, message="", settled=9.0
    )


def _write(path: Path, *, whole: bool) -> list[bytes]:
    """Write a journal in several commits; return its log after each, where it is not *whole* but still in that."""
    journal = Journal(path, ROWS)
    connection = journal._connection
    logs = []
    for start in range(0, ROWS, 5):
        journal._commit([_settled(row) for row in range(start, start + 5)], start + 5)
        logs.append(path.with_name("journal.db-wal").read_bytes())
    if whole:
        connection.close()
    journal._thread.shutdown()
    return logs


def _endings(path: Path) -> list[int]:
    with Reading(path, ROWS, 1.0) as journal:
        found = journal.endings()
        return [int(one) for one in (*found.outcome, *found.doubt, journal.mark)]


def test_every_beginning_of_a_journal_is_refused(tmp_path: Path) -> None:
    """But for nothing at all, which says that nothing was dispatched: a run is not begun on less than a whole file."""
    path = tmp_path / "journal.db"
    _write(path, whole=True)
    truth, whole = _endings(path), path.read_bytes()
    for beginning in cuts(whole, 37):
        path.write_bytes(beginning)
        found = read_or_refused(lambda: _endings(path))
        assert found is None or found == truth or not beginning, len(beginning)


def test_every_beginning_of_a_write_ahead_log_is_a_moment_that_there_was(tmp_path: Path) -> None:
    """What a death or a torn write leaves of the log: the commits before it, whole, and nothing of a later one."""
    (tmp_path / "first").mkdir()
    first, copy = tmp_path / "first" / "journal.db", tmp_path / "journal.db"
    log = _write(first, whole=False)[-1]
    base = first.read_bytes()

    def read(content: bytes) -> Any:
        for path in tmp_path.glob("journal.db*"):
            path.unlink()
        copy.write_bytes(base)
        copy.with_name("journal.db-wal").write_bytes(content)
        return read_or_refused(lambda: _endings(copy))

    moments = []
    for commits in range(ROWS // 5 + 1):
        outcome = [int(_settled(row).outcome) if row < 5 * commits else int(Outcome.DEFERRED) for row in range(ROWS)]
        moments.append([*outcome, *[0] * ROWS, 5 * commits])
    nothing = [int(Outcome.DEFERRED)] * ROWS + [0] * ROWS + [0]
    found = [read(beginning) for beginning in cuts(log, 211)]
    assert all(one in (nothing, *moments) for one in found)
    assert found == sorted(found, key=lambda one: one[-1]), "the longer the log, the later the moment"
    assert read(log) == moments[-1]
    # A bit that turned ends the log there: its checksums say so.
    for at, content in turned(log, 211):
        assert read(content) in (None, nothing, *moments), at


def test_a_turned_bit_of_a_journal_is_no_bug(tmp_path: Path) -> None:
    """It is refused, or read; SQLite's own check does not see every one."""
    path = tmp_path / "journal.db"
    _write(path, whole=True)
    for _, content in turned(path.read_bytes(), 31):
        path.write_bytes(content)
        read_or_refused(lambda: _endings(path))


def test_a_turned_bit_of_a_journal_makes_no_other_outcome(tmp_path: Path) -> None:
    """Refused, or read as it was."""
    path = tmp_path / "journal.db"
    _write(path, whole=True)
    truth = _endings(path)
    wrong = []
    for at, content in turned(path.read_bytes(), 1):
        if content[at] ^ 1 << at % 8:  # in the empty space of a page nothing is turned
            path.write_bytes(content)
            if read_or_refused(lambda: _endings(path)) not in (None, truth):
                wrong.append(at)
    assert not wrong


def _consents(path: Path, target: str) -> dict[str, Any]:
    """Return what of a ledger decides who may be contacted."""
    with Ledger.open(path, target, write=False) as ledger:
        owed = ledger.obligations.owed(time.time())
        ids, channels = ledger.withdrawals.in_force().items()
        found = {
            "in force": dict(zip(ids.tolist(), channels.tolist(), strict=True)),
            "owed": dict(zip(owed.client.tolist(), owed.channels.tolist(), strict=True)),
        }
        # These are read by every run, and decide what it does.
        ledger.lingering(), ledger.runs(), ledger.place(), ledger.forgetting.asked(), ledger.current()
    return found


def _a_ledger(folder: Path, platform: Standin) -> tuple[Path, str, Shop]:
    """Return a ledger with withdrawals that were delivered and others that are owed still."""
    shop = Shop(folder, platform.url)
    shop.write(dict.fromkeys(range(1001, 1007), (True, False, True, None)))
    shop.init("equal")
    shop.withdraw({1001: "sms", 1002: "all"})
    sync_job.run(shop.settings)
    shop.withdraw({1003: "marketing"})
    with holding(shop.settings):
        pass
    return shop.settings.state.path / "ledger.db", shop.settings.endpoint.target, shop


def test_every_beginning_of_a_ledger_is_refused(tmp_path: Path, platform: Standin) -> None:
    """None is taken for a younger state."""
    path, target, _ = _a_ledger(tmp_path, platform)
    for beginning in cuts(path.read_bytes(), 1021):
        path.write_bytes(beginning)
        with pytest.raises(StateError):
            _consents(path, target)


def test_a_turned_bit_of_a_ledger_is_no_bug(tmp_path: Path, platform: Standin) -> None:
    """It is refused, or read; never does it end in a traceback."""
    path, target, _ = _a_ledger(tmp_path, platform)
    bugs = []
    for at, content in turned(path.read_bytes(), 509):
        path.write_bytes(content)
        try:
            _consents(path, target)
        except ConsentSyncError:
            pass
        except Exception as exc:  # noqa: BLE001 - each is a bug, and all are told together
            bugs.append(f"{at}: {exc!r}")
    assert not bugs


def _turned_value(path: Path, table: str) -> Iterator[str]:
    """Turn each bit of each byte of *table*'s rows that decide whom we contact, as a rotten sector would."""
    columns = {"in_force": ("client", "channels"), "obligations": ("owed",), "withdrawals": ("in_force",)}[table]
    with closing(sqlite3.connect(path)) as db:
        kept = [(name, db.execute(f"SELECT rowid, {name} FROM {table}").fetchall()) for name in columns]  # noqa: S608
    for name, rows in kept:
        for rowid, value in rows:
            raw = value if isinstance(value, bytes) else bytes([value])
            for bit in range(8 * len(raw)):
                changed = bytearray(raw)
                changed[bit // 8] ^= 1 << bit % 8
                new = bytes(changed) if isinstance(value, bytes) else changed[0]
                with closing(sqlite3.connect(path, isolation_level=None)) as db:
                    db.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (new, rowid))  # noqa: S608
                yield f"{table}.{name} bit {bit}"
                with closing(sqlite3.connect(path, isolation_level=None)) as db:
                    db.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (value, rowid))  # noqa: S608


@pytest.mark.parametrize(
    "table",
    [
        "in_force",
        pytest.param(
            "obligations",
            marks=pytest.mark.xfail(strict=True, reason="its rows have no digest; the next export owes it"),
        ),
    ],
)
def test_a_turned_bit_of_a_ledger_turns_no_consent_around(tmp_path: Path, platform: Standin, table: str) -> None:
    """Who withdrew and what is owed is refused, or read as it was written."""
    path, target, _ = _a_ledger(tmp_path, platform)
    truth = _consents(path, target)
    unseen = [
        where
        for where in _turned_value(path, table)
        if (read_or_refused(lambda: _consents(path, target)) or truth) != truth
    ]
    assert not unseen


def test_a_list_that_is_cut_or_turned_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    """Everywhere in the file."""
    (tmp_path / "inbox").mkdir()
    rows = {
        "client": [7, 9],
        "given": [0, 3],
        "channels": [1, 85],
        "received_at": [5.0, 5.0],
        "withdrawn_at": [4.0, 4.0],
    }
    table = pa.table(rows | {"basis": [0, 1], "request_ref": ["R-1", ""]})
    path = inbox.put(tmp_path, table, digest="d", source="list.csv", now=9.0)

    def read() -> Any:
        batches, about = inbox.read(path)
        return [batch.to_pylist() for batch in batches], about

    truth, whole = read(), path.read_bytes()
    for content in (*cuts(whole, 11), *(content for _, content in turned(whole, 3))):
        path.write_bytes(content)
        assert read_or_refused(read) in (None, truth)


@pytest.mark.parametrize("place", ["ledger.db", "snapshots", "runs"])
def test_a_run_on_a_damaged_state_ends_in_4_or_does_no_harm(
    tmp_path: Path, platform: Standin, cli: Cli, place: str
) -> None:
    """Cut or turned, in the middle of a dead run: no traceback, and nobody is granted what they withdrew."""
    path, _, shop = _a_ledger(tmp_path, platform)
    state = path.parent
    with shop.state(write=True) as opened, files.storing(path):
        run = opened.ledger.begin("run", 1.0, "19700101T000001Z")
        folder = opened.new_leg(run, 1).folder
        (folder / "plan.parquet").write_bytes(b"PAR1")
    damaged = {"ledger.db": path, "snapshots": max((state / "snapshots").iterdir()), "runs": folder / "plan.parquet"}[
        place
    ]
    kept = tmp_path / "kept"
    shutil.copytree(state, kept)
    whole = damaged.read_bytes()
    size = len(whole)
    contents = [whole[: size // 3], whole[: size - 1], *(content for _, content in turned(whole, max(1, size // 4)))]
    for content in contents:
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        damaged.write_bytes(content)
        said = cli("run", "--config", shop.config, "--quiet")
        assert said.code == 4, said
        assert str(state) in said.err
    granted = [entry for entry in platform.platform.log if entry.client in (1001, 1002) and entry.flags.sms]
    assert not granted
