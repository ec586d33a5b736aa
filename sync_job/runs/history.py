"""`history` of one client: what was sent, when, and what was answered, from the reports that are kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.config import Settings
from sync_job.errors import StorageError
from sync_job.ledger.state import State
from sync_job.report import kept
from sync_job.report.counts import Summary
from sync_job.report.results import SCHEMA
from sync_job.runs.explain import readable

_ROWS = 1 << 16
_TIMES = ("first_sent", "settled")


def history(settings: Settings, client: int) -> Summary:
    """Return what was sent of a client and answered, the oldest first, and the lists that name it.

    A run shows once it is reported; what older reports said is gone with them.

    Raises:
        StateError: when there is no state, or a results file cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for folder in kept.folders(settings.report.path, settings.endpoint.target):
        for path in sorted(folder.glob("results.*")):
            for row in _rows_of(path, client):
                said = {name: row[name] for name in SCHEMA.names if name != "Client"}
                said |= {name: row[name].isoformat() if row[name] is not None else None for name in _TIMES}
                rows.append({"run": folder.name} | said)
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        said = readable(state.ledger.withdrawals.of(client), settings.run.zone)
    return {"client": client, "target": settings.endpoint.target, "sent": rows, **said}


def _rows_of(path: Path, client: int) -> list[dict[str, Any]]:
    """Return the rows of one client in a results file, however large that is."""
    found: list[dict[str, Any]] = []
    try:
        for batch in _batches(path):
            found += batch.filter(pc.equal(batch.column("Client"), client)).to_pylist()
    except FileNotFoundError:
        return []  # removed meanwhile
    except (OSError, pa.ArrowException, KeyError) as exc:
        raise StorageError(
            f"{path}: no results that can be read ({str(exc).splitlines()[0]}). Restore it, or move it away: the "
            "history then lacks that run."
        ) from exc
    return found


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_ROWS)
        return
    convert = pyarrow.csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=False)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(path, convert_options=convert, parse_options=parse) as reader:
        yield from reader
