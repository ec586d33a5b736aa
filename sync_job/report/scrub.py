"""Takes clients out of the files of a report, each file replaced in one step."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.consent.channels import Ids
from sync_job.errors import StorageError
from sync_job.report.lists import open_private

_NAMES = ("results.csv", "results.parquet", "rejects.csv", "held.csv", "blocked.csv", "absent.csv", "duplicates.csv")
_OTHERS = ("withdrawn_but_allowed.csv",)


def without(folder: Path, ids: Ids, client_column: str) -> int:
    """Take every row of these clients out of a report's files, and return how many rows that were.

    *client_column* is what exports call the client: rejects have an export's own columns.

    Raises:
        StorageError: when a file cannot be read or written.
    """
    gone = 0
    for name in (*_NAMES, *_OTHERS):
        path = folder / name
        if path.exists():
            try:
                gone += _rewrite(path, ids, client_column)
            except (OSError, pa.ArrowException) as exc:
                raise StorageError(f"{path}: cannot be rewritten without the erased clients: {exc}.") from exc
    return gone


def _rewrite(path: Path, ids: Ids, client_column: str) -> int:
    table = _read(path)
    columns = [name for name in ("Client", client_column) if name in table.column_names]
    kept = np.ones(table.num_rows, np.bool_)
    for name in columns:
        kept &= ~_is_one_of(table.column(name), ids)
    if kept.all():
        return 0
    temporary = path.with_name(f".{path.name}.new")
    open_private(temporary)
    left = table.filter(pa.array(kept))
    if path.suffix == ".csv":
        pa.csv.write_csv(left, str(temporary))
    else:
        pq.write_table(left, temporary)
    temporary.replace(path)
    return int(np.count_nonzero(~kept))


def _read(path: Path) -> pa.Table:
    """Return a file with all of its cells as they are written: a CSV file's as text."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with path.open("rb") as file:
        names = pa.csv.open_csv(file).schema.names
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, quoted_strings_can_be_null=False
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)


def _is_one_of(column: pa.ChunkedArray, ids: Ids) -> npt.NDArray[np.bool_]:
    if pa.types.is_integer(column.type):
        found = pc.is_in(column, pa.array(ids).cast(column.type))
    else:
        found = pc.is_in(pc.utf8_trim_whitespace(column), pa.array([str(client) for client in ids.tolist()]))
    return np.asarray(found.fill_null(False).to_numpy(), np.bool_)
