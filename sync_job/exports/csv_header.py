"""The header of a CSV file, and how the file is written: what its first records tell."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sync_job.errors import ExportError
from sync_job.exports import dialect, encoding, headers, records, sources, streams
from sync_job.exports.dialect import Asked
from sync_job.exports.records import Dialect

_HEAD_BYTES = 1 << 20


@dataclass
class Seen:
    """What was found out of a file's text so far; all of it once the last block was read."""

    encoding: str = "auto"  # as long as there were ASCII characters alone
    newlines: str = ""
    comments: int = 0
    repeated_headers: int = 0

    def add(self, more: "Seen") -> None:
        """Add the lines that are no rows of another part of the file."""
        self.comments += more.comments
        self.repeated_headers += more.repeated_headers


@dataclass(frozen=True)
class Header:
    """The column names in a file's first record, and how many bytes and lines they take with what is before them.

    *renamed* are names that were matched without case, blanks, `_` and `-`, each with the one that it has here.
    """

    names: list[str]
    size_bytes: int
    lines: int
    dialect: Dialect = field(default_factory=Dialect)
    renamed: dict[str, str] = field(default_factory=dict)
    text: bytes = b""  # the record itself; b"" where there is none
    more: int = 0  # fields that rows have after those of the header, all of them empty
    final_newline: bool = True
    seen: Seen = field(default_factory=Seen)

    @property
    def spare(self) -> list[str]:
        """Names for the fields beyond those of the header, which no column of a file has."""
        return [f"\0{place}" for place in range(self.more)]

    def about(self) -> dict[str, Any]:
        """Return what a report says of how the file is written."""
        found = self.seen
        return {
            "encoding": encoding.plain_name(encoding.UTF_8 if found.encoding == "auto" else found.encoding),
            "delimiter": self.dialect.delimiter,
            "newline": found.newlines,
            "renamed": self.renamed,
            "comments": found.comments,
            "repeated_headers": found.repeated_headers,
        }


def header(
    source: sources.Source, asked: Asked = dialect.AUTO, columns: Sequence[str] = (), clients: Sequence[str] = ()
) -> Header:
    """Return the header of the file: how it is written, as far as that is not *asked*, and its names.

    Names that are those of *columns* but for case, blanks, `_` and `-` become these; *clients* are what the client's
    column may be called, by default any of *columns*. Without a header the columns are called by their places, from 1.

    Raises:
        ExportError: when it cannot be read, or nobody can tell how.
    """
    with streams.opened(source, None, asked.encoding) as stream:
        text = b""
        while len(text) < _HEAD_BYTES and (piece := stream.read(_HEAD_BYTES)):
            text += piece
        seen = Seen(stream.encoding)
    found = records.locate(text, Dialect(comment=asked.comment))
    if not len(found.starts):
        raise ExportError(f"{source.name}: only blank lines. Check whether the export has run to its end.")
    mark = dialect.declared(found.raw(0)) if len(found.starts) > 1 else ""
    first = 1 if mark else 0
    if asked.delimiter != "auto":
        mark = asked.delimiter

    def has_client(names: list[str]) -> bool:
        if not asked.header:
            places = [str(place) for place in range(1, len(names) + 1)]
            return any(name in places for name in clients or columns)
        try:
            renamed = headers.matched(source.name, names, columns)
        except ExportError:
            return True  # It is told when the header is read.
        return any(renamed.get(name, name) in (clients or columns) for name in names)

    begin = int(found.starts[first])
    mark = mark or dialect.delimiter(source.name, text[begin:], asked.comment, has_client)
    set_apart = Dialect(mark, asked.comment)
    found = records.locate(text, set_apart)
    if found.stops[first] >= records.cut(text, set_apart) and records.is_open(text, set_apart):
        raise ExportError(f"{source.name}:{found.lines[first]}: {never_closed(len(text))}")
    seen.newlines = _newlines(found)
    rows = dialect.rows(text[begin:], set_apart)
    if not asked.header:
        lengths = Counter(map(len, rows)).most_common(1)
        names = [str(place) for place in range(1, (lengths[0][0] if lengths else 1) + 1)]
        seen.comments = records.without_comments(text[:begin], set_apart)[1]
        lines = int(found.lines[first]) - 1
        return Header(names, begin, lines, set_apart, final_newline=asked.final_newline, seen=seen)
    record = text[found.starts[first] : found.stops[first]].rstrip(b"\r\n")
    try:
        names = dialect.fields(record.decode(), set_apart)
    except UnicodeDecodeError as exc:
        raise ExportError(
            f"{source.name}: the header is not UTF-8, and nobody can tell what it is: {exc}. Name the encoding in "
            "[export] encoding, or save the export as UTF-8."
        ) from exc
    width = dialect.width(names, rows[1:])
    renamed = headers.matched(source.name, names, columns)
    size = min(int(found.stops[first]) + 1, len(text))
    seen.comments = records.without_comments(text[:size], set_apart)[1]
    return Header(
        [renamed.get(name, name) for name in names[:width]],
        size,
        records.count_lines(text[:size]),
        set_apart,
        renamed,
        record,
        max(0, width - len(names)),
        asked.final_newline,
        seen,
    )


def _newlines(found: records.Records) -> str:
    """Return how the first records end."""
    ends = set()
    for stop in found.stops[:1000].tolist():
        end = found.text[max(0, stop - 1) : stop + 1]
        ends.add(
            "CR LF"
            if end == b"\r\n"
            else {b"\n": "LF", b"\r": "CR"}.get(end[-1:], "")
            if stop < len(found.text)
            else ""
        )
    return ", ".join(sorted(ends - {""}))


def headless(name: str, head: Header) -> Header:
    """Return the header of a file whose first record is a row, of one column that is called *name*."""
    return Header([name], 0, 0, head.dialect, final_newline=head.final_newline, seen=head.seen)


def never_closed(size_bytes: int) -> str:
    """Return what is to be said of a quote that *size_bytes* do not close."""
    return (
        f"a quote opens in this line or after it and is not closed in the {size_bytes} bytes that follow. "
        "Was the file cut short, or a quote inside a field not doubled?"
    )
