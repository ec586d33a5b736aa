import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync_job.errors import StateDamagedError, StorageError
from sync_job.ledger import files

CURES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "mount it writable",
    errno.EACCES: "mend owner or mode",
    errno.EPERM: "mend owner or mode",
    errno.EIO: "look at the machine",
    errno.EMFILE: "ulimit -n",
    errno.ENOTDIR: "Look at the disk",
}


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of *size_bytes* at *place* for the block; the test is skipped where that is not possible."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or not mount or not umount:
        pytest.skip("only root can mount a small disk")
    place.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield place
    finally:
        subprocess.run([umount, "-l", place], check=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Take nothing away by the umask: what is private is private by our own doing."""
    before = os.umask(0)
    yield
    os.umask(before)


def _raising(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", CURES, ids=lambda number: errno.errorcode[number])
def test_what_the_system_says_names_file_and_cure(tmp_path: Path, number: int) -> None:
    """Each refusal of the disk is a `StorageError` with the path, the system's words and what to do."""
    path = tmp_path / "a.parquet"
    with pytest.raises(StorageError) as raised, files.storing(path):
        raise _raising(number)
    assert str(path) in str(raised.value)
    assert os.strerror(number) in str(raised.value)
    assert CURES[number] in str(raised.value)
    assert raised.value.exit_code == 4


def test_what_is_no_refusal_of_the_disk_goes_on(tmp_path: Path) -> None:
    """A bug stays a bug."""
    with pytest.raises(ZeroDivisionError), files.storing(tmp_path):
        raise ZeroDivisionError


def test_replace_puts_new_content_in_place(tmp_path: Path) -> None:
    """The new file is whole, nothing else is left in the folder."""
    path = tmp_path / "a"
    for content in ("old", "new and longer", "n"):
        files.replace(path, lambda place, content=content: place.write_text(content))  # type: ignore[misc]
        assert path.read_text() == content
    assert _names(tmp_path) == {"a"}


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("error", [_raising(errno.ENOSPC), _raising(errno.EIO), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException, old: str | None) -> None:
    """Half a file is never in the place of a whole one, and the next replacement succeeds over its remains."""
    path = tmp_path / "a"
    if old is not None:
        path.write_text(old)

    def write(place: Path) -> None:
        place.write_text("half")
        raise error

    with pytest.raises((StorageError, KeyboardInterrupt)):
        files.replace(path, write)
    assert (path.read_text() if path.exists() else None) == old
    files.replace(path, lambda place: place.write_text("new"))
    assert path.read_text() == "new"
    assert _names(tmp_path) == {"a"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_fsync_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What did not reach the disk does not take the place of what did."""
    path = tmp_path / "a"
    path.write_text("old")

    def fail(_: int) -> None:
        raise _raising(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match=CURES[number]):
            files.replace(path, lambda place: place.write_text("new"))
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_brought_to_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename may not have reached the disk: that ends the run as well; the file is the old or the new one."""
    path = tmp_path / "a"
    path.write_text("old")
    fsync = os.fsync

    def fail_for_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise _raising(errno.EIO)
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_for_folders)
        with pytest.raises(StorageError, match="look at the machine"):
            files.replace(path, lambda place: place.write_text("new"))
    assert path.read_text() in ("old", "new")


def test_everything_is_brought_to_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content first, then the name: a crash between them never leaves a name without its content."""
    path = tmp_path / "a"
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        seen.append(("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file", path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    files.replace(path, lambda place: place.write_text("new"))
    assert seen == [("file", False), ("folder", True)]


@pytest.mark.usefixtures("open_umask")
def test_everything_is_for_this_user_alone(tmp_path: Path) -> None:
    """Files are 0600 and folders 0700 from the moment they are there, whatever the umask is."""
    folder = tmp_path / "a" / "b"
    files.make_folder(folder)
    assert [_mode(folder), _mode(folder.parent)] == [0o700, 0o700]
    during: list[int] = []

    def write(place: Path) -> None:
        during.append(_mode(place))
        place.write_text("x")

    files.replace(folder / "file", write)
    assert during == [0o600]
    files.replace_json(folder / "kept.json", {"a": 1})
    files.show_json(folder / "shown.json", {"a": 1})
    files.connect(folder / "a.db").close()
    assert {path.name: _mode(path) for path in folder.iterdir()} == dict.fromkeys(
        ("file", "kept.json", "shown.json", "a.db"), 0o600
    )


def test_a_folder_may_be_there_already(tmp_path: Path) -> None:
    """Making it again changes nothing."""
    files.make_folder(tmp_path / "a")
    (tmp_path / "a" / "file").write_text("x")
    files.make_folder(tmp_path / "a")
    assert _names(tmp_path / "a") == {"file"}


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    """It names the path that is in the way."""
    (tmp_path / "a").write_text("x")
    with pytest.raises(StorageError, match="a/b"):
        files.make_folder(tmp_path / "a" / "b")


def test_removing_takes_files_folders_and_nothing(tmp_path: Path) -> None:
    """What is not there is removed already."""
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("folder", "file", "never"):
        files.remove(tmp_path / name)
    assert _names(tmp_path) == set()


def test_a_full_device_is_told() -> None:
    """The kernel's own ENOSPC, from a device that is always full."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match=r"/dev/full: .*[Nn]o space.*make room"), files.storing(full):
        full.write_text("x")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """On a disk that is really full: the error names file and cure, and the old content stays."""
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        path = disk / "a"
        files.replace(path, lambda place: place.write_text("old"))
        with pytest.raises(StorageError, match=r"disk/a: No space left on device\. The disk is full: make room"):
            files.replace(path, lambda place: place.write_bytes(bytes(1 << 20)))
        assert path.read_text() == "old"


def test_a_database_on_a_full_disk_tells_and_keeps(tmp_path: Path) -> None:
    """SQLite's own word for a full disk is mapped too, and the transaction leaves nothing."""
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        path = disk / "a.db"
        connection = files.connect(path)
        with files.transaction(connection, path):
            connection.execute("CREATE TABLE t (x)")
        with pytest.raises(StorageError, match=r"a\.db: .*make room"), files.transaction(connection, path):
            connection.execute("INSERT INTO t VALUES (zeroblob(1000000))")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        connection.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """What raises inside takes everything in it back."""
    path = tmp_path / "a.db"
    connection = files.connect(path)
    with files.transaction(connection, path):
        connection.execute("CREATE TABLE t (x)")
    statements = ("INSERT INTO t VALUES (1)", "INSERT INTO missing VALUES (1)")
    with pytest.raises(StorageError, match="no such table: missing"), files.transaction(connection, path):
        list(map(connection.execute, statements))
    with files.transaction(connection, path):
        connection.execute("INSERT INTO t VALUES (2)")
    connection.close()
    reader = files.connect_reading(path)
    assert reader.execute("SELECT x FROM t").fetchall() == [(2,)]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO t VALUES (3)")
    reader.close()


def test_what_is_no_database_is_damaged(tmp_path: Path) -> None:
    """Not `StorageError`: it is not the disk that refused."""
    path = tmp_path / "a.db"
    path.write_bytes(b"no database at all, " * 100)
    connection = sqlite3.connect(path)
    with pytest.raises(StateDamagedError, match=r"a\.db: damaged"), files.storing(path):
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def test_a_missing_file_is_damaged_state(tmp_path: Path) -> None:
    """Reading names the file and says what to do."""
    with pytest.raises(StateDamagedError, match=r"a\.db: damaged \(it is missing\)\. Nothing was sent\. .*backup"):
        files.connect_reading(tmp_path / "a.db")
