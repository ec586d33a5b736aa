"""What single cells say: ids, flags and times, a column at a time, and why those that cannot be read cannot.

Everything here is arithmetic on whole columns; only a column's *distinct* values are ever looked at one by one.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, FIRST_ID, LAST_ID, Bytes, Ids, Mask
from sync_job.consent.tables import UNTIMED, Times

TOKENS = {
    **dict.fromkeys(("true", "1", "yes", "y", "t", "да", "д", "истина"), ALLOWED),
    **dict.fromkeys(("false", "0", "no", "n", "f", "нет", "н", "ложь"), DENIED),
    "": BLANK,
}
_UNKNOWN = 0
_DISTINCT_KEPT = 1000  # raw tokens counted one by one; a column with more is no flag, and the rest is counted together
OTHERS = "(others)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1) // _MICROSECOND
# Python's years are 1 to 9999; a day less at each end leaves room for offsets.
_FIRST_TIME = (datetime(1, 1, 2, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_END_TIME = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MICROSECOND


@dataclass
class Problems:
    """What is wrong with which rows of a block; a row may have several."""

    rows: int
    bad: Mask = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)  # rows by problem, without what their cells hold
    _texts: list[pa.Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bad = np.zeros(self.rows, np.bool_)

    def add(self, rows: Mask, column: str, problem: str, cells: pa.Array | None = None) -> None:
        """Note *problem* of *column* for *rows*, with what each of their *cells* holds."""
        if not rows.any():
            return
        self.bad |= rows
        self.counts[f"{column}: {problem}"] += int(np.count_nonzero(rows))
        texts = pa.repeat(pa.scalar(f"{column}: {problem}"), self.rows)
        if cells is not None:
            shown = pc.utf8_slice_codeunits(to_text(cells), 0, 60)
            texts = pc.binary_join_element_wise(
                texts, " '", shown, "'", "", null_handling="replace", null_replacement=""
            )
        self._texts.append(pc.if_else(pa.array(rows), texts, pa.scalar(None, pa.string())))

    def texts(self) -> list[pa.Array]:
        """Return the problems, one array of strings a kind, aligned with the rows; null where a row has none."""
        return self._texts


def to_text(cells: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return *cells* as strings; bytes that are not UTF-8 become U+FFFD, and nested values what Python prints."""
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if pa.types.is_dictionary(cells.type):
        return to_text(cells.dictionary).take(cells.indices)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.cast(cells, pa.binary())  # Parquet's strings need not be UTF-8: only the way back checks them
    if pa.types.is_timestamp(cells.type) and cells.type.tz:  # in UTC, for which no zone need be looked up
        return pc.binary_join_element_wise(pc.cast(cells.view(pa.timestamp(cells.type.unit)), pa.string()), "Z", "")
    try:
        return pc.cast(cells, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array(
            [
                None if one is None else one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
                for one in cells.to_pylist()
            ],
            pa.string(),
        )


def read_ids(cells: pa.Array, column: str, problems: Problems) -> Ids:
    """Return the ids, 0 where *problems* says why there is none."""
    kind = cells.type
    if pa.types.is_integer(kind):
        number, empty, foreign = cells, _nulls(cells), np.zeros(len(cells), np.bool_)
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        empty = _nulls(cells)
        value = np.nan_to_num(pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False), nan=0.5)
        foreign = (value != np.floor(value)) & ~empty
        number = pa.array(np.where(foreign | empty, 0, np.clip(value, -(2.0**40), 2.0**40)).astype(np.int64))
    else:
        text = pc.utf8_trim_whitespace(to_text(cells))
        empty = _nulls(text) | _truth(pc.equal(text, ""))
        digits = _truth(pc.match_substring_regex(text, r"^-?[0-9]+$"))
        foreign = ~digits & ~empty
        fits = digits & _truth(pc.less_equal(pc.utf8_length(text), 18))
        # More digits than an int64 has are out of range all the same, but for leading zeros.
        text = pc.if_else(pa.array(digits & ~fits), pc.replace_substring_regex(text, r"^(-?)0+([0-9])", r"\1\2"), text)
        fits = digits & _truth(pc.less_equal(pc.utf8_length(text), 18))
        number = pc.cast(pc.if_else(pa.array(fits), text, pa.scalar("0")), pa.int64())
    low = pc.less(number, pa.scalar(FIRST_ID, number.type))
    high = pc.greater(number, pa.scalar(LAST_ID, number.type)) if _reaches(number.type, LAST_ID) else None
    outside = _truth(low) | (_truth(high) if high is not None else np.zeros(len(cells), np.bool_))
    problems.add(empty, column, "no id")
    problems.add(foreign, column, "not a whole number", cells)
    problems.add(outside & ~empty & ~foreign, column, f"outside {FIRST_ID} to {LAST_ID}", cells)
    good = ~(empty | foreign | outside)
    if good.all():
        return np.asarray(pc.cast(number, pa.int32()).to_numpy(zero_copy_only=False), np.int32)
    kept = pc.if_else(pa.array(good), number, pa.scalar(0, number.type))
    return np.asarray(pc.cast(kept, pa.int32()).to_numpy(zero_copy_only=False), np.int32)


def read_flags(cells: pa.Array, column: str, problems: Problems, tokens: Counter[str], blank: int = BLANK) -> Bytes:
    """Return DENIED, ALLOWED or BLANK of each cell; BLANK where *problems* says why not. Raw *tokens* are counted.

    *blank* is what an empty cell says.
    """
    if pa.types.is_null(cells.type):
        tokens[""] += len(cells)
        return np.full(len(cells), blank, np.uint8)
    encoded = cells if pa.types.is_dictionary(cells.type) else cells.dictionary_encode()
    raw = to_text(encoded.dictionary)
    known = pa.array(list(TOKENS), pa.string())
    place = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(raw)), known)
    meanings = np.array([*TOKENS.values(), _UNKNOWN], np.uint8)
    distinct = meanings[place.fill_null(len(TOKENS)).to_numpy(zero_copy_only=False)]
    distinct = np.where(_nulls(raw), np.uint8(BLANK), distinct)
    # A null cell is one more distinct value, after the others.
    distinct = np.append(distinct, np.uint8(BLANK))
    distinct[distinct == BLANK] = blank
    least, most = (one.as_py() for one in pc.min_max(encoded.indices).values())
    if least is not None and not 0 <= least <= most < len(raw):
        raise ValueError(f"{column}: an index beyond its dictionary")  # from a damaged Parquet file
    indices = encoded.indices.fill_null(len(raw)).to_numpy(zero_copy_only=False)
    _count(tokens, raw, np.bincount(indices, minlength=len(distinct)))
    values: Bytes = distinct[indices]
    unknown = values == _UNKNOWN
    if unknown.any():
        problems.add(unknown, column, "unknown token", cells)
        values[unknown] = BLANK
    return values


def blanks_and_denials(tokens: Counter[str]) -> tuple[int, int]:
    """Return how many cells of a column were blank, and how many said no in so many words."""
    meant = Counter[int]()
    for token, count in tokens.items():
        meant[TOKENS.get(token.strip().lower(), _UNKNOWN)] += count
    return meant[BLANK], meant[DENIED]


def _count(tokens: Counter[str], raw: pa.Array, counts: npt.NDArray[np.intp]) -> None:
    kept = raw.slice(0, _DISTINCT_KEPT).to_pylist()
    for token, count in zip([*kept, ""], [*counts[: len(kept)].tolist(), int(counts[-1])], strict=True):
        if count:
            name = token if token is not None else ""
            tokens[name if name in tokens or len(tokens) < _DISTINCT_KEPT else OTHERS] += count
    if len(raw) > len(kept):
        tokens[OTHERS] += int(counts[len(kept) : -1].sum())


def read_times(cells: pa.Array, column: str, zone: ZoneInfo, problems: Problems) -> Times:
    """Return each cell as microseconds since 1970 in UTC, UNTIMED where it is empty or *problems* says why not.

    Times without an offset are local to *zone*; one that the clock showed twice is the later one, and one that it
    skipped is counted from after the gap.
    """
    kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zoned = kind.tz if pa.types.is_timestamp(kind) else None
        # Nanoseconds are cut off: no clock that stamps consents tells them.
        times = _numbers(pc.cast(cells, pa.timestamp("us", zoned), safe=False))
        local = np.full(len(times), zoned is None)
        bad = np.zeros(len(times), np.bool_)
    else:
        times, local, bad = _parse_times(to_text(cells))
    timed = times != UNTIMED
    outside = timed & ((times < _FIRST_TIME) | (times >= _END_TIME))
    local &= timed & ~outside
    times[local] = _to_utc(times[local], zone)
    times[outside] = UNTIMED
    problems.add(bad | outside, column, "no ISO 8601 time", cells)
    return times


def _parse_times(text: pa.Array) -> tuple[Times, Mask, Mask]:
    """Return the times in *text*, which of them are local, and which cells are none."""
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    bad = np.zeros(len(text), np.bool_)
    for kind, local in ((pa.timestamp("us"), ~bad), (pa.timestamp("us", "UTC"), bad)):
        try:
            return _numbers(pc.cast(text, kind)), local.copy(), bad
        except pa.ArrowInvalid:
            pass  # Not all without an offset, nor all with one, or some are no times: read one by one.
    times = np.full(len(text), UNTIMED, np.int64)
    local = np.zeros(len(text), np.bool_)
    for row, one in enumerate(text.to_pylist()):
        if one is not None:
            try:
                if len(one) > 8 and one.isdigit():  # 1701011231234, an epoch, would be a time in the year 1701
                    raise ValueError("digits alone")
                when = datetime.fromisoformat(one)
            except ValueError:
                bad[row] = True
            else:
                local[row] = when.tzinfo is None
                times[row] = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    return times, local, bad


def _to_utc(local: Times, zone: ZoneInfo) -> Times:
    """Return *local* times in UTC. Python's zones are always there; pyarrow's are the system's, which may have none."""
    days, place = np.unique(local // _DAY, return_inverse=True)
    morning = np.array([_offset(day * _DAY, zone, 1) for day in days.tolist()], np.int64)
    evening = np.array([_offset((day + 1) * _DAY, zone, 0) for day in days.tolist()], np.int64)
    times: Times = local - morning[place]
    for row in np.flatnonzero((morning != evening)[place]).tolist():  # the days on which clocks are changed
        times[row] = local[row] - _offset(int(local[row]), zone, 1)
    return times


def _offset(local: int, zone: ZoneInfo, fold: int) -> int:
    """Return how far *zone* is ahead of UTC at a *local* time, in microseconds."""
    when = (_EPOCH + local * _MICROSECOND).replace(tzinfo=zone, fold=fold)
    return (when.utcoffset() or timedelta()) // _MICROSECOND


def _numbers(times: pa.Array) -> Times:
    return np.array(pc.cast(times, pa.int64()).fill_null(UNTIMED).to_numpy(zero_copy_only=False), np.int64)


def _nulls(cells: pa.Array) -> Mask:
    if not cells.null_count:
        return np.zeros(len(cells), np.bool_)
    return np.asarray(cells.is_null().to_numpy(zero_copy_only=False), np.bool_)


def _truth(mask: pa.Array) -> Mask:
    return np.asarray(mask.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def _reaches(kind: pa.DataType, value: int) -> bool:
    """Return whether integers of this *kind* can be *value*."""
    bits = kind.bit_width - (1 if pa.types.is_signed_integer(kind) else 0)
    return bool(value < 1 << bits)
