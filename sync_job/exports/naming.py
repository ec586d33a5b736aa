"""What the names of files and folders say: which are of an export, which are one file twice, and their partitions."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from sync_job.config import is_path
from sync_job.errors import ExportError
from sync_job.exports import packing

FORMATS = (".csv", ".txt", ".tsv", ".parquet", ".parq", ".pq", ".jsonl", ".ndjson", ".json", ".xlsx", ".xlsm", ".xls")
STANDARD_INPUT = "-"


def is_url(where: str) -> bool:
    """Return whether *where* is an address, and no path."""
    return where != STANDARD_INPUT and not is_path(where)


def shown(where: str) -> str:
    """Return *where* as people and reports may see it: an address without what lets others in.

    That is its user, password and query, which may be a signature.
    """
    if not is_url(where):
        return where
    scheme, _, rest = where.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() != "s3":  # whose keys may have any character
        path = re.sub(r"[?#].*", "?***", path, flags=re.DOTALL)
    _, mark, host = host.rpartition("@")
    return f"{scheme}://{'***@' if mark else ''}{host}{slash}{path}"


def without_packing(name: str) -> str:
    """Return a file's name in lower case without the ending of its compression."""
    name = name.lower()
    return next((name.removesuffix(one) for one in packing.ENDINGS if name.endswith(one)), name)


def in_folder(below: str) -> bool:
    """Return whether a file is of the export that its folder is, by where it lies *below* the folder.

    Its ending is one of an export, packed or not, and it lies in no other folders than those of partitions
    (`key=value`). What begins with `_` or `.` is of whoever wrote the folder: markers, and what is not done yet.
    """
    *folders, name = PurePosixPath(below).parts
    return not is_hidden(below) and without_packing(name).endswith(FORMATS) and all("=" in folder for folder in folders)


def is_hidden(below: str) -> bool:
    """Return whether a file, or a folder that it lies in, begins with `_` or `.`."""
    return any(part.startswith(("_", ".")) for part in PurePosixPath(below).parts)


def partition(below: str) -> dict[str, str]:
    """Return what the folders say of the rows of a file in them: `dt=2026-11-24/part-0.parquet` says dt."""
    pairs = (part.partition("=") for part in PurePosixPath(below).parts[:-1])
    return {unquote(key): unquote(value) for key, mark, value in pairs if mark}


def refuse_twice(names: Iterable[str]) -> None:
    """Refuse a file that is there twice, packed and not packed: each row would count twice, or one of them is old.

    Raises:
        ExportError: naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        before = seen.setdefault(without_packing(name), name)
        if before != name:
            raise ExportError(f"{before} and {name}: the same file twice, packed and not packed. Take one away.")
