"""Takes clients out of the files of a report: a block at a time, and each file replaced in one step.

A file in which none of them is stays untouched; the others keep their form, cell by cell.
"""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.consent.channels import FIELDS, Ids, Mask
from sync_job.errors import StorageError
from sync_job.report import results
from sync_job.report.lists import flush, open_private

_REJECTS = "rejects.csv"
_APART = "[ ,'\u00a0\u2009\u202f\u2019]"  # what sets thousands apart
_NAMES = (
    *("results.csv", "results.parquet", _REJECTS, "held.csv", "blocked.csv", "absent.csv", "duplicates.csv"),
    *("withdrawn_but_allowed.csv", "not_undone.csv"),
)
_ROWS = 1 << 16
_BLOCK_BYTES = 1 << 24  # the longest row that can be read: a reject has its raw text beside its cells


def without(folder: Path, ids: Ids, client_column: str, ids_in_exports: Ids | None = None) -> int:
    """Take every row of these clients out of a report's files, and return how many rows that were.

    *client_column* is what exports call the client, and *ids_in_exports* are their ids there, if they are others:
    rejects have an export's own columns.

    Raises:
        StorageError: when a file cannot be read or written.
    """
    gone = 0
    for name in _NAMES:
        path = folder / name
        if path.exists() and path.stat().st_size:
            rejects = name == _REJECTS
            column, theirs = (client_column, ids_in_exports) if rejects else ("Client", None)
            try:
                gone += _rewrite(path, ids if theirs is None else theirs, column)
            except (OSError, pa.ArrowException) as exc:
                raise StorageError(
                    f"{path}: cannot be rewritten without the erased clients: {exc}. Mend or remove that file; the "
                    "next run goes on with the erasure."
                ) from exc
    return gone


def _rewrite(path: Path, ids: Ids, column: str) -> int:
    with _reading(path) as (schema, batches):
        named = column if column in schema.names else "Client"
        if named not in schema.names:
            return 0  # rejects of an export whose client column had another name then
        place = schema.names.index(named)
        gone = sum(int(np.count_nonzero(_is_one_of(batch.column(place), ids))) for batch in batches)
    if not gone:
        return 0
    temporary = path.with_name(f".{path.name}.new")
    open_private(temporary)
    with _reading(path) as (schema, batches), _writing(temporary, schema) as write:
        for batch in batches:
            write(batch.filter(pa.array(~_is_one_of(batch.column(place), ids))))
    # Durable before the erasure is noted as done: nobody would come back for the old file.
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)
    return gone


@contextmanager
def _reading(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Yield a file's columns and its rows in blocks."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield file.schema_arrow, file.iter_batches(_ROWS)
        return
    # An empty cell and an empty text are two things, and stay what they are.
    convert = pyarrow.csv.ConvertOptions(
        column_types=_types(path), null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
        yield reader.schema, iter(reader)


def _types(path: Path) -> dict[str, pa.DataType]:
    """Return what the columns of a CSV file of ours were written from, so that they are written alike again."""
    if path.name == "results.csv":
        return {field.name: field.type for field in results.SCHEMA}
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file), [])
    types = dict.fromkeys(names, pa.string())
    if path.name != _REJECTS:
        own = {"Client": pa.int32(), **dict.fromkeys(FIELDS, pa.bool_())}
        types |= {name: kind for name, kind in own.items() if name in types}
    return types


@contextmanager
def _writing(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    if path.name.endswith(".parquet.new"):
        with pq.ParquetWriter(path, schema) as parquet:
            yield parquet.write_batch
    else:
        with pa.csv.CSVWriter(str(path), schema) as writer:
            yield writer.write_batch


def _is_one_of(column: pa.Array, ids: Ids) -> Mask:
    if pa.types.is_integer(column.type):
        found = pc.is_in(column, pa.array(ids).cast(column.type))
    else:
        # As exports write ids: blanks around them, zeros before, and .0 behind where a table kept them as floats; with
        # thousands set apart, whatever by: better a row too many than one too few.
        text = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"\.0*$", "")
        grouped = pc.match_substring_regex(text, rf"^[0-9]{{1,3}}({_APART}[0-9]{{3}})+$")
        text = pc.if_else(grouped, pc.replace_substring_regex(text, _APART, ""), text)
        text = pc.replace_substring_regex(text, r"^0+([0-9])", r"\1")
        found = pc.is_in(text, pa.array([str(client) for client in ids.tolist()], pa.string()))
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)
