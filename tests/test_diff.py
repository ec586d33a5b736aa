from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent import diff as diffs
from sync_job.consent.channels import (
    ALLOWED,
    BLANK,
    DENIED,
    LAST_ID,
    LOW_BITS,
    NOTHING,
    SHIFTS,
    Bytes,
    Ids,
    pack,
    parse_letters,
    unpack,
)
from sync_job.consent.dates import NEVER, Dates
from sync_job.consent.diff import Counts, Diff, Terms, diff, lanes, send
from sync_job.consent.guards import Tally
from sync_job.consent.known import Holdings, Known, Lingering, Obligations
from sync_job.consent.rows import Lane, Rows, changed, joined
from sync_job.consent.rules import FREE, Cases, Change, Hold, Ruling, decide, decide_all
from sync_job.consent.tables import CHUNK, Slots, Table, tabulate

NOW = 1_000.0
VALID = np.array([byte for byte in range(256) if BLANK not in unpack(byte)], np.uint8)  # a State, a Due or a Sent


class Client(NamedTuple):
    """All that a diff knows of one client.

    *says* is 0 for not in the export; *withdrawn* and *owed* are one low bit a channel; *refused* is what waits for its
    next try.
    """

    says: int = 0
    state: int = 0
    due: int = 0
    withdrawn: int = 0
    until: float = 0.0
    acknowledged: bool = False
    ungranted: bool = False
    owed: int = 0
    limit: float = 0.0
    approved: int = 0
    refused: int = 0
    owing: bool = False
    denied_at: float = NEVER


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
    dates = Dates.of(np.array([population[i].denied_at for i in ids], np.float64))
    return Holdings(_ids(ids), _bytes(population[i].state for i in ids), _bytes(population[i].due for i in ids), dates)


def _obligations(population: Population) -> Obligations:
    ids = sorted(client for client, all_ in population.items() if all_.owed)
    limits = np.array([population[client].limit for client in ids], np.float64)
    return Obligations(_ids(ids), _bytes(population[client].owed for client in ids), limits)


def _diff(
    population: Population,
    *,
    may_grant: bool = True,
    restate: bool = True,
    hold: Hold = FREE,
    only_owed: bool = False,
    absent: int = NOTHING,
    as_of: float = np.inf,
    alone: bool = True,
) -> Diff:
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
            _obligations(population),
            lingering,
            _table({client: all_.refused for client, all_ in population.items() if all_.refused}),
        ),
        Terms(
            may_grant=may_grant,
            as_of=as_of,
            alone=alone,
            restate=restate,
            ungranted=ungranted,
            owing=_ids(sorted(client for client, all_ in population.items() if all_.owing)),
            hold=hold,
            approved=_table({client: all_.approved for client, all_ in population.items() if all_.approved}),
            only_owed=only_owed,
            absent=absent,
        ),
        NOW,
    )


def _planned(rows: Rows) -> list[Planned]:
    columns = (rows.lane, rows.client, rows.state, rows.due, rows.sent)
    return [Planned(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


class Asked(NamedTuple):
    """What a diff may do, as `_diff` takes it."""

    may_grant: bool = True
    restate: bool = True
    hold: Hold = FREE
    only_owed: bool = False
    absent: int = NOTHING
    as_of: float = np.inf
    alone: bool = True


class Channel(NamedTuple):
    """One channel of one client, as it is decided."""

    says: int
    state: int
    due: int
    withdrawn: int
    owed: int
    approved: bool
    refused: int
    ruling: Ruling
    older: bool  # what would be granted was not stated after the newest denial
    later: bool  # what may be granted once nothing is owed any more


def _channels(client: Client, asked: Asked) -> list[Channel]:
    gone = not client.says and (client.state or client.due)
    means = asked.absent if gone else client.says
    granting = asked.may_grant and not client.ungranted
    owing = client.owing or client.owed != 0
    denied_at = client.denied_at if client.state or client.due else NEVER
    columns = (means, client.state, client.due, client.withdrawn, client.owed, client.approved, client.refused)
    found = []
    for shift, (says, state, due, withdrawn, owed, approved, refused) in zip(
        SHIFTS, zip(*map(unpack, columns), strict=True), strict=True
    ):
        kinds = {Change.NEW_GRANT} if asked.hold.new_grants else set()
        kinds |= {Change.RE_GRANT} if asked.hold.re_grants else set()
        kinds |= {Change.REVOCATION} if asked.hold.revocations >> shift & 1 else set()
        is_approved = approved == says != NOTHING
        overturns = due == DENIED or (state == DENIED and due != ALLOWED)
        older = asked.as_of < denied_at or (asked.as_of == denied_at and overturns and not asked.alone)
        ruling = decide(
            says,
            state,
            due,
            withdrawn=withdrawn == 1,
            may_grant=granting and not older and not owing,
            owed=owed == 1,
            held=frozenset() if is_approved else frozenset(kinds),
        )
        later = granting and not older and owing and not withdrawn and not is_approved
        later = later and ruling.change in (Change.NEW_GRANT, Change.RE_GRANT)
        found.append(
            Channel(says, state, due, withdrawn, owed, is_approved, refused, ruling, granting and older, later)
        )
    return found


def _is_wanted(one: Channel, *, acknowledged: bool) -> bool:
    """Return whether a channel changes; what was *acknowledged* in a linger does only where it differs from that."""
    target = one.ruling.target
    unsure = one.due != NOTHING or one.owed == 1
    return target != NOTHING and (target != one.state or (unsure and not (acknowledged and target == one.due)))


class Expected(NamedTuple):
    """What a diff is to give."""

    rows: list[Planned]
    counts: Counts
    tally: Tally
    absent: list[int]
    held: list[tuple[int, int, int, int, float]]
    blocked: list[tuple[int, int]]


def _one_by_one(population: Population, asked: Asked) -> Expected:
    """Return what a diff is to give, by looking at one client after the other and at each of its channels."""
    expected = Expected([], Counts(), Tally(), [], [], [])
    places: list[tuple[int, float, int, int]] = []
    for client, all_ in sorted(population.items()):
        channels = _channels(all_, asked)
        acknowledged = all_.acknowledged and all_.until > NOW
        changing = [_is_wanted(one, acknowledged=acknowledged) for one in channels]
        would = any(
            one.ruling.target not in (NOTHING, one.state) or (one.ruling.target and one.due) for one in channels
        )
        same = all(one.ruling.target == one.refused for one, does in zip(channels, changing, strict=True) if does)
        goes = any(changing) and not (all_.refused and not all_.owed and same)
        held, sendable = [one.ruling.held for one in channels], [True] * 4
        if asked.only_owed:
            sendable = [one.owed == 1 for one in channels]
            for place, one in enumerate(channels):
                held[place] |= goes and changing[place] and not one.owed and not one.ruling.blocked
                changing[place] &= one.owed == 1
        planned = goes and any(changing)
        if planned:
            sent = [
                one.ruling.target if may and (does or (asked.restate and one.ruling.target == DENIED)) else NOTHING
                for one, does, may in zip(channels, changing, sendable, strict=True)
            ]
            denying = [
                one for one, does, value in zip(channels, changing, sent, strict=True) if does and value == DENIED
            ]
            lane = Lane.DENIAL if denying else Lane.GRANT
            if any(one.state == ALLOWED for one in denying):
                lane = Lane.REVOCATION
            if any(one.withdrawn for one in denying):
                lane = Lane.WITHDRAWAL
            shown = Lane.OBLIGATION if all_.owed else lane
            places.append((shown, all_.limit if all_.owed else 0.0, lane, len(expected.rows)))
            expected.rows.append(Planned(shown, client, all_.state, all_.due, pack(sent)))
        _count(expected, client, all_, channels, held, planned=planned, waiting=not goes and bool(would))
        _tally(expected.tally, all_, channels, changing if planned else [False] * 4)
    expected.counts.absent = len(expected.absent)
    return expected._replace(rows=[expected.rows[place] for *_, place in sorted(places)])


def _count(
    expected: Expected,
    client: int,
    all_: Client,
    channels: list[Channel],
    held: list[bool],
    *,
    planned: bool,
    waiting: bool,
) -> None:
    counts = expected.counts
    blocked = [one.ruling.blocked for one in channels]
    for place in range(4):
        counts.held_channels[place] += held[place]
        counts.blocked_channels[place] += blocked[place]
    stated = [is_held and one.says in (DENIED, ALLOWED) for one, is_held in zip(channels, held, strict=True)]
    if any(stated):
        says = pack([one.says * said for one, said in zip(channels, stated, strict=True)])
        change = pack([one.ruling.change * said for one, said in zip(channels, stated, strict=True)])
        older = pack(
            [int(one.older and is_held and one.says == ALLOWED) for one, is_held in zip(channels, held, strict=True)]
        )
        expected.held.append((client, says, change, older, all_.denied_at if all_.state or all_.due else NEVER))
    if any(blocked):
        expected.blocked.append((client, pack([int(one) for one in blocked])))
    counts.planned += planned
    if not all_.says:
        counts.planned_unstated += planned
        if all_.state or all_.due:
            expected.absent.append(client)
        return
    counts.stated += 1
    if planned:
        return
    name = "waiting" if waiting else "blocked" if any(blocked) else "held" if any(held) else "unchanged"
    setattr(counts, name, getattr(counts, name) + 1)


def _tally(tally: Tally, all_: Client, channels: list[Channel], changing: list[bool]) -> None:
    is_known = bool(all_.state or all_.due)
    states = any(one.says in (DENIED, ALLOWED) for one in channels) and all_.says != 0
    tally.snapshot += is_known
    tally.stating += states
    tally.known += states and is_known
    tally.lost += any(one.says == BLANK and one.state == ALLOWED for one in channels)
    for place, one in enumerate(channels):
        tally.allowed[place] += one.state == ALLOWED
    counted = [
        one.ruling.change if does and one.ruling.target == one.says and not one.approved else Change.NONE
        for one, does in zip(channels, changing, strict=True)
    ]
    counted = [one.ruling.change if one.later else count for one, count in zip(channels, counted, strict=True)]
    tally.new_grants += Change.NEW_GRANT in counted
    tally.re_grants += Change.RE_GRANT in counted
    for place in range(4):
        tally.revocations[place] += counted[place] == Change.REVOCATION
    tally.changed += (
        is_known
        and all_.says != 0
        and any(
            (
                does
                and not one.approved
                and not one.withdrawn
                and not one.owed
                and one.ruling.target not in (one.state, one.due)
            )
            or one.later
            for one, does in zip(channels, changing, strict=True)
        )
    )


def _found(result: Diff) -> Expected:
    return Expected(
        _planned(result.rows),
        result.counts,
        result.tally,
        result.absent.tolist(),
        list(zip(*(column.tolist() for column in result.held), strict=True)),
        list(zip(*(column.tolist() for column in result.blocked), strict=True)),
    )


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
    owed=st.just(0) | st.just(0) | _byte(0, 1),
    limit=st.sampled_from([5.0, 6.0, 7.0]),
    approved=st.just(0) | _byte(NOTHING, DENIED, ALLOWED),
    refused=st.just(0) | _byte(NOTHING, DENIED, ALLOWED),
    owing=st.sampled_from([False, False, True]),
    denied_at=st.sampled_from([NEVER, NEVER, 10.0, 20.0, 30.0]),
)
NEAR = st.integers(1, 12)
FAR = st.sampled_from([1, 2, 900, 1000, 500_000, 1 << 27, 1 << 30, LAST_ID - 1, LAST_ID])
POPULATIONS = st.sampled_from([NEAR, FAR]).flatmap(lambda ids: st.dictionaries(ids, CLIENTS, max_size=9))
HOLDS = st.just(FREE) | st.builds(Hold, st.booleans(), st.booleans(), _byte(0, 1))
ASKED = st.builds(
    Asked,
    st.booleans(),
    st.booleans(),
    HOLDS,
    st.booleans(),
    st.sampled_from([0, 0, 0x55, 0x11]),
    st.sampled_from([np.inf, 20.0]),
    st.booleans(),
)


@settings(max_examples=250, deadline=None)
@given(population=POPULATIONS, asked=ASKED)
def test_a_diff_decides_each_client_by_itself(population: Population, asked: Asked) -> None:
    """Rows, order, counts, tally, held, blocked and absent are those that looking at one client at a time gives."""
    assert _found(_diff(population, **asked._asdict())) == _one_by_one(population, asked)


@settings(max_examples=80, deadline=None)
@given(population=POPULATIONS, asked=ASKED)
def test_each_stated_client_counts_once(population: Population, asked: Asked) -> None:
    """Planned, waiting, blocked, held and unchanged add up to the clients that the export states."""
    counts = _diff(population, **asked._asdict()).counts
    parts = (counts.waiting, counts.blocked, counts.held, counts.unchanged)
    assert counts.stated == counts.planned - counts.planned_unstated + sum(parts)
    assert min(*parts, counts.planned_unstated) >= 0


@settings(max_examples=60, deadline=None)
@given(population=st.dictionaries(NEAR, CLIENTS, max_size=9), asked=ASKED)
def test_ids_far_apart_are_decided_as_ids_close_together(population: Population, asked: Asked) -> None:
    """Multiplying every id changes the ids of a diff and nothing else."""
    by = 10_000_019
    close_by = _found(_diff(population, **asked._asdict()))
    assert _found(_diff({client * by: all_ for client, all_ in population.items()}, **asked._asdict())) == Expected(
        [row._replace(client=row.client * by) for row in close_by.rows],
        close_by.counts,
        close_by.tally,
        [client * by for client in close_by.absent],
        [(client * by, says, change, older, at) for client, says, change, older, at in close_by.held],
        [(client * by, channels) for client, channels in close_by.blocked],
    )


@settings(max_examples=80, deadline=None)
@given(population=POPULATIONS, asked=ASKED)
def test_only_obligations_are_sent_where_the_ids_look_renumbered(population: Population, asked: Asked) -> None:
    """Then no row states a channel that is not owed, and what the guards hold else does not matter to it."""
    rows = _planned(_diff(population, **asked._replace(only_owed=True)._asdict()).rows)
    for row in rows:
        assert row.lane == Lane.OBLIGATION
        assert not row.sent & ~population[row.client].owed
    assert rows == _planned(_diff(population, **asked._replace(only_owed=True, hold=FREE)._asdict()).rows)


@settings(max_examples=80, deadline=None)
@given(population=POPULATIONS, asked=ASKED)
def test_to_whom_a_denial_is_owed_is_sent_denials_alone(population: Population, asked: Asked) -> None:
    """Every client owed is sent all that is owed, whatever the guards hold, in the first lane and with no grant."""
    rows = {row.client: row for row in _planned(_diff(population, **asked._asdict()).rows)}
    for client, all_ in population.items():
        if all_.owed and not (all_.acknowledged and all_.until > NOW):
            assert rows[client].lane == Lane.OBLIGATION
            assert rows[client].sent & all_.owed == all_.owed
            assert ALLOWED not in unpack(rows[client].sent)


@settings(max_examples=80, deadline=None)
@given(population=POPULATIONS, asked=ASKED)
def test_what_was_refused_waits_until_anything_else_is_to_be_changed(population: Population, asked: Asked) -> None:
    """A row waits exactly when nothing but what was refused would change, and no denial is owed."""
    tried = {client: all_._replace(refused=0) for client, all_ in population.items()}
    would = _diff(tried, **asked._asdict()).rows
    sending = {row.client: row for row in _planned(_diff(population, **asked._asdict()).rows)}
    for row, channels in zip(_planned(would), changed(would).tolist(), strict=True):
        all_ = population[row.client]
        same = [
            sent == refused
            for sent, refused, does in zip(*map(unpack, (row.sent, all_.refused, channels)), strict=True)
            if does
        ]
        waits = all_.refused != 0 and not all_.owed and all(same)
        if not all_.acknowledged:  # else some of the channels wait for another reason
            assert (row.client not in sending) == waits
        if row.client in sending:
            assert sending[row.client] == row


@settings(max_examples=60, deadline=None)
@given(population=POPULATIONS, asked=ASKED, held=HOLDS)
def test_what_the_guards_hold_is_what_they_counted(population: Population, asked: Asked, held: Hold) -> None:
    """Held rows change what was counted without a hold, approved ones neither; what is not held is sent as before.

    Who is owed a denial is counted either way, for the grant may follow in the run.
    """
    fresh = {client: all_._replace(refused=0, until=0.0, owed=0, owing=False) for client, all_ in population.items()}
    free = _diff(fresh, **asked._replace(hold=FREE, only_owed=False)._asdict())
    result = _diff(fresh, **asked._replace(hold=held, only_owed=False)._asdict())
    found = [unpack(change) for change in result.held.change.tolist()]
    if held.new_grants and asked.may_grant:
        assert sum(Change.NEW_GRANT in change for change in found) >= free.tally.new_grants
        assert result.tally.new_grants == 0
    if held.re_grants and asked.may_grant:
        assert sum(Change.RE_GRANT in change for change in found) >= free.tally.re_grants
        assert result.tally.re_grants == 0
    for place, shift in enumerate(SHIFTS):
        if held.revocations >> shift & 1:
            count = sum(change[place] == Change.REVOCATION for change in found)
            assert (count, result.tally.revocations[place]) == (free.tally.revocations[place], 0)
        else:
            assert result.tally.revocations[place] == free.tally.revocations[place]


def test_the_absent_are_denied_where_that_is_what_absence_means() -> None:
    """What is known of them is denied in the channels that the export has; they stay absent, and state nothing."""
    population = {1: Client(state=parse_letters("TT--")), 2: Client(says=0x55), 3: Client(due=parse_letters("T---"))}
    result = _diff(population, absent=0x05)
    assert [(row.client, row.lane, row.sent) for row in _planned(result.rows)] == [
        (1, Lane.REVOCATION, parse_letters("FF--")),
        (2, Lane.DENIAL, parse_letters("FFFF")),
        (3, Lane.DENIAL, parse_letters("FF--")),
    ]
    assert result.absent.tolist() == [1, 3]
    assert (result.counts.stated, result.counts.planned, result.counts.planned_unstated) == (1, 3, 2)
    assert (result.tally.stating, result.tally.known, result.tally.revocations) == (1, 0, [1, 1, 0, 0])


def test_the_absent_are_guarded_as_if_the_export_denied_them() -> None:
    """Their revocations are held like any other, and listed."""
    result = _diff({1: Client(state=0xAA), 2: Client(state=0x02)}, absent=0x55, hold=Hold(revocations=0b0001))
    assert [(row.client, row.sent) for row in _planned(result.rows)] == [
        (1, parse_letters("-FFF")),
        (2, parse_letters("-FFF")),
    ]
    assert (result.held.client.tolist(), result.held.stated.tolist()) == ([1, 2], [0x01, 0x01])


def test_an_approval_lets_through_what_was_approved_and_nothing_else() -> None:
    """A grant that was approved is sent and counts no more; a revocation of that channel is held and counts."""
    hold = Hold(new_grants=True, revocations=0x55)
    blank = 0b11111100
    population = {
        1: Client(says=blank | ALLOWED, approved=ALLOWED),
        2: Client(says=blank | ALLOWED),
        3: Client(says=blank | DENIED, state=ALLOWED, approved=ALLOWED),
        4: Client(says=blank | DENIED, state=ALLOWED, approved=DENIED),
    }
    result = _diff(population, hold=hold)
    assert [row.client for row in _planned(result.rows)] == [4, 1]
    assert result.held.client.tolist() == [2, 3]
    assert result.held.change.tolist() == [Change.NEW_GRANT, Change.REVOCATION]
    tally = _diff(population).tally
    assert (tally.new_grants, tally.revocations, tally.changed) == (1, [1, 0, 0, 0], 1)


def test_obligations_go_by_their_limit_before_all_others() -> None:
    """The earliest limit first, whatever the lane of the row would be otherwise; then the others as ever."""
    blank = 0xFF
    population = {
        1: Client(says=blank, withdrawn=1, owed=1, limit=9.0, state=ALLOWED),
        2: Client(says=blank, withdrawn=1, state=ALLOWED),
        3: Client(due=DENIED, owed=1, limit=3.0),
        4: Client(says=blank, withdrawn=1, owed=1, limit=3.5, state=DENIED),
    }
    assert [(row.client, row.lane) for row in _planned(_diff(population).rows)] == [
        (3, Lane.OBLIGATION),
        (4, Lane.OBLIGATION),
        (1, Lane.OBLIGATION),
        (2, Lane.WITHDRAWAL),
    ]


def test_withdrawals_do_not_make_ids_look_renumbered() -> None:
    """A channel that a withdrawal denies says nothing of the export, and does not count as changed by it."""
    population = {1: Client(says=0xFF, state=0x0A, withdrawn=0x05), 2: Client(says=0x57, state=0xAA)}
    result = _diff(population)
    assert len(result.rows) == 2
    assert result.tally.changed == 1


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
    return Cases(says, state, due, withdrawn, none, np.where(may_grant, LOW_BITS, 0).astype(np.uint8), none)


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


class Crowd(NamedTuple):
    """Very many clients, an entry a client in every column, ids ascending."""

    client: Ids
    says: Bytes
    state: Bytes
    due: Bytes
    withdrawn: Bytes
    owed: Bytes
    approved: Bytes
    refused: Bytes

    def at(self, part: slice) -> "Crowd":
        """Return some of them."""
        return Crowd(self.client[part], *(column[part] for column in self[1:]))

    def table(self, values: Bytes) -> Table:
        """Return one column as a table."""
        return tabulate(self.client[values != 0], self.client[values != 0], values[values != 0])


def _limits(ids: Ids) -> npt.NDArray[np.float64]:
    """Return a limit for each client, no two alike and in no order of their ids."""
    return ids % 8191 + ids / 2**31


def _crowd_diff(crowd: Crowd, terms: Terms) -> Diff:
    here, owing = (crowd.state | crowd.due) != 0, crowd.owed != 0
    ids, late = crowd.client[owing], crowd.client[crowd.client % 7 == 0]
    return diff(
        crowd.table(crowd.says),
        Known(
            Holdings(crowd.client[here], crowd.state[here], crowd.due[here]),
            crowd.table(crowd.withdrawn),
            Obligations(ids, crowd.owed[owing], _limits(ids)),
            Lingering(late, np.full(len(late), NOW + 1), late % 2 == 0),
            crowd.table(crowd.refused),
        ),
        replace(terms, approved=crowd.table(crowd.approved), ungranted=crowd.client[crowd.client % 11 == 0]),
        NOW,
    )


@pytest.mark.parametrize("only_owed", [False, True])
@pytest.mark.parametrize("apart", [1, 1000])
def test_a_crowd_is_decided_as_its_parts(apart: int, only_owed: bool) -> None:
    """Beyond a million slots, cut anywhere, the parts give the same rows, counts, tally, held and blocked together."""
    random = np.random.default_rng(apart + only_owed)
    many = CHUNK + 3_000

    def some(share: float, values: Bytes) -> Bytes:
        return np.where(random.random(many) < share, random.choice(values, many), 0).astype(np.uint8)

    bits = _bytes([1, 4, 0x55, 0x11])
    crowd = Crowd(
        (np.arange(1, many + 1) * apart).astype(np.int32),
        some(0.95, _bytes([0x55, 0xAA, 0xFF, 0x56])),
        some(0.9, _bytes([0x55, 0xAA, 0xAA])),
        some(0.02, VALID),
        some(0.02, bits),
        some(0.01, bits),
        some(0.02, VALID),
        some(0.02, VALID),
    )
    terms = Terms(hold=Hold(True, False, 0x11), only_owed=only_owed, absent=0x05)
    cuts = [0, 5, many // 3, CHUNK - 1, CHUNK + 1, many]
    parts = [_crowd_diff(crowd.at(slice(*cut)), terms) for cut in pairwise(cuts)]
    whole = _crowd_diff(crowd, terms)
    rows = joined([part.rows for part in parts])
    limits = np.where(rows.lane == Lane.OBLIGATION, _limits(rows.client), 0.0)
    rows = rows.at(np.lexsort((rows.client, limits, rows.lane)))
    for name in ("client", "state", "due", "sent", "lane"):
        np.testing.assert_array_equal(getattr(whole.rows, name), getattr(rows, name))
    for one in ("counts", "tally"):
        added: dict[str, object] = {}
        for name, value in vars(getattr(whole, one)).items():
            values = [getattr(getattr(part, one), name) for part in parts]
            added[name] = (
                [sum(column) for column in zip(*values, strict=True)] if isinstance(value, list) else sum(values)
            )
        assert vars(getattr(whole, one)) == added
    np.testing.assert_array_equal(whole.absent, np.concatenate([part.absent for part in parts]))
    for place, column in enumerate(whole.held):
        np.testing.assert_array_equal(column, np.concatenate([part.held[place] for part in parts]))
    for place, channels in enumerate(whole.blocked):
        np.testing.assert_array_equal(channels, np.concatenate([part.blocked[place] for part in parts]))
    assert whole.counts.planned > 1000
    assert only_owed or whole.counts.held > 1000


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
