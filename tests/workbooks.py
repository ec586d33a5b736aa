"""Writes Excel workbooks, with everything in them that a test wants to say and no library would write."""

import zipfile
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OF = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_LINKS = "http://schemas.openxmlformats.org/package/2006/relationships"
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_EPOCH = datetime(1899, 12, 30)


class Raw(str):
    """The XML of a cell's inside, with its attributes before `>`."""


def write(path: Path, sheets: Mapping[str, Mapping[int, Sequence[Any]]], *, first: str = "A") -> Path:
    """Write a workbook: rows by their numbers, the first cell in column *first*; None is an empty cell."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{_TYPES}"><Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{_SHEET}.sheet.main+xml"/></Types>',
        )
        book.writestr("_rels/.rels", _links({"r1": ("officeDocument", "xl/workbook.xml")}))
        named = "".join(
            f'<sheet name={quoteattr(name)} sheetId="{at}" r:id="r{at}"/>' for at, name in enumerate(sheets, 1)
        )
        book.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{_MAIN}" xmlns:r="{_OF}"><sheets>{named}</sheets></workbook>'
        )
        parts = {f"r{at}": ("worksheet", f"worksheets/sheet{at}.xml") for at in range(1, len(sheets) + 1)}
        book.writestr("xl/_rels/workbook.xml.rels", _links(parts | {"rs": ("styles", "styles.xml")}))
        formats = "".join(f'<xf numFmtId="{one}"/>' for one in (0, 14, 22))
        book.writestr("xl/styles.xml", f'<styleSheet xmlns="{_MAIN}"><cellXfs>{formats}</cellXfs></styleSheet>')
        for at, rows in enumerate(sheets.values(), 1):
            said = "".join(_row(number, cells, first) for number, cells in rows.items())
            book.writestr(
                f"xl/worksheets/sheet{at}.xml", f'<worksheet xmlns="{_MAIN}"><sheetData>{said}</sheetData></worksheet>'
            )
    return path


def sheet(*rows: Sequence[Any]) -> dict[int, Sequence[Any]]:
    """Return rows one below the other."""
    return dict(enumerate(rows, 1))


def _links(of: Mapping[str, tuple[str, str]]) -> str:
    said = "".join(f'<Relationship Id="{id_}" Type="{_OF}/{kind}" Target="{to}"/>' for id_, (kind, to) in of.items())
    return f'<Relationships xmlns="{_LINKS}">{said}</Relationships>'


def _row(number: int, cells: Sequence[Any], first: str) -> str:
    said = "".join(_cell(f"{chr(ord(first) + at)}{number}", cell) for at, cell in enumerate(cells) if cell is not None)
    return f'<row r="{number}">{said}</row>'


def _cell(place: str, cell: Any) -> str:
    if isinstance(cell, Raw):
        return f'<c r="{place}" {cell}</c>'
    if isinstance(cell, bool):
        return f'<c r="{place}" t="b"><v>{int(cell)}</v></c>'
    if isinstance(cell, int | float):
        return f'<c r="{place}"><v>{cell!r}</v></c>'
    if isinstance(cell, date):
        timed = isinstance(cell, datetime)
        when = cell if isinstance(cell, datetime) else datetime(cell.year, cell.month, cell.day)
        return f'<c r="{place}" s="{2 if timed else 1}"><v>{(when - _EPOCH).total_seconds() / 86400!r}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is></c>'
