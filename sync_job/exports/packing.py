"""Compressed files as the bytes that were packed: gzip, zstd, and zip archives of one file, known by their content.

Everything is unpacked as it is read, never more than was asked for: what a file unpacks to may be of any size, and
there is no limit to how well it was packed.
"""

import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, Protocol

import pyarrow as pa

from sync_job.errors import ExportError

Compression = Literal["", "gzip", "zstd", "zip"]
ENDINGS = (".gz", ".zst", ".zstd", ".zip")
_STARTS: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_SHOWN = 10  # members of an archive in a message
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others would be unpacked without bounds
_WORKBOOK = "[Content_Types].xml"  # an Excel workbook is a zip archive with this in it
_DAMAGES = (  # all that is said against the content of a packed file
    *(EOFError, zlib.error, zipfile.BadZipFile, struct.error, pa.ArrowException),
    *(ValueError, KeyError, NotImplementedError, OverflowError),
)


class Reader(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return about *size* bytes more; none at the end."""
        ...


class Stored:
    """The bytes of a file as they are stored, counted and put through *digest* while they are read."""

    closed = False

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash | None" = None) -> None:
        self._file = file
        self._digest = digest
        self.position = 0  # bytes that were read so far

    def read(self, size: int = -1) -> bytes:
        """Return about *size* bytes more; none at the end."""
        found = self._file.read(size)
        self.position += len(found)
        if self._digest:
            self._digest.update(found)
        return found

    def all_at_once(self) -> None:
        """Put all of the file through the digest now: what follows is read here and there, and not counted for it."""
        while self._digest and self.read(1 << 20):
            pass
        self._digest, self.position = None, 0
        self._file.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place, as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return where it is, as files do."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Say that it can go to another place."""
        return True

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def close(self) -> None:
        """Leave the file to whoever opened it."""


class _Unpacked:
    """What a packed file holds; what is wrong with it is an `ExportError`."""

    def __init__(self, packed: Any, name: str, compression: Compression) -> None:
        self._packed, self._name, self._compression = packed, name, compression

    def read(self, size: int, /) -> bytes:
        """Return about *size* bytes more; none at the end, which was then reached and is sound."""
        with _damages(self._name, self._compression):
            found: bytes = self._packed.read(size)
            return found


def compression(head: bytes) -> Compression:
    """Return how a file that begins so is packed; "" for one that is not."""
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), "")


def is_workbook(file: BinaryIO) -> bool:
    """Return whether a zip archive is an Excel workbook; one that cannot be read is none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _WORKBOOK in archive.namelist()
    except _DAMAGES:
        return False
    finally:
        file.seek(0)


@contextmanager
def unpacked(stored: Stored, compression: Compression, name: str) -> Iterator[Reader]:
    """Yield what is packed in *stored*, or itself where it is not packed; *name* stands in messages.

    Raises:
        ExportError: for an archive that is not one file, and, while it is read, for what is damaged or cut short.
    """
    if not compression:
        yield stored
    elif compression == "gzip":
        with gzip.GzipFile(fileobj=stored, mode="rb") as members:
            yield _Unpacked(members, name, compression)
    elif compression == "zstd":
        with pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd") as packed:
            yield _Unpacked(packed, name, compression)
    else:
        stored.all_at_once()
        with _damages(name, compression):
            archive = zipfile.ZipFile(stored)
            file = archive.open(_only(archive, name))
        with archive, file:
            yield _Unpacked(file, name, compression)


def _only(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the one file in an archive.

    Raises:
        ExportError: when it has none or several, naming them, and when it cannot be unpacked.
    """
    members = [one for one in archive.infolist() if not (one.is_dir() or one.filename.startswith("__MACOSX/"))]
    if len(members) != 1:
        names = [one.filename for one in members]
        shown = ", ".join(map(repr, names[:_SHOWN])) + (" …" if len(names) > _SHOWN else "")
        raise ExportError(
            f"{name}: a zip archive with {len(names)} files{f' ({shown})' if names else ''}, and nobody can tell "
            "which is the export. Pack one file alone, or unpack them into a folder."
        )
    (member,) = members
    if member.flag_bits & 1:
        raise ExportError(f"{name}: a zip archive with a password. Unpack it, or pack it without.")
    if member.compress_type not in _METHODS:
        raise ExportError(f"{name}: a zip archive of an unusual method ({member.compress_type}). Pack it with deflate.")
    return member


@contextmanager
def _damages(name: str, compression: Compression) -> Iterator[None]:
    """Turn what is wrong with the content of a packed file into an `ExportError`."""
    try:
        yield
    except (*_DAMAGES, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise  # The system's own word; without a number it is of the content.
        said = (str(exc).splitlines() or [""])[0]
        what = "a zip archive or an Excel workbook" if compression == "zip" else compression
        raise ExportError(f"{name}: damaged or cut short as {what} ({said}). Export it again.") from exc
