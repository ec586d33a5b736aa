import random
from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, LAST_ID, Bytes, Ids, pack, unpack
from sync_job.consent.tables import UNTIMED, Slots, StatementTable, Table, tabulate, union

# Ids close together, over a wide range, and so far apart that the statements are gathered sorted, not by slot.
NEAR = st.integers(1, 9)
APART = st.integers(1, 200_000)
FAR = st.sampled_from([1, 2, 3, 1 << 27, 1 << 30, LAST_ID - 1, LAST_ID])
STATEMENTS = st.sampled_from([pack(values) for values in product((DENIED, ALLOWED, BLANK), repeat=4)])
TIMES = st.sampled_from([UNTIMED, -5, 0, 1, 2, 3])


class Row(NamedTuple):
    """A row of an export: client, statement byte, time of the consent."""

    client: int
    says: int
    when: int


BLOCKS = st.sampled_from([NEAR, APART, FAR]).flatmap(
    lambda ids: st.lists(st.lists(st.builds(Row, ids, STATEMENTS, TIMES), max_size=8), max_size=6)
)


def _ids(*ids: int) -> Ids:
    return np.array(ids, np.int32)


def _bytes(*values: int) -> Bytes:
    return np.array(values, np.uint8)


def _gathered(blocks: list[list[Row]], *, timed: bool) -> StatementTable:
    table = StatementTable(timed=timed)
    for block in blocks:
        ids, values = _ids(*(row.client for row in block)), _bytes(*(row.says for row in block))
        table.add(ids, values, np.array([row.when for row in block], np.int64) if timed else None)
    return table


def _finished(blocks: list[list[Row]], *, timed: bool) -> tuple[dict[int, int], list[int]]:
    table, conflicting = _gathered(blocks, timed=timed).finish()
    ids, values = table.items()
    assert ids.dtype == np.int32
    assert conflicting.dtype == np.int32
    assert np.all(ids[1:] > ids[:-1])
    return dict(zip(ids.tolist(), values.tolist(), strict=True)), conflicting.tolist()


def _by_the_rule(rows: list[Row], *, timed: bool) -> tuple[dict[int, int], list[int]]:
    """Return the statement of each client by rule 5, and the clients whose rows say both yes and no, row by row."""
    said: dict[int, list[list[tuple[int, int]]]] = {}
    for row in rows:
        channels = said.setdefault(row.client, [[], [], [], []])
        for channel, value in enumerate(unpack(row.says)):
            if value != BLANK:
                channels[channel].append((value, row.when))
    statements, conflicting = {}, []
    for client, channels in sorted(said.items()):
        values = []
        for answers in channels:
            counted = [value for value, _ in answers]
            if timed and answers and all(when != UNTIMED for _, when in answers):
                newest = max(when for _, when in answers)
                counted = [value for value, when in answers if when == newest]
            values.append(DENIED if DENIED in counted else ALLOWED if ALLOWED in counted else BLANK)
        statements[client] = pack(values)
        if any({DENIED, ALLOWED} <= {value for value, _ in answers} for answers in channels):
            conflicting.append(client)
    return statements, conflicting


@settings(max_examples=150, deadline=None)
@given(blocks=BLOCKS, timed=st.booleans())
def test_several_rows_of_a_client_make_one_statement(blocks: list[list[Row]], timed: bool) -> None:
    """Per channel the newest row wins where all have a time, denied at a tie and denied otherwise; else nothing."""
    rows = [row for block in blocks for row in block]
    assert _finished(blocks, timed=timed) == _by_the_rule(rows, timed=timed)


@settings(max_examples=80, deadline=None)
@given(blocks=BLOCKS, timed=st.booleans(), chance=st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_the_blocks_matter(
    blocks: list[list[Row]], timed: bool, chance: random.Random
) -> None:
    """The same rows in another order and cut elsewhere make the same table, and the same clients conflict."""
    rows = [row for block in blocks for row in block]
    chance.shuffle(rows)
    recut: list[list[Row]] = []
    while rows:
        cut = chance.randint(1, len(rows))
        recut.append(rows[:cut])
        rows = rows[cut:]
    assert _finished(recut, timed=timed) == _finished(blocks, timed=timed)


@settings(max_examples=100, deadline=None)
@given(blocks=BLOCKS, timed=st.booleans())
def test_clients_are_counted_while_rows_come_in(blocks: list[list[Row]], timed: bool) -> None:
    """Asking how many clients there are so far is right, and changes nothing."""
    table = StatementTable(timed=timed)
    seen: set[int] = set()
    for block in blocks:
        ids, values = _ids(*(row.client for row in block)), _bytes(*(row.says for row in block))
        table.add(ids, values, np.array([row.when for row in block], np.int64) if timed else None)
        seen |= {row.client for row in block}
        assert table.clients() == len(seen)
    ids, values = table.finish()[0].items()
    assert dict(zip(ids.tolist(), values.tolist(), strict=True)) == _finished(blocks, timed=timed)[0]


def test_rows_without_times_are_untimed_in_a_timed_export() -> None:
    """Where a block brings no times, denied wins over a newer *allowed*."""
    table = StatementTable(timed=True)
    table.add(_ids(5), _bytes(0x55))
    table.add(_ids(5), _bytes(0xAA), np.array([9], np.int64))
    finished, conflicting = table.finish()
    assert finished.of(_ids(5)).tolist() == [0x55]
    assert conflicting.tolist() == [5]


def test_ids_that_jump_far_turn_the_table_sparse_and_lose_nothing() -> None:
    """Rows gathered by slot, and their times, stay when a later block makes slots too many."""
    blocks = [
        [Row(1, 0xAA, 5), Row(2, 0x55, 5), Row(2, 0xAA, 5)],
        [Row(LAST_ID, 0x55, 1), Row(1, 0x55, 6)],
        [Row(2, 0xAA, 9), Row(LAST_ID, 0xAA, 2), Row(LAST_ID, 0xAA, 2)],
    ]
    table, conflicting = _gathered(blocks, timed=True).finish()
    assert table.slots.ids is not None
    assert table.of(_ids(1, 2, LAST_ID, 3)).tolist() == [0x55, 0xAA, 0xAA, 0]
    assert conflicting.tolist() == [1, 2, LAST_ID]


def _filled(many: int, spread_by: int, seed: int) -> tuple[Ids, Bytes]:
    chance = np.random.default_rng(seed)
    ids = chance.integers(1, many // 2, many).astype(np.int32) * spread_by
    values = np.full(many, 0b11111100, np.uint8) | chance.integers(1, 4, many, np.uint8)
    return ids, np.asarray(values, np.uint8)


@pytest.mark.parametrize("last", [1 << 26, (1 << 26) + 1])
def test_the_widest_range_gathered_by_slot_and_the_next_one_make_the_same_table(last: int) -> None:
    """A client at the last slot, or just beyond it, keeps all of its rows."""
    blocks = [[Row(1, 0x55, 1), Row(1, 0xAA, 2)], [Row(last, 0xAA, 1)], [Row(last, 0x55, 1), Row(7, 0xFF, 1)]]
    assert _finished(blocks, timed=True) == ({1: 0xAA, 7: 0xFF, last: 0x55}, [1, last])


@pytest.mark.parametrize("spread_by", [1, 1200])
def test_millions_of_rows_are_brought_together_on_the_way(spread_by: int) -> None:
    """More rows than are kept pending, dense and sparse, make the statements that all rows at once make."""
    ids, values = _filled(2_400_000, spread_by, seed=3)
    gathered = StatementTable()
    for start in range(0, len(ids), 250_000):
        gathered.add(ids[start : start + 250_000], values[start : start + 250_000])
    table, conflicting = gathered.finish()
    assert (table.slots.ids is None) == (spread_by == 1)
    places = ids // spread_by
    no, yes = (np.bincount(places[(values & 3) == value], minlength=len(ids)) > 0 for value in (DENIED, ALLOWED))
    clients = np.flatnonzero(np.bincount(places))
    expected = np.where(no, DENIED, np.where(yes, ALLOWED, BLANK))[clients] | 0b11111100
    np.testing.assert_array_equal(table.items()[0], clients * spread_by)
    np.testing.assert_array_equal(table.items()[1], expected)
    np.testing.assert_array_equal(conflicting, np.flatnonzero(no & yes) * spread_by)


def test_nothing_gathered_is_an_empty_table() -> None:
    """Without rows, and with empty blocks alone, the table has no clients and no slots."""
    for timed in (False, True):
        gathered = StatementTable(timed=timed)
        gathered.add(_ids(), _bytes())
        table, conflicting = gathered.finish()
        assert (gathered.clients(), table.clients(), table.slots.size) == (0, 0, 0)
        assert table.of(_ids(1, LAST_ID)).tolist() == [0, 0]
        assert len(conflicting) == 0


def test_a_dense_table_that_is_mostly_room_is_given_back_sparse() -> None:
    """A range of over eight times the clients is kept as sorted ids once the export is read."""
    close, wide = (_gathered([[Row(1, 0x55, 0), Row(last, 0xAA, 0)]], timed=False).finish()[0] for last in (16, 17))
    assert (close.slots.ids is None, wide.slots.ids is None) == (True, False)
    assert close.items()[0].tolist() == [1, 16]
    assert wide.items()[0].tolist() == [1, 17]


CLIENTS = st.sampled_from([NEAR, APART, FAR]).flatmap(lambda ids: st.dictionaries(ids, STATEMENTS, max_size=8))


def _sorted(ids: Iterable[int]) -> Ids:
    return _ids(*sorted(ids))


def _table(clients: dict[int, int]) -> Table:
    ids = _sorted(clients)
    return tabulate(ids, ids, _bytes(*(clients[client] for client in ids.tolist())))


def _held(table: Table) -> dict[int, int]:
    ids, values = table.items()
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(clients=CLIENTS, more=CLIENTS)
def test_a_table_holds_what_it_was_made_of(clients: dict[int, int], more: dict[int, int]) -> None:
    """`of` has each client's byte and 0 for all others; `items` has all of them in ascending order."""
    table = _table(clients)
    asked = [*clients, *more, 1, LAST_ID]
    assert table.of(_ids(*asked)).tolist() == [clients.get(client, 0) for client in asked]
    assert table.clients() == len(clients)
    assert list(_held(table).items()) == sorted(clients.items())


@settings(max_examples=150, deadline=None)
@given(clients=CLIENTS, more=CLIENTS, still_more=CLIENTS)
def test_widening_a_table_adds_room_and_changes_no_byte(
    clients: dict[int, int], more: dict[int, int], still_more: dict[int, int]
) -> None:
    """`over` gives every id named a slot of its own, and every client keeps its byte."""
    table = _table(clients).over(_sorted(more), _sorted(still_more))
    assert _held(table) == clients
    everyone = _sorted({*clients, *more, *still_more})
    assert table.slots.has(everyone).all()
    slots = table.slots.of(everyone)
    assert len(np.unique(slots)) == len(everyone)
    for slot, client in zip(slots.tolist(), everyone.tolist(), strict=True):
        assert table.slots.clients(0, np.array([slot])).tolist() == [client]
        assert table.values[slot] == clients.get(client, 0)


def test_a_union_has_every_id_once_in_ascending_order() -> None:
    """Ids may repeat within a part and between parts, and parts may be empty or in any order."""
    assert union(_ids(5, 2, 2), _ids(), _ids(LAST_ID, 5, 1)).tolist() == [1, 2, 5, LAST_ID]
    assert union(_ids()).dtype == np.int32


def test_a_table_that_has_room_already_is_the_same_table() -> None:
    """No copy is made where every id has a slot."""
    table = _table({3: 0x55, 5: 0xAA})
    assert table.over(_ids(4, 5), _ids()) is table


@pytest.mark.parametrize("slots", [Slots(LAST_ID - 3, 4), Slots(1, 3, _ids(1, 7, LAST_ID)), Slots(1, 0), Slots(0, 0)])
def test_only_ids_with_a_slot_are_had(slots: Slots) -> None:
    """The last id a signed 32-bit integer can hold is no special case, nor is a table without slots."""
    mine: Callable[[int], bool] = (
        (lambda client: slots.lowest <= client < slots.lowest + slots.size)
        if slots.ids is None
        else set(slots.ids.tolist()).__contains__
    )
    asked: npt.NDArray[np.int32] = _ids(1, 2, 7, 8, LAST_ID - 4, LAST_ID - 3, LAST_ID)
    assert slots.has(asked).tolist() == [mine(client) for client in asked.tolist()]
