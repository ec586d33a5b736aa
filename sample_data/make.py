"""Writes two nights of an invented CRM export, with the dirt of real ones.

    python sample_data/make.py [OUT_DIR]

Night 1 is a CSV file, night 2 a Parquet file in which about one percent of the customers changed. The same
seed gives the same bytes each time (for one version of pyarrow). No person is in it: no names, no contacts.
What the files contain and why is told in README.md beside this script.
"""

from __future__ import annotations

import csv
import io
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20261121
CUSTOMERS = 5_000
FIRST_ID = 100_001
NIGHT_1 = "2026-11-21.csv"
NIGHT_2 = "2026-11-22.parquet"
OPT_OUTS = "opt-outs.csv"
DAY_1 = datetime(2026, 11, 21)  # night 1 is as of this midnight, night 2 as of the next

CHANNELS = ("SmsConsent", "EmailConsent", "PushConsent", "ReceiptByEmail")
COLUMNS = ("CustomerId", "Город", "Магазин", "Комментарий", *CHANNELS, "ConsentChangedAt")
COMMENT = COLUMNS.index("Комментарий")
FLAGS = range(COLUMNS.index(CHANNELS[0]), COLUMNS.index(CHANNELS[-1]) + 1)
CHANGED_AT = COLUMNS.index("ConsentChangedAt")

ALLOWED_SHARE = dict(zip(FLAGS, (0.64, 0.49, 0.41, 0.70), strict=True))
BLANK_SHARE = 0.03
ALLOWED = ("true", "1", "да", "Y")
DENIED = ("false", "0", "нет", "N")
TOKEN_WEIGHTS = (91, 4, 3, 2)
BAD_TOKENS = ("maybe", "??", "2") * 4
BAD_IDS = ("abc", "", "", "", "0", "0", "-5", "99999999999", "99999999999", "12.5", "12.5")

CITIES = {  # name: shop prefix, number of shops, weight
    "Москва": ("MSK", 24, 30),
    "Санкт-Петербург": ("SPB", 12, 9),
    "Казань": ("KZN", 7, 10),
    "Самара": ("SMR", 6, 9),
    "Пермь": ("PRM", 5, 8),
    "Омск": ("OMS", 5, 8),
    "Уфа": ("UFA", 5, 8),
    "Тула": ("TUL", 3, 6),
    "Воронеж": ("VRN", 4, 5),
    "Нижний Новгород": ("NNV", 5, 4),
    "Ростов-на-Дону": ("RND", 4, 3),
}
COMMENTS = (
    "карта утеряна, перевыпущена",
    'карта "Золотая"',
    'тариф "Семейный", 2 карты',
    "анкета на кассе",
    "анкета на кассе, без подписи",
    "звонить после 18:00",
    "постоянный покупатель; скидка 5 %",
    "возврат товара, чек найден",
    "переехал,\nновый магазин",
    'акция "3 = 2"\nкупон выдан',
    "перенос из старой CRM",
    "объединить с дублем?",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an export; *place* orders the lines, and no cells at all make a blank line."""

    place: float
    cells: tuple[str, ...]

    def put(self, column: int, cell: str) -> Row:
        """Return this row with another *cell* in *column*."""
        return replace(self, cells=(*self.cells[:column], cell, *self.cells[column + 1 :]))

    def stating(self, flag: bool | None) -> list[int]:
        """Return the columns of the channels that are allowed, denied or blank (None)."""
        return [column for column in FLAGS if _meaning(self.cells[column]) is flag]


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one customer between the nights; no *before* is a sign-up, no *after* a departure."""

    kind: str
    before: Row | None
    after: Row | None


class Deck:
    """The customers in random order, each dealt once, so that nobody is peculiar in two ways."""

    def __init__(self, rows: Iterable[Row], rng: random.Random) -> None:
        self._rows = list(rows)
        rng.shuffle(self._rows)

    def take(self, count: int, wanted: Callable[[Row], object] = lambda _: True) -> list[Row]:
        """Return the next *count* customers that are *wanted*."""
        taken = [row for row in self._rows if wanted(row)][:count]
        self._rows = [row for row in self._rows if row not in taken]
        return taken


def customers(rng: random.Random) -> list[Row]:
    """Return all customers of night 1, by id, without any dirt."""
    rows = []
    number = FIRST_ID
    for place in range(CUSTOMERS):
        rows.append(_customer(rng, number, float(place), _long_ago(rng)))
        number += 1 if rng.random() < 0.97 else rng.randint(2, 6)
    return rows


def conflicting(rng: random.Random, deck: Deck) -> tuple[list[Row], list[Row]]:
    """Return the first rows of twelve customers as they now are, and the rows that contradict them.

    Four have a newer denial, four a newer grant, one a tie; of the last three, a row has no time.
    """
    first, other = [], []
    for number, row in enumerate(deck.take(12, lambda row: row.stating(True) and row.stating(False))):
        newer_grant = 4 <= number < 8
        column = rng.choice(row.stating(not newer_grant))
        changed_at = DAY_1 - timedelta(days=rng.randint(60, 900), seconds=rng.randint(0, 80_000))
        later = changed_at + timedelta(days=rng.randint(1, 50)) if number < 8 else changed_at
        first.append(row.put(CHANGED_AT, changed_at.isoformat()))
        second = row.put(column, _token(rng, newer_grant))
        other.append(_far(rng, second.put(CHANGED_AT, later.isoformat() if number < 9 else "")))
    return first, other


def ragged(rng: random.Random, deck: Deck) -> list[Row]:
    """Return seven torn or overlong copies of rows that also stand whole elsewhere in the file.

    Their customers allow nothing, so that a night without the torn copies releases no grant.
    """
    rows = []
    for length, row in zip((1, 4, 6, 8, 10, 10, 11), deck.take(7, lambda row: not row.stating(True)), strict=True):
        cells = row.cells[:length]
        if length > len(COLUMNS):  # A comment whose commas nobody quoted.
            pieces = ("карта утеряна", " перевыпущена", " выдана")[: length - len(COLUMNS) + 1]
            cells = (*row.cells[:COMMENT], *pieces, *row.cells[COMMENT + 1 :])
        rows.append(_far(rng, replace(row, cells=cells)))
    return rows


def changes(rng: random.Random, deck: Deck, last_id: int) -> list[Change]:
    """Return all that changed between the nights; a customer is in it once, none with a reject or two rows.

    - 20 revoke: allowed -> denied; every fifth on all channels that it allowed, the others on one
    - 6 re-grant: denied -> allowed on one channel
    - 5 newly grant and 5 newly deny: blank -> stated on one channel
    - 2 fall silent after a grant and 2 after a denial: stated -> blank on one channel
    - 12 sign up, with the next ids
    - 3 leave
    - 1 gets an unreadable flag where it denied: a new reject

    Beside these, night 2 has one more row with a bad id, which is nobody's.
    """
    made: list[Change] = []

    def restate(kind: str, count: int, before: bool | None, after: bool | None) -> None:
        for number, row in enumerate(deck.take(count, lambda row: row.stating(before))):
            columns = row.stating(before)
            if kind != "revocation" or number % 5:
                columns = [rng.choice(columns)]
            changed = row.put(CHANGED_AT, _today(rng))
            for column in columns:
                changed = changed.put(column, _token(rng, after))
            made.append(Change(kind, row, changed))

    restate("revocation", 20, True, False)
    restate("re-grant", 6, False, True)
    restate("blank to allowed", 5, None, True)
    restate("blank to denied", 5, None, False)
    restate("allowed to blank", 2, True, None)
    restate("denied to blank", 2, False, None)
    for number in range(12):
        new = _customer(rng, last_id + 1 + number, float(CUSTOMERS + number), _today(rng))
        made.append(Change("sign-up", None, new))
    made += [Change("departure", row, None) for row in deck.take(3)]
    for row in deck.take(1, lambda row: len(row.stating(False)) > 1):
        made.append(Change("new bad flag", row, row.put(row.stating(False)[0], "maybe")))
    return made


def nights() -> tuple[list[Row], list[Row], list[Change]]:
    """Return the rows of both nights in file order, and what changed between them."""
    rng = random.Random(SEED)
    people = customers(rng)
    deck = Deck(people, rng)
    now = {row.place: row for row in people}  # by place, as peculiarities are laid over the clean rows

    copies = [_far(rng, row) for row in deck.take(40)]
    first, other = conflicting(rng, deck)
    bad_flags = [row.put(rng.choice(FLAGS), token) for row, token in zip(deck.take(12), BAD_TOKENS, strict=True)]
    now.update((row.place, row) for row in first + bad_flags)
    bad_ids = [_stray(rng, cell) for cell in BAD_IDS]
    only_csv = ragged(rng, deck) + [Row(_between(rng), ()) for _ in range(6)]
    overnight = changes(rng, deck, int(people[-1].cells[0]))

    extra = copies + other + bad_ids
    night_1 = [*now.values(), *extra, *only_csv]
    for change in overnight:
        if change.before:
            del now[change.before.place]
        if change.after:
            now[change.after.place] = change.after
    night_2 = [*now.values(), *extra, _stray(rng, "abc")]
    return _in_order(night_1), _in_order(night_2), overnight


def csv_bytes(rows: Iterable[Row]) -> bytes:
    """Return *rows* as UTF-8, comma, LF, quoted as in RFC 4180 where a cell needs it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.cells for row in rows)
    return text.getvalue().encode()


def parquet_bytes(rows: Iterable[Row]) -> bytes:
    """Return *rows* as Parquet: strings all, dictionaries where values repeat, null for an empty cell."""
    columns = zip(*(row.cells for row in rows), strict=True)
    arrays = []
    for name, cells in zip(COLUMNS, columns, strict=True):
        array = pa.array([cell or None for cell in cells], pa.string())
        arrays.append(array if name in ("CustomerId", "ConsentChangedAt") else array.dictionary_encode())
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, names=list(COLUMNS)), sink, compression="zstd")
    return sink.getvalue()


def opt_outs() -> str:
    """Return a list of withdrawals as it comes from a mailbox: four grounds, some unknown ids, a torn row, a repeat."""
    rng = random.Random(SEED + 1)
    rows = ["CustomerId,received_at,withdrawn_at,scope,basis,request_ref"]
    numbers = rng.sample(range(100_001, 100_001 + CUSTOMERS), 40)
    for place, number in enumerate(numbers):
        received = DAY_1 + timedelta(hours=rng.randint(8, 20), minutes=rng.randint(0, 59))
        withdrawn = (received - timedelta(hours=rng.randint(1, 40))).isoformat() if place % 3 else ""
        scope = ("marketing", "all", "Sms", "Email Push")[place % 4]
        basis = ("consent-withdrawn", "objection", "erasure", "complaint")[place % 7 % 4]
        rows.append(f"{number},{received.isoformat()},{withdrawn},{scope},{basis},R-{1000 + place}")
    rows.insert(20, "199999,2026-11-21T11:00:00,,marketing,objection,R-0999")  # no customer has this id
    rows.insert(30, "n/a,2026-11-21T12:30:00,,all,objection,R-0998")  # whoever typed it had no id
    rows.append(rows[5])
    return "\n".join(rows) + "\n"


def main(out_dir: Path) -> None:
    """Write both nights into *out_dir*, and print how many rows and changes they have."""
    night_1, night_2, overnight = nights()
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / NIGHT_1).write_bytes(csv_bytes(night_1))
    (out_dir / NIGHT_2).write_bytes(parquet_bytes(night_2))
    (out_dir / OPT_OUTS).write_text(opt_outs(), "utf-8")
    print(f"{NIGHT_1}: {sum(bool(row.cells) for row in night_1)} rows")
    print(f"{NIGHT_2}: {len(night_2)} rows")
    for kind, count in Counter(change.kind for change in overnight).items():
        print(f"  {kind}: {count}")


def _customer(rng: random.Random, number: int, place: float, changed_at: str) -> Row:
    """Return one customer, its flags drawn and its words chosen."""
    city = rng.choices(list(CITIES), [weight for _, _, weight in CITIES.values()])[0]
    prefix, shops, _ = CITIES[city]
    shop = f"{prefix}{rng.randint(1, shops):02}"
    comment = rng.choice(COMMENTS) if rng.random() < 0.08 else ""
    flags = [
        _token(rng, None if rng.random() < BLANK_SHARE else rng.random() < share) for share in ALLOWED_SHARE.values()
    ]
    return Row(place, (str(number), city, shop, comment, *flags, changed_at))


def _stray(rng: random.Random, bad_id: str) -> Row:
    """Return a row somewhere in the file that names no customer."""
    return _customer(rng, 0, _between(rng), _long_ago(rng)).put(0, bad_id)


def _token(rng: random.Random, flag: bool | None) -> str:
    """Return a way to write *flag*, now and then with blanks around it."""
    word = "" if flag is None else rng.choices(ALLOWED if flag else DENIED, TOKEN_WEIGHTS)[0]
    return rng.choice((f" {word}", f"{word} ", f" {word} ")) if rng.random() < 0.01 else word


def _meaning(cell: str) -> bool | None:
    word = cell.strip()
    return True if word in ALLOWED else False if word in DENIED else None


def _long_ago(rng: random.Random) -> str:
    """Return a local time in the four years before night 1, or nothing for one in twelve."""
    if rng.random() < 1 / 12:
        return ""
    return (DAY_1 - timedelta(seconds=rng.randint(1, 4 * 365 * 86_400))).isoformat()


def _today(rng: random.Random) -> str:
    """Return a local time between the nights, in opening hours."""
    return (DAY_1 + timedelta(seconds=rng.randint(9 * 3_600, 22 * 3_600))).isoformat()


def _between(rng: random.Random) -> float:
    """Return a place between two customers."""
    return rng.randrange(10, CUSTOMERS) - 0.5


def _far(rng: random.Random, row: Row) -> Row:
    """Return *row* at least a quarter of the file away from where it stood."""
    shift = rng.randint(CUSTOMERS // 4, CUSTOMERS * 3 // 4)
    return replace(row, place=(row.place + shift) % CUSTOMERS - 0.25)


def _in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.place)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
