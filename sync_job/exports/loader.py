"""An export, whatever its files and formats, as one table of statements, with everything a report says of it."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from sync_job.config import ExportSettings
from sync_job.consent.channels import FIELDS, Bytes, Ids
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.dates import Ages
from sync_job.consent.freshness import Kind
from sync_job.consent.tables import UNTIMED, StatementTable, Table, Times
from sync_job.errors import ExportError
from sync_job.exports import age, cells, complete, csv, csv_header, formats, id_map, naming, parquet, rows, sources
from sync_job.exports import where as where_
from sync_job.exports.blocks import Block, Columns, RawRow, Reading, Rejects, Tokens, words_of
from sync_job.exports.dialect import Asked
from sync_job.exports.packing import Compression

_SHOWN = 1000  # characters of a header in a message; what is no table may be one line of megabytes


@dataclass(frozen=True)
class Input:
    """One file that was read: its path, size and SHA-256 as it is stored, its rows, and how it is compressed."""

    path: str
    format: str
    size_bytes: int
    sha256: str
    rows: int
    compression: Compression = ""
    # Of text: how it is written, names that are not the configuration's to the letter, and lines that are no rows.
    encoding: str = ""
    delimiter: str = ""
    newline: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    comments: int = 0
    repeated_headers: int = 0
    sheet: str = ""  # of a workbook
    columns: list[str] = field(default_factory=list)  # called as the configuration calls them
    partition: dict[str, str] = field(default_factory=dict)


@dataclass
class Export:
    """What an export states, and how it was read.

    rows = clients in good rows + duplicates + rejects, beside rows of *others*, which `[export.where]` leaves out;
    *in_rejects_only* are clients of whom only rejected rows speak: their explicit denials count all the same.
    *ungranted* (ascending ids) are clients with a rejected row, or with one in a stale file.
    """

    statements: Table
    inputs: list[Input]
    rows: int
    rejects: int
    duplicates: int
    conflicting: Ids
    ungranted: Ids
    in_rejects_only: int
    tokens: Tokens
    reasons: Counter[str]
    missing: tuple[str, ...]
    as_of: float | None = None  # when its oldest file was made, in epoch seconds; a stale one counts if all are
    newest: float | None = None  # when its newest file was made
    ages: Ages | None = None  # as of when each client is stated, if fresh files were made at different times
    stale: list[tuple[str, float]] = field(default_factory=list)  # files that grant nothing, and when each was made
    digest: str = ""  # of the statements, whatever files, order and format they come in
    raw: list[RawRow] = field(default_factory=list)
    others: int = 0
    left_out: list[tuple[str, float]] = field(default_factory=list)  # files that are not the newest, with their times
    id_map: dict[str, Any] | None = None  # the map by which its ids were read: its path, SHA-256 and rows
    from_the_future: int = 0  # rows whose time of consent is in the future, and so is none

    @property
    def clients(self) -> int:
        """How many clients the export states: those in good rows and those in rejected rows only."""
        return self.statements.clients()

    def counts(self) -> dict[str, Any]:
        """Return the counts, as reports show them."""
        return {
            "rows": self.rows,
            "clients": self.clients,
            "in_rejects_only": self.in_rejects_only,
            "duplicates": self.duplicates,
            "conflicting": len(self.conflicting),
            "from_the_future": self.from_the_future,
            "rejects": self.rejects,
            "others": self.others,
            "reasons": dict(self.reasons.most_common()),
            "tokens": {name: dict(counter.most_common(50)) for name, counter in self.tokens.items()},
            "missing_columns": list(self.missing),
            "as_of": self.as_of,
            "stale": [name for name, _ in self.stale],
            "digest": self.digest,
            "left_out": [name for name, _ in self.left_out],
            "inputs": [vars(one) for one in self.inputs],
            "id_map": self.id_map,
        }


RejectSink = Callable[[Rejects], None]
Progress = Callable[[int, int], None]  # bytes read so far, of how many


def ignore(rejects: Rejects) -> None:
    """Take rejects and keep nothing of them: they are counted all the same."""


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


def names(where: str, settings: ExportSettings) -> list[str]:
    """Return the column names of the first file of the export at *where*, those that are mapped as they are mapped.

    Raises:
        ExportError: when there is none that can be read.
    """
    return _names(sources.find(where, settings.format)[0], settings)


def check_header(place: sources.Place, settings: ExportSettings) -> None:
    """Check that a file of an export has rows that can be read, as far as its header tells.

    Raises:
        ExportError: when it has not.
    """
    source = sources.look(place, settings.format)
    names = [*_names(source, settings), *source.partition]
    _check_header(source.name, names, settings, first_look=False)


def _names(source: sources.Source, settings: ExportSettings) -> list[str]:
    found = formats.rows(source, _mapped(settings), [settings.columns.Client], settings.sheet)
    if found:
        return found.names
    if source.format != "csv":
        return parquet.header(source)
    return csv_header.header(source, Asked.of_export(settings), _mapped(settings), [settings.columns.Client]).names


def _mapped(settings: ExportSettings) -> list[str]:
    columns = settings.columns
    return [name for name in (columns.Client, *columns.channels, columns.consent_changed_at) if name]


@dataclass
class _Gathering:
    """What the blocks read so far come to.

    A time of consent after *latest* (microseconds) is none: its row counts as one without a time.
    """

    table: StatementTable
    latest: int
    rows: int = 0
    rejects: int = 0
    tokens: Tokens = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    partial: list[tuple[Ids, Bytes, Times | None]] = field(default_factory=list)
    newest: int = UNTIMED
    raw: list[RawRow] = field(default_factory=list)
    others: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    stale: list[Ids] = field(default_factory=list)  # clients of files that are too old to grant
    ages: Ages = field(default_factory=Ages)
    from_the_future: int = 0
    _of_file: list[Ids] | None = None

    def begin_file(self, *, keeps: bool) -> None:
        """Begin a file; whether it *keeps* its clients, because others of the export may be of another age."""
        self.newest = UNTIMED
        self._of_file = [] if keeps else None

    def end_file(self, made: float | None, not_before: float | None) -> None:
        """End a file; its clients are granted nothing if it was *made* before that, or nobody knows when."""
        ids, self._of_file = self._of_file or [], None
        if made is None or (not_before is not None and made < not_before):
            self.stale += ids
            return
        for some in ids:
            self.ages.add(some, made, self.rows)

    def take(self, block: Block, line: int, sink: RejectSink) -> None:
        """Add a block that begins after *line*."""
        self.rows += block.rows
        self.others += block.others
        self.operators.update(block.operators)
        self.table.add(block.ids, block.values, self._timed(block.times))
        if self._of_file is not None:
            self._of_file.append(block.ids)
        self.newest = max(self.newest, block.newest)
        self.raw += [row._replace(line=row.line + line) for row in block.raw]
        for name, counter in block.tokens.items():
            self.tokens.setdefault(name, Counter()).update(counter)
        if len(block.partial_ids):
            self.partial.append((block.partial_ids, block.partial_values, self._timed(block.partial_times)))
        if block.rejects is not None:
            self.rejects += len(block.rejects)
            self.reasons.update(block.reasons)
            sink(block.rejects.after(line))

    def _timed(self, times: Times | None) -> Times | None:
        if times is None or not len(times) or times.max() <= self.latest:
            return times
        self.from_the_future += int(np.count_nonzero(times > self.latest))
        return np.where(times > self.latest, UNTIMED, times)


def load(
    settings: ExportSettings,
    zone: ZoneInfo,
    *,
    where: str,
    first_look: bool,
    kind: Kind | None = None,
    as_of: float | None = None,
    now: float | None = None,
    sink: RejectSink = ignore,
    progress: Progress = no_progress,
    wanted: int | None = None,
    not_before: float | None = None,
) -> Export:
    """Return the export at *where*: a file, a glob or a folder.

    *kind* is what it is taken for, by default what the settings say; *as_of* when it was made, where the settings
    leave that to the caller; *now* holds its age and times against the future, all in epoch seconds. The raw rows of
    the client *wanted* go with it. Of several files, those that were made before *not_before* grant nothing.

    On a *first_look* every mapped column must be there; later a missing channel states nothing, and the caller
    grants nothing in that run. *sink* gets the rejects in the order of the file.

    Raises:
        ExportError: when there is nothing to read, it cannot be read, the client's column is missing, it is from the
            future, or a column is full of blanks and has no explicit no.
    """
    kind = kind or settings.kind
    mapped = id_map.of_export(settings)
    # A part, such as a repaired list of rejects, has neither a date nor a marker.
    whole = settings.model_copy(update=complete.NOT_ASKED) if kind == "part" else settings
    ready = complete.ready(where, whole, zone)
    found = [sources.look(place, settings.format) for place in ready.places]
    where = naming.shown(where)
    asked, reading = Asked.of_export(settings), Reading.of(settings)
    timed = bool(settings.columns.consent_changed_at)
    latest = np.iinfo(np.int64).max if now is None else int(1e6 * (now + AHEAD_S))
    gathering = _Gathering(StatementTable(timed=timed), latest)
    inputs: list[Input] = []
    missing: set[str] = set()
    dated_by = settings.as_of.removeprefix("column:") if settings.as_of.startswith("column:") else ""
    total, done = sum(source.size_bytes for source in found), 0
    operator = ""
    made: list[tuple[str, float | None]] = []  # files with a row of this export; the others have no say in its age
    empty: list[tuple[str, float | None]] = []
    for source in found:
        gathering.begin_file(keeps=len(found) > 1 and settings.as_of != "none")
        with sources.unchanged(source):
            wanted_names = [*_mapped(settings), dated_by, *settings.where]
            head = (
                csv_header.header(source, asked, wanted_names, [settings.columns.Client])
                if source.format == "csv"
                else None
            )
            one_by_one = formats.rows(source, wanted_names, [settings.columns.Client], settings.sheet)
            named = head or one_by_one
            head_names = named.names if named else parquet.header(source)
            names = [*head_names, *(name for name in source.partition if name not in head_names)]
            where_.check(source.name, names, reading.where)
            missing |= _check_header(source.name, names, settings, first_look=first_look)
            missing |= _check_dated(source.name, dated_by, names, first_look=first_look)
            lookup = mapped.lookup if mapped else None
            columns = Columns.within(settings.columns, head_names, dated_by, reading, lookup, source.partition)
            operator = operator or columns.operator
            hasher, rows_before, others_before = hashlib.sha256(), gathering.rows, gathering.others
            blocks: Iterator[Block]
            if head:
                blocks, line = csv.read(source, head, columns, zone, hasher, wanted), head.lines
            elif one_by_one:
                blocks, line = rows.read(one_by_one, source.name, columns, zone, wanted), 0
            else:
                blocks, line = parquet.read(source, columns, zone, wanted), 0
            for block in blocks:
                gathering.take(block, line, sink)
                line += block.lines
                done += block.size_bytes
                progress(done, total)
            digest = hasher.hexdigest() if head else sources.digest(source.place)
            more = gathering.rows - rows_before
            ready.compare(source, digest, more + gathering.others - others_before)
        # A file without the column may be older than all of those with it.
        newest = UNTIMED if dated_by in missing else gathering.newest
        file_as_of = age.as_of(settings.as_of, [source], newest, as_of, zone)
        (made if more else empty).append((source.name, file_as_of))
        gathering.end_file(file_as_of, not_before)
        about = named.about() if named else {}
        about |= {"columns": head_names, "partition": dict(source.partition)}
        inputs.append(Input(source.name, source.format, source.size_bytes, digest, more, source.compression, **about))
    for _, when in made or empty:
        age.check(where, when, now)
    where_.check_operators(where, operator, gathering.operators)
    if not gathering.rows and gathering.others and kind == "full":
        raise ExportError(f"{where}: none of {gathering.others:,} rows is what [export.where] says. Mend it.")
    if not gathering.rows and kind == "full":
        raise ExportError(f"{where}: a header and no rows. A full export states every client; has the export run?")
    if kind == "full":
        _check_blanks(where, settings, gathering)
    export = _finish(gathering, inputs, tuple(sorted(missing)))
    export.id_map = mapped.about if mapped else None
    export.left_out = ready.left_out
    _date(export, made or empty, gathering.ages, not_before)
    return export


def _date(export: Export, files: list[tuple[str, float | None]], ages: Ages, not_before: float | None) -> None:
    """Say of *export* when it was made, and which of its *files* are too old; nothing if one of them has no time."""
    made = [(name, when) for name, when in files if when is not None]
    if len(made) < len(files):
        return  # Nothing tells how old the oldest is.
    fresh = [one for one in made if not_before is None or one[1] >= not_before]
    export.as_of, export.newest = min(when for _, when in fresh or made), max(when for _, when in made)
    export.stale = [one for one in made if one not in fresh] if fresh else []
    export.ages = ages if len({when for _, when in fresh}) > 1 else None


def _check_dated(path: str, name: str, names: list[str], *, first_look: bool) -> set[str]:
    """Return the column that says how old the export is, if it is missing; "" is for none.

    Raises:
        ExportError: on a first look for a missing one, and for a name that occurs twice.
    """
    if names.count(name) > 1 and name:
        raise ExportError(f"{path}: the header has {name!r} twice; nobody can tell which is meant. Rename one.")
    if not name or name in names:
        return set()
    if first_look:
        raise ExportError(f"{path}: no column {name!r}, which [export] as_of names; the header has {_shown(names)}.")
    return {name}


def _shown(names: list[str]) -> str:
    shown = ", ".join(map(repr, names))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} …"


def _check_blanks(where: str, settings: ExportSettings, gathering: _Gathering) -> None:
    """Refuse a column that has blanks where an export would say no: a checkbox written as 1 or nothing.

    Raises:
        ExportError: naming the column and the two things that its blanks may mean.
    """
    words = words_of(settings)
    channels = zip(FIELDS, settings.columns.channels, settings.blank.channels, words, strict=True)
    for field_, column, said, known in channels:
        blanks, denials = cells.blanks_and_denials(gathering.tokens.get(field_, Counter()), known)
        if not said and not denials and blanks > max(20, gathering.rows // 100):
            raise ExportError(
                f"{where}: column {column!r} is blank in {blanks:,} of {gathering.rows:,} rows and never says no: "
                f'what does a blank mean? Say [export.blank] {field_} = "denied" if it is an unticked box, or '
                '"nothing" if nobody asked.'
            )


def _finish(gathering: _Gathering, inputs: list[Input], missing: tuple[str, ...]) -> Export:
    table = gathering.table
    good = table.clients()
    for ids, values, times in gathering.partial:
        table.add(ids, values, times)
    statements, conflicting = table.finish()
    # What parsing took is not needed any more, and pyarrow would keep it for the next time.
    pa.default_memory_pool().release_unused()
    ungranted = [ids for ids, _, _ in gathering.partial] + gathering.stale
    return Export(
        statements=statements,
        inputs=inputs,
        rows=gathering.rows,
        rejects=gathering.rejects,
        duplicates=gathering.rows - gathering.rejects - good,
        conflicting=conflicting,
        ungranted=np.unique(np.concatenate(ungranted)) if ungranted else np.zeros(0, np.int32),
        in_rejects_only=statements.clients() - good,
        tokens={name: gathering.tokens[name] for name in FIELDS if name in gathering.tokens},
        reasons=gathering.reasons,
        missing=missing,
        digest=statements.digest(),
        raw=gathering.raw,
        others=gathering.others,
        from_the_future=gathering.from_the_future,
    )


def _check_header(path: str, names: list[str], settings: ExportSettings, *, first_look: bool) -> set[str]:
    """Return the mapped channel columns that are missing.

    Raises:
        ExportError: for a missing client column, on a first look for any, and for a name that occurs twice.
    """
    columns = settings.columns
    mapped = _mapped(settings)
    twice = [name for name in mapped if names.count(name) > 1]
    if twice:
        raise ExportError(f"{path}: the header has {twice[0]!r} twice; nobody can tell which is meant. Rename one.")
    missing = [name for name in mapped if name not in names]
    channels = [name for name in columns.channels if name]
    fatal = first_look or columns.Client in missing or all(name in missing for name in channels)
    if missing and fatal:
        near = difflib.get_close_matches(missing[0], names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if len(names) == 1 and any(mark in names[0] for mark in ",;\t|"):
            hint = " The header is one field: say in [export] delimiter what sets fields apart."
        elif settings.header and any(name.strip().isdigit() for name in names):
            hint = " If the first line is a row, say [export] header = false, and name columns by their places."
        raise ExportError(
            f"{path}: no column {', '.join(map(repr, missing))}; the header has {_shown(names)}.{hint} "
            'Map the columns in [export.columns]; "" is for a channel that the export does not have. '
            "`consent-sync check FILE --infer` writes what it makes of them."
        )
    return set(missing)
