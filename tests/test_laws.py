"""The laws of consent: for one channel in every case, and for whole populations from a diff to the next."""

from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, LAST_ID, NOTHING, Bytes, Ids, pack
from sync_job.consent.diff import Diff, Terms, diff, send
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Channel, Ending, Endings, Folded, Outcome, fold, settle
from sync_job.consent.known import Holdings, Known, Lingering, no_lingering
from sync_job.consent.rows import Rows
from sync_job.consent.rules import Change, Ruling, asked, decide
from sync_job.consent.tables import Table, tabulate

NOW, LINGER_S = 1_000.0, 120.0


class Case(NamedTuple):
    """One channel of one client when a run looks at it."""

    says: int
    state: int
    due: int
    withdrawn: bool
    may_grant: bool
    owed: bool = False
    held: frozenset[Change] = frozenset()


KINDS = (Change.NEW_GRANT, Change.RE_GRANT, Change.REVOCATION)
HELD = [frozenset(kinds) for count in range(4) for kinds in combinations(KINDS, count)]
FLAGS = (False, True)
CASES = [Case(*case) for case in product(range(4), range(3), range(3), FLAGS, FLAGS, FLAGS, HELD)]


def _ruling(case: Case) -> Ruling:
    return decide(
        case.says,
        case.state,
        case.due,
        withdrawn=case.withdrawn,
        may_grant=case.may_grant,
        owed=case.owed,
        held=case.held,
    )


def _target(case: Case) -> int:
    return _ruling(case).target


def _is_fresh(case: Case) -> bool:
    """Return whether the run may send an *allowed* of the channel, by what the case says alone."""
    grants = case.says == ALLOWED and case.may_grant and not case.withdrawn
    return grants and _asked(case) not in case.held


def _asked(case: Case) -> Change:
    """Return what the export asks for; what is owed is due, so against it an *allowed* is a re-grant."""
    return asked(case.says, case.state, DENIED if case.owed else case.due)


def _sent(case: Case, *, waits: bool = False, with_others: bool = False, restate: bool = True) -> int:
    """Return what the request says of the channel, alone or in a row that another channel has sent."""
    return _stated(_target(case), case.state, case.due, case.owed, waits, with_others, restate)


@cache
def _stated(target: int, state: int, due: int, owed: bool, waits: bool, with_others: bool, restate: bool) -> int:
    columns = ((target, ALLOWED if with_others else NOTHING), (state, NOTHING), (due, NOTHING), (owed, 0))
    target_, state_, due_, owed_ = (np.array([pack([mine, its, 0, 0])], np.uint8) for mine, its in columns)
    return int(send(target_, state_, due_, np.array([waits]), restate=restate, owed=owed_).sent[0]) & 3


def _sendings() -> Iterator[tuple[Case, int]]:
    """Yield every case with every way in which a row may be made of it."""
    for case, waits, with_others, restate in product(CASES, (False, True), (False, True), (False, True)):
        yield case, _sent(case, waits=waits, with_others=with_others, restate=restate)


def _afterwards(channel: Channel) -> Iterator[Case]:
    """Yield every case in which the next run may find the channel, owed or not, whatever the guards hold then."""
    for case in CASES:
        if (case.state, case.due) == (0, 0):
            yield case._replace(state=channel.state, due=channel.due)


def test_no_withdrawn_channel_is_ever_sent_as_allowed() -> None:
    """A withdrawal outlives whatever State, Due and the export say."""
    assert all(sent != ALLOWED for case, sent in _sendings() if case.withdrawn)


def test_nothing_stated_never_grants() -> None:
    """Neither an absent client nor a blank cell is sent as allowed, even where an *allowed* is due."""
    assert all(sent != ALLOWED for case, sent in _sendings() if case.says in (NOTHING, BLANK))


def test_restrict_only_never_grants() -> None:
    """A run that may not grant sends no *allowed*."""
    assert all(sent != ALLOWED for case, sent in _sendings() if not case.may_grant)


def test_allowed_is_sent_only_where_the_export_says_so() -> None:
    """An *allowed* that is sent stands in the export of that very run."""
    granted = [case for case, sent in _sendings() if sent == ALLOWED]
    assert granted
    assert all(case.says == ALLOWED for case in granted)


def test_a_denied_channel_that_differs_is_always_sent() -> None:
    """What is to be denied is sent wherever the platform is not known to hold it, or a denial is owed."""
    for case in CASES:
        if _target(case) == DENIED and ((case.state, case.due) != (DENIED, NOTHING) or case.owed):
            assert _sent(case) == DENIED, case


def test_what_the_export_denies_is_sent_unless_a_guard_holds_it() -> None:
    """Only a revocation is ever held: any other denial is sent until State is denied and nothing is due."""
    for case in CASES:
        is_held = Change.REVOCATION in case.held and case.state == ALLOWED and case.due != DENIED
        is_held &= not case.owed and not case.withdrawn
        if case.says == DENIED and not is_held and (case.state, case.due) != (DENIED, NOTHING):
            assert _sent(case) == DENIED, case


def test_an_obligation_is_never_held() -> None:
    """What is owed now is sent as denied in every case but one: an *allowed* that may be granted has overtaken it."""
    for case in CASES:
        if case.owed:
            assert _sent(case) == (ALLOWED if _is_fresh(case) else DENIED), case


def test_a_guard_holds_just_the_changes_that_it_is_told_to() -> None:
    """A held change is not sent, nor stated along with another channel; all else is ruled as without guards."""
    for case in CASES:
        change, free = _asked(case), case._replace(held=frozenset())
        if case.withdrawn or change not in case.held:
            assert _ruling(case) == _ruling(free), case
            continue
        assert _ruling(case).held or not case.may_grant, case
        due = DENIED if case.due == DENIED or case.owed else NOTHING
        assert (_target(case), _sent(case), _sent(case, with_others=True)) == (due, due, due), case
        # What a person lets through is sent as if nothing had been held.
        if change == Change.REVOCATION or case.may_grant:
            assert _sent(free) == case.says, case


@pytest.mark.parametrize("lingers", [False, True])
@pytest.mark.parametrize("ending", [Ending.NOT_APPLIED, Ending.IN_DOUBT])
def test_a_denial_is_sent_until_acknowledged_or_overtaken(ending: Ending, lingers: bool) -> None:
    """Whatever the next export says, a denial that was not acknowledged goes out again, but for a fresh *allowed*."""
    for case in CASES:
        if _sent(case) != DENIED:
            continue
        for following in _afterwards(settle(case.state, case.due, DENIED, ending, lingers=lingers)):
            if not following.owed and (case.state, case.due) == (DENIED, NOTHING):
                continue  # the platform is known to hold it; an obligation whose next try has not come may wait
            assert _sent(following) == (ALLOWED if _is_fresh(following) else DENIED), (case, following)


def test_a_stale_allowed_never_cancels_a_due_denial() -> None:
    """Where the run may not grant, a denial that is due is sent against the export's *allowed*."""
    stale = [case for case in CASES if case.says == ALLOWED and not case.may_grant and case.due == DENIED]
    assert {_sent(case) for case in stale} == {DENIED}


def test_a_grant_refused_leaves_a_due_denial_due() -> None:
    """An *allowed* overtakes a denial only when it may have been applied."""
    for state, lingers in product(range(3), (False, True)):
        assert settle(state, DENIED, ALLOWED, Ending.NOT_APPLIED, lingers=lingers).due == DENIED


def test_deciding_again_after_delivery_sends_nothing() -> None:
    """A delivered channel is settled, and nothing is owed of it: the same run again would not send it."""
    for case in CASES:
        if sent := _sent(case):
            after = settle(case.state, case.due, sent, Ending.DELIVERED, lingers=False)
            assert _sent(case._replace(state=after.state, due=after.due, owed=False)) == NOTHING, case


def test_a_lingering_client_is_sent_once_more_after_its_linger() -> None:
    """What it acknowledged waits while it lingers, is sent again afterwards, and then never more."""
    for case in CASES:
        if sent := _sent(case):
            late = settle(case.state, case.due, sent, Ending.DELIVERED, lingers=True)
            waiting = case._replace(state=late.state, due=late.due)
            assert (_sent(waiting, waits=True), _sent(waiting)) == (NOTHING, sent), case
            after = settle(late.state, late.due, sent, Ending.DELIVERED, lingers=False)
            assert _sent(case._replace(state=after.state, due=after.due, owed=False)) == NOTHING, case


def test_one_clean_run_makes_state_equal_to_the_rules() -> None:
    """From any State and Due, delivering what is sent leaves every channel with a target at it, and nothing due."""
    for case in CASES:
        target, sent = _target(case), _sent(case)
        after = settle(case.state, case.due, sent, Ending.DELIVERED, lingers=False)
        expected = Channel(target, NOTHING) if target else Channel(case.state, case.due)
        assert after == expected, case


class Client(NamedTuple):
    """One client of a population."""

    says: int
    state: int
    due: int
    withdrawn: int
    outcome: Outcome
    denials: Outcome
    doubt: int


class World(NamedTuple):
    """A population, and whether its runs may grant and restate."""

    clients: dict[int, Client]
    may_grant: bool
    restate: bool


def _byte(*values: int) -> st.SearchStrategy[int]:
    return st.sampled_from([pack(channels) for channels in product(values, repeat=4)])


CLIENTS = st.builds(
    Client,
    says=st.just(0) | _byte(DENIED, ALLOWED, BLANK),
    state=_byte(NOTHING, DENIED, ALLOWED),
    due=st.just(0) | _byte(NOTHING, NOTHING, DENIED, ALLOWED),
    withdrawn=st.just(0) | _byte(0, 0, 1),
    outcome=st.sampled_from(Outcome),
    denials=st.sampled_from(Outcome),
    doubt=st.sampled_from([0, 0, DOUBT_WHOLE, DOUBT_DENIALS, DOUBT_WHOLE | DOUBT_DENIALS]),
)
IDS = st.integers(1, 9) | st.sampled_from([1 << 20, 1 << 30, LAST_ID])
WORLDS = st.builds(World, st.dictionaries(IDS, CLIENTS, max_size=8), st.booleans(), st.booleans())


def _ids(ids: list[int]) -> Ids:
    return np.array(ids, np.int32)


def _table(values: dict[int, int]) -> Table:
    ids = sorted(client for client, value in values.items() if value)
    return tabulate(_ids(ids), _ids(ids), np.array([values[client] for client in ids], np.uint8))


def _holdings(world: World) -> Holdings:
    ids = sorted(client for client, all_ in world.clients.items() if all_.state or all_.due)
    state, due = ([getattr(world.clients[client], name) for client in ids] for name in ("state", "due"))
    return Holdings(_ids(ids), np.array(state, np.uint8), np.array(due, np.uint8))


def _diff(world: World, holdings: Holdings, lingering: Lingering, now: float) -> Diff:
    return diff(
        _table({client: all_.says for client, all_ in world.clients.items()}),
        Known(
            holdings,
            _table({client: all_.withdrawn for client, all_ in world.clients.items()}),
            lingering=lingering,
        ),
        Terms(may_grant=world.may_grant, restate=world.restate),
        now,
    )


def _endings(world: World, rows: Rows, *, repeated: bool) -> Endings:
    """Return how each row ended; denials are *repeated* without grants only of rows that were refused."""
    ended = [world.clients[client] for client in rows.client.tolist()]
    denials = [all_.denials if repeated and all_.outcome == Outcome.REFUSED else Outcome.OPEN for all_ in ended]
    doubt = [
        all_.doubt if answer != Outcome.OPEN else all_.doubt & DOUBT_WHOLE
        for all_, answer in zip(ended, denials, strict=True)
    ]
    return Endings(
        np.array([all_.outcome for all_ in ended], np.uint8),
        np.array(denials, np.uint8),
        np.array(doubt, np.uint8),
        np.where(np.array(doubt, np.uint8) != 0, NOW + 5, 0.0),
    )


def _all(outcome: Outcome, rows: Rows) -> Endings:
    none: Bytes = np.zeros(len(rows), np.uint8)
    return Endings(np.full(len(rows), outcome, np.uint8), none, none, np.zeros(len(rows)))


def _fold(holdings: Holdings, lingering: Lingering, rows: Rows, endings: Endings) -> Folded:
    return fold(holdings, lingering, rows, endings, started=NOW, now=NOW + 10, linger_s=LINGER_S)


def _values(part: Folded | Rows) -> list[list[float]]:
    if isinstance(part, Rows):
        return [column.tolist() for column in (part.client, part.state, part.due, part.sent, part.lane)]
    holdings, lingering = part
    columns = (holdings.client, holdings.state, holdings.due)
    return [*(column.tolist() for column in columns), *(np.asarray(column).tolist() for column in lingering)]


EVERYONE = st.sampled_from([0.0, NOW + 5, NOW + 50])
LATE = st.dictionaries(IDS, st.tuples(st.sampled_from([NOW + 50, NOW + 5]), st.booleans()), max_size=4)


def _lingering(late: dict[int, tuple[float, bool]], everyone: float) -> Lingering:
    ids = sorted(late)
    until, acknowledged = ([late[client][place] for client in ids] for place in range(2))
    return Lingering(_ids(ids), np.array(until, np.float64), np.array(acknowledged, np.bool_), everyone)


@settings(max_examples=40, deadline=None)
@given(world=WORLDS, late=LATE, everyone=EVERYONE)
def test_folding_twice_is_folding_once(world: World, late: dict[int, tuple[float, bool]], everyone: float) -> None:
    """A leg folded again onto its own result, by who lingered when it was planned, changes nothing."""
    holdings, lingering = _holdings(world), _lingering(late, everyone)
    rows = _diff(world, holdings, lingering, NOW).rows
    endings = _endings(world, rows, repeated=True)
    once = _fold(holdings, lingering, rows, endings)
    assert _values(_fold(once.holdings, lingering, rows, endings)) == _values(once)


@settings(max_examples=40, deadline=None)
@given(world=WORLDS, late=LATE, everyone=EVERYONE, cut=st.integers(0, 8))
def test_folding_in_parts_is_folding_at_once(
    world: World, late: dict[int, tuple[float, bool]], everyone: float, cut: int
) -> None:
    """The rows of a leg settle one by one: cut anywhere and folded last part first, they make the same holdings."""
    holdings, lingering = _holdings(world), _lingering(late, everyone)
    rows = _diff(world, holdings, lingering, NOW).rows
    endings = _endings(world, rows, repeated=True)
    places = np.arange(len(rows))
    folded = holdings
    for part in (places[cut:], places[:cut]):
        folded = _fold(folded, lingering, rows.at(part), endings.at(part)).holdings
    whole = _fold(holdings, lingering, rows, endings)
    assert _values(Folded(folded, whole.lingering)) == _values(whole)


@settings(max_examples=60, deadline=None)
@given(world=WORLDS)
def test_what_is_left_to_send_is_the_plan_less_the_delivered(world: World) -> None:
    """The next diff plans the rows that were not delivered, stating the same in the same order, and no others."""
    holdings = _holdings(world)
    rows = _diff(world, holdings, no_lingering(), NOW).rows
    endings = _endings(world, rows, repeated=False)
    after = _fold(holdings, no_lingering(), rows, endings)
    left = rows.at(endings.outcome != Outcome.DELIVERED)
    following = _diff(world, after.holdings, after.lingering, NOW + 20).rows
    for name in ("client", "sent", "lane"):
        assert getattr(following, name).tolist() == getattr(left, name).tolist()


@settings(max_examples=40, deadline=None)
@given(world=WORLDS)
def test_what_was_delivered_in_doubt_is_sent_once_more(world: World) -> None:
    """After the linger the next diff also plans the rows that had an attempt in doubt, and a delivery ends that."""
    holdings = _holdings(world)
    rows = _diff(world, holdings, no_lingering(), NOW).rows
    endings = _endings(world, rows, repeated=False)
    after = _fold(holdings, no_lingering(), rows, endings)
    later = NOW + 5 + LINGER_S
    following = _diff(world, after.holdings, after.lingering, later).rows
    left = rows.at((endings.outcome != Outcome.DELIVERED) | (endings.doubt != 0))
    sent = dict(zip(following.client.tolist(), following.sent.tolist(), strict=True))
    assert sent == dict(zip(left.client.tolist(), left.sent.tolist(), strict=True))
    clean = fold(
        after.holdings,
        after.lingering,
        following,
        _all(Outcome.DELIVERED, following),
        started=later,
        now=later + 10,
        linger_s=LINGER_S,
    )
    assert len(clean.lingering.client) == 0
    assert len(_diff(world, clean.holdings, clean.lingering, later + 20).rows) == 0


@settings(max_examples=40, deadline=None)
@given(world=WORLDS)
def test_a_clean_run_leaves_nothing_to_send(world: World) -> None:
    """After all rows are delivered no client is planned, and what is stated is held, blocked or unchanged."""
    holdings = _holdings(world)
    rows = _diff(world, holdings, no_lingering(), NOW).rows
    after = _fold(holdings, no_lingering(), rows, _all(Outcome.DELIVERED, rows))
    following = _diff(world, after.holdings, after.lingering, NOW + 20)
    assert len(following.rows) == 0
    assert following.counts.waiting == 0


@settings(max_examples=40, deadline=None)
@given(world=WORLDS)
def test_a_run_that_sends_nothing_loses_nothing(world: World) -> None:
    """A plan of which no row was dispatched is planned again, row for row."""
    holdings = _holdings(world)
    rows = _diff(world, holdings, no_lingering(), NOW).rows
    after = _fold(holdings, no_lingering(), rows, _all(Outcome.OPEN, rows))
    following = _diff(world, after.holdings, after.lingering, NOW + 20).rows
    for name in ("client", "state", "sent", "lane"):
        assert getattr(following, name).tolist() == getattr(rows, name).tolist()
