"""Parquet files into blocks: a batch of a row group at a time, of the mapped columns alone."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sync_job.errors import ExportError
from sync_job.exports import blocks, cells, sources
from sync_job.exports.blocks import Block, Columns

BATCH_ROWS = 1 << 18
_BUFFER_BYTES = 1 << 20


@contextmanager
def _opened(source: sources.Source, flags: tuple[str, ...] = ()) -> Iterator[pq.ParquetFile]:
    """Open the file, and turn what pyarrow says against it into an `ExportError`."""
    with sources.reading(source.name), source.place.open() as stored:
        try:
            with pq.ParquetFile(
                stored,
                read_dictionary=[name for name in flags if name],
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,  # a flipped bit of a page may be another client, or a yes
            ) as file:
                yield file
        except (pa.ArrowException, ValueError, KeyError, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                raise  # The system's own word; without a number it is pyarrow's, of the content.
            if "crypt" in str(exc):
                raise ExportError(f"{source.name}: an encrypted Parquet file. Export it without encryption.") from exc
            raise ExportError(
                f"{source.name}: damaged or cut short as a Parquet file ({(str(exc).splitlines() or [''])[0]}). "
                "Export it again."
            ) from exc


def header(source: sources.Source) -> list[str]:
    """Return the names of the file's columns.

    Raises:
        ExportError: when they cannot be read.
    """
    with _opened(source) as file:
        return list(file.schema_arrow.names)


def tables(source: sources.Source, names: list[str]) -> Iterator[pa.Table]:
    """Yield the named columns of the file as text, batch by batch.

    Raises:
        ExportError: when it cannot be read.
    """
    with _opened(source) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            columns = {name: cells.to_text(batch.column(name)) for name in names}
            yield pa.table(columns)


def read(source: sources.Source, columns: Columns, zone: ZoneInfo, wanted: int | None = None) -> Iterator[Block]:
    """Yield the blocks of the file in order; a block's "lines" are its rows.

    The rows of the client *wanted* go with them.

    Raises:
        ExportError: when it cannot be read.
    """
    with _opened(source) as file:
        nested = [name for name in columns.all() if pa.types.is_nested(file.schema_arrow.field(name).type)]
    if nested:
        raise ExportError(f"{source.name}: column {nested[0]!r} holds lists or records. Export one value a row.")
    with _opened(source, tuple(name for name in columns.channels if name not in columns.partition)) as file:
        rows, done = max(1, file.metadata.num_rows), 0
        for group in range(file.num_row_groups):
            batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns.all())
            for number, batch in enumerate(batches):
                seen = blocks.read(batch, columns, zone)
                rejects = None
                if seen.problems.bad.any():
                    rejects = _rejects(source, group, number, seen)
                before, done = done, done + batch.num_rows
                yield blocks.split(
                    seen,
                    lines=batch.num_rows,
                    size_bytes=source.size_bytes * done // rows - source.size_bytes * before // rows,
                    more=Counter(),
                    ungranted=np.zeros(0, np.int32),
                    rejects=rejects,
                    raw=_raw(source, group, number, seen, wanted) if wanted is not None else None,
                )


def _raw(source: sources.Source, group: int, number: int, seen: blocks.Read, wanted: int) -> list[blocks.RawRow]:
    """Return the rows of a batch that name the client *wanted*: all of their cells, with commas."""
    rows = np.flatnonzero(seen.ids == wanted)
    if not len(rows):
        return []
    texts = blocks.joined(_whole(source, group, number, pa.array(rows))).to_pylist()
    return [blocks.RawRow(source.name, row + 1, text) for row, text in zip(rows.tolist(), texts, strict=True)]


def _rejects(source: sources.Source, group: int, number: int, seen: blocks.Read) -> blocks.Rejects:
    """Return the rejected rows of a batch with all of their columns."""
    bad = pa.array(np.flatnonzero(seen.problems.bad))
    own = _whole(source, group, number, bad)
    reasons = seen.problems.texts(bad)
    return blocks.reject_table(own, source.name, pa.array(np.asarray(bad) + 1), reasons, None)


def _whole(source: sources.Source, group: int, number: int, rows: pa.Array) -> pa.Table:
    """Return the given rows of a batch with all of their columns, read once more for it."""
    with _opened(source) as file:
        for index, batch in enumerate(file.iter_batches(BATCH_ROWS, row_groups=[group])):
            if index == number:
                return pa.Table.from_batches([batch]).take(rows)
    raise ExportError(f"{source.name}: the file changed while it was read. Run again when it is complete.")
