from collections import Counter
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent import diff as diffs
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, LAST_ID, NOTHING, Bytes, Ids, pack, parse_letters, unpack
from sync_job.consent.diff import Counts, Diff, Terms, diff, lanes, send
from sync_job.consent.known import Holdings, Known, Lingering, Obligations
from sync_job.consent.rows import Lane, Rows, changed, each, joined, obligations, transitions
from sync_job.consent.rules import Cases, Ruling, decide, decide_all
from sync_job.consent.tables import CHUNK, Slots, Table, tabulate

NOW = 1_000.0
VALID = np.array([byte for byte in range(256) if BLANK not in unpack(byte)], np.uint8)  # a State, a Due or a Sent


class Client(NamedTuple):
    """All that a diff knows of one client; *says* 0 for not in the export, *withdrawn* one low bit a channel."""

    says: int = 0
    state: int = 0
    due: int = 0
    withdrawn: int = 0
    until: float = 0.0
    acknowledged: bool = False
    ungranted: bool = False


class Planned(NamedTuple):
    """A row that a diff plans."""

    lane: int
    client: int
    state: int
    due: int
    sent: int


Population = dict[int, Client]


def _ids(ids: Iterable[int]) -> Ids:
    return np.array(list(ids), np.int32)


def _bytes(values: Iterable[int]) -> Bytes:
    return np.array(list(values), np.uint8)


def _table(clients: dict[int, int]) -> Table:
    ids = _ids(sorted(clients))
    return tabulate(ids, ids, _bytes(clients[client] for client in ids.tolist()))


def _holdings(population: Population) -> Holdings:
    ids = sorted(client for client, all_ in population.items() if all_.state or all_.due)
    return Holdings(_ids(ids), _bytes(population[i].state for i in ids), _bytes(population[i].due for i in ids))


def _diff(population: Population, *, may_grant: bool = True, restate: bool = True) -> Diff:
    lingerers = sorted(client for client, all_ in population.items() if all_.until)
    lingering = Lingering(
        _ids(lingerers),
        np.array([population[client].until for client in lingerers], np.float64),
        np.array([population[client].acknowledged for client in lingerers], np.bool_),
    )
    ungranted = _ids(sorted(client for client, all_ in population.items() if all_.ungranted))
    return diff(
        _table({client: all_.says for client, all_ in population.items() if all_.says}),
        Known(
            _holdings(population),
            _table({client: all_.withdrawn for client, all_ in population.items() if all_.withdrawn}),
            lingering=lingering,
        ),
        Terms(may_grant=may_grant, restate=restate, ungranted=ungranted),
        NOW,
    )


def _planned(rows: Rows) -> list[Planned]:
    columns = (rows.lane, rows.client, rows.state, rows.due, rows.sent)
    return [Planned(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _rulings(client: Client, *, may_grant: bool) -> list[Ruling]:
    values = zip(unpack(client.says), unpack(client.state), unpack(client.due), unpack(client.withdrawn), strict=True)
    granting = may_grant and not client.ungranted
    return [decide(*case, withdrawn=covered == 1, may_grant=granting) for *case, covered in values]


def _one_by_one(population: Population, *, may_grant: bool, restate: bool) -> tuple[list[Planned], Counts, list[int]]:
    """Return rows in sending order, counts, and absent clients, one client and channel at a time."""
    planned, counts, absent = [], Counts(), []
    for client, all_ in sorted(population.items()):
        rulings = _rulings(all_, may_grant=may_grant)
        waits = all_.acknowledged and all_.until > NOW
        sent, changing, would = [], [], False
        for ruling, state, due in zip(rulings, unpack(all_.state), unpack(all_.due), strict=True):
            wanted = ruling.target != NOTHING and (ruling.target != state or due != NOTHING)
            would |= wanted
            changing.append(wanted and not (waits and ruling.target == state and due in (NOTHING, ruling.target)))
            sent.append(ruling.target if changing[-1] or (restate and ruling.target == DENIED) else NOTHING)
        if any(changing):
            denying = [place for place in range(4) if changing[place] and sent[place] == DENIED]
            lane = Lane.DENIAL if denying else Lane.GRANT
            if any(unpack(all_.state)[place] == ALLOWED for place in denying):
                lane = Lane.REVOCATION
            if any(unpack(all_.withdrawn)[place] for place in denying):
                lane = Lane.WITHDRAWAL
            planned.append(Planned(lane, client, all_.state, all_.due, pack(sent)))
        for place, ruling in enumerate(rulings):
            counts.held_channels[place] += ruling.held
            counts.blocked_channels[place] += ruling.blocked
        if not all_.says:
            counts.planned_unstated += any(changing)
            if all_.state or all_.due:
                absent.append(client)
        counts.stated += all_.says != 0
        counts.planned += any(changing)
        if all_.says and not any(changing):
            blocked, held = any(ruling.blocked for ruling in rulings), any(ruling.held for ruling in rulings)
            counts.waiting += would
            counts.blocked += not would and blocked
            counts.held += not would and not blocked and held
            counts.unchanged += not (would or blocked or held)
    counts.absent = len(absent)
    return sorted(planned), counts, absent


def _byte(*values: int) -> st.SearchStrategy[int]:
    return st.sampled_from([pack(channels) for channels in product(values, repeat=4)])


CLIENTS = st.builds(
    Client,
    says=st.just(0) | _byte(DENIED, ALLOWED, BLANK),
    state=st.just(0) | _byte(NOTHING, DENIED, ALLOWED),
    due=st.just(0) | _byte(NOTHING, NOTHING, DENIED, ALLOWED),
    withdrawn=st.just(0) | _byte(0, 0, 1),
    until=st.sampled_from([0.0, 0.0, NOW - 1, NOW, NOW + 1]),
    acknowledged=st.booleans(),
    ungranted=st.booleans(),
)
NEAR = st.integers(1, 12)
FAR = st.sampled_from([1, 2, 900, 1000, 500_000, 1 << 27, 1 << 30, LAST_ID - 1, LAST_ID])
POPULATIONS = st.sampled_from([NEAR, FAR]).flatmap(lambda ids: st.dictionaries(ids, CLIENTS, max_size=9))


@settings(max_examples=200, deadline=None)
@given(population=POPULATIONS, may_grant=st.booleans(), restate=st.booleans())
def test_a_diff_decides_each_client_by_itself(population: Population, may_grant: bool, restate: bool) -> None:
    """Rows, lanes, order, counts and absent clients are those that looking at one client after the other gives."""
    rows, counts, absent = _one_by_one(population, may_grant=may_grant, restate=restate)
    result = _diff(population, may_grant=may_grant, restate=restate)
    assert _planned(result.rows) == rows
    assert result.counts == counts
    assert result.absent.tolist() == absent


@settings(max_examples=80, deadline=None)
@given(population=POPULATIONS, may_grant=st.booleans())
def test_each_stated_client_counts_once(population: Population, may_grant: bool) -> None:
    """Planned, waiting, blocked, held and unchanged add up to the clients that the export states."""
    counts = _diff(population, may_grant=may_grant).counts
    parts = (counts.waiting, counts.blocked, counts.held, counts.unchanged)
    assert counts.stated == counts.planned - counts.planned_unstated + sum(parts)
    assert min(*parts, counts.planned_unstated) >= 0


@settings(max_examples=80, deadline=None)
@given(population=st.dictionaries(NEAR, CLIENTS, max_size=9), may_grant=st.booleans())
def test_ids_far_apart_are_decided_as_ids_close_together(population: Population, may_grant: bool) -> None:
    """Multiplying every id changes the ids of a diff and nothing else."""
    apart = {client * 10_000_019: all_ for client, all_ in population.items()}
    close_by, far_apart = (_diff(clients, may_grant=may_grant) for clients in (population, apart))
    assert _planned(far_apart.rows) == [row._replace(client=row.client * 10_000_019) for row in _planned(close_by.rows)]
    assert far_apart.counts == close_by.counts
    assert far_apart.absent.tolist() == [client * 10_000_019 for client in close_by.absent.tolist()]


def test_an_absent_client_keeps_its_place_when_unknown_clients_withdraw() -> None:
    """What is known of an absent client never becomes another one's, however far apart the ids are."""
    population = {
        1_000_000: Client(says=0xFF),
        1_500_000: Client(state=0x55),
        2_000_000: Client(says=0x55),
        3_000_000: Client(withdrawn=1),
    }
    result = _diff(population)
    assert _planned(result.rows) == [Planned(Lane.DENIAL, 2_000_000, 0, 0, 0x55)]
    assert result.absent.tolist() == [1_500_000]


def test_denials_are_restated_with_a_change_and_grants_are_not() -> None:
    """A row with a change repeats every denied channel, and no allowed one; *restate* off leaves the change alone."""
    client = Client(says=parse_letters("TFTF"), state=parse_letters("TF-F"))
    assert [row.sent for row in _planned(_diff({7: client}).rows)] == [parse_letters("-FTF")]
    assert [row.sent for row in _planned(_diff({7: client}, restate=False).rows)] == [parse_letters("--T-")]


def test_denials_alone_are_never_a_reason_to_send() -> None:
    """A client that the platform is known to hold as stated is not sent, whatever it denies."""
    assert len(_diff({7: Client(says=0x55, state=0x55)}).rows) == 0


def test_a_withdrawal_restated_with_a_grant_stays_a_grant() -> None:
    """An acknowledged withdrawal does not carry a client's grant ahead of other clients' denials."""
    grant = Client(says=parse_letters("TT--") | 0xF0, state=parse_letters("F---"), withdrawn=1)
    revocation = Client(says=parse_letters("F---") | 0xFC, state=parse_letters("T---"))
    assert [(row.client, Lane(row.lane), row.sent) for row in _planned(_diff({3: grant, 9: revocation}).rows)] == [
        (9, Lane.REVOCATION, parse_letters("F---")),
        (3, Lane.GRANT, parse_letters("FT--")),
    ]


def test_grants_are_sent_last() -> None:
    """Withdrawals go first, then revocations, other denials, and grants; by id within a lane."""
    blank = 0b11111100
    population = {
        1: Client(says=blank | ALLOWED),
        2: Client(says=blank | DENIED),
        3: Client(says=blank | DENIED, state=ALLOWED),
        4: Client(says=blank | ALLOWED, state=ALLOWED, withdrawn=1),
        5: Client(says=blank | ALLOWED, due=ALLOWED),
        6: Client(state=ALLOWED, withdrawn=1),
        7: Client(says=pack([ALLOWED, DENIED, BLANK, BLANK])),
    }
    assert [(row.client, row.lane) for row in _planned(_diff(population).rows)] == [
        (4, Lane.WITHDRAWAL),
        (6, Lane.WITHDRAWAL),
        (3, Lane.REVOCATION),
        (2, Lane.DENIAL),
        (7, Lane.DENIAL),
        (1, Lane.GRANT),
        (5, Lane.GRANT),
    ]


def test_a_client_with_a_rejected_row_gets_no_grant() -> None:
    """Of an ungranted client the denials are sent and the grants held, in a run that may grant."""
    says = pack([ALLOWED, DENIED, BLANK, BLANK])
    result = _diff({4: Client(says=says, ungranted=True), 5: Client(says=says)})
    assert [(row.client, row.sent) for row in _planned(result.rows)] == [
        (4, parse_letters("-F--")),
        (5, parse_letters("TF--")),
    ]
    assert result.counts.held_channels == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("until", "acknowledged", "says", "sent"),
    [
        (NOW + 1, True, DENIED, 0),  # waits
        (NOW + 1, True, ALLOWED, ALLOWED),  # its target changed
        (NOW + 1, False, DENIED, DENIED),  # nothing was acknowledged since
        (NOW, True, DENIED, DENIED),  # the linger is over
    ],
)
def test_an_acknowledged_client_that_lingers_waits_for_its_linger_to_end(
    until: float, acknowledged: bool, says: int, sent: int
) -> None:
    """Until then it is planned only if its target changes; afterwards what was acknowledged is sent once more."""
    blank = 0b11111100
    client = Client(blank | says, state=DENIED, due=DENIED, until=until, acknowledged=acknowledged)
    result = _diff({8: client})
    assert [row.sent for row in _planned(result.rows)] == ([sent] if sent else [])
    assert result.counts.waiting == (sent == 0)


@pytest.mark.parametrize("ungranted", [True, False])
def test_a_client_that_waits_counts_as_waiting_alone(ungranted: bool) -> None:
    """Where another channel is held or blocked as well, the client counts once, and the channel still counts."""
    says = pack([DENIED, ALLOWED, BLANK, BLANK])
    email = 0 if ungranted else 0b0100
    client = Client(says, DENIED | email, DENIED, email, NOW + 1, acknowledged=True, ungranted=ungranted)
    counts = _diff({8: client}).counts
    assert (counts.planned, counts.waiting, counts.held, counts.blocked, counts.unchanged) == (0, 1, 0, 0, 0)
    assert counts.held_channels == [0, int(ungranted), 0, 0]
    assert counts.blocked_channels == [0, int(not ungranted), 0, 0]


def _cases(says: Bytes, state: Bytes, due: Bytes, withdrawn: Bytes, may_grant: npt.NDArray[np.bool_]) -> Cases:
    none = np.zeros(len(says), np.uint8)
    return Cases(says, state, due, withdrawn, none, may_grant, none)


def _everyone() -> tuple[Bytes, Bytes]:
    """Return a Statement and a State for every pair of them."""
    says, state = (part.ravel().astype(np.uint8) for part in np.meshgrid(np.arange(256), VALID, indexing="ij"))
    return says, state


def _looked_at(says: Bytes, state: Bytes, *, may_grant: bool, restate: bool) -> npt.NDArray[np.bool_]:
    """Return who is planned or held with nothing due and nothing withdrawn, all being looked at."""
    none = np.zeros(len(says), np.uint8)
    rulings = decide_all(_cases(says, state, none, none, np.full(len(says), may_grant)))
    return np.asarray((send(rulings.target, state, none, none != 0, restate=restate).sent | rulings.held) != 0)


@pytest.mark.parametrize("restate", [True, False])
@pytest.mark.parametrize("may_grant", [True, False])
@pytest.mark.parametrize("ungranted", [True, False])
def test_a_client_passed_over_is_neither_planned_nor_held(may_grant: bool, restate: bool, ungranted: bool) -> None:
    """Of all pairs of Statement and State, those that `diff` does not look at closely need nothing, granted or not."""
    says, state = _everyone()
    quick = diffs._quick(Terms(may_grant=may_grant, restate=restate))[says.astype(np.uint16) << 8 | state]
    quiet = quick & diffs._LOOK == 0
    assert quiet.any()
    assert not quiet.all()
    looked_at = _looked_at(says, state, may_grant=may_grant and not ungranted, restate=restate)
    assert not np.any(quiet & looked_at)
    if not ungranted:
        np.testing.assert_array_equal(~quiet, looked_at)


@pytest.mark.parametrize("restate", [True, False])
@pytest.mark.parametrize("may_grant", [True, False])
@pytest.mark.parametrize("ungranted", [True, False])
def test_every_pair_of_statement_and_state_is_sent_as_the_rules_say(
    may_grant: bool, restate: bool, ungranted: bool
) -> None:
    """One client for each of the 20,736 pairs, with nothing due: each is sent what its rulings make, or nothing."""
    says, state = _everyone()
    ids = np.arange(1, len(says) + 1, dtype=np.int32)
    result = diff(
        Table(Slots(1, len(ids)), says),
        Known(Holdings(ids[state != 0], state[state != 0], np.zeros(np.count_nonzero(state), np.uint8))),
        Terms(may_grant=may_grant, restate=restate, ungranted=ids[: len(ids) * ungranted]),
        NOW,
    )
    none = np.zeros(len(ids), np.uint8)
    rulings = decide_all(_cases(says, state, none, none, np.full(len(ids), may_grant and not ungranted)))
    expected = send(rulings.target, state, none, none != 0, restate=restate).sent
    sent = np.zeros(len(ids), np.uint8)
    sent[result.rows.client - 1] = result.rows.sent
    np.testing.assert_array_equal(sent, expected)


@pytest.mark.parametrize("apart", [1, 1000])
def test_a_table_of_more_slots_than_are_looked_at_in_one_step_is_one_table(apart: int) -> None:
    """Beyond a million slots, dense or sparse, the rows and their order are those of all slots at once."""
    random = np.random.default_rng(apart)
    many = CHUNK + 3_000
    ids = (np.arange(1, many + 1) * apart).astype(np.int32)
    says = random.choice(_bytes([0x55, 0xAA, 0xFF, 0x56, 0]), many)
    state = random.choice(_bytes([0x55, 0xAA, 0xAA, 0]), many)
    due = np.where(random.random(many) < 0.01, random.choice(VALID, many), 0).astype(np.uint8)
    covered = np.where(random.random(many) < 0.01, 1, 0).astype(np.uint8)
    known, stated_ = (state | due) != 0, says != 0
    result = diff(
        tabulate(ids[stated_], ids[stated_], says[stated_]),
        Known(
            Holdings(ids[known], state[known], due[known]),
            tabulate(ids[covered != 0], ids[covered != 0], covered[covered != 0]),
        ),
        Terms(),
        NOW,
    )
    rulings = decide_all(_cases(says, state, due, covered, np.ones(many, np.bool_)))
    sending = send(rulings.target, state, due, np.zeros(many, np.bool_), restate=True)
    lane = lanes(state, sending.sent, sending.changes)
    lane[(sending.changes & covered & ~(sending.sent >> 1)) != 0] = Lane.WITHDRAWAL
    planned = np.flatnonzero(sending.sent)
    planned = planned[np.argsort(lane[planned], kind="stable")]
    for got, expected in (
        (result.rows.client, ids),
        (result.rows.state, state),
        (result.rows.due, due),
        (result.rows.sent, sending.sent),
        (result.rows.lane, lane),
    ):
        np.testing.assert_array_equal(got, expected[planned])
    np.testing.assert_array_equal(result.absent, ids[~stated_ & known])
    assert result.counts.planned == len(planned)
    assert np.unique(result.rows.lane).tolist() == [Lane.WITHDRAWAL, Lane.REVOCATION, Lane.DENIAL, Lane.GRANT]


def test_nobody_is_planned_when_there_is_nobody() -> None:
    """An empty export over an empty snapshot gives no rows, no absent clients, and counts of 0."""
    result = _diff({})
    assert (len(result.rows), result.counts, len(result.absent)) == (0, Counts(), 0)


def test_an_empty_export_makes_every_known_client_absent_and_denies_nobody() -> None:
    """Absence is no statement: nothing is sent to those whom the export lost, but what was due."""
    result = _diff({1: Client(state=0xAA), 2: Client(due=0x02), LAST_ID: Client(state=0x55, due=0x01)})
    assert result.absent.tolist() == [1, 2, LAST_ID]
    assert [(row.client, row.sent) for row in _planned(result.rows)] == [(LAST_ID, 0x01)]


@settings(max_examples=60, deadline=None)
@given(population=POPULATIONS, owed=st.dictionaries(NEAR | FAR, _byte(0, 1).filter(bool), max_size=6))
def test_obligations_are_denials_alone_in_the_first_lane(population: Population, owed: dict[int, int]) -> None:
    """Each client owed is sent its denials and nothing else, known or not, with the State and Due it has."""
    everyone = {client: population.get(client, Client()) for client in owed}
    limits = {client: client % 3 for client in owed}
    ids = _ids(sorted(owed))
    all_owed = Obligations(
        ids, _bytes(owed[i] for i in ids.tolist()), np.array([limits[i] for i in ids.tolist()], float)
    )
    assert [tuple(row) for row in _planned(obligations(_holdings(population), all_owed))] == [
        (Lane.OBLIGATION, client, all_.state, all_.due, owed[client])
        for client, all_ in sorted(everyone.items(), key=lambda one: (limits[one[0]], one[0]))
    ]


@settings(max_examples=60, deadline=None)
@given(population=POPULATIONS, may_grant=st.booleans())
def test_what_a_row_changes_is_told_from_what_it_restates(population: Population, may_grant: bool) -> None:
    """A sent channel is changed where it differs from State or was due, and restated otherwise."""
    rows = _diff(population, may_grant=may_grant).rows
    for row, channels in zip(_planned(rows), changed(rows).tolist(), strict=True):
        for sent, state, due, is_change in zip(
            unpack(row.sent), unpack(row.state), unpack(row.due), unpack(channels), strict=True
        ):
            assert is_change == (sent != NOTHING and (sent != state or due != NOTHING))
            assert is_change or sent in (NOTHING, DENIED)


@settings(max_examples=50, deadline=None)
@given(population=POPULATIONS)
def test_the_transition_matrix_counts_every_row_in_every_channel(population: Population) -> None:
    """Per channel the matrix says how many rows go from which State to which Sent."""
    rows = _diff(population).rows
    expected: Counter[tuple[int, int, int]] = Counter()
    for row in _planned(rows):
        expected.update(zip(range(4), unpack(row.state), unpack(row.sent), strict=True))
    matrix = transitions(rows)
    assert {(channel, state, sent): matrix[channel, state, sent] for channel, state, sent in expected} == expected
    assert matrix.sum() == 4 * len(rows)


def _some_rows(many: int) -> Rows:
    random = np.random.default_rng(many)
    state, due, sent = (random.choice(VALID, many) for _ in range(3))
    return Rows(_ids(range(1, many + 1)), state, due, sent, _bytes([0] * many))


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
