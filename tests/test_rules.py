from functools import cache
from itertools import combinations, product

import numpy as np
import numpy.typing as npt
import pytest

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, LOW_BITS, NOTHING, SHIFTS, Bytes, pack
from sync_job.consent.dates import NEVER
from sync_job.consent.rules import (
    FREE,
    Cases,
    Change,
    Hold,
    Rule,
    Ruling,
    approved,
    asked,
    decide,
    decide_all,
    keep,
    of_kind,
    older,
)

# The rule table, case by case: a letter for each pair of State and Due, in the order of PAIRS. A digit is the rule that
# matches; B is P1 that blocks; h and H are held, and then P6 and P5.
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
# The same where an obligation is to be sent now: it is due, whatever the snapshot says of it.
OWED = CASES | {
    (True, "absent", True): "1 1 1  1 1 1  1 1 1",
    (True, "absent", False): "1 1 1  1 1 1  1 1 1",
    (False, "absent", True): "5 5 5  5 5 5  5 5 5",
    (False, "absent", False): "5 5 5  5 5 5  5 5 5",
    (False, "blank", True): "5 5 5  5 5 5  5 5 5",
    (False, "blank", False): "5 5 5  5 5 5  5 5 5",
    (False, "allowed", False): "H H H  H H H  H H H",
}
# What the export asks to be changed where no withdrawal covers it: new grant, re-grant, revocation.
ASKED = {
    # owed, what the export says: -- -F -T  F- FF FT  T- TF TT
    (False, "absent"): " . . .  . . .  . . .",
    (False, "blank"): "  . . .  . . .  . . .",
    (False, "denied"): " . . .  . . .  r . r",
    (False, "allowed"): "n g .  g g .  . g .",
    (True, "absent"): "  . . .  . . .  . . .",
    (True, "blank"): "   . . .  . . .  . . .",
    (True, "denied"): "  . . .  . . .  . . .",  # an obligation is never held
    (True, "allowed"): " g g g  g g g  g g g",
}
# What becomes of it where a guard holds it; a dot where there is nothing to hold.
HOLDING = {
    # owed, what the export says: -- -F -T  F- FF FT  T- TF TT
    (False, "denied"): ". . .  . . .  h . h",
    (False, "allowed"): "h H .  h H .  . H .",
    (True, "denied"): "  . . .  . . .  . . .",
    (True, "allowed"): " H H H  H H H  H H H",
}
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
CHANGES = {".": Change.NONE, "n": Change.NEW_GRANT, "g": Change.RE_GRANT, "r": Change.REVOCATION}
STATEMENTS = {"absent": NOTHING, "denied": DENIED, "allowed": ALLOWED, "blank": BLANK}
VALUES = {"-": NOTHING, "F": DENIED, "T": ALLOWED}
KINDS = (Change.NEW_GRANT, Change.RE_GRANT, Change.REVOCATION)
HELD = [frozenset(kinds) for count in range(4) for kinds in combinations(KINDS, count)]


def _expected(
    says: str, pair: int, *, withdrawn: bool, owed: bool, may_grant: bool, held: frozenset[Change], let_through: bool
) -> Ruling:
    """Return the ruling that the tables above give the case whose State and Due are at *pair* of PAIRS."""
    letter = (OWED if owed else CASES)[withdrawn, says, may_grant].split()[pair]
    change = Change.NONE if withdrawn else CHANGES[ASKED[owed, says].split()[pair]]
    # What a run may not grant is held whatever the guards and a person say.
    if change in held and not let_through and (may_grant or says == "denied"):
        letter = HOLDING[owed, says].split()[pair]
    return MEANING[letter]._replace(change=change)


def test_every_case_is_in_the_table() -> None:
    """The tables have all 144 cases of one channel, owed or not: 4 statements, 3 States, 3 Dues, covered, may grant."""
    for table in (CASES, OWED):
        assert set(table) == set(product((True, False), STATEMENTS, (True, False)))
        assert sum(len(row.split()) for row in table.values()) == 144
    assert set(ASKED) == set(product((True, False), STATEMENTS))
    assert {len(row.split()) for row in (*ASKED.values(), *HOLDING.values())} == {9}
    for case, row in HOLDING.items():
        assert [letter == "." for letter in row.split()] == [letter == "." for letter in ASKED[case].split()]


@pytest.mark.parametrize("owed", [False, True])
@pytest.mark.parametrize(("withdrawn", "says", "may_grant"), CASES)
def test_each_case_is_ruled_as_the_table_says(withdrawn: bool, says: str, may_grant: bool, owed: bool) -> None:
    """Target, rule, held, blocked and change are those of the first rule that matches, whatever the guards hold."""
    for held, (place, (state, due)) in product(HELD, enumerate(PAIRS)):
        ruling = decide(
            STATEMENTS[says],
            VALUES[state],
            VALUES[due],
            withdrawn=withdrawn,
            may_grant=may_grant,
            owed=owed,
            held=held,
        )
        assert ruling == _expected(
            says, place, withdrawn=withdrawn, owed=owed, may_grant=may_grant, held=held, let_through=False
        ), (state, due, held)


@pytest.mark.parametrize("says", STATEMENTS)
def test_what_an_export_asks_is_as_the_table_says(says: str) -> None:
    """A grant is towards allowed, unless that is due or held already; a revocation goes from allowed to denied."""
    for letter, (state, due) in zip(ASKED[False, says].split(), PAIRS, strict=True):
        assert asked(STATEMENTS[says], VALUES[state], VALUES[due]) == CHANGES[letter], (state, due)


@cache
def _table(held: frozenset[Change]) -> Bytes:
    """Return target, held, blocked, differs and change by statement, State, Due, withdrawn, owed, may grant, let."""
    table = np.zeros((4, 4, 4, 2, 2, 2, 2, 5), np.uint8)
    flags = (False, True)
    for says, (place, (state, due)), withdrawn, owed, may_grant, let_through in product(
        STATEMENTS, enumerate(PAIRS), flags, flags, flags, flags
    ):
        ruling = _expected(
            says,
            place,
            withdrawn=withdrawn,
            owed=owed,
            may_grant=may_grant,
            held=held,
            let_through=let_through,
        )
        differs = ruling.target != NOTHING and ruling.target != VALUES[state] and ruling.target != VALUES[due]
        case = STATEMENTS[says], VALUES[state], VALUES[due], withdrawn, owed, may_grant, let_through
        table[tuple(map(int, case))] = ruling.target, ruling.held, ruling.blocked, differs, ruling.change
    return table


def _assert_ruled(cases: Cases, hold: Hold) -> None:
    """Hold `decide_all` to the tables above, channel by channel."""
    expected = [np.zeros(len(cases.statement), np.uint8) for _ in range(5)]
    for shift in SHIFTS:
        kinds = [(Change.NEW_GRANT, hold.new_grants), (Change.RE_GRANT, hold.re_grants)]
        kinds.append((Change.REVOCATION, bool(hold.revocations >> shift & 1)))
        says, state, due, let = (
            (part >> shift) & 3 for part in (cases.statement, cases.state, cases.due, cases.approved)
        )
        covered, owed, may_grant = ((part >> shift) & 1 for part in (cases.withdrawn, cases.owed, cases.may_grant))
        let_through = ((let != NOTHING) & (let == says)).astype(np.uint8)
        table = _table(frozenset(kind for kind, is_held in kinds if is_held))
        ruled = table[says, state, due, covered, owed, may_grant, let_through]
        for place in range(5):
            expected[place] |= ruled[:, place] << shift
    for got, wanted in zip(decide_all(cases, hold), expected, strict=True):
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, wanted)


HIGHEST = (4, 3, 3, 2, 2, 3)  # statement, State, Due, withdrawn, owed, approved: how many values each has


@pytest.mark.parametrize("shift", SHIFTS)
def test_each_channel_of_a_byte_is_ruled_by_itself(shift: int) -> None:
    """All 864 cases of a channel are ruled the same whatever the other three channels hold."""
    cases = np.array(list(product(*map(range, HIGHEST), range(2))), np.uint8)
    assert len(cases) == 864
    random = np.random.default_rng(shift)
    mask = np.uint8(0xFF ^ (3 << shift))
    for turn in range(32):
        # One channel of each byte is the case; the others are anything valid.
        columns = [
            np.asarray((_random_bytes(random, len(cases), highest) & mask) | (cases[:, place] << shift), np.uint8)
            for place, highest in enumerate(HIGHEST)
        ]
        hold = Hold(
            bool(turn & 1), bool(turn & 2), (turn >> 2 & 1) << shift | (0b01010101 & ~(1 << shift)) * (turn & 1)
        )
        _assert_ruled(_cases(columns, cases[:, 6] != 0), hold)


@pytest.mark.parametrize(
    "hold", [FREE, Hold(True), Hold(re_grants=True), Hold(revocations=0b00010001), Hold(True, True, 0x55)]
)
def test_whole_bytes_are_ruled_as_their_channels(hold: Hold) -> None:
    """Over random clients of every kind, all four channels at once are ruled as the tables say."""
    random = np.random.default_rng(7)
    many = 100_000
    columns = [_random_bytes(random, many, highest) for highest in HIGHEST]
    _assert_ruled(_cases(columns, random.random(many) < 0.5), hold)


def test_nobody_is_ruled_when_there_is_nobody() -> None:
    """No clients, no rulings."""
    none = np.zeros(0, np.uint8)
    assert [len(part) for part in decide_all(_cases([none] * 6, np.zeros(0, np.bool_)))] == [0] * 5


def test_an_approval_lets_through_no_more_than_what_was_approved() -> None:
    """Of all bytes that say and are approved, a channel is let through where both say the same, and say anything."""
    says, let = (part.ravel().astype(np.uint8) for part in np.meshgrid(np.arange(256), np.arange(256)))
    result = approved(says, let)
    for shift in SHIFTS:
        its, theirs = (says >> shift) & 3, (let >> shift) & 3
        np.testing.assert_array_equal((result >> shift) & 3, (its == theirs) & (theirs != NOTHING))


@pytest.mark.parametrize("kind", Change)
def test_a_kind_of_change_is_found_in_every_channel(kind: Change) -> None:
    """Each channel that holds the kind is chosen by its low bit, and no other."""
    changes = np.arange(256, dtype=np.uint8)
    found = of_kind(changes, kind)
    for shift in SHIFTS:
        np.testing.assert_array_equal((found >> shift) & 3, ((changes >> shift) & 3) == kind)


def test_chosen_channels_keep_their_values() -> None:
    """The others hold nothing."""
    assert keep(np.array([0b10_01_10_11] * 2, np.uint8), np.array([0b01_00_00_01, 0], np.uint8)).tolist() == [
        0b10_00_00_11,
        0,
    ]


@pytest.mark.parametrize(("as_of", "expected"), [(9.0, 0b01010101), (10.0, 0b00000101), (11.0, 0)])
def test_what_is_not_newer_than_a_denial_may_not_grant(as_of: float, expected: int) -> None:
    """An older statement grants nothing; one of the same time no channel that is denied, unless its grant is due.

    If no other export has that time, the denial is its own, and of another channel.
    """
    state = np.array([pack([DENIED, NOTHING, DENIED, NOTHING])], np.uint8)
    due = np.array([pack([NOTHING, DENIED, ALLOWED, NOTHING])], np.uint8)
    made = np.array([as_of])
    assert older(made, state, due, np.array([10.0]), alone=False).tolist() == [expected]
    assert older(made, state, due, np.array([10.0]), alone=True).tolist() == [0b01010101 if as_of < 10 else 0]
    assert older(made, state, due, np.array([NEVER]), alone=False).tolist() == [0]


def _cases(columns: list[Bytes], may_grant: npt.NDArray[np.bool_]) -> Cases:
    says, state, due, withdrawn, owed, let = columns
    return Cases(says, state, due, withdrawn, owed, np.where(may_grant, LOW_BITS, 0).astype(np.uint8), let)


def _random_bytes(random: np.random.Generator, many: int, highest: int) -> Bytes:
    """Return bytes whose channels each hold a random value below *highest*."""
    values = np.zeros(many, np.uint8)
    for shift in SHIFTS:
        values |= random.integers(0, highest, many, np.uint8) << shift
    return values
