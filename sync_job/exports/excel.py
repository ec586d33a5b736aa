"""Excel workbooks: the rows of one worksheet. All of the workbook is in memory while it is read, and no more."""

import datetime
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from xml.etree import ElementTree

import python_calamine as calamine

from sync_job.errors import ExportError
from sync_job.exports import headers, rows, sources
from sync_job.exports.rows import Batch, Rows

_EXACT = 1 << 53  # above which a float does not tell whole numbers apart
_COLUMNS = 1 << 14  # that a sheet may have
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_CELL = re.compile(rb"<(?:\w+:)?c\b([^<>]*?)(?:/>|>(.*?)</(?:\w+:)?c>)", re.DOTALL)
_PLACE = re.compile(rb'\br="([A-Z]+)([0-9]+)"')
_ERROR = re.compile(rb'\bt="e"')
_VALUE = re.compile(rb"<(?:\w+:)?v\b[^>]*>([^<]*)</")
_FORMULA = re.compile(rb"<(?:\w+:)?f\b")
NOT_CALCULATED = "#formula without a value"
_Row = list[Any]


def read(source: sources.Source, columns: Sequence[str], sheet: str = "") -> Rows:
    """Return the rows of the worksheet named *sheet*, or of the only one with anything in it; a row's line is Excel's.

    The first row that is not blank is the header. Names that are those of *columns* but for case, blanks, `_` and `-`
    become these.

    Raises:
        ExportError: when the workbook cannot be read, has no such sheet, or has several and none is named.
    """
    with sources.reading(source.name), source.place.open() as stored:
        try:
            name, found = _sheet(source.name, calamine.CalamineWorkbook.from_filelike(stored), sheet)
            stored.seek(0)
            found = _with_errors(stored, name, found)
        except calamine.PasswordError as exc:
            raise ExportError(f"{source.name}: the workbook has a password. Save it without one.") from exc
        except (calamine.CalamineError, zipfile.BadZipFile, ElementTree.ParseError, ValueError, KeyError) as exc:
            if isinstance(exc, ExportError):
                raise
            said = (str(exc).splitlines() or [""])[0]
            raise ExportError(f"{source.name}: damaged as an Excel workbook ({said}). Save it again.") from exc
    filled = [(line, row) for line, row in found if any(cell != "" for cell in row)]
    begin = min(next(at for at, cell in enumerate(row) if cell != "") for _, row in filled)
    filled = [(line, row[begin:]) for line, row in filled]
    (_, first), *others = filled
    names = [_text(cell) or "" for cell in first]
    while names and not names[-1] and all(row[len(names) - 1] == "" for _, row in others):
        names.pop()
    renamed = headers.matched(source.name, names, columns)
    named = [renamed.get(name, name) for name in names]
    return Rows(
        named,
        partial(_batches, source, named, others),
        headless=lambda name: Rows([name], partial(_batches, source, [name], filled)),
        renamed=renamed,
        sheet=name,
    )


def _sheet(file: str, book: calamine.CalamineWorkbook, wanted: str) -> tuple[str, list[tuple[int, _Row]]]:
    """Return the name and the rows of the sheet that is *wanted*, or of the only one with anything in it.

    Raises:
        ExportError: naming the sheets.
    """
    names = [one.name for one in book.sheets_metadata if one.typ == calamine.SheetTypeEnum.WorkSheet]
    if wanted and wanted not in names:
        raise ExportError(f"{file}: no sheet {wanted!r}; the workbook has {_shown(names)}.")
    filled: dict[str, list[tuple[int, _Row]]] = {}
    for name in [wanted] if wanted else names:
        found = list(enumerate(book.get_sheet_by_name(name).to_python(skip_empty_area=False), 1))
        if any(cell != "" for _, row in found for cell in row):
            filled[name] = found
    if not filled:
        raise ExportError(f"{file}: {f'sheet {wanted!r}' if wanted else 'the workbook'} has nothing in it.")
    if len(filled) > 1:
        raise ExportError(
            f"{file}: {len(filled)} sheets with something in them ({_shown(list(filled))}), and nobody can tell which "
            "is meant. Name one with --sheet, or in [export] sheet."
        )
    return next(iter(filled.items()))


def _shown(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _with_errors(stored: Any, sheet: str, found: list[tuple[int, _Row]]) -> list[tuple[int, _Row]]:
    """Return the rows with what formulas have no value for, which is an empty cell to the reader of workbooks.

    An error is no blank: `#N/A` in a flag's column is an unknown token. Old workbooks (`.xls`) do not tell.
    """
    if not zipfile.is_zipfile(stored):
        return found
    stored.seek(0)
    with zipfile.ZipFile(stored) as archive:
        part = _part(archive, sheet)
        text = archive.read(part) if part else b""
    if b't="e"' not in text and not _FORMULA.search(text):
        return found
    by_line = dict(found)
    for cell in _CELL.finditer(text):
        value = _VALUE.search(cell[2] or b"")
        is_error = bool(_ERROR.search(cell[1]))
        if is_error or (value is None and _FORMULA.search(cell[2] or b"")):
            place = _PLACE.search(cell[1])
            if place is None:
                raise ValueError("a formula has no value, and nobody can tell in which cell")
            row = by_line.setdefault(int(place[2]), [])
            at = _column(place[1])
            if at >= _COLUMNS:
                raise ValueError(f"no sheet has a column {place[1].decode()}")
            row += [""] * (at + 1 - len(row))
            row[at] = value[1].decode("utf-8", "replace") if value and value[1] else NOT_CALCULATED
    width = max((len(row) for row in by_line.values()), default=0)
    return [(line, row + [""] * (width - len(row))) for line, row in sorted(by_line.items())]


def _part(archive: zipfile.ZipFile, sheet: str) -> str:
    """Return the name of the file in a workbook that a sheet is; "" where that cannot be told."""
    try:
        book, links = (archive.read(f"xl/{name}") for name in ("workbook.xml", "_rels/workbook.xml.rels"))
    except KeyError:
        return ""
    sheets = ElementTree.fromstring(book).findall(".//{*}sheet")  # noqa: S314 - expat bounds what entities come to
    link = next((one.get(_R) for one in sheets if one.get("name") == sheet), None)
    for one in ElementTree.fromstring(links):  # noqa: S314 - likewise
        if one.get("Id") == link:
            target = one.get("Target", "")
            path = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
            return path if path in archive.namelist() else ""
    return ""


def _column(letters: bytes) -> int:
    """Return the place of a column, from 0, that is called A, B, … AA."""
    place = 0
    for letter in letters:
        place = place * 26 + letter - ord("A") + 1
    return place - 1


def _batches(source: sources.Source, names: list[str], found: list[tuple[int, _Row]]) -> Iterator[Batch]:
    told = 0
    for begin in range(0, len(found), rows.BATCH_ROWS):
        some = found[begin : begin + rows.BATCH_ROWS]
        columns = [[_text(row[at]) for _, row in some] for at in range(len(names))]
        size = source.size_bytes * (begin + len(some)) // len(found)
        lines = [line for line, _ in some]
        yield Batch(rows.table(names, columns), lines, lines[-1], size - told)
        told = size


def _text(cell: object) -> str | None:
    """Return what a cell holds as text: whole numbers without a fraction, dates and times as ISO 8601 has them."""
    if cell == "":
        return None
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < _EXACT else repr(cell)
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(" ")
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell)
