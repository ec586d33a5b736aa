"""What single cells say: ids, flags and times, a column at a time, and why those that cannot be read cannot.

Everything here is arithmetic on whole columns; only a column's *distinct* values are ever looked at one by one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.consent import tokens as built
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, FIRST_ID, LAST_ID, Bytes, Ids, Mask
from sync_job.consent.tables import UNTIMED, Times

_UNKNOWN = 0
_DISTINCT_KEPT = 1000  # raw tokens counted one by one; a column with more is no flag, and the rest is counted together
OTHERS = "(others)"
_FEW = 16  # distinct tokens that are told apart by comparing; with more a dictionary is faster
_FIRST_BYTES = np.array([(1 << 8 * length) - 1 for length in range(8)], np.uint64)  # of eight, by how many are a text's
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1) // _MICROSECOND
# Python's years are 1 to 9999; a day less at each end leaves room for offsets.
_FIRST_TIME = (datetime(1, 1, 2, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_END_TIME = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MICROSECOND


# What sets thousands apart, by what the configuration says: each in all the ways in which it is written.
_MARKS = {" ": " \u00a0\u202f\u2009", ",": ",", "'": "'\u2019"}
_SCIENTIFIC = r"^[-+]?[0-9]+([.,][0-9]*)?[eE][-+]?[0-9]+$"
_FLOATS = {16: 1 << 11, 32: 1 << 24, 64: 1 << 53}  # above which a float of so many bits does not tell neighbours apart


@dataclass(frozen=True)
class Words:
    """What the tokens of one channel's column say; *blank* is what an empty cell says, and never ALLOWED."""

    meanings: Mapping[str, int] = field(default_factory=lambda: dict(built.BUILT_IN))
    blank: int = BLANK

    @classmethod
    def of(cls, more: Mapping[str, int], *, blank: int = BLANK, inverted: bool = False) -> "Words":
        """Return the built-in tokens and *more*; where the column is *inverted*, yes says denied and no allowed."""
        meanings = built.BUILT_IN | dict(more)
        if inverted:
            turned = {ALLOWED: DENIED, DENIED: ALLOWED, BLANK: BLANK}
            meanings = {token: turned[meaning] for token, meaning in meanings.items()}
        return cls(meanings, blank)

    def of_each(self, tokens: pa.Array) -> Bytes:
        """Return what each of *tokens* says, null as empty; 0 for one that is not known."""
        said = {**self.meanings, "": self.blank}
        place = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(tokens)), pa.array(list(said), pa.string()))
        meanings = np.array([*said.values(), _UNKNOWN], np.uint8)
        found: Bytes = meanings[place.fill_null(len(said)).to_numpy(zero_copy_only=False)]
        return np.where(_nulls(tokens), np.uint8(self.blank), found)


AS_BUILT = Words()


@dataclass
class Problems:
    """What is wrong with which rows of a block; a row may have several. Nothing is said of rows of *others*."""

    rows: int
    others: Mask | None = None
    bad: Mask = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)  # rows by problem, without what their cells hold
    _said: list[tuple[pa.Array, pa.Array]] = field(default_factory=list)  # rows, and what is said of each

    def __post_init__(self) -> None:
        self.bad = np.zeros(self.rows, np.bool_)

    def add(self, rows: Mask, column: str, problem: str, cells: pa.Array | None = None) -> None:
        """Note *problem* of *column* for *rows*, with what each of their *cells* holds."""
        if self.others is not None:
            rows = rows & ~self.others
        if not rows.any():
            return
        self.bad |= rows
        self.counts[f"{column}: {problem}"] += int(np.count_nonzero(rows))
        where = pa.array(np.flatnonzero(rows))
        texts = pa.repeat(pa.scalar(f"{column}: {problem}"), len(where))
        if cells is not None:
            shown = pc.utf8_slice_codeunits(_some(cells, where), 0, 60)
            texts = pc.binary_join_element_wise(
                texts, " '", shown, "'", "", null_handling="replace", null_replacement=""
            )
        self._said.append((where, texts))

    def texts(self, rows: pa.Array) -> list[pa.Array]:
        """Return the problems of these *rows*, one array of strings a kind; null where a row has none."""
        return [texts.take(pc.index_in(rows, where)) for where, texts in self._said]


def _some(cells: pa.Array, where: pa.Array) -> pa.Array:
    """Return the chosen cells as text; of some types pyarrow can take none until they are text."""
    try:
        return to_text(cells.take(where))
    except pa.ArrowNotImplementedError:
        return to_text(cells).take(where)


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


def read_ids(cells: pa.Array, column: str, problems: Problems, thousands: str = "") -> Ids:
    """Return the ids, 0 where *problems* says why there is none. *thousands* says what may set groups of digits apart.

    Nothing is guessed: what may be another number than the one that was meant is none.
    """
    if pa.types.is_dictionary(cells.type) and not _is_text(cells.type.value_type):
        cells = cells.dictionary.take(cells.indices)
    kind = cells.type
    lost = doubtful = np.zeros(len(cells), np.bool_)
    if pa.types.is_integer(kind):
        number, empty, foreign = cells, _nulls(cells), lost
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        value = pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        empty = _nulls(cells) | np.isnan(value)
        value = np.nan_to_num(value, nan=0.0)
        lost = np.abs(value) > _FLOATS[min(64, kind.bit_width)]
        lost &= np.abs(value) <= LAST_ID  # beyond it is outside, whatever its digits
        foreign = value != np.floor(value)
        number = pa.array(np.where(foreign, 0, np.clip(value, -(2.0**40), 2.0**40)).astype(np.int64))
    else:
        text = to_text(cells)
        digits = pc.and_(pc.ascii_is_decimal(text), _short(text)).fill_null(False)
        number = pc.cast(_only(text, digits), pa.int64()).fill_null(0)
        digits = _truth(digits)
        empty, scientific, doubtful = lost.copy(), lost.copy(), lost.copy()
        odd = np.flatnonzero(~digits)
        if len(odd):  # expressions are slow: nothing but what is not plain digits is looked at closely
            few = pc.utf8_trim_whitespace(text.take(pa.array(odd)))
            empty[odd] = _nulls(few) | _truth(pc.equal(few, ""))
            scientific[odd] = _matches(few, _SCIENTIFIC)
            few, doubtful[odd] = _whole(few, thousands)
            whole = _matches(few, r"^-?[0-9]+$")
            digits[odd] = whole
            # More digits than an int64 has are out of range all the same, but for leading zeros.
            few = pc.replace_substring_regex(few, r"^(-?)0+([0-9])", r"\1\2")
            whole &= _truth(_short(few))
            numbers = np.array(number)
            numbers[odd[whole]] = pc.cast(few.filter(pa.array(whole)), pa.int64())
            number = pa.array(numbers)
        foreign = ~digits & ~empty & ~scientific & ~doubtful
        problems.add(scientific, column, "scientific notation, as Excel writes it: digits are lost", cells)
        problems.add(doubtful, column, "thousands or a fraction, nobody can tell", cells)
        doubtful = doubtful | scientific
    low = pc.less(number, pa.scalar(FIRST_ID, number.type))
    high = pc.greater(number, pa.scalar(LAST_ID, number.type)) if _reaches(number.type, LAST_ID) else None
    outside = _truth(low) | (_truth(high) if high is not None else np.zeros(len(cells), np.bool_))
    outside &= ~empty & ~foreign & ~lost & ~doubtful
    problems.add(empty, column, "no id")
    problems.add(foreign, column, "not a whole number", cells)
    problems.add(lost, column, "a float too small to hold it: digits are lost", cells)
    problems.add(outside, column, f"outside {FIRST_ID} to {LAST_ID}", cells)
    good = ~(empty | foreign | outside | lost | doubtful)
    if good.all():
        return np.asarray(pc.cast(number, pa.int32()).to_numpy(zero_copy_only=False), np.int32)
    kept = pc.if_else(pa.array(good), number, pa.scalar(0, number.type))
    return np.asarray(pc.cast(kept, pa.int32()).to_numpy(zero_copy_only=False), np.int32)


def _only(text: pa.Array, chosen: pa.BooleanArray) -> pa.Array:
    """Return *text* with null for all that is not *chosen*, without a copy where its bits can say so."""
    if text.offset or chosen.offset or not len(text):
        return pc.if_else(chosen, text, pa.scalar(None, text.type))
    return pa.Array.from_buffers(text.type, len(text), [chosen.buffers()[1], *text.buffers()[1:]])


def are_ids(cells: pa.Array) -> bool:
    """Return whether every cell that is not blank is an id."""
    problems = Problems(len(cells))
    read_ids(cells, "", problems)
    return set(problems.counts) <= {": no id"}


def _short(text: pa.Array) -> pa.Array:
    """Return which digits are few enough for any int64."""
    return pc.less_equal(pc.binary_length(text), 18)


def _whole(text: pa.Array, thousands: str) -> tuple[pa.Array, Mask]:
    """Return *text* with plain digits for whole numbers, and which cells may be thousands or a fraction alike."""
    doubtful = np.zeros(len(text), np.bool_)
    if thousands:
        mark = f"[{_MARKS[thousands]}]"
        grouped = _matches(text, rf"^-?[0-9]{{1,3}}({mark}[0-9]{{3}})+(\.0+)?$")
        text = pc.if_else(pa.array(grouped), pc.replace_substring_regex(text, mark, ""), text)
    else:
        # 12.000 is twelve where a point begins the fraction, and twelve thousand where it sets thousands apart.
        doubtful = _matches(text, r"^-?[0-9]{1,3}\.000$")
    whole = _matches(text, r"^-?[0-9]+\.0+$") & ~doubtful
    return pc.if_else(pa.array(whole), pc.replace_substring_regex(text, r"\.0+$", ""), text), doubtful


def read_flags(
    cells: pa.Array, column: str, problems: Problems, tokens: Counter[str], words: Words = AS_BUILT
) -> Bytes:
    """Return DENIED, ALLOWED or BLANK of each cell, as *words* say; BLANK where *problems* says why not.

    Raw *tokens* are counted, but for those in rows of others.
    """
    mine = slice(None) if problems.others is None else ~problems.others
    if pa.types.is_null(cells.type):
        tokens[""] += len(np.zeros(len(cells))[mine])
        return np.full(len(cells), words.blank, np.uint8)
    if pa.types.is_dictionary(cells.type) and not _is_text(cells.type.value_type):
        cells = cells.dictionary.take(cells.indices)
    if pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        cells = pc.cast(cells, pa.float64(), safe=False)
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, pa.float64()), cells)  # how pandas writes a blank
    raw, indices = _distinct(cells, column)
    # A null cell is one more distinct value, after the others.
    distinct = np.append(words.of_each(raw), np.uint8(words.blank))
    _count(tokens, raw, np.bincount(indices[mine], minlength=len(distinct)))
    values: Bytes = distinct[indices]
    if _UNKNOWN in distinct:
        unknown = values == _UNKNOWN
        problems.add(unknown, column, "unknown token", cells)
        values[unknown] = BLANK
    return values


def _distinct(cells: pa.Array, column: str) -> tuple[pa.Array, npt.NDArray[np.intp]]:
    """Return the distinct values as text, and the place of each cell's among them; that of a null is their number.

    Raises:
        ValueError: for a dictionary that is damaged.
    """
    if pa.types.is_binary(cells.type) and (found := _few_short(cells)):
        return found
    encoded = cells if pa.types.is_dictionary(cells.type) else cells.dictionary_encode()
    count = len(encoded.dictionary)
    least, most = (one.as_py() for one in pc.min_max(encoded.indices).values())
    if least is not None and not 0 <= least <= most < count:
        raise ValueError(f"{column}: an index beyond its dictionary")  # from a damaged Parquet file
    return to_text(encoded.dictionary), np.asarray(encoded.indices.fill_null(count).to_numpy(), np.intp)


def _few_short(cells: pa.Array) -> tuple[pa.Array, npt.NDArray[np.intp]] | None:
    """Return what _distinct does, or None if that takes a dictionary: short texts are numbers, soon compared.

    Cells of CSV are the most of all that is read, and this is twice as fast as a dictionary.
    """
    _, ends, data = cells.buffers()
    ends = np.frombuffer(ends, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    lengths = np.diff(ends)
    if cells.null_count or not len(cells) or lengths.max() >= len(_FIRST_BYTES):
        return None
    text = np.zeros(int(ends[-1]) + 8, np.uint8)
    text[:-8] = np.frombuffer(data or b"", np.uint8)[: ends[-1]]
    words = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))  # at each byte, the eight from there on
    keys = words[ends[:-1].astype(np.intp)]
    keys &= _FIRST_BYTES.take(lengths)
    keys |= lengths.astype(np.uint64) << np.uint64(56)  # a NUL at the end is one more character
    places = np.zeros(len(cells), np.uint8)
    left = np.ones(len(cells), np.bool_)
    firsts: list[int] = []
    while left[first := int(left.argmax())]:
        if len(firsts) == _FEW:
            return None
        same = keys == keys[first]
        places |= same.view(np.uint8) * np.uint8(len(firsts))
        left &= ~same
        firsts.append(first)
    return to_text(cells.take(pa.array(firsts))), places.astype(np.intp)


def blanks_and_denials(tokens: Counter[str], words: Words = AS_BUILT) -> tuple[int, int]:
    """Return how many cells of a column were blank, and how many said no in so many words, as *words* say."""
    blanks = denials = 0
    for token, count in tokens.items():
        plain = built.plain(token)
        blanks += count if not plain else 0
        denials += count if words.meanings.get(plain) == DENIED else 0
    return blanks, denials


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
    return _truth(cells.is_null())


def _matches(text: pa.Array, pattern: str) -> Mask:
    return _truth(pc.match_substring_regex(text, pattern))


def _truth(mask: pa.Array) -> Mask:
    """Return *mask* with false for null; its bits are unpacked at once, where pyarrow takes them one by one."""
    if isinstance(mask, pa.ChunkedArray):
        mask = mask.combine_chunks()
    bits = np.frombuffer(mask.fill_null(False).buffers()[1] or b"", np.uint8)
    return np.unpackbits(bits, bitorder="little")[mask.offset : mask.offset + len(mask)].view(np.bool_)


def _is_text(kind: pa.DataType) -> bool:
    return not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _reaches(kind: pa.DataType, value: int) -> bool:
    """Return whether integers of this *kind* can be *value*."""
    bits = kind.bit_width - (1 if pa.types.is_signed_integer(kind) else 0)
    return bool(value < 1 << bits)
