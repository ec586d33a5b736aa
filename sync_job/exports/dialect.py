"""What a file's first lines say of how it is written: which delimiter sets its fields apart, and how many there are."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sync_job.config import ExportSettings, values
from sync_job.errors import ExportError
from sync_job.exports import records
from sync_job.exports.records import Dialect

_LOOKED_AT_BYTES = 64 << 10
_LINES = 20
_DECLARED = re.compile(r"sep=([,;\t|])", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """How text is to be read: "auto" is found out from the file; *comment* is what a line of no account begins with."""

    encoding: str = "auto"
    delimiter: str = "auto"
    header: bool = True
    comment: str = ""
    final_newline: bool = True

    @classmethod
    def of_export(cls, settings: ExportSettings) -> "Asked":
        """Return what the configuration says of exports."""
        return cls(settings.encoding, settings.delimiter, settings.header, settings.comment, settings.final_newline)


AUTO = Asked()


def rows(text: bytes, dialect: Dialect) -> list[list[str]]:
    """Return the fields of the first whole records of *text*; of one that is not whole where there is no other."""
    text = text[:_LOOKED_AT_BYTES]
    found = records.locate(text[: records.cut(text, dialect)] or text, dialect)
    texts = (found.raw(place) for place in range(min(_LINES, len(found.starts))))
    return [row for row in (fields(one, dialect) for one in texts) if any(cell.strip() for cell in row)]


def fields(text: str, dialect: Dialect) -> list[str]:
    """Return the fields of one record."""
    return next(csv.reader([text], delimiter=dialect.delimiter), [])


def declared(record: str) -> str:
    """Return the delimiter that a line before the header names, as Excel writes it (`sep=;`); "" for no such line."""
    found = _DECLARED.fullmatch(record)
    return found.group(1) if found else ""


def delimiter(name: str, text: bytes, comment: str, has_client: Callable[[list[str]], bool]) -> str:
    """Return what sets fields apart in *text*, which begins with the header.

    It splits the header into the columns among which the client's is; of several, the one that splits the first lines
    into as many fields as the header. A file of one column has commas, of which it has none.

    Raises:
        ExportError: when two do equally well.
    """
    ranked: dict[str, tuple[bool, bool]] = {}
    for mark in values.DELIMITERS:
        head, *others = rows(text, Dialect(mark, comment)) or [[]]
        width = len(_trimmed(head))
        if width < 2:
            continue
        alike = sum(len(head) == len(row) or width <= len(_trimmed(row)) <= len(head) for row in others)
        ranked[mark] = (has_client(head), alike * 2 > len(others) or not others)
    best = max(ranked.values(), default=(False, False))
    found = [mark for mark, rank in ranked.items() if rank == best]
    if best == (False, False) or not found:
        return ","
    if len(found) > 1:
        raise ExportError(
            f"{name}: fields may be set apart by {' or by '.join(map(repr, found))}: both split the header and the "
            "first lines evenly, and nobody can tell which is meant. Say it in [export] delimiter, or quote the "
            "fields that hold the other."
        )
    return found[0]


def width(head: list[str], others: list[list[str]]) -> int:
    """Return how many fields the rows have: as many as the header, unless the most have more or fewer empty ones."""
    counts = Counter(len(row) for row in others if not any(cell.strip() for cell in row[len(head) :]))
    most, times = counts.most_common(1)[0] if counts else (len(head), 0)
    return most if times > counts[len(head)] and most >= len(_trimmed(head)) else len(head)


def _trimmed(row: list[str]) -> list[str]:
    """Return *row* without the empty fields at its end."""
    kept = len(row)
    while kept and not row[kept - 1].strip():
        kept -= 1
    return row[:kept]
