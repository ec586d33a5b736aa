import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sync_job.consent.known import Lingering, no_lingering
from sync_job.errors import ForeignStateError, NoStateError, StateDamagedError, StorageError
from sync_job.ledger.ledger import Ledger

TARGET = "http://127.0.0.1:1 operator 7"


def _create(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "ledger.db", TARGET, 1.0)


def _commit(ledger: Ledger, run: str, leg: int, digest: str = "d", lingering: Lingering | None = None) -> int:
    return ledger.commit_leg(
        run,
        leg,
        digest=digest,
        clients=1,
        lingering=lingering or no_lingering(),
        now=2.0,
    )


def test_a_new_ledger_has_no_snapshot(tmp_path: Path) -> None:
    """It counts from the first commit on; until then `init` did not end."""
    with _create(tmp_path) as ledger:
        assert not ledger.has_snapshot()
        assert ledger.next_snapshot() == 1
        with pytest.raises(NoStateError, match="`init` did not end here"):
            ledger.current()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_runs_go_through_their_stages(tmp_path: Path) -> None:
    """Open, committed, reported; what is not reported is unfinished, and everything survives a reopening."""
    with _create(tmp_path) as ledger:
        run = ledger.begin("run", 10.0, "night")
        assert run == "0001-night"
        assert [one.stage for one in ledger.unfinished()] == ["open"]
        _commit(ledger, run, 1)
        ledger.finish(run, 20.0)
        assert [(one.stage, one.ended) for one in ledger.unfinished()] == [("committed", 20.0)]
        ledger.report(run, 1, {"planned": 3, "words": "ж"}, [("refused", "5")])
        assert ledger.unfinished() == []
    with Ledger.open(tmp_path / "ledger.db", TARGET, write=False) as ledger:
        (found,) = ledger.runs()
        assert (found.number, found.run, found.kind, found.stage) == (1, run, "run", "reported")
        assert (found.started, found.ended, found.exit) == (10.0, 20.0, 1)
        assert found.summary == {"planned": 3, "words": "ж"}


def test_undone_is_that_of_the_last_report(tmp_path: Path) -> None:
    """What the next run knows again is what the last one left, each thing once."""
    with _create(tmp_path) as ledger:
        for undone in ([("refused", "5"), ("refused", "5"), ("reject", "ab")], [("deferred", "6")]):
            ledger.report(ledger.begin("run", 1.0, "n"), 1, {}, undone)
            assert ledger.undone() == set(undone)


def test_the_last_commit_counts(tmp_path: Path) -> None:
    """Each leg is committed once, and its snapshot is the current one."""
    with _create(tmp_path) as ledger:
        run = ledger.begin("run", 1.0, "n")
        assert _commit(ledger, run, 0, "first") == 1
        assert ledger.has_snapshot()
        assert not ledger.is_committed(run, 1)
        assert _commit(ledger, run, 1, "second") == 2
        assert ledger.is_committed(run, 1)
        assert not ledger.is_committed("another", 1)
        assert ledger.current() == (2, "second")
        assert ledger.next_snapshot() == 3


def test_a_leg_is_never_committed_twice(tmp_path: Path) -> None:
    """The second commit leaves nothing of itself."""
    with _create(tmp_path) as ledger:
        run = ledger.begin("run", 1.0, "n")
        _commit(ledger, run, 0, "first")
        with pytest.raises(StateDamagedError):
            _commit(ledger, run, 0, "second")
        assert ledger.current() == (1, "first")


def test_lingering_is_replaced_by_each_commit(tmp_path: Path) -> None:
    """Clients, times and what was acknowledged are read back."""
    some = Lingering(np.array([3, 2**31 - 1], np.int32), np.array([10.5, 20.25]), np.array([True, False]))
    with _create(tmp_path) as ledger:
        run = ledger.begin("run", 1.0, "n")
        _commit(ledger, run, 0, lingering=some)
        found = ledger.lingering()
        assert [np.asarray(each).tolist() for each in found] == [np.asarray(each).tolist() for each in some]
        assert [each.dtype for each in found[:3]] == [each.dtype for each in some[:3]]
        ledger.about.note_everyone_lingers(30.5)
        _commit(ledger, run, 1)
        assert len(ledger.lingering().client) == 0
        assert ledger.lingering().everyone == 30.5, "that is not of a leg"


def test_a_ledger_that_is_not_there_is_told_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 4, and looking for it makes nothing."""
    monkeypatch.chdir(tmp_path)
    for write in (True, False):
        with pytest.raises(NoStateError, match="consent-sync init") as raised:
            Ledger.open(Path("state/ledger.db"), TARGET, write=write)
        assert str(tmp_path / "state") in str(raised.value)
        assert raised.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", ["state", "state/ledger.db"])
def test_a_ledger_of_another_user_is_neither_missing_nor_damaged(tmp_path: Path, closed: str) -> None:
    """The message says to run as the owner; nobody is sent to a backup or to `init`."""
    path = tmp_path / "state" / "ledger.db"
    path.parent.mkdir()
    Ledger.create(path, TARGET, 1.0).close()
    user = os.geteuid()
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):  # pytest's own are for this user alone
        if user == 0 and folder.name.startswith(("pytest-", "popen-", "test_")):
            folder.chmod(0o755)
    mode = 0o755 if closed == "state/ledger.db" else 0
    path.parent.chmod(mode)
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match=r"ledger\.db: .*mode"):
            Ledger.open(path, TARGET, write=False)
    finally:
        os.seteuid(user)
        path.parent.chmod(0o700)


def test_the_ledger_of_another_target_is_refused(tmp_path: Path) -> None:
    """Both targets are named."""
    _create(tmp_path).close()
    with pytest.raises(ForeignStateError) as raised:
        Ledger.open(tmp_path / "ledger.db", "http://127.0.0.1:1 operator 8", write=True)
    assert TARGET in str(raised.value)
    assert "operator 8" in str(raised.value)


def test_an_empty_ledger_is_an_init_that_died(tmp_path: Path) -> None:
    """Nothing was sent yet: a new `init` is what to do."""
    (tmp_path / "ledger.db").touch()
    with pytest.raises(NoStateError, match="`init` did not end here"):
        Ledger.open(tmp_path / "ledger.db", TARGET, write=False)


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize(
    "damage", [b"no database at all, " * 500, b"SQLite format 3\0" + b"\xa5" * 8000], ids=["text", "pages"]
)
def test_what_is_no_ledger_is_damaged(tmp_path: Path, damage: bytes, write: bool) -> None:
    """Not missing and not foreign: it was there."""
    (tmp_path / "ledger.db").write_bytes(damage)
    with pytest.raises(StateDamagedError, match=r"ledger\.db: damaged"):
        Ledger.open(tmp_path / "ledger.db", TARGET, write=write)


@pytest.mark.parametrize("lost", [1, 5000])
def test_a_truncated_ledger_is_damaged(tmp_path: Path, lost: int) -> None:
    """Also by one byte of its last page."""
    with _create(tmp_path) as ledger:
        many = np.arange(1, 5000)
        lingering = Lingering(many.astype(np.int32), many.astype(np.float64), many > 0)
        _commit(ledger, ledger.begin("run", 1.0, "n"), 0, lingering=lingering)
    path = tmp_path / "ledger.db"
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(StateDamagedError, match=r"ledger\.db: damaged"):
        Ledger.open(path, TARGET, write=False)


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    """What a newer program wrote is not guessed at."""
    _create(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
        other.execute("UPDATE about SET value = '2' WHERE key = 'version'")
        other.commit()
    with pytest.raises(StateDamagedError, match="version 2 of the ledger; this program knows 1"):
        Ledger.open(tmp_path / "ledger.db", TARGET, write=True)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """Only the lock's holder does."""
    _create(tmp_path).close()
    with Ledger.open(tmp_path / "ledger.db", TARGET, write=False) as ledger:
        with pytest.raises(StorageError, match="readonly"):
            ledger.begin("run", 1.0, "n")
        assert ledger.runs() == []
