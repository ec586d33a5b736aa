"""What `[export]` may have to say so that a file is read: guesses by its columns' names and by what is in them.

Each guess has its reason. What only a person can know is no guess: it is left for them to decide, and until then it is
read so that nothing is granted by it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import ExportSettings
from sync_job.consent import tokens
from sync_job.consent.channels import DENIED, FIELDS
from sync_job.exports import cells, csv, csv_header, formats, parquet, sources, where
from sync_job.exports.dialect import Asked

_ROWS = 20_000  # of the first file, that are looked at
_DISTINCT = 12  # tokens that a flag has at most
_MANY = 10
_CLIENTS = (
    *("client", "clientid", "customer", "customerid", "loyaltyid", "externalid", "extid", "id", "card", "cardid"),
    *("клиент", "идклиента", "кодклиента", "клиентид", "ид", "код", "карта"),
)
_ABOUT_CLIENTS = ("client", "customer", "клиент", "loyalty", "external")
# In this order: ReceiptByEmail is of receipts.
_CHANNELS = {
    "AllowEmailOnlineCheque": ("cheque", "receipt", "чек", "квитанц"),
    "AllowSms": ("sms", "смс"),
    "AllowPush": ("push", "пуш"),
    "AllowEmail": ("email", "mail", "почт", "имейл"),
}
_OPPOSITE = ("optedout", "optout", "donot", "unsubscri", "отказ", "запре", "отпис")
_OPPOSITE_WORDS = frozenset(("no", "not", "dont", "stop", "block", "blocked", "без", "не"))
_WORD = re.compile(r"[A-ZА-ЯЁ]?[a-zа-яё]+|[A-ZА-ЯЁ]+(?![a-zа-яё])")
_TIMES = ("changed", "updated", "date", "time", "дата", "время", "изменен")


@dataclass(frozen=True)
class Guess:
    """What one key of a section should be, and why. *decided* is false where a person has to say it."""

    section: str
    key: str
    value: Any
    why: str
    decided: bool = True


@dataclass(frozen=True)
class _Column:
    """The first cells of a column: as they are, and as tokens of a flag with their counts."""

    name: str
    cells: pa.Array
    tokens: Counter[str]

    @property
    def filled(self) -> int:
        """How many cells are not blank."""
        return self.tokens.total() - self.tokens[""]

    @property
    def known(self) -> float:
        """Which share of the cells that are not blank says yes or no by itself."""
        return sum(count for token, count in self.tokens.items() if token in tokens.BUILT_IN) / max(1, self.filled)

    @property
    def is_flag(self) -> bool:
        """Whether the cells may be of a flag: few tokens, and none of them a long text or an address."""
        shown = [token for token in self.tokens if token]
        return len(shown) <= _DISTINCT and all(len(token) <= 30 and "@" not in token for token in shown)

    def ids(self, thousands: str = "") -> float:
        """Return which share of the cells is an id."""
        problems = cells.Problems(len(self.cells))
        found = cells.read_ids(self.cells, "", problems, thousands)
        return float((found != 0).sum()) / max(1, self.filled)

    @property
    def distinct(self) -> float:
        """Which share of the cells that are not blank is there once."""
        return len([token for token in self.tokens if token]) / max(1, self.filled)


@dataclass(frozen=True)
class _Sample:
    """The first rows of an export, and what was found out on the way to them."""

    columns: list[_Column]
    guesses: list[Guess]


def guess(at: str, settings: ExportSettings) -> list[Guess]:
    """Return what the sections of `[export]` should say so that the export *at* this place is read.

    *settings* say what is known already of how it is written: its format, sheet, encoding, delimiter, comments.

    Raises:
        ExportError: when there is none, or it cannot be read at all.
    """
    sample = _look(sources.find(at, settings.format)[0], settings)
    client, said = _client(sample.columns)
    found = [*_as_of(), *sample.guesses, *said]
    others = [column for column in sample.columns if column is not client]
    return found + list(_channels(others)) + list(_times(others)) + list(_operator(others))


def _look(source: sources.Source, settings: ExportSettings) -> _Sample:
    """Return the first rows of a file."""
    found: list[Guess] = []
    if source.format == "csv":
        asked = Asked.of_export(settings)
        head = csv_header.header(source, asked)
        plain = [_plain(name) for name in head.names]
        if not any(map(_is_known, plain)) and any(name.strip().isdigit() for name in head.names):
            found.append(Guess("export", "header", False, "the first line has a number where a name would be"))
            head = csv_header.header(source, replace(asked, header=False))
        block = next(csv.tables(source, head, list(dict.fromkeys(head.names))), None)
        table = block.table if block else pa.table({name: pa.array([], pa.string()) for name in head.names})
        about = head.about()
        if head.seen.encoding != "auto":
            found.append(Guess("export", "encoding", about["encoding"], "by its bytes"))
        found.append(Guess("export", "delimiter", about["delimiter"], "splits the first lines evenly"))
        if block and block.cut_short:
            found.append(
                Guess(
                    "export", "final_newline", False, "say so if this export never ends with a newline", decided=False
                )
            )
    elif by_rows := formats.rows(source, [], [], settings.sheet):
        batch = next(by_rows.batches(), None)
        table = batch.table if batch else pa.table({name: pa.array([], pa.string()) for name in by_rows.names})
        if by_rows.sheet:
            found.append(Guess("export", "sheet", by_rows.sheet, "the sheet that was looked at"))
    else:
        names = parquet.header(source)
        table = next(parquet.tables(source, names), pa.table({name: pa.array([], pa.string()) for name in names}))
    table = table.slice(0, _ROWS)
    columns = {name: table.column(place) for place, name in enumerate(table.column_names)}
    partition = {name: pa.repeat(pa.scalar(value), table.num_rows) for name, value in source.partition.items()}
    return _Sample([_column(name, cells_) for name, cells_ in (partition | columns).items()], found)


def _column(name: str, column: pa.Array | pa.ChunkedArray) -> _Column:
    text = pc.utf8_trim_whitespace(cells.to_text(column)).fill_null("")
    found = pc.value_counts(pc.utf8_lower(text))
    pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    return _Column(name, text, Counter(dict(pairs)))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold().removesuffix("__c") if letter.isalnum())


def _is_known(plain: str) -> bool:
    return plain in _CLIENTS or any(word in plain for words in (*_CHANNELS.values(), _ABOUT_CLIENTS) for word in words)


def _client(columns: list[_Column]) -> tuple[_Column | None, Iterator[Guess]]:
    """Return the column of the clients' ids, and what is to be said of it."""
    ranked = []
    for place, column in enumerate(columns):
        thousands = next((mark for mark in ("", " ", ",", "'") if column.ids(mark) >= 0.9), None)
        if thousands is not None and (column.distinct > 0.5 or not column.is_flag):
            rank = _rank_of_client(_plain(column.name))
            ranked.append((rank, column.distinct > 0.5, -place, column, thousands))
    ranked.sort(key=lambda one: one[:3], reverse=True)
    if not ranked:
        return None, iter(
            [Guess("export.columns", "Client", "…", "no column has ids, whole numbers from 1 up", decided=False)]
        )
    rank, _, _, column, thousands = ranked[0]
    others = [one[3].name for one in ranked[1:] if one[0] >= max(1, rank - 1)]
    why = "by its name, and it has ids" if rank else "it has ids"
    if others:
        why += f"; so has {', '.join(others[:5])}: look at it"
    found = [Guess("export.columns", "Client", column.name, why)]
    if thousands:
        found.insert(0, Guess("export", "thousands", thousands, f"of the ids in {column.name}"))
    return column, iter(found)


def _rank_of_client(plain: str) -> int:
    if plain in _CLIENTS:
        return 3 if plain not in ("id", "ид", "код", "card", "cardid", "карта") else 1
    return 2 if any(word in plain for word in _ABOUT_CLIENTS) else 0


def _channels(columns: list[_Column]) -> Iterator[Guess]:
    """Yield which column is which channel's, what its blanks may say, and which of its tokens are not known."""
    free = list(columns)
    inverted: list[str] = []
    unknown: dict[str, int] = {}
    blanks: list[tuple[str, _Column]] = []
    for channel in FIELDS:
        fit = [one for one in free if one.is_flag and _channel_of(one.name) == channel]
        fit.sort(key=lambda one: (-(one.known >= 0.5), len(one.name)))
        if not fit:
            yield Guess("export.columns", channel, "", "no column is called like it and has flags: it is never sent")
            continue
        column = fit[0]
        free.remove(column)
        why = "by its name" + ("" if column.known < 0.5 else ", and it says yes and no")
        if len(fit) > 1:
            why += f"; {', '.join(one.name for one in fit[1:4])} may be meant too: look at it"
        yield Guess("export.columns", channel, column.name, why)
        if _is_opposite(column.name):
            inverted.append(channel)
        denials = sum(count for token, count in column.tokens.items() if tokens.BUILT_IN.get(token) == DENIED)
        if column.tokens[""] and not denials:
            blanks.append((channel, column))
        for token, count in column.tokens.items():
            if token and token not in tokens.BUILT_IN:
                unknown[token] = unknown.get(token, 0) + count
    if inverted:
        yield Guess("export", "inverted", inverted, "by their names, these columns say who does NOT want it")
    for channel, column in blanks:
        yield Guess(
            "export.blank",
            channel,
            "nothing",
            f"{column.tokens['']:,} blanks of {column.tokens.total():,} and not one no: yours to decide. "
            '"denied" if a blank is an unticked box',
        )
    if unknown:
        most = sorted(unknown, key=lambda token: -unknown[token])[:_MANY]
        counts = ", ".join(f"{token!r} {unknown[token]:,}" for token in most)
        why = f"{counts}: allowed, denied or nothing? Until it is said, such rows are rejects"
        yield Guess("export.values", "allowed", most, why, decided=False)


def _channel_of(name: str) -> str:
    plain = _plain(name)
    return next((channel for channel, words in _CHANNELS.items() if any(word in plain for word in words)), "")


def _is_opposite(name: str) -> bool:
    words = {word.casefold() for word in _WORD.findall(name)}
    return bool(words & _OPPOSITE_WORDS) or any(word in _plain(name) for word in _OPPOSITE)


def _times(columns: list[_Column]) -> Iterator[Guess]:
    """Yield the columns that may have the time of the consent."""
    for column in columns:
        if column.filled and any(word in _plain(column.name) for word in _TIMES):
            problems = cells.Problems(len(column.cells))
            cells.read_times(column.cells, "", ZoneInfo("UTC"), problems)
            why = "if it is the time of the consent, and not of the row"
            if problems.bad.any():
                why = f"{why}; it has cells that are no ISO 8601 times, which would be rejects"
            yield Guess("export.columns", "consent_changed_at", column.name, why, decided=False)


def _as_of() -> Iterator[Guess]:
    yield Guess(
        "export",
        "as_of",
        "mtime",
        'yours to say: how its age is known. "mtime", "filename:%Y-%m-%d", "column:NAME", "flag" or "none"',
        decided=False,
    )


def _operator(columns: list[_Column]) -> Iterator[Guess]:
    """Yield which brands a file has rows of."""
    names = [column.name for column in columns]
    name = where.operator(names, ())
    brands = [token for column in columns if column.name == name for token in column.tokens if token] if name else []
    if len(brands) > 1:
        yield Guess(
            "export.where", name, brands[0], f"rows of {', '.join(brands[:_MANY])}: which are these?", decided=False
        )
