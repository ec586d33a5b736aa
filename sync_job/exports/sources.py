"""The files of an export: which they are, what they contain, and that they stay as they are while being read."""

import glob
import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from sync_job.errors import ExportError

_ENDINGS = (".csv", ".txt", ".tsv", ".parquet", ".parq", ".pq")
_OTHERS = {  # by their first bytes: what people try, and cannot be read as it is
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"\xff\xfe": "in UTF-16: save it as UTF-8",
    b"\xfe\xff": "in UTF-16: save it as UTF-8",
}


class Place(Protocol):
    """Where a file lies, and how it is read."""

    @property
    def name(self) -> str:
        """What it is called in messages and reports."""
        ...

    def open(self) -> BinaryIO:
        """Return its content, from the begin."""
        ...

    def changed(self) -> float:
        """Return when it was changed last, in epoch seconds."""
        ...

    def identity(self) -> Hashable:
        """Return what is the same as long as its content is."""
        ...

    def size_bytes(self) -> int:
        """Return how large it is."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    @property
    def name(self) -> str:
        """What it is called in messages and reports."""
        return str(self.path)

    def open(self) -> BinaryIO:
        """Return its content, from the begin."""
        return self.path.open("rb")

    def changed(self) -> float:
        """Return when it was changed last, in epoch seconds."""
        with reading(self.name):
            return self.path.stat().st_mtime

    def identity(self) -> Hashable:
        """Return what is the same as long as its content is."""
        with reading(self.name):
            found = self.path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino

    def size_bytes(self) -> int:
        """Return how large it is."""
        with reading(self.name):
            return self.path.stat().st_size


@dataclass(frozen=True)
class Source:
    """One file of an export, as it was when it was found."""

    place: Place
    format: Literal["csv", "parquet"]
    size_bytes: int

    @property
    def name(self) -> str:
        """What it is called in messages and reports."""
        return self.place.name


def find(where: str, format_: Literal["auto", "csv", "parquet"]) -> list[Source]:
    """Return the files that *where* names (a file, a glob, or a folder), in the order of their names.

    Raises:
        ExportError: when there is none, or one that cannot be read.
    """
    if not where:  # Path("") is the working directory, which nobody meant.
        raise ExportError("no export was named. Set [export] path, or name it on the command line.")
    path = Path(where)
    with reading(path):
        if path.is_dir():
            found = sorted(one for one in path.iterdir() if one.suffix.lower() in _ENDINGS and one.is_file())
            nothing = f"{where}: the folder holds no file ending in {', '.join(_ENDINGS)}."
        elif path.exists() or not glob.has_magic(where):
            found, nothing = [path], ""
        else:
            found = sorted(Path(one) for one in glob.glob(where, recursive=True) if Path(one).is_file())  # noqa: PTH207
            nothing = f"{where}: no file has such a name."
    if not found:
        raise ExportError(f"{nothing} Check [export] path, and whether the export has run.")
    return [_look(LocalFile(one), format_) for one in found]


def _look(place: Place, format_: Literal["auto", "csv", "parquet"]) -> Source:
    path = place.name
    with reading(path):
        size = place.size_bytes()
        with place.open() as file:
            head = file.read(4096)
    if not head:
        raise ExportError(f"{path}: the file is empty. Check whether the export has run to its end.")
    is_parquet = head.startswith(b"PAR1")
    if format_ == "parquet" and not is_parquet:
        raise ExportError(f'{path}: not a Parquet file. Set [export] format = "csv" or "auto", or mend the export.')
    if format_ == "csv" and is_parquet:
        raise ExportError(f'{path}: a Parquet file, not CSV. Set [export] format = "parquet" or "auto".')
    if not is_parquet:
        for start, what in _OTHERS.items():
            if head.startswith(start):
                raise ExportError(f"{path}: the file is {what}, and try again.")
        if b"\0" in head:
            raise ExportError(f"{path}: neither text nor Parquet. An export is CSV in UTF-8, or Parquet.")
    return Source(place, "parquet" if is_parquet else "csv", size)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what the system says against reading *path* into an `ExportError` that names it."""
    try:
        yield
    except FileNotFoundError as exc:
        raise ExportError(f"{path}: no such file. Check the path, and whether the export has run.") from exc
    except IsADirectoryError as exc:
        raise ExportError(f"{path}: a folder, where a file was expected.") from exc
    except PermissionError as exc:
        raise ExportError(f"{path}: this user may not read it. Mend its mode or owner.") from exc
    except OSError as exc:
        raise ExportError(f"{path}: reading failed: {exc.strerror or exc}.") from exc


@contextmanager
def unchanged(source: Source) -> Iterator[None]:
    """Hold that the file is the same after the block as before.

    Raises:
        ExportError: when its size, time or identity changed meanwhile.
    """
    before = source.place.identity()
    yield
    if source.place.identity() != before or source.place.size_bytes() != source.size_bytes:
        raise ExportError(f"{source.name}: the file changed while it was read. Run again when the export is complete.")


def digest(place: Place) -> str:
    """Return the SHA-256 of the file's content, as hexadecimal digits."""
    hasher = hashlib.sha256()
    with reading(place.name), place.open() as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()
