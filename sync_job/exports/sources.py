"""The files of an export: which they are, what they contain, and that they stay as they are while being read."""

import glob
import hashlib
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import encoding, naming, packing, spool
from sync_job.exports.packing import Compression, Stored

Known = Literal["csv", "parquet", "excel", "jsonl"]
Format = Literal["auto"] | Known
_CALLED: dict[str, str] = {
    "csv": "CSV", "parquet": "a Parquet file", "excel": "an Excel workbook", "jsonl": "JSON lines"
}  # fmt: skip
_HEAD_BYTES = 4096
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # zip archives that are workbooks, and what Excel wrote before 2007
_OBJECT = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*["}]')
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")


class Place(Protocol):
    """Where a file lies, and how it is read."""

    @property
    def name(self) -> str:
        """What it is called in messages and reports."""
        ...

    @property
    def below(self) -> str:
        """Where it lies below the folder that was named, with `/`; "" where none was."""
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

    def beside(self, name: str, up: int = 0) -> "Place | None":
        """Return the file of that name in the same folder, or so many folders *up*; none where there is none."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    path: Path
    below: str = ""

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

    def beside(self, name: str, up: int = 0) -> "LocalFile | None":
        """Return the file of that name in the same folder, or so many folders *up*; none where there is none."""
        other = LocalFile(self.path.parents[up] / name)
        with reading(other.name):
            return other if other.path.is_file() else None


@dataclass(frozen=True)
class Source:
    """One file of an export, as it was when it was found; *size_bytes* are stored, *format* is what is packed."""

    place: Place
    format: Known
    size_bytes: int
    compression: Compression = ""
    partition: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in messages and reports."""
        return self.place.name


def find(where: str, format_: Format) -> list[Source]:
    """Return the files that *where* names, in the order of their names.

    Raises:
        ExportError: when there is none, or one that cannot be read.
    """
    return [look(place, format_) for place in places(where)]


def places(where: str) -> list[Place]:
    """Return where the files lie that *where* names, in the order of their names.

    It is a file, a glob, a folder, an address, or `-` for standard input.

    Raises:
        ExportError: when there is none, or one is there twice, packed and not packed.
    """
    if not where:  # Path("") is the working directory, which nobody meant.
        raise ExportError("no export was named. Set [export] path, or name it on the command line.")
    if where == naming.STANDARD_INPUT:
        return [spool.standard_input()]
    path, nothing = Path(where), f"{naming.shown(where)}: nothing of an export is there."
    found: list[Place]
    with reading(naming.shown(where)):
        if naming.is_url(where):
            found = _remote(where)
        elif path.is_dir():
            found, nothing = list(_in_folder(path)), f"{where}: the folder holds no file ending in {_ENDINGS}."
        elif path.exists() or not glob.has_magic(where):
            found, nothing = [LocalFile(path)], ""
        else:
            found, nothing = _matching(where), f"{where}: no file has such a name."
    if not found:
        raise ExportIncompleteError(f"{nothing} Check [export] path, and whether the export has run.")
    naming.refuse_twice(place.name for place in found)
    return found


def _remote(where: str) -> list[Place]:
    """Return the files of another machine that an address names.

    Raises:
        ExportError: when the store says no, does not answer, or is of no kind that we speak to.
    """
    scheme, _, rest = where.partition("://")
    if scheme.lower() == "s3":
        from sync_job.exports import s3  # it needs an extra, and brings aiohttp

        return [*s3.places(f"s3://{rest}")]
    if scheme.lower() in ("https", "http"):
        from sync_job.exports import web

        return [web.place(where)]
    raise ExportError(
        f"{naming.shown(where)}: nothing speaks {scheme}:// here. An address begins with s3:// or https://."
    )


_ENDINGS = f"{', '.join(naming.FORMATS)}, or one of them and {', '.join(packing.ENDINGS)}"


def _in_folder(folder: Path) -> Iterator[LocalFile]:
    """Yield the files of the export that a folder is."""
    waiting, found = [folder], []
    while waiting:
        for one in waiting.pop().iterdir():
            if one.is_dir():
                waiting += [one] if "=" in one.name and not naming.is_hidden(one.name) else []
            elif naming.in_folder(below := one.relative_to(folder).as_posix()) and one.is_file():
                found.append(LocalFile(one, below))
    yield from sorted(found, key=lambda place: place.path)


def _matching(pattern: str) -> list[Place]:
    """Return the files that a glob matches, less those that are hidden unless it names them."""
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    asked = any(part.startswith(("_", ".")) for part in parts[fixed:])
    found = (Path(one) for one in sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207
    files = [LocalFile(one, one.relative_to(base).as_posix()) for one in found if one.is_file()]
    return [one for one in sorted(files, key=lambda place: place.path) if asked or not naming.is_hidden(one.below)]


def look(place: Place, format_: Format) -> Source:
    """Return what *place* holds, by its first bytes.

    Raises:
        ExportError: when it cannot be read, or is of no format that an export has, or not of the one that is asked.
    """
    path = place.name
    with reading(path):
        size = place.size_bytes()
        with place.open() as file:
            head = file.read(_HEAD_BYTES)
            compression = packing.compression(head)
            if compression == "zip":
                file.seek(0)
                compression = "" if packing.is_workbook(file) else compression
            if compression:
                file.seek(0)
                with packing.unpacked(Stored(file), compression, path) as content:
                    head = content.read(_HEAD_BYTES)
    if not head:
        raise ExportIncompleteError(f"{path}: the file is empty. Check whether the export has run to its end.")
    inner = packing.compression(head)
    if compression and (inner or head.startswith(b"PAR1")):
        raise ExportError(f"{path}: {inner or 'Parquet'} inside {compression}, which is packed twice. Unpack it once.")
    return Source(place, _format(path, head, format_), size, compression, naming.partition(place.below))


def _format(path: str, head: bytes, format_: Format) -> Known:
    """Return the format of what begins with *head*.

    Raises:
        ExportError: when it is none that an export has, or not the one that is asked.
    """
    found: Known = "csv"
    if head.startswith((b"PAR1", b"PARE")):
        found = "parquet"
    elif head.startswith(_WORKBOOKS):
        found = "excel"
    elif _OBJECT.match(head):
        found = "jsonl"
    if format_ not in ("auto", found):
        raise ExportError(
            f'{path}: {_CALLED[found]}, not {_CALLED[format_]}. Set [export] format = "{found}" or "auto", or mend '
            "the export."
        )
    if found == "csv":
        if _ARRAY.match(head):
            raise ExportError(f"{path}: a JSON array. Export an object a line, as `jq -c '.[]'` does.")
        if b"\0" in head and not (encoding.of_mark(head)[0] or encoding.of_nuls(head)):
            raise ExportError(f"{path}: neither text nor Parquet nor an Excel workbook, one of which an export is.")
    return found


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what the system says against reading *path* into an `ExportError` that names it."""
    try:
        yield
    except FileNotFoundError as exc:
        raise ExportIncompleteError(f"{path}: no such file. Check the path, and whether the export has run.") from exc
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


def digest(place: Place, kind: Literal["sha256", "md5"] = "sha256") -> str:
    """Return the SHA-256 of the file's content as it is stored, or its MD5, as hexadecimal digits."""
    hasher = hashlib.new(kind, usedforsecurity=False)
    with reading(place.name), place.open() as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()
