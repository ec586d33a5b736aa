"""Maps from ids to other ids, in any format that exports have. Unlike a list, one with a bad row is refused whole."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sync_job.config import ExportSettings
from sync_job.consent import id_map
from sync_job.consent.channels import NOBODY, Ids
from sync_job.consent.id_map import IdMap, Lookup
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import cells, formats, sources
from sync_job.exports.csv_piece import TextBlock

_SHOWN = 5  # rows in a message


class Columns(NamedTuple):
    """The names of the two columns of a map."""

    old: str
    new: str


OF_THE_CRM = Columns("crm_id", "platform_id")
OF_THE_PLATFORM = Columns("old_id", "new_id")


@dataclass(frozen=True)
class Found:
    """A map that is a function, how many rows it has, and the digest of its content, however it is written."""

    map: IdMap
    rows: int
    digest: str


@dataclass(frozen=True)
class ExportMap:
    """The map by which ids of exports and lists are read; *about* is what a report says of it."""

    map: IdMap
    lookup: Lookup
    about: dict[str, Any]


@dataclass(frozen=True)
class _Piece:
    """A block of a map; *rows* returns the lines of its good rows, and those of rows that are not two ids."""

    old: Ids
    new: Ids
    bad: int
    rows: Callable[[], tuple[list[int], list[int]]]


def of_export(settings: ExportSettings) -> ExportMap | None:
    """Return the map that `[export] id_map` names, none where it names none.

    Raises:
        ConfigError: when it is no map. ExportError: when it cannot be read.
    """
    if settings.id_map is None:
        return None
    path = settings.id_map
    found = read(path, OF_THE_CRM)
    about = {"path": str(path), "sha256": sources.digest(sources.LocalFile(path)), "rows": found.rows}
    return ExportMap(found.map, Lookup(found.map), about)


def of_list(path: Path) -> ExportMap:
    """Return the map in *path* from former ids of the platform to today's, for a list that still has those.

    Raises:
        ConfigError: when it is no map. ExportError: when it cannot be read.
    """
    found = read(path, OF_THE_PLATFORM)
    return ExportMap(found.map, Lookup(found.map), {})


def read(path: Path, columns: Columns) -> Found:
    """Return the map in *path*.

    Raises:
        ExportError: when the file cannot be read, or lacks a column.
        ConfigError: when a row is not two ids, or an old id has two new ones, with the lines.
    """
    old, new = [NOBODY], [NOBODY]
    rows = bad = 0
    for piece in _pieces(path, columns):
        old.append(piece.old)
        new.append(piece.new)
        rows += len(piece.old) + piece.bad
        bad += piece.bad
    if bad:
        lines = _shown([f"line {line}" for line in islice(_bad_lines(path, columns), _SHOWN)], bad)
        raise ConfigError(f"{path}: {bad:,} rows are not two ids ({lines}). Mend the map; it was not used.")
    if not rows:
        raise ConfigError(f"{path}: a map without rows. It was not used.")
    found, torn = id_map.sort(np.concatenate(old), np.concatenate(new))
    if len(torn):
        raise ConfigError(
            f"{path}: {len(torn):,} ids of {columns.old!r} have more than one {columns.new!r} "
            f"({lines_of(path, columns, torn)}): nobody can tell which is meant. Mend the map; it was not used."
        )
    digest = hashlib.sha256(found.old.tobytes())
    digest.update(found.new.tobytes())
    return Found(found, rows, digest.hexdigest())


def lines_of(path: Path, columns: Columns, ids: Ids, *, new: bool = False) -> str:
    """Return, for people, where the first of *ids* stand in a map as old ids, or as *new* ones."""
    said = []
    for piece in _pieces(path, columns):
        which = np.flatnonzero(np.isin(piece.new if new else piece.old, ids))
        if len(which):
            lines = piece.rows()[0]
            said += [f"line {lines[row]}: {piece.old[row]} to {piece.new[row]}" for row in which.tolist()]
        if len(said) > _SHOWN:
            break
    return _shown(said[:_SHOWN], len(said))


def _shown(said: list[str], count: int) -> str:
    return "; ".join(said) + (" …" if count > len(said) else "")


def _bad_lines(path: Path, columns: Columns) -> Iterator[int]:
    for piece in _pieces(path, columns):
        if piece.bad:
            yield from sorted(piece.rows()[1])


def _pieces(path: Path, columns: Columns) -> Iterator[_Piece]:
    """Yield the blocks of a map.

    Raises:
        ExportError: when it cannot be read, or lacks a column.
    """
    source, *others = sources.find(str(path), "auto")
    if others or path.is_dir():
        raise ExportError(f"{path}: a map is one file. Name that.")
    with sources.unchanged(source):
        table = formats.table(source, columns)
        wrong = [name for name in columns if table.names.count(name) != 1]
        if wrong:
            raise ExportError(
                f"{path}: a map has one column {columns.old!r} and one {columns.new!r}, and this has "
                f"{table.names.count(wrong[0])} of {wrong[0]!r}. Name its columns so."
            )
        for block in table.blocks(list(columns)):
            if block.cut_short:
                raise ConfigError(
                    f"{path}: its last line has no newline, so that it may be cut short, and half an id is somebody "
                    "else's. End it with a newline, if it is whole; the map was not used."
                )
            ragged = block.rows()[0] if block.ragged else []
            yield _piece(block.table, columns, block.line, [line for line, _ in ragged], partial(_lines, block))


def _lines(block: TextBlock) -> list[int]:
    return block.rows()[1]


def _piece(table: pa.Table, columns: Columns, before: int, strays: list[int], lines: Callable[[], list[int]]) -> _Piece:
    problems = cells.Problems(table.num_rows)
    old, new = (cells.read_ids(table.column(name), name, problems) for name in columns)
    good = ~problems.bad

    def rows() -> tuple[list[int], list[int]]:
        found = np.array(lines(), np.int64) + before
        return found[good].tolist(), [*(before + line for line in strays), *found[~good].tolist()]

    return _Piece(old[good], new[good], int(np.count_nonzero(~good)) + len(strays), rows)
