"""The blocks of a list that people sent, and which of its columns is which; who is named by an address is looked up."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import ExportSettings
from sync_job.consent.channels import Ids
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import cells, formats, id_map, lookup, sources
from sync_job.exports.csv_piece import TextBlock

_SHOWN = 1000  # characters of a header in a message; what is no table may be one line of megabytes
_ROW = re.compile(r"\s*[-+]?[0-9]")  # how a row of ids alone begins, and a name hardly: no client is lost as a header
# Columns of lists that we wrote, if there is a map: the platform's id, and the CRM's by which the row was given.
PLATFORM_ID, CRM_ID = id_map.OF_THE_CRM.new, id_map.OF_THE_CRM.old

Progress = Callable[[int, int], None]


@dataclass
class Piece:
    """A block of a list: its named columns as text, and how its rows are told apart.

    Where people are named by addresses or numbers, *ids* has who they are, and *rows* which row of the block each row
    of the table is, for one of them may be several clients.
    """

    block: TextBlock
    table: pa.Table
    ids: Ids | None = None
    rows: npt.NDArray[np.int64] | None = None
    problems: cells.Problems = field(init=False)

    def __post_init__(self) -> None:
        self.problems = cells.Problems(self.table.num_rows)

    def column(self, name: str) -> pa.Array | None:
        """Return a column as text without blanks around; none where the list does not have it."""
        if not name or name not in self.table.column_names:
            return None
        return pc.utf8_trim_whitespace(cells.to_text(self.table.column(name))).fill_null("")


def read(
    where: str,
    named: dict[str, str],
    given: Mapping[str, str],
    export: ExportSettings,
    progress: Progress | None,
    sheet: str,
    contacts: str,
) -> Iterator[tuple[Piece, dict[str, str]]]:
    """Yield the blocks of a list, each with the name of each column that its file has; "" for those it has not.

    Beside *named* there is "given", the column of the CRM's ids in a list that `withdrawals export` wrote.

    Raises:
        ExportError: when it cannot be read, for columns that are missing though *given*, or there twice, and for
            addresses or numbers in the place of ids without a lookup of them, or ids with one.
    """
    found = sources.find(where, "auto")
    total, done = sum(source.size_bytes for source in found), 0
    known: dict[str, lookup.Contacts] = {}
    for source in found:
        with sources.unchanged(source):
            own = [*named.values(), export.columns.Client, *([PLATFORM_ID] if export.id_map else [])]
            table = formats.table(source, own, [named["client"], export.columns.Client, PLATFORM_ID], sheet)
            if (
                table.headless
                and len(table.names) == 1
                and (_ROW.match(table.names[0]) or lookup.kind_of(pa.array(table.names)))
            ):
                table = table.headless(named["client"])
            names = table.names
            ours = export.id_map is not None and PLATFORM_ID in names and "client" not in given
            meant = named | ({"client": PLATFORM_ID} if ours else {})
            has_ids = bool({meant["client"], export.columns.Client} & set(names))
            address, what = lookup.column_of(names) if not has_ids else ("", "")
            if address and not contacts:
                raise lookup.advice(source.name, what)
            there = _there(
                source, names, meant | ({"client": address} if address else {}), given, export.columns.Client
            )
            there["given"] = CRM_ID if ours and names.count(CRM_ID) == 1 else ""
            for block in table.blocks(list(dict.fromkeys(column for column in there.values() if column))):
                yield _piece(block, there["client"], what, known, export, contacts), there
        done += source.size_bytes
        if progress:
            progress(done, total)


def _piece(
    block: TextBlock, client: str, what: str, known: dict[str, lookup.Contacts], export: ExportSettings, contacts: str
) -> Piece:
    """Return a block with the clients that its rows name; *known* holds the lookup once it was read.

    *what* is what the column holds by its name, "" for nothing that its name says.
    """
    column = block.table.column(client).combine_chunks()
    what = what or lookup.kind_of(column)
    if what and not contacts:
        raise lookup.advice(block.file, what)
    if not contacts or not block.table.num_rows:
        return Piece(block, block.table)
    if not what and cells.are_ids(column):
        raise ConfigError(f"{block.file}: column {client!r} has ids of clients already: leave --lookup out.")
    if client not in known:
        known[client] = lookup.read(contacts, client, what, export.columns.Client, export.thousands)
    rows, ids, _ = known[client].of(column)
    return Piece(block, block.table.take(pa.array(rows)), ids, rows)


def _there(
    source: sources.Source, names: list[str], named: dict[str, str], given: Mapping[str, str], client: str
) -> dict[str, str]:
    """Return the name of each column that a file has, "" for those it has not.

    Raises:
        ExportError: for a list without clients, without a column that is *given*, or with one of them twice.
    """
    there = {name: column if column in names else "" for name, column in named.items()}
    shown = ", ".join(map(repr, names))
    # What a row says wins over what is said for all: a column that was named and is not read would go unnoticed.
    missing = [column for column in given.values() if column not in names]
    if missing:
        raise ExportError(
            f"{source.name}: no column {missing[0]!r}, which --map names; the header has {_cut(shown)}. Mend --map."
        )
    there["client"] = there["client"] or (client if client in names else "")
    if not there["client"] and len(names) == 1 and not any(mark in names[0] for mark in ";\t|"):
        there["client"] = names[0]
    if not there["client"]:
        raise ExportError(
            f"{source.name}: no column {named['client']!r}; the header has {_cut(shown)}. "
            "Name the column of client ids with --map client=NAME."
        )
    twice = [column for column in there.values() if column and names.count(column) > 1]
    if twice:
        raise ExportError(f"{source.name}: the header has {twice[0]!r} twice; nobody can tell which is meant.")
    return there


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
