"""Files of any format as tables of text: what lists, maps and lookups are read from, a block at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sync_job.exports import csv, csv_header, dialect, headers, parquet, sources
from sync_job.exports.csv_piece import TextBlock
from sync_job.exports.rows import Rows


@dataclass(frozen=True)
class Table:
    """The names of a file's columns, and the named ones of them as blocks of text.

    *headless* returns the same file with its first row as a row, of one column of that name; none where there is
    always a header.
    """

    names: list[str]
    blocks: Callable[[list[str]], Iterator[TextBlock]]
    headless: Callable[[str], "Table"] | None = None


def table(source: sources.Source, columns: Sequence[str], clients: Sequence[str] = (), sheet: str = "") -> Table:
    """Return a file as a table.

    Names that are those of *columns* but for case, blanks, `_` and `-` become these; *clients* are what the client's
    column may be called; *sheet* is that of a workbook, "" for the only one with anything in it.

    Raises:
        ExportError: when it cannot be read, or nobody can tell how.
    """
    found = rows(source, columns, clients, sheet)
    if found:
        return _one_by_one(source, found)
    if source.format == "csv":
        head = csv_header.header(source, dialect.AUTO, columns, clients)
        return Table(head.names, partial(csv.tables, source, head), partial(_headless_text, source, head))
    names = parquet.header(source)
    renamed = headers.matched(source.name, names, columns)
    return Table([renamed.get(name, name) for name in names], partial(_of_parquet, source, renamed))


def rows(source: sources.Source, columns: Sequence[str], clients: Sequence[str] = (), sheet: str = "") -> Rows | None:
    """Return the rows of a workbook's *sheet*, or of JSON lines; none for a file that is read in columns.

    Raises:
        ExportError: when they cannot be read.
    """
    if source.format == "jsonl":
        from sync_job.exports import jsonl

        return jsonl.read(source, columns, clients)
    if source.format == "excel":
        from sync_job.exports import excel  # what reads workbooks is loaded for them alone

        return excel.read(source, columns, sheet)
    return None


def _headless_text(source: sources.Source, head: csv_header.Header, name: str) -> Table:
    own = csv_header.headless(name, head)
    return Table(own.names, partial(csv.tables, source, own))


def _one_by_one(source: sources.Source, found: Rows) -> Table:
    def blocks(names: list[str]) -> Iterator[TextBlock]:
        for one in found.batches():
            misfit = one.strays[0].why if one.strays else ""
            yield TextBlock(one.table.select(names), source.name, 0, bool(one.strays), one.of_list, misfit=misfit)

    headless = found.headless
    return Table(found.names, blocks, (lambda name: _one_by_one(source, headless(name))) if headless else None)


def _of_parquet(source: sources.Source, renamed: dict[str, str], names: list[str]) -> Iterator[TextBlock]:
    line = 0
    stored = {name: key for key, name in renamed.items()}
    for one in parquet.tables(source, [stored.get(name, name) for name in names]):
        yield TextBlock(one.rename_columns(names), source.name, line, False, partial(_numbered, one.num_rows))
        line += one.num_rows


def _numbered(count: int) -> tuple[list[tuple[int, str]], list[int]]:
    return [], list(range(1, count + 1))
