"""The results file: a row for each planned client and leg, written part by part, and read back as a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.consent.channels import CHANNELS, Bytes, letters, parse_letters, stated, unpack
from sync_job.consent.fold import Outcome
from sync_job.consent.rows import Lane, Rows, changed
from sync_job.errors import StorageError
from sync_job.report.lists import flush, open_private

SCHEMA = pa.schema(
    [
        ("Client", pa.int32()),
        ("leg", pa.int16()),
        ("lane", pa.string()),
        ("state", pa.string()),  # four letters, Sms first: T allowed, F denied, - nothing
        ("due", pa.string()),
        ("sent", pa.string()),
        ("changed", pa.string()),  # the channels that were sent because they change
        ("restated", pa.string()),  # the denials that were sent along
        ("outcome", pa.string()),
        ("denials", pa.string()),  # the outcome of the denials where they were repeated without the grants
        ("doubt", pa.string()),
        ("attempts", pa.int32()),
        ("status", pa.int16()),
        ("code", pa.int64()),
        ("message", pa.string()),
        ("first_sent", pa.timestamp("ms", "UTC")),
        ("settled", pa.timestamp("ms", "UTC")),
    ]
)
# pyarrow asks for the zone at each time that it writes as text, which is most of the time that a file takes.
_TEXT_SCHEMA = pa.schema([(one.name, pa.string() if pa.types.is_timestamp(one.type) else one.type) for one in SCHEMA])
_ROWS = 1 << 16
_LETTERS = pa.array([letters(byte) for byte in range(256)])
_NAMES = pa.array(
    [" ".join(name for name, bit in zip(CHANNELS, unpack(b), strict=True) if bit & 1) for b in range(256)]
)
_LANES = pa.array([lane.name.lower() for lane in Lane])
_OUTCOMES = pa.array(["", *(outcome.name.lower() for outcome in Outcome if outcome)])
_DOUBTS = pa.array(["", "whole", "denials", "whole denials"])


class Ended(Protocol):
    """How a stretch of a plan's rows ended, in the plan's order; times in epoch seconds, NaN for none."""

    @property
    def outcome(self) -> Bytes:
        """The `Outcome` of each row."""
        ...

    @property
    def denials(self) -> Bytes:
        """The `Outcome` of denials that were repeated alone, else OPEN."""
        ...

    @property
    def doubt(self) -> Bytes:
        """Which of the two requests are in doubt, as bits."""
        ...

    @property
    def attempts(self) -> npt.NDArray[np.int64]:
        """How many requests there were."""
        ...

    @property
    def status(self) -> npt.NDArray[np.object_]:
        """The HTTP status of the last answer, or None."""
        ...

    @property
    def code(self) -> npt.NDArray[np.object_]:
        """Its ErrorCode."""
        ...

    @property
    def message(self) -> npt.NDArray[np.object_]:
        """Its Message, or what went wrong."""
        ...

    @property
    def first_sent(self) -> npt.NDArray[np.float64]:
        """When the first request was sent."""
        ...

    @property
    def settled(self) -> npt.NDArray[np.float64]:
        """When the row settled."""
        ...


class Results:
    """Writes one results file, part by part."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema

    def write(self, leg: int, rows: Rows, ended: Ended) -> None:
        """Add rows of a leg, and how they ended."""
        changes = changed(rows)
        count = len(rows)
        self._writer.write_table(
            pa.table(
                [
                    pa.array(rows.client),
                    pa.array(np.full(count, leg, np.int16)),
                    _LANES.take(_index(rows.lane)),
                    _LETTERS.take(_index(rows.state)),
                    _LETTERS.take(_index(rows.due)),
                    _LETTERS.take(_index(rows.sent)),
                    _NAMES.take(_index(changes)),
                    _NAMES.take(_index(stated(rows.sent) & ~changes)),
                    _OUTCOMES.take(_index(ended.outcome)),
                    _OUTCOMES.take(_index(ended.denials)),
                    _DOUBTS.take(_index(ended.doubt)),
                    pa.array(ended.attempts.astype(np.int32)),
                    pa.array(ended.status, pa.int16()),
                    pa.array(ended.code, pa.int64()),
                    pa.array([text or "" for text in ended.message], pa.string()),
                    _times(ended.first_sent, self._schema.field("first_sent").type),
                    _times(ended.settled, self._schema.field("settled").type),
                ],
                schema=self._schema,
            )
        )


def letters_of(column: pa.Array) -> Bytes:
    """Return a column of four letters each as bytes."""
    letters_known = _LETTERS.unique()
    bytes_ = np.array([parse_letters(text) for text in letters_known.to_pylist()], np.uint8)
    return np.asarray(bytes_[pc.index_in(column, letters_known).to_numpy(zero_copy_only=False)])


def reading(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a results file, a batch at a time; all columns, or some.

    Raises:
        StorageError: when it cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(_ROWS, columns=columns)
            return
        convert = pyarrow.csv.ConvertOptions(
            column_types=SCHEMA, strings_can_be_null=False, include_columns=columns or SCHEMA.names
        )
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        with pa.csv.open_csv(path, convert_options=convert, parse_options=parse) as reader:
            yield from reader
    except FileNotFoundError:
        return  # removed meanwhile
    except (OSError, pa.ArrowException, KeyError) as exc:
        raise StorageError(
            f"{path}: no results that can be read ({str(exc).splitlines()[0]}). Restore it, or move it away: nobody "
            "then knows of that run."
        ) from exc


def _index(values: Bytes) -> pa.Array:
    return pa.array(values.astype(np.int32))


def _times(seconds: npt.NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    known = ~np.isnan(seconds)
    numbers = np.where(known, np.nan_to_num(seconds) * 1000, 0).astype(np.int64)
    times = pa.array(numbers, pa.int64(), mask=~known)
    if not pa.types.is_string(kind):
        return times.cast(kind)
    return pc.binary_join_element_wise(times.cast(pa.timestamp("ms")).cast(kind), "Z", "")


@contextmanager
def writing(folder: Path, format_: Literal["csv", "parquet"]) -> Iterator[Results]:
    """Yield the results file of a report's folder; it is in place, whole, when the block ends.

    Raises:
        StorageError: when the disk does not take it.
    """
    path = folder / f"results.{format_}"
    temporary = folder / f".results.{format_}.new"
    open_private(temporary)
    try:
        csv = format_ == "csv"
        schema = _TEXT_SCHEMA if csv else SCHEMA
        writer = pa.csv.CSVWriter(str(temporary), schema) if csv else pq.ParquetWriter(temporary, schema)
        with writer:
            yield Results(writer, schema)
        flush(temporary)  # The plan and the journal go soon: it must not be an empty file that is left of them.
        temporary.replace(path)
        flush(folder)
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror or exc}. Make room there; the next run writes the report.") from exc
