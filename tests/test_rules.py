from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, NOTHING, SHIFTS, Bytes
from sync_job.consent.fold import Ending, settle
from sync_job.consent.rules import FREE, Cases, Change, Hold, Rule, Ruling, asked, decide, decide_all, of_kind

# The rule table, case by case: a letter for each pair of State and Due, in the order of PAIRS. A digit is the rule that
# matches; B is P1 that blocks; h and H are P4, held, and then P6 and P5.
PAIRS = [(state, due) for state in "-FT" for due in "-FT"]
CASES = {
    # withdrawn, what the export says, may grant: -- -F -T  F- FF FT  T- TF TT
    (True, "absent", True): ". 1 1  1 1 1  1 1 1",
    (True, "absent", False): ". 1 1  1 1 1  1 1 1",
    (True, "blank", True): "1 1 1  1 1 1  1 1 1",
    (True, "blank", False): "1 1 1  1 1 1  1 1 1",
    (True, "denied", True): "1 1 1  1 1 1  1 1 1",
    (True, "denied", False): "1 1 1  1 1 1  1 1 1",
    (True, "allowed", True): "B B B  B B B  B B B",
    (True, "allowed", False): "B B B  B B B  B B B",
    (False, "absent", True): ". 5 .  . 5 .  . 5 .",
    (False, "absent", False): ". 5 .  . 5 .  . 5 .",
    (False, "blank", True): ". 5 .  . 5 .  . 5 .",
    (False, "blank", False): ". 5 .  . 5 .  . 5 .",
    (False, "denied", True): "2 2 2  2 2 2  2 2 2",
    (False, "denied", False): "2 2 2  2 2 2  2 2 2",
    (False, "allowed", True): "3 3 3  3 3 3  3 3 3",
    (False, "allowed", False): "h H h  h H h  . H h",
}
# What a guard that holds every change leaves of the cases above; G: a denial that the guard does not hold.
HELD = {
    "denied": "2 2 2  2 2 2  h 2 h",  # only a revocation is held: State allowed, and no denial due
    "allowed": "h H 3  h H 3  3 H 3",  # a grant is held unless Due says allowed, or State does and nothing is due
}
# What the export asks for: n a new grant, r a re-grant, v a revocation.
ASKED = {
    "denied": ". . .  . . .  v . v",
    "allowed": "n r .  r r .  . r .",
}
LETTERS = {".": Change.NONE, "n": Change.NEW_GRANT, "r": Change.RE_GRANT, "v": Change.REVOCATION}
STATEMENTS = {"absent": NOTHING, "denied": DENIED, "allowed": ALLOWED, "blank": BLANK}
VALUES = {"-": NOTHING, "F": DENIED, "T": ALLOWED}
EVERYTHING = frozenset({Change.NEW_GRANT, Change.RE_GRANT, Change.REVOCATION})
MEANING = {
    ".": Ruling(NOTHING, Rule.P6),
    "1": Ruling(DENIED, Rule.P1),
    "B": Ruling(DENIED, Rule.P1, blocked=True),
    "2": Ruling(DENIED, Rule.P2),
    "3": Ruling(ALLOWED, Rule.P3),
    "5": Ruling(DENIED, Rule.P5),
    "h": Ruling(NOTHING, Rule.P6, held=True),
    "H": Ruling(DENIED, Rule.P5, held=True),
}


class Case(NamedTuple):
    """Everything that one channel is decided by."""

    says: int
    state: int
    due: int
    withdrawn: bool
    owed: bool
    may_grant: bool
    held: frozenset[Change]

    def ruling(self) -> Ruling:
        """Return what the product says."""
        return decide(
            self.says,
            self.state,
            self.due,
            withdrawn=self.withdrawn,
            owed=self.owed,
            may_grant=self.may_grant,
            held=self.held,
        )


HOLDS = [frozenset(change for change, held in zip(sorted(EVERYTHING), bits, strict=True) if held)
         for bits in product((False, True), repeat=3)]  # fmt: skip
ALL = [Case(*case) for case in product(range(4), range(3), range(3), *[(False, True)] * 3, HOLDS)]


def test_every_case_is_in_the_table() -> None:
    """144 of one channel by the export, 2,304 with what is owed and what the guards hold."""
    assert set(CASES) == set(product((True, False), STATEMENTS, (True, False)))
    assert sum(len(row.split()) for row in CASES.values()) == 144
    assert len(ALL) == 2304


@pytest.mark.parametrize(("withdrawn", "says", "may_grant"), CASES)
def test_each_case_is_ruled_as_the_table_says(withdrawn: bool, says: str, may_grant: bool) -> None:
    """Target, rule, held and blocked are those of the first rule that matches."""
    for letter, (state, due) in zip(CASES[withdrawn, says, may_grant].split(), PAIRS, strict=True):
        ruling = decide(STATEMENTS[says], VALUES[state], VALUES[due], withdrawn=withdrawn, may_grant=may_grant)
        assert ruling._replace(change=Change.NONE) == MEANING[letter], (state, due)


@pytest.mark.parametrize("says", STATEMENTS)
def test_a_guard_holds_changes_and_nothing_else(says: str) -> None:
    """What is due to be denied, and what was allowed before, is no change and is never held."""
    row = HELD.get(says) or CASES[False, says, True]
    for letter, (state, due) in zip(row.split(), PAIRS, strict=True):
        case = Case(STATEMENTS[says], VALUES[state], VALUES[due], False, False, True, EVERYTHING)
        assert case.ruling()._replace(change=Change.NONE) == MEANING[letter], (state, due)


@pytest.mark.parametrize("says", STATEMENTS)
def test_what_an_export_asks_for_is_counted_as_the_table_says(says: str) -> None:
    """A grant is no grant where Due is allowed, or State is and nothing is due; a revocation begins at allowed."""
    for letter, (state, due) in zip(ASKED.get(says, ". . .  . . .  . . .").split(), PAIRS, strict=True):
        assert asked(STATEMENTS[says], VALUES[state], VALUES[due]) is LETTERS[letter], (state, due)


def test_only_what_is_held_of_its_kind_is_held() -> None:
    """A case is ruled with a hold as without one, unless its own change is among what is held."""
    for case in ALL:
        change = asked(case.says, case.state, case.due)
        if case.withdrawn or change not in case.held:
            assert case.ruling() == case._replace(held=frozenset()).ruling(), case


def test_an_obligation_is_denied_whatever_is_known_and_held() -> None:
    """A withdrawn channel that is owed a denial is denied also where nothing is stated, known or due."""
    for case in ALL:
        if case.withdrawn and case.owed:
            assert case.ruling().target == DENIED, case


def test_no_withdrawn_channel_is_allowed_and_no_due_denial_is_held() -> None:
    """Whatever the guards, the export and its age say."""
    for case in ALL:
        target = case.ruling().target
        assert not (case.withdrawn and target == ALLOWED), case
        fresh = case.says == ALLOWED and case.may_grant
        if case.due == DENIED and not fresh:
            assert target == DENIED, case
        if target == ALLOWED:
            assert fresh, case


def test_a_held_grant_leaves_a_due_denial_due() -> None:
    """A guard that holds a re-grant does not stop the denial that it would have overtaken."""
    for case in ALL:
        if case.due == DENIED and case.says == ALLOWED and Change.RE_GRANT in case.held:
            assert case.ruling().target == DENIED, case


def test_a_delivered_target_is_a_fixed_point() -> None:
    """Once the platform has acknowledged a target, the same case asks for no other, whatever is held."""
    for case in ALL:
        target = case.ruling().target
        if target != NOTHING:
            after = settle(case.state, case.due, target, Ending.DELIVERED, lingers=False)
            again = case._replace(state=after.state, due=after.due, owed=False).ruling()
            assert again.target in (NOTHING, target), case
            assert again.change is Change.NONE, case


def _byte(values: Bytes, shift: int) -> Bytes:
    return np.asarray(values << shift, np.uint8)


@pytest.mark.parametrize(
    "hold", [FREE, *(Hold(a, b, c) for a, b, c in product((True, False), (True, False), (0, 0x55)))]
)
@pytest.mark.parametrize("place", range(4))
def test_each_channel_of_a_byte_is_ruled_by_itself(place: int, hold: Hold) -> None:
    """All cases of a channel, approved or not, are ruled as `decide` says, whatever the other three channels hold."""
    shift = SHIFTS[place]
    cases = np.array(list(product(range(4), range(3), range(3), range(2), range(2), range(2), range(3))), np.uint8)
    random = np.random.default_rng(place)
    mask = np.uint8(0xFF ^ (3 << shift))
    highest = (4, 3, 3, 2, 2)
    says, state, due, withdrawn, owed = (
        np.asarray((_random(random, len(cases), most) & mask) | _byte(cases[:, column], shift), np.uint8)
        for column, most in enumerate(highest)
    )
    approved = np.asarray((_random(random, len(cases), 3) & mask) | _byte(cases[:, 6], shift), np.uint8)
    found = decide_all(Cases(says, state, due, withdrawn, owed, cases[:, 5] != 0, approved), hold)
    kinds = {Change.NEW_GRANT: hold.new_grants, Change.RE_GRANT: hold.re_grants}
    kinds[Change.REVOCATION] = bool(hold.revocations >> shift & 1)
    held = frozenset(change for change, is_held in kinds.items() if is_held)
    for row, case in enumerate(cases.tolist()):
        is_approved = case[6] != NOTHING and case[6] == case[0]
        expected = Case(*case[:3], *(bool(bit) for bit in case[3:6]), frozenset() if is_approved else held).ruling()
        got = [int(part[row]) >> shift for part in found]
        assert (got[0] & 3, got[1] & 1, got[2] & 1, got[4] & 3) == (
            expected.target,
            expected.held,
            expected.blocked,
            expected.change,
        ), case
        assert got[3] & 1 == (expected.target not in (NOTHING, case[1], case[2])), case


def test_nobody_is_ruled_when_there_is_nobody() -> None:
    """No clients, no rulings."""
    none = np.zeros(0, np.uint8)
    cases = Cases(none, none, none, none, none, np.zeros(0, np.bool_), none)
    assert [len(part) for part in decide_all(cases)] == [0] * 5


def test_kinds_of_changes_are_told_apart() -> None:
    """`of_kind` finds each channel of a byte that has just that change."""
    every = np.arange(256, dtype=np.uint8)
    for kind in Change:
        found = of_kind(every, kind)
        for byte in range(256):
            assert int(found[byte]) == sum((byte >> shift & 3 == kind) << shift for shift in SHIFTS)


def _random(random: np.random.Generator, many: int, highest: int) -> Bytes:
    """Return bytes whose channels each hold a random value below *highest*."""
    values = np.zeros(many, np.uint8)
    for shift in SHIFTS:
        values |= random.integers(0, highest, many, np.uint8) << shift
    return values
