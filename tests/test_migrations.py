"""An older ledger becomes today's by numbered steps, each whole or not done; these are made up, for there are none."""

import sqlite3
from pathlib import Path

import pytest

from sync_job.errors import OlderStateError, StateDamagedError, StorageError
from sync_job.ledger import migrations
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.migrations import Step

TARGET = "http://127.0.0.1:1 operator 0"


def _second(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE undone ADD COLUMN note TEXT NOT NULL DEFAULT ''")


def _third(db: sqlite3.Connection) -> None:
    db.execute("UPDATE undone SET note = kind")


def _dies(db: sqlite3.Connection) -> None:
    db.execute("UPDATE undone SET note = 'half'")
    db.execute("UPDATE nothing SET note = 'half'")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a ledger of the first version, with a row in it."""
    with Ledger.create(tmp_path / "ledger.db", TARGET, 1.0) as ledger:
        ledger.report("none", 0, {}, [("refused", "5")])
    return tmp_path / "ledger.db"


def _rows(path: Path) -> tuple[str, list[tuple[str, ...]]]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT * FROM undone").fetchall()
    ((version,),) = db.execute("SELECT value FROM about WHERE key = 'version'")
    db.close()
    return version, found


def _open(path: Path, *steps: Step, write: bool) -> None:
    Ledger.open(path, TARGET, write=write, steps=steps).close()


def test_a_writer_brings_it_to_the_newest(path: Path) -> None:
    """By each step that it lacks, once and in order; then readers open it, too."""
    _open(path, _second, write=True)
    assert _rows(path) == ("2", [("refused", "5", "")])
    _open(path, _second, _third, write=True)
    assert _rows(path) == ("3", [("refused", "5", "refused")])
    for write in (False, True):
        _open(path, _second, _third, write=write)
    assert _rows(path)[0] == "3"


def test_all_steps_at_once_are_the_same(path: Path) -> None:
    """A ledger may be several versions old."""
    _open(path, _second, _third, write=True)
    assert _rows(path) == ("3", [("refused", "5", "refused")])


def test_a_reader_names_the_command(path: Path) -> None:
    """It changes nothing."""
    before = path.read_bytes()
    with pytest.raises(OlderStateError, match=r"version 1 of the ledger, .* 2\. `consent-sync state repair`") as raised:
        _open(path, _second, write=False)
    assert raised.value.exit_code == 4
    assert path.read_bytes() == before


def test_a_step_that_dies_is_not_done(path: Path) -> None:
    """What was done before it stays, and it is begun anew by the next who writes."""
    with pytest.raises(StorageError):
        _open(path, _second, _dies, write=True)
    assert _rows(path) == ("2", [("refused", "5", "")])
    _open(path, _second, _third, write=True)
    assert _rows(path) == ("3", [("refused", "5", "refused")])


@pytest.mark.parametrize("write", [True, False])
def test_a_newer_version_is_refused(path: Path, write: bool) -> None:
    """By whoever opens it, and nothing is tried on it."""
    _open(path, _second, write=True)
    with pytest.raises(StateDamagedError, match="version 2 of the ledger; this program knows 1"):
        Ledger.open(path, TARGET, write=write).close()
    assert _rows(path)[0] == "2"


def test_a_new_ledger_is_of_the_newest_version(path: Path) -> None:
    """It needs no step."""
    assert _rows(path)[0] == str(migrations.newest())
