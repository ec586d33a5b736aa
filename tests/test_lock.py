import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sync_job.errors import BusyError, StorageError
from sync_job.ledger import lock

_HOLD = """
import sys, time
from pathlib import Path
from sync_job.ledger import lock
with lock.held(Path(sys.argv[1])):
    lock.announce(Path(sys.argv[1]), {"kind": "run", "run": "0007-x", "stage": "sending", "done": 3, "total": 9})
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock of *folder* for the block, or until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_told_what_the_first_is_doing(tmp_path: Path) -> None:
    """`BusyError`, exit 75, names the folder, the run and how far it is; a killed holder frees the lock."""
    with held_elsewhere(tmp_path) as process:
        assert lock.is_held(tmp_path)
        with pytest.raises(BusyError) as raised, lock.held(tmp_path):
            raise AssertionError("held twice")
        assert raised.value.exit_code == 75
        said = str(raised.value)
        assert str(tmp_path) in said
        assert f"run 0007-x (process {process.pid}) is sending, 3 of 9 rows" in said
        assert "consent-sync status" in said
        process.kill()
        process.wait()
        assert not lock.is_held(tmp_path)
        with lock.held(tmp_path):
            assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)


def test_a_lock_is_held_once_within_a_process_too(tmp_path: Path) -> None:
    """The second holder is refused, and its refusal does not free the first one's lock."""
    with lock.held(tmp_path):
        for _ in range(2):
            with pytest.raises(BusyError, match="another process holds its lock"), lock.held(tmp_path):
                raise AssertionError("held twice")
        assert lock.is_held(tmp_path)


def test_a_lock_is_freed_when_the_block_raises(tmp_path: Path) -> None:
    """An error inside goes on, and the next run may begin."""
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
        raise ZeroDivisionError
    with lock.held(tmp_path):
        pass


def test_a_folder_that_is_not_there_has_no_lock(tmp_path: Path) -> None:
    """Asking makes nothing; holding says what is wrong."""
    assert not lock.is_held(tmp_path / "none")
    with pytest.raises(StorageError, match=r"none/run\.lock"), lock.held(tmp_path / "none"):
        raise AssertionError("held without a folder")
    assert list(tmp_path.iterdir()) == []


def test_what_is_announced_is_read_by_others(tmp_path: Path) -> None:
    """Also its time of writing is safe: a reader sees the old or the new."""
    lock.announce(tmp_path, {"kind": "run", "stage": "reading"})
    assert lock.running(tmp_path)["stage"] == "reading"
    assert (tmp_path / "running.json").stat().st_mode & 0o777 == 0o600
    began = time.monotonic()
    while time.monotonic() - began < 0.05:
        lock.announce(tmp_path, {"stage": "x" * 1000})
        assert json.loads((tmp_path / "running.json").read_text())["stage"] == "x" * 1000


@pytest.mark.parametrize("content", ["", "{", "[1]", "7", None])
def test_an_unreadable_announcement_says_nothing(tmp_path: Path, content: str | None) -> None:
    """It is for people to look at; nothing depends on it."""
    if content is not None:
        (tmp_path / "running.json").write_text(content)
    assert lock.running(tmp_path) == {}
    assert lock.describe(lock.running(tmp_path)) == "another process holds its lock"
