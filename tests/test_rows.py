from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, LAST_ID, NOTHING, Bytes, Ids, parse_letters, unpack
from sync_job.consent.known import Holdings, Lingering, Obligations, nothing_owed
from sync_job.consent.rows import (
    Lane,
    Rows,
    changed,
    each,
    joined,
    obligations,
    owed_first,
    transitions,
    without_withdrawn,
)
from sync_job.consent.tables import tabulate

VALID = np.array([byte for byte in range(256) if BLANK not in unpack(byte)], np.uint8)  # a State, a Due or a Sent
NOW = 1_000.0


class Planned(NamedTuple):
    """A planned row."""

    lane: int
    client: int
    state: int
    due: int
    sent: int


def _ids(ids: Iterable[int]) -> Ids:
    return np.array(list(ids), np.int32)


def _bytes(values: Iterable[int]) -> Bytes:
    return np.array(list(values), np.uint8)


def _planned(rows: Rows) -> list[Planned]:
    columns = (rows.lane, rows.client, rows.state, rows.due, rows.sent)
    return [Planned(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _rows(rows: Iterable[Planned]) -> Rows:
    lane, client, state, due, sent = zip(*rows, strict=True)
    return Rows(_ids(client), _bytes(state), _bytes(due), _bytes(sent), _bytes(lane))


def _some_rows(many: int) -> Rows:
    random = np.random.default_rng(many)
    state, due, sent = (random.choice(VALID, many) for _ in range(3))
    return Rows(_ids(range(1, many + 1)), state, due, sent, random.choice(_bytes(Lane), many))


class Client(NamedTuple):
    """What is known of one client, and the channels owed to it (one low bit each) until when."""

    state: int
    due: int
    owed: int
    limit: float
    until: float = 0.0
    acknowledged: bool = False


def _leg(clients: dict[int, Client], *, lingering: bool = True) -> list[Planned]:
    held = sorted(client for client, all_ in clients.items() if all_.state or all_.due)
    owed = sorted(client for client, all_ in clients.items() if all_.owed)
    late = sorted(client for client, all_ in clients.items() if all_.until)
    return _planned(
        obligations(
            Holdings(_ids(held), _bytes(clients[i].state for i in held), _bytes(clients[i].due for i in held)),
            Obligations(
                _ids(owed), _bytes(clients[i].owed for i in owed), np.array([clients[i].limit for i in owed], float)
            ),
            Lingering(
                _ids(late),
                np.array([clients[i].until for i in late], float),
                np.array([clients[i].acknowledged for i in late], np.bool_),
            )
            if lingering
            else None,
            NOW,
        )
    )


CLIENTS = st.builds(
    Client,
    state=st.sampled_from([0, *VALID.tolist()]),
    due=st.just(0) | st.sampled_from(VALID.tolist()),
    owed=st.sampled_from([0, 0b01, 0b0100, 0b01010101, 0b00010001]),
    limit=st.sampled_from([1.0, 2.0, 3.0]),
    until=st.sampled_from([0.0, NOW, NOW + 1]),
    acknowledged=st.booleans(),
)
IDS = st.integers(1, 9) | st.sampled_from([1 << 20, 1 << 30, LAST_ID])


@settings(max_examples=150, deadline=None)
@given(clients=st.dictionaries(IDS, CLIENTS, max_size=8))
def test_a_leg_of_obligations_has_denials_alone(clients: dict[int, Client]) -> None:
    """Each client owed, known or not, is sent what is owed and its due denials, by limit, but for what may wait."""
    expected = []
    for client, all_ in clients.items():
        waits = all_.acknowledged and all_.until > NOW
        per_channel = list(zip(*map(unpack, all_[:3]), strict=True))
        goes = [owed and not (waits and (state, due) == (DENIED, DENIED)) for state, due, owed in per_channel]
        if any(goes):
            sent = [
                DENIED if go or due == DENIED else NOTHING for go, (_, due, _) in zip(goes, per_channel, strict=True)
            ]
            byte = sum(value << 2 * place for place, value in enumerate(sent))
            expected.append((all_.limit, Planned(Lane.OBLIGATION, client, all_.state, all_.due, byte)))
    assert _leg(clients) == [row for _, row in sorted(expected)]


def test_what_is_owed_is_sent_though_the_platform_holds_it() -> None:
    """A listed client is sent once, also where State says denied, also if nothing is known of it."""
    denied = parse_letters("F---")
    clients = {1: Client(denied, 0, 1, 5.0), 2: Client(0, 0, 1, 5.0), 3: Client(denied, 0, 0, 5.0)}
    assert [(row.client, row.sent) for row in _leg(clients)] == [(1, denied), (2, denied)]


def test_what_was_acknowledged_in_a_linger_waits_and_a_new_obligation_does_not() -> None:
    """Until the linger ends only the channel that was acknowledged waits; then it is sent once more."""
    both = parse_letters("FF--")
    sms, email = parse_letters("F---"), parse_letters("-F--")
    acknowledged = {1: Client(sms, sms, 0b01, 5.0, NOW + 1, acknowledged=True)}
    assert _leg(acknowledged) == []
    assert [row.sent for row in _leg(acknowledged, lingering=False)] == [sms]
    assert [row.sent for row in _leg({1: acknowledged[1]._replace(until=NOW)})] == [sms]
    assert [row.sent for row in _leg({1: acknowledged[1]._replace(acknowledged=False)})] == [sms]
    assert [row.sent for row in _leg({1: acknowledged[1]._replace(owed=0b0101)})] == [both]
    assert [row.sent for row in _leg({1: acknowledged[1]._replace(state=both, due=0, owed=0b0100)})] == [email]


def test_nothing_is_sent_where_nothing_is_owed() -> None:
    """Whatever is due."""
    assert _leg({1: Client(0xAA, 0x55, 0, 1.0)}) == []
    assert _leg({}) == []


def test_the_owed_go_first_by_their_limits_and_the_others_stay_in_place() -> None:
    """Rows of clients with an obligation move to its lane; equal limits keep the order they had."""
    rows = _rows(
        Planned(lane, client, 0, 0, 1)
        for lane, client in [
            (Lane.WITHDRAWAL, 8),
            (Lane.REVOCATION, 2),
            (Lane.REVOCATION, 6),
            (Lane.DENIAL, 1),
            (Lane.DENIAL, 9),
        ]
    )
    owed = Obligations(_ids([1, 6, 7, 8]), _bytes([1] * 4), np.array([3.0, 5.0, 0.0, 5.0]))
    assert [(row.lane, row.client) for row in _planned(owed_first(rows, owed))] == [
        (Lane.OBLIGATION, 1),
        (Lane.OBLIGATION, 8),
        (Lane.OBLIGATION, 6),
        (Lane.REVOCATION, 2),
        (Lane.DENIAL, 9),
    ]
    assert _planned(owed_first(rows, nothing_owed())) == _planned(rows)


def test_lanes_are_in_sending_order() -> None:
    """What is owed first, grants last."""
    assert sorted(Lane) == [Lane.OBLIGATION, Lane.WITHDRAWAL, Lane.REVOCATION, Lane.DENIAL, Lane.GRANT]


def test_a_channel_is_changed_where_it_differs_or_was_due() -> None:
    """Of all ways in which a row may state its channels; what it does not state is not changed."""
    rows = _some_rows(5_000)
    for row, channels in zip(_planned(rows), changed(rows).tolist(), strict=True):
        for sent, state, due, is_change in zip(*map(unpack, (row.sent, row.state, row.due, channels)), strict=True):
            assert is_change == (sent != NOTHING and (sent != state or due != NOTHING))


@pytest.mark.parametrize("many", [0, 1, 200])
def test_the_transition_matrix_counts_every_row_in_every_channel(many: int) -> None:
    """Per channel the matrix says how many rows go from which State to which Sent."""
    rows = _some_rows(many)
    expected: Counter[tuple[int, int, int]] = Counter()
    for row in _planned(rows):
        expected.update(zip(range(4), unpack(row.state), unpack(row.sent), strict=True))
    matrix = transitions(rows)
    assert {(channel, state, sent): matrix[channel, state, sent] for channel, state, sent in expected} == expected
    assert matrix.sum() == 4 * len(rows)


def test_a_plan_loses_the_grants_that_were_withdrawn_since() -> None:
    """Its denials stay, and a row that only granted what is withdrawn now is dropped."""
    rows = _rows(
        Planned(Lane.GRANT, client, 0, 0, parse_letters(sent))
        for client, sent in [(1, "TT--"), (2, "T---"), (3, "FT--"), (4, "TT--"), (5, "FF--")]
    )
    over = tabulate(_ids([1, 2, 3, 5]), _ids([1, 2, 3, 5]), _bytes([0b01, 0b01, 0b0101, 0b0101]))
    assert [(row.client, row.sent) for row in _planned(without_withdrawn(rows, over))] == [
        (1, parse_letters("-T--")),
        (3, parse_letters("F---")),
        (4, parse_letters("TT--")),
        (5, parse_letters("FF--")),
    ]
    assert all(ALLOWED not in unpack(row.sent & 3) for row in _planned(without_withdrawn(rows, over))[:2])


@pytest.mark.parametrize("start", [0, 1, 4, 9, 10])
def test_rows_are_taken_one_by_one_from_any_place(start: int) -> None:
    """`each` yields place, client and Sent from *start*, whatever the size of its blocks."""
    rows = _some_rows(10)
    expected = list(zip(range(10), rows.client.tolist(), rows.sent.tolist(), strict=True))[start:]
    assert [list(each(rows, start, block=block)) for block in (1, 3, 10, 4096)] == [expected] * 4


def test_rows_chosen_and_joined_again_are_the_same_rows() -> None:
    """Slices, masks and places choose the same way, and `joined` puts parts one after the other."""
    rows = _some_rows(7)
    again = joined([rows.at(slice(0, 2)), rows.at(rows.client == 3), rows.at(np.arange(3, 7)), joined([])])
    assert _planned(again) == _planned(rows)
    assert len(joined([])) == 0
