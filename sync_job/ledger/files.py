"""The one seam for durable operations: what returns from here has reached the disk, or an error says that it has not.

Tests stop a process at each call of this module and of the SQLite connections it opens.
"""

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from sync_job.errors import StateDamagedError, StateError, StorageError

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_PATIENCE_S = 300.0
_CURES = {
    errno.ENOSPC: "The disk is full: make room, then run again; what was acknowledged is kept",
    errno.EDQUOT: "The quota is used up: make room, then run again; what was acknowledged is kept",
    errno.EFBIG: "No file may grow so large here (ulimit -f): raise the limit, then run again",
    errno.EROFS: "The file system is read-only: mount it writable",
    errno.EACCES: "This user may not do that there: run as the folder's owner, or mend owner or mode",
    errno.EPERM: "This user may not do that there: run as the folder's owner, or mend owner or mode",
    errno.EIO: "The disk reports an error: look at the machine before running again",
    errno.EMFILE: "Too many open files: raise the limit (ulimit -n)",
}

# What SQLite says if the system refuses something: it says nothing of the file.
_REFUSED = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
)
_ROOM_BYTES = 1 << 20  # with less than that left on the disk, it is what SQLite has met
_PROBE_BYTES = 1 << 16


# A value that is not what was written there is of another type or size, or out of range.
_UNREADABLE = (
    *(pa.ArrowException, pa.ArrowInvalid, sqlite3.DatabaseError),
    *(ValueError, TypeError, KeyError, IndexError, OverflowError),
)


def _code(exc: sqlite3.Error) -> int:
    """Return SQLite's code of an error; 0 where Python found it, as a text that is no UTF-8."""
    return int(getattr(exc, "sqlite_errorcode", 0))


def _is_refused(path: Path, exc: sqlite3.Error) -> bool:
    """Return whether an error of SQLite is the system's, and no damage of the file."""
    if _code(exc) == sqlite3.SQLITE_IOERR_SHORT_READ:  # the file ends too early
        return _errno(path, exc) != errno.EIO
    return _code(exc) & 0xFF in _REFUSED


def _errno(path: Path, exc: sqlite3.Error) -> int:
    """Return the system's error behind one of SQLite, 0 if none is known.

    SQLite says "disk I/O error" and "unable to open database file" also if a disk is full or a quota used up.
    """
    code = _code(exc) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return errno.ENOSPC
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return _disk_error(path.parent) or (errno.EIO if code == sqlite3.SQLITE_IOERR else 0)
    return 0


def _disk_error(folder: Path) -> int:
    """Return the error that a write to *folder* meets now, 0 if it meets none."""
    try:
        disk = os.statvfs(folder)
        if disk.f_flag & os.ST_RDONLY:
            return errno.EROFS
        if disk.f_bavail * disk.f_frsize < _ROOM_BYTES or (disk.f_files and not disk.f_favail):
            return errno.ENOSPC
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR, FILE_MODE)
        try:
            os.write(handle, bytes(_PROBE_BYTES))
        finally:
            os.close(handle)
    except OSError as exc:
        return exc.errno if exc.errno in _CURES else 0
    return 0


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing *path* into a `StorageError` that names file and cure."""
    try:
        yield
    except OSError as exc:
        cure = _CURES.get(exc.errno or 0, "Look at the disk and the folder's mode")
        raise StorageError(f"{path}: {exc.strerror or exc}. {cure}.") from exc
    except sqlite3.OperationalError as exc:
        cure = _CURES.get(_errno(path, exc), "Look at the disk and the folder's mode")
        raise StorageError(f"{path}: {exc}. {cure}.") from exc
    except sqlite3.DatabaseError as exc:
        raise damaged(path, str(exc)) from exc


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn what cannot be read of the state into a `StateDamagedError` that names the file.

    What the system refuses is a `StorageError`: a file that this user may not read needs no backup.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise damaged(path, "it is missing") from exc
    except (*_UNREADABLE, OSError) as exc:
        refused = isinstance(exc, OSError) and exc.errno in _CURES
        refused |= isinstance(exc, sqlite3.OperationalError) and _is_refused(path, exc)
        if refused:
            with storing(path):
                raise
        raise damaged(path, str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc


def damaged(path: Path, why: str) -> StateDamagedError:
    """Return the error for a file of the state that is not what was written there."""
    return StateDamagedError(
        f"{path}: damaged ({why}). Nothing was sent. Keep the folder as it is and restore it from a backup, or make "
        "new state with `init`."
    )


def check_private(path: Path) -> None:
    """Hold that others may neither read nor enter a file or folder of ours.

    Raises:
        StateError: when they may.
    """
    with storing(path):
        mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        private = mode & 0o700
        raise StateError(
            f"{path.absolute()}: others may read it (mode {mode:o}), and it is for this user alone. "
            f"chmod {private:o} {path.absolute()}"
        )


def make_private(path: Path) -> None:
    """Let this user alone read and write a file, or enter a folder, that is there."""
    with storing(path):
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)


def make_folder(path: Path) -> None:
    """Make *path* and its parents, for this user alone."""
    with storing(path):
        missing = [path, *(one for one in path.parents if not one.exists())]
        for one in reversed([one for one in missing if not one.exists()]):
            one.mkdir(FOLDER_MODE, exist_ok=True)
            sync_folder(one.parent)


def sync_folder(path: Path) -> None:
    """Bring the folder's entries to the disk."""
    with storing(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Put what *write* makes of a temporary path in *path*'s place, in one step: the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.new")
    with storing(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE))
        write(temporary)
        handle = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
    sync_folder(path.parent)


def move(draft: Path, path: Path) -> None:
    """Put a draft, which is durable, in the place of *path* in the same folder, in one step."""
    with storing(path):
        draft.replace(path)
    sync_folder(path.parent)


def replace_json(path: Path, content: object) -> None:
    """Put *content* as JSON in *path*'s place, in one step."""
    replace(path, lambda place: place.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8"))


def show_json(path: Path, content: object) -> None:
    """Put *content* as JSON in *path*'s place for others to read; nothing depends on its surviving a crash."""
    temporary = path.with_name(f".{path.name}.new")
    with storing(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE))
        temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
        temporary.chmod(FILE_MODE)
        temporary.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing there is fine."""
    with storing(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    sync_folder(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that may be used from any one thread at a time, in which every commit is durable."""
    with storing(path):
        if not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, FILE_MODE))
        # Somebody who reads the whole ledger keeps a commit waiting for as long: a run waits, and does not die of it.
        connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # who is erased must not stay in the file's free pages
    return connection


def connect_reading(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot write."""
    with loading(path):
        if not path.exists():
            raise FileNotFoundError(path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        # A list of a million is taken in under one lock of some ten seconds; who takes in another waits for that.
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * _PATIENCE_S)}")
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """Make everything in the block durable in one step, or nothing of it."""
    with storing(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
