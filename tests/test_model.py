"""One channel of one client, in every state that runs, faults and late requests can bring it to.

The model knows what the platform holds and which requests it may still apply; the product knows State, Due and who
lingers. All states reachable from the beginning are visited, none is sampled, and each law is checked in each.
Another channel of the same client stands for all the others: it gives rows that restate, do not state, or state
together with a grant the channel that is looked at.

Exports are of every kind, with whatever the guards hold of them; lists of withdrawals come in at any time, and a denial
that is owed is sent in a leg of its own, or with an export, or waits for its next try.
"""

from collections import deque
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pytest

from sync_job.consent.channels import ALLOWED, DENIED, NOTHING, pack
from sync_job.consent.diff import send
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Endings, Outcome, fold
from sync_job.consent.known import Holdings, Lingering, Obligations, no_lingering
from sync_job.consent.rows import Rows, obligations
from sync_job.consent.rules import Change, Ruling, asked, decide
from sync_job.consent.settlement import settle

# A leg is planned at 100, while an older linger ends at 150; its own last attempt in doubt is made at 110.
STARTED, OLD_UNTIL, DOUBT_AT, LINGER_S = 100.0, 150.0, 110.0, 50.0
FOLDED_AT = (120.0, 155.0, 170.0)  # nothing is over, the older linger is over, and its own as well
CLIENT = np.array([7], np.int32)

Late = frozenset[int]  # the values of requests that the platform may still apply
NONE_LATE: Late = frozenset()

# What the ledger owes of the channel: nothing, what an export revoked, or what a list withdraws.
CLOSED, REVOKED, LISTED = 0, 1, 2


class Idle(NamedTuple):
    """Between two legs, with what the ledger owes in *obligation*.

    What follows from the answers alone: *owed*, a denial was decided and not acknowledged, and *revoking*, it was so
    against an *allowed*; *denying*, the last decision is a denial; *proved*, an obligation was closed as acknowledged,
    and no *allowed* was sent since.
    """

    platform: int
    state: int
    due: int
    lingers: bool = False
    acknowledged: bool = False
    late: Late = NONE_LATE
    owed: bool = False
    denying: bool = False
    obligation: int = CLOSED
    revoking: bool = False
    proved: bool = False


class Row(NamedTuple):
    """What is sent of the channel, and of the other one."""

    sent: int
    other: int


class Requested(NamedTuple):
    """How the requests of a row ended, what the platform holds then, and what of them it may still apply."""

    platform: int
    late: Late
    outcome: Outcome
    denials: Outcome = Outcome.OPEN
    doubt: int = 0


class Settled(NamedTuple):
    """A leg whose requests ended and that is not folded yet; *clock* is a place in FOLDED_AT."""

    before: Idle
    row: Row
    requested: Requested
    old_late: Late
    clock: int = 0


Node = Idle | Settled


class Export(NamedTuple):
    """What a run has to go by: the statement, whether a withdrawal covers the channel, and whether it may grant."""

    says: int
    withdrawn: bool
    may_grant: bool


class Look(NamedTuple):
    """An export as a leg decides by it: what may be granted of it, what is held, whether a denial is to be sent now."""

    says: int
    withdrawn: bool
    may_grant: bool
    held: frozenset[Change]
    owed: bool


EXPORTS = [Export(*case) for case in product(range(4), (True, False), (True, False))]
KINDS = (Change.NEW_GRANT, Change.RE_GRANT, Change.REVOCATION)
HELD = [frozenset(kinds) for count in range(4) for kinds in combinations(KINDS, count)]


@cache
def _looks(export: Export, obligation: int) -> list[tuple[Look, int]]:
    """Return every way in which a leg may look at an export, and what is owed then.

    A list's withdrawal covers the channel; what an export revoked ends when a fresh one allows it again; and a client
    to whom a denial is owed is granted nothing, also where the denial waits for its next try.
    """
    if obligation == LISTED and not export.withdrawn:
        return []
    if obligation == REVOKED and export.says == ALLOWED and export.may_grant:
        obligation = CLOSED
    may_grant = export.may_grant and obligation == CLOSED
    now = (False, True) if obligation else (False,)
    return [
        (Look(export.says, export.withdrawn, may_grant, held, owed), obligation) for held, owed in product(HELD, now)
    ]


@cache
def _ruling(look: Look, state: int, due: int) -> Ruling:
    return decide(
        look.says,
        state,
        due,
        withdrawn=look.withdrawn,
        may_grant=look.may_grant,
        owed=look.owed,
        held=look.held,
    )


@cache
def _stated(target: int, state: int, due: int, owed: bool, waits: bool, other: int) -> Row:
    before = {NOTHING: NOTHING, DENIED: ALLOWED, ALLOWED: DENIED}[other]
    columns = [
        np.array([pack([mine, its, 0, 0])], np.uint8)
        for mine, its in ((target, other), (state, before), (due, 0), (int(owed), 0))
    ]
    sending = send(columns[0], columns[1], columns[2], np.array([waits]), restate=True, owed=columns[3])
    byte = int(sending.sent[0])
    return Row(byte & 3, byte >> 2)


def _sent(look: Look, idle: Idle, *, other: int = NOTHING, waits: bool | None = None) -> Row:
    """Return what the product sends when the other channel is to become *other*, or is left alone."""
    if waits is None:
        waits = idle.lingers and idle.acknowledged
    target = _ruling(look, idle.state, idle.due).target
    return _stated(target, idle.state, idle.due, look.owed, waits, other)


@cache
def _owed_leg(state: int, due: int, lingers: bool, acknowledged: bool, channels: int = 0b01) -> Row:
    """Return what the product sends in a leg of its own where a denial of these channels is owed."""
    held = [np.array([byte], np.uint8) for byte in (state, due)]
    holdings = Holdings(CLIENT[: bool(state or due)], held[0][: bool(state or due)], held[1][: bool(state or due)])
    who = Lingering(CLIENT, np.array([OLD_UNTIL]), np.array([acknowledged])) if lingers else no_lingering()
    owed = Obligations(CLIENT, np.array([channels], np.uint8), np.array([0.0]))
    rows = obligations(holdings, owed, who, STARTED)
    byte = int(rows.sent[0]) if len(rows) else NOTHING
    return Row(byte & 3, byte >> 2)


@cache
def _settled(
    state: int, due: int, row: Row, lingers: bool, outcome: Outcome, denials: Outcome, doubt: int
) -> tuple[bool, bool]:
    """Return whether the product takes the channel's denial as acknowledged for sure, and whether it is owed now."""
    one = [np.array([byte], np.uint8) for byte in (state, due, pack([row.sent, row.other, 0, 0]), 0)]
    endings = [np.array([value], np.uint8) for value in (outcome, denials, doubt)]
    found = settle(
        Rows(CLIENT, one[0], one[1], one[2], one[3]),
        Endings(endings[0], endings[1], endings[2], np.array([DOUBT_AT if doubt else 0.0])),
        np.array([DOUBT_AT]),
        np.array([False]),
        Lingering(CLIENT, np.array([OLD_UNTIL]), np.array([False])) if lingers else no_lingering(),
        STARTED,
        np.array([True]),
    )
    acknowledged, revoked = (
        bool(len(part.client) and part.channels[0] & 1) for part in (found.acknowledged, found.revoked)
    )
    return acknowledged, revoked


@cache
def _folded(
    state: int,
    due: int,
    row: Row,
    lingering: tuple[bool, bool],
    outcome: Outcome,
    denials: Outcome,
    doubt: int,
    now: float,
) -> tuple[int, int, bool, bool]:
    """Return State, Due, lingers and acknowledged after a row ended so, as the product folds it."""
    one = [np.array([byte], np.uint8) for byte in (state, due, pack([row.sent, row.other, 0, 0]), 0)]
    lingers, acknowledged = lingering
    who = Lingering(CLIENT, np.array([OLD_UNTIL]), np.array([acknowledged])) if lingers else no_lingering()
    endings = [np.array([value], np.uint8) for value in (outcome, denials, doubt)]
    after = fold(
        Holdings(CLIENT, one[0], one[1]),
        who,
        Rows(CLIENT, one[0], one[1], one[2], one[3]),
        Endings(endings[0], endings[1], endings[2], np.array([DOUBT_AT if doubt else 0.0])),
        started=STARTED,
        now=now,
        linger_s=LINGER_S,
    )
    held = [int(part[0]) & 3 if len(part) else 0 for part in (after.holdings.state, after.holdings.due)]
    still = len(after.lingering.client) == 1
    return held[0], held[1], still, still and bool(after.lingering.acknowledged[0])


def _requests(platform: int, late: Late, value: int, doubt: bool) -> Iterator[tuple[int, Late]]:
    """Yield what the platform holds, and may still apply, after attempts of one request, maybe one in doubt."""
    yield platform, late
    if doubt and value != NOTHING:
        yield value, late  # applied, and the answer was lost
        yield platform, late | {value}  # not applied yet


def _endings(platform: int, row: Row) -> Iterator[Requested]:
    """Yield every way in which the requests of a row can end."""
    mixed = {row.sent, row.other} == {DENIED, ALLOWED}
    denial = row.sent if row.sent == DENIED else NOTHING
    for doubt in (False, True):
        whole = DOUBT_WHOLE * doubt
        for holds, late in _requests(platform, NONE_LATE, row.sent, doubt):
            yield Requested(row.sent or holds, late, Outcome.DELIVERED, doubt=whole)
            # Never dispatched, or killed before the journal; attempts that ran out are the same to a fold.
            yield Requested(holds, late, Outcome.OPEN, doubt=whole)
            yield Requested(holds, late, Outcome.REFUSED, doubt=whole)
            if not mixed:
                continue
            # Refused, and sent once more without its grants.
            for again in (False, True):
                doubts = whole | DOUBT_DENIALS * again
                for then, still_late in _requests(holds, late, denial, again):
                    yield Requested(denial or then, still_late, Outcome.REFUSED, Outcome.DELIVERED, doubts)
                    yield Requested(then, still_late, Outcome.REFUSED, Outcome.REFUSED, doubts)


@cache
def _rows(idle: Idle) -> set[tuple[Row, int]]:
    """Return every row that a leg may plan here, and what is owed then: by any export, or for an obligation."""
    rows = {
        (_sent(look, idle, other=other), obligation)
        for export in EXPORTS
        for look, obligation in _looks(export, idle.obligation)
        for other in ((NOTHING, DENIED) if obligation else (NOTHING, DENIED, ALLOWED))
    }
    # What is owed in a leg of its own: of either channel, or of both.
    for channels in (0b01, 0b100, 0b101) if idle.obligation else (0b100,):
        row = _owed_leg(idle.state, idle.due, idle.lingers, idle.acknowledged, channels)
        rows.add((row, idle.obligation))
    # And more than the product does: a denial alone is sent also where nothing is owed, or where it would wait.
    rows.add((Row(DENIED, NOTHING), idle.obligation))
    return {(row, owed) for row, owed in rows if row != Row(NOTHING, NOTHING)}


def _decided(idle: Idle, row: Row, requested: Requested) -> tuple[bool, bool, bool]:
    """Return *owed*, *denying* and *revoking* after a row ended so, from what the answers say alone."""
    if row.sent == NOTHING:
        return idle.owed, idle.denying, idle.revoking
    carried = [(requested.outcome, bool(requested.doubt & DOUBT_WHOLE))]
    if row.sent == DENIED and requested.denials != Outcome.OPEN:
        carried.append((requested.denials, bool(requested.doubt & DOUBT_DENIALS)))
    acknowledged = any(outcome == Outcome.DELIVERED for outcome, _ in carried)
    if row.sent == DENIED:
        known_already = idle.state == DENIED and idle.due == NOTHING
        revoking = not acknowledged and (idle.revoking or idle.state == ALLOWED)
        return not acknowledged and not known_already, True, revoking
    overtaken = acknowledged or any(doubt for _, doubt in carried)
    return (False, False, False) if overtaken else (idle.owed, idle.denying, idle.revoking)


def _obligation(before: Idle, row: Row, requested: Requested) -> tuple[int, bool]:
    """Return what is owed after a row ended so, as the ledger keeps it, and *proved*."""
    acknowledged, revoked = _settled(
        before.state, before.due, row, before.lingers, requested.outcome, requested.denials, requested.doubt
    )
    obligation = CLOSED if acknowledged else before.obligation
    if revoked and obligation == CLOSED:
        obligation = REVOKED
    if acknowledged and before.obligation:
        return obligation, True
    return obligation, before.proved and row.sent != ALLOWED


def _after(settled: Settled) -> Idle:
    """Return what stands when the leg is folded."""
    before, row, requested = settled.before, settled.row, settled.requested
    state, due, lingers, acknowledged = _folded(
        before.state,
        before.due,
        row,
        (before.lingers, before.acknowledged),
        requested.outcome,
        requested.denials,
        requested.doubt,
        FOLDED_AT[settled.clock],
    )
    late = settled.old_late | requested.late
    owed, denying, revoking = _decided(before, row, requested)
    obligation, proved = _obligation(before, row, requested)
    return Idle(
        requested.platform, state, due, lingers, acknowledged, late, owed, denying, obligation, revoking, proved
    )


def _steps(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield whatever can happen next."""
    if isinstance(node, Idle):
        for value in node.late:
            yield f"late {value} is applied", node._replace(platform=value)
            yield f"late {value} is applied, the last one", node._replace(platform=value, late=node.late - {value})
        if node.lingers:
            yield "the linger ends", node._replace(lingers=False, acknowledged=False, late=NONE_LATE)
        if node.obligation != LISTED:
            yield "a list is taken in", node._replace(obligation=LISTED)
        else:
            yield "a re-consent lifts the withdrawal", node._replace(obligation=CLOSED, revoking=False)
        for row, obligation in _rows(node._replace(platform=0, late=NONE_LATE)):
            # What a fresh *allowed* has taken back is revoked no more, whatever becomes of the grant.
            revoking = node.revoking and obligation == node.obligation
            known = node._replace(platform=0, late=NONE_LATE, obligation=obligation, revoking=revoking)
            for requested in _endings(node.platform, row):
                # What the platform held before is said by *requested*; what is left of *node* is what we know.
                yield f"{row} ends", Settled(known, row, requested, node.late)
        return
    requested = node.requested
    for value in node.old_late | requested.late:
        yield f"late {value} is applied", node._replace(requested=requested._replace(platform=value))
    if node.clock == 0 and (node.before.lingers or requested.doubt):
        yield "the older linger ends", node._replace(clock=1, old_late=NONE_LATE)
    if node.clock == 1 and requested.doubt:
        yield "its own linger ends", node._replace(clock=2, requested=requested._replace(late=NONE_LATE))
    yield "folded", _after(node)


BEGINNINGS = [
    Idle(platform, state, due, owed=due == DENIED, denying=(due or state) == DENIED)
    for platform, state, due in product((NOTHING, DENIED, ALLOWED), repeat=3)
    if state == NOTHING or state == platform  # nothing known, or what the platform holds; anything may be due
]


@cache
def explored() -> dict[Node, tuple[Node | None, str]]:
    """Return every reachable state, with the state and the step that it was first reached by."""
    found: dict[Node, tuple[Node | None, str]] = dict.fromkeys(BEGINNINGS, (None, "begin"))
    waiting: deque[Node] = deque(BEGINNINGS)
    while waiting:
        node = waiting.popleft()
        for step, following in _steps(node):
            if following not in found:
                found[following] = (node, step)
                waiting.append(following)
    return found


def _idle() -> list[Idle]:
    return [node for node in explored() if isinstance(node, Idle)]


def _trace(node: Node) -> str:
    """Return how *node* was reached, one step a line: the shortest counterexample."""
    lines: list[str] = []
    at: Node | None = node
    while at is not None:
        at_before, step = explored()[at]
        lines.append(f"{step}: {at}")
        at = at_before
    return "\n".join(reversed(lines))


def _clean_run(platform: int, idle: Idle, look: Look) -> tuple[int, int, int]:
    """Return platform, State and Due after a run that delivers all it sends, when nothing lingers any more."""
    row = _sent(look, idle, waits=False)
    if row.sent == NOTHING:
        return platform, idle.state, idle.due
    state, due, *_ = _folded(
        idle.state, idle.due, row, (False, False), Outcome.DELIVERED, Outcome.OPEN, 0, FOLDED_AT[0]
    )
    return row.sent, state, due


def _settled_down(idle: Idle) -> set[int]:
    """Return all that the platform may hold once nothing can be applied late any more."""
    return {idle.platform, *idle.late}


def _met(export: Export) -> Iterator[tuple[Idle, Look, int]]:
    """Yield every state between two legs, with every look that a run may take at the export in it, and its target."""
    for node in _idle():
        for look, _ in _looks(export, node.obligation):
            yield node, look, _ruling(look, node.state, node.due).target


def test_all_states_are_reached() -> None:
    """Tens of thousands of states are explored, lingering ones and obligations of every kind among them."""
    idle = _idle()
    assert len(explored()) > 20_000
    assert len(idle) > 200
    kinds = {
        (False, False, False),
        (True, False, False),
        (True, False, True),
        (True, True, False),
        (True, True, True),
    }
    for obligation in (CLOSED, REVOKED, LISTED):
        of_kind = [node for node in idle if node.obligation == obligation]
        assert {(node.lingers, node.acknowledged, node.late != NONE_LATE) for node in of_kind} == kinds
    assert {node.state for node in idle if node.obligation == LISTED and not node.due} == {NOTHING, DENIED, ALLOWED}
    assert any(node.proved for node in idle)
    assert any(node.revoking for node in idle)


def test_who_may_be_changed_late_lingers() -> None:
    """As long as the platform may apply an older request, the ledger says that the client lingers."""
    for node in _idle():
        assert node.lingers or not node.late, _trace(node)


def test_state_claims_only_what_the_platform_holds() -> None:
    """Where nothing is due, the platform holds State, and every request it may still apply says the same."""
    for node in _idle():
        if node.state != NOTHING and node.due == NOTHING:
            assert _settled_down(node) == {node.state}, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_a_clean_run_makes_the_platform_equal_to_the_rules(export: Export) -> None:
    """After the linger, one run that delivers all makes platform and State what the rules say, with nothing due."""
    for node, look, target in _met(export):
        for platform in _settled_down(node) if target != NOTHING else ():
            assert _clean_run(platform, node, look) == (target, target, NOTHING), _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_a_decided_denial_stands_until_an_allowed_overtakes_it(export: Export) -> None:
    """Whatever was lost, late or held, a clean run leaves the platform denied where the last decision was a denial."""
    for node, look, target in _met(export):
        if node.denying and target != ALLOWED:
            for platform in _settled_down(node):
                assert _clean_run(platform, node, look)[0] == DENIED, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_a_denial_that_was_not_acknowledged_is_sent_by_the_next_run(export: Export) -> None:
    """Not even a lingering client's denial waits, unless it was acknowledged or a fresh allowed overtakes it."""
    for node, look, target in _met(export):
        if node.owed and target != ALLOWED:
            assert _sent(look, node).sent == DENIED, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_only_what_was_acknowledged_last_waits(export: Export) -> None:
    """A channel with a target is passed over only where State is the target, and nothing else is due or owed."""
    for node, look, target in _met(export):
        if target != NOTHING and _sent(look, node).sent == NOTHING:
            waits = node.lingers and node.acknowledged and node.due == target
            assert node.state == target, _trace(node)
            assert waits or (node.due == NOTHING and not look.owed), _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_an_allowed_is_sent_only_where_the_export_says_so(export: Export) -> None:
    """No history makes a run send an *allowed* that is not stated, is withdrawn, held, owed, or may not be granted."""
    for node, look, _ in _met(export):
        fresh = export == Export(ALLOWED, withdrawn=False, may_grant=True) and node.obligation != LISTED
        fresh &= asked(look.says, node.state, node.due) not in look.held
        for other in (NOTHING, DENIED, ALLOWED):
            assert _sent(look, node, other=other).sent != ALLOWED or fresh, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_what_a_guard_holds_is_not_sent_and_not_forgotten(export: Export) -> None:
    """A held change is not stated in any row, but for a denial that is due; let through, it is sent."""
    for node, look, target in _met(export):
        change = asked(look.says, node.state, DENIED if look.owed else node.due)
        if look.withdrawn or change not in look.held or not (look.may_grant or change == Change.REVOCATION):
            continue
        assert target == (DENIED if node.due == DENIED or look.owed else NOTHING), _trace(node)
        sent = {_sent(look, node, other=other).sent for other in (NOTHING, DENIED, ALLOWED)}
        assert sent <= {target, NOTHING}, _trace(node)
        assert _sent(look._replace(held=frozenset()), node, waits=False).sent == look.says, _trace(node)


def test_a_revocation_that_was_not_acknowledged_is_owed() -> None:
    """From the leg that planned it until an answer says so, or a fresh *allowed* or a re-consent overtakes it."""
    for node in _idle():
        assert node.obligation != CLOSED or not node.revoking, _trace(node)


def test_an_obligation_is_closed_only_where_the_platform_holds_it_for_good() -> None:
    """Closed as acknowledged, the platform denies, and no request that it may still apply says otherwise."""
    for node in _idle():
        if node.proved:
            assert _settled_down(node) == {DENIED}, _trace(node)


def test_an_obligation_stays_open_while_the_client_lingers() -> None:
    """No answer closes it as long as an older request may be applied late, or after an attempt in doubt."""
    closed = 0
    for node in explored():
        if isinstance(node, Settled) and node.before.obligation != CLOSED:
            after = _after(node)
            late = node.before.lingers or node.requested.doubt != 0
            assert after.obligation != CLOSED or not late, _trace(node)
            closed += after.obligation == CLOSED
    assert closed


def test_a_sure_answer_closes_an_obligation() -> None:
    """A denial that is acknowledged outside a linger, whole or without its grants, leaves nothing owed."""
    for node in explored():
        if isinstance(node, Settled) and node.row.sent == DENIED:
            outcome, denials, doubt = node.requested.outcome, node.requested.denials, node.requested.doubt
            if Outcome.DELIVERED in (outcome, denials) and not doubt and not node.before.lingers:
                assert _after(node).obligation == CLOSED, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_an_open_obligation_is_sent_whatever_the_export_and_the_guards_say(export: Export) -> None:
    """Alone, or in the row of any export: at once, unless what was acknowledged waits for the linger to end."""
    for node, look, target in _met(export):
        if look.owed:
            settled = node.lingers and node.acknowledged and (node.state, node.due) == (DENIED, DENIED)
            expected = NOTHING if settled else DENIED
            assert target == DENIED, _trace(node)
            assert _sent(look, node).sent == expected, _trace(node)
            alone = _owed_leg(node.state, node.due, node.lingers, node.acknowledged)
            assert alone == Row(expected, NOTHING), _trace(node)


def test_one_clean_leg_of_its_own_ends_an_obligation() -> None:
    """After the linger it is sent once more, listed ones also where State says denied; delivered, nothing is left."""
    row = Row(DENIED, NOTHING)
    for node in _idle():
        if node.obligation != CLOSED:
            assert _owed_leg(node.state, node.due, lingers=False, acknowledged=False) == row, _trace(node)
            ended = (Outcome.DELIVERED, Outcome.OPEN, 0)
            assert _settled(node.state, node.due, row, False, *ended)[0], _trace(node)
            after = _folded(node.state, node.due, row, (False, False), *ended, FOLDED_AT[0])
            assert after == (DENIED, NOTHING, False, False), _trace(node)
