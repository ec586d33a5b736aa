"""One channel of one client, in every state that runs, faults and late requests can bring it to.

The model knows what the platform holds and which requests it may still apply; the product knows State, Due and who
lingers. All states reachable from the beginning are visited, none is sampled, and each law is checked in each.
Another channel of the same client stands for all the others: it gives rows that restate, do not state, or state
together with a grant the channel that is looked at.
"""

from collections import deque
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from sync_job.consent.channels import ALLOWED, DENIED, NOTHING, pack
from sync_job.consent.diff import send
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Endings, Outcome, fold
from sync_job.consent.known import Holdings, Lingering, no_lingering
from sync_job.consent.rows import Rows
from sync_job.consent.rules import Ruling, decide

# A leg is planned at 100, while an older linger ends at 150; its own last attempt in doubt is made at 110.
STARTED, OLD_UNTIL, DOUBT_AT, LINGER_S = 100.0, 150.0, 110.0, 50.0
FOLDED_AT = (120.0, 155.0, 170.0)  # nothing is over, the older linger is over, and its own as well
CLIENT = np.array([7], np.int32)

Late = frozenset[int]  # the values of requests that the platform may still apply
NONE_LATE: Late = frozenset()


class Idle(NamedTuple):
    """Between two legs. *owed*: a denial was decided and not acknowledged; *denying*: the last decision is a denial."""

    platform: int
    state: int
    due: int
    lingers: bool = False
    acknowledged: bool = False
    late: Late = NONE_LATE
    owed: bool = False
    denying: bool = False


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


EXPORTS = [Export(*case) for case in product(range(4), (True, False), (True, False))]


@cache
def _ruling(export: Export, state: int, due: int) -> Ruling:
    return decide(export.says, state, due, withdrawn=export.withdrawn, may_grant=export.may_grant)


@cache
def _sent(target: int, state: int, due: int, waits: bool, other: int) -> Row:
    """Return what the product sends when the other channel is to become *other*, or is left alone."""
    before = {NOTHING: NOTHING, DENIED: ALLOWED, ALLOWED: DENIED}[other]
    columns = [
        np.array([pack([mine, its, 0, 0])], np.uint8) for mine, its in ((target, other), (state, before), (due, 0))
    ]
    byte = int(send(columns[0], columns[1], columns[2], np.array([waits]), restate=True).sent[0])
    return Row(byte & 3, byte >> 2)


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


def _rows(idle: Idle) -> set[Row]:
    """Return every row that a leg may plan here: by any export, or for an obligation."""
    waits = idle.lingers and idle.acknowledged
    rows = {
        _sent(_ruling(export, idle.state, idle.due).target, idle.state, idle.due, waits, other)
        for export in EXPORTS
        for other in (NOTHING, DENIED, ALLOWED)
    }
    return (rows - {Row(NOTHING, NOTHING)}) | {Row(DENIED, NOTHING)}


def _decided(idle: Idle, row: Row, requested: Requested) -> tuple[bool, bool]:
    """Return *owed* and *denying* after a row ended so, from what the answers say alone."""
    if row.sent == NOTHING:
        return idle.owed, idle.denying
    carried = [(requested.outcome, bool(requested.doubt & DOUBT_WHOLE))]
    if row.sent == DENIED and requested.denials != Outcome.OPEN:
        carried.append((requested.denials, bool(requested.doubt & DOUBT_DENIALS)))
    acknowledged = any(outcome == Outcome.DELIVERED for outcome, _ in carried)
    if row.sent == DENIED:
        known_already = idle.state == DENIED and idle.due == NOTHING
        return not acknowledged and not known_already, True
    overtaken = acknowledged or any(doubt for _, doubt in carried)
    return (False, False) if overtaken else (idle.owed, idle.denying)


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
    owed, denying = _decided(before, row, requested)
    return Idle(requested.platform, state, due, lingers, acknowledged, late, owed, denying)


def _steps(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield whatever can happen next."""
    if isinstance(node, Idle):
        for value in node.late:
            yield f"late {value} is applied", node._replace(platform=value)
            yield f"late {value} is applied, the last one", node._replace(platform=value, late=node.late - {value})
        if node.lingers:
            yield "the linger ends", node._replace(lingers=False, acknowledged=False, late=NONE_LATE)
        for row in _rows(node):
            for requested in _endings(node.platform, row):
                # What the platform held before is said by *requested*; what is left of *node* is what we know.
                yield f"{row} ends", Settled(node._replace(platform=0, late=NONE_LATE), row, requested, node.late)
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


def _clean_run(platform: int, idle: Idle, export: Export) -> tuple[int, int, int]:
    """Return platform, State and Due after a run that delivers all it sends, when nothing lingers any more."""
    row = _sent(_ruling(export, idle.state, idle.due).target, idle.state, idle.due, False, NOTHING)
    if row.sent == NOTHING:
        return platform, idle.state, idle.due
    state, due, *_ = _folded(
        idle.state, idle.due, row, (False, False), Outcome.DELIVERED, Outcome.OPEN, 0, FOLDED_AT[0]
    )
    return row.sent, state, due


def _settled_down(idle: Idle) -> set[int]:
    """Return all that the platform may hold once nothing can be applied late any more."""
    return {idle.platform, *idle.late}


def test_all_states_are_reached() -> None:
    """Tens of thousands of states are explored, lingering ones of every kind among them."""
    idle = _idle()
    assert len(explored()) > 10_000
    assert len(idle) > 100
    assert {(node.lingers, node.acknowledged, node.late != NONE_LATE) for node in idle} == {
        (False, False, False),
        (True, False, False),
        (True, False, True),
        (True, True, False),
        (True, True, True),
    }


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
    for node in _idle():
        target = _ruling(export, node.state, node.due).target
        for platform in _settled_down(node) if target != NOTHING else ():
            assert _clean_run(platform, node, export) == (target, target, NOTHING), _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_a_decided_denial_stands_until_an_allowed_overtakes_it(export: Export) -> None:
    """Whatever was lost or late, a clean run leaves the platform denied where the last decision was a denial."""
    for node in _idle():
        if node.denying and _ruling(export, node.state, node.due).target != ALLOWED:
            for platform in _settled_down(node):
                assert _clean_run(platform, node, export)[0] == DENIED, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_a_denial_that_was_not_acknowledged_is_sent_by_the_next_run(export: Export) -> None:
    """Not even a lingering client's denial waits, unless it was acknowledged or a fresh allowed overtakes it."""
    for node in _idle():
        target = _ruling(export, node.state, node.due).target
        if node.owed and target != ALLOWED:
            waits = node.lingers and node.acknowledged
            assert _sent(target, node.state, node.due, waits, NOTHING).sent == DENIED, _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_only_what_was_acknowledged_last_waits(export: Export) -> None:
    """A channel with a target is passed over only where State is the target, and nothing else is due."""
    for node in _idle():
        target = _ruling(export, node.state, node.due).target
        waits = node.lingers and node.acknowledged
        if target != NOTHING and _sent(target, node.state, node.due, waits, NOTHING).sent == NOTHING:
            assert node.state == target, _trace(node)
            assert node.due == NOTHING or (waits and node.due == target), _trace(node)


@pytest.mark.parametrize("export", EXPORTS)
def test_an_allowed_is_sent_only_where_the_export_says_so(export: Export) -> None:
    """No history makes a run send an *allowed* that is not stated, is withdrawn, or may not be granted."""
    fresh = export == Export(ALLOWED, withdrawn=False, may_grant=True)
    for node in _idle():
        waits = node.lingers and node.acknowledged
        target = _ruling(export, node.state, node.due).target
        for other in (NOTHING, DENIED, ALLOWED):
            sent = _sent(target, node.state, node.due, waits, other).sent
            assert sent != ALLOWED or fresh, _trace(node)
