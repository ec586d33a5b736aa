from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, NOTHING, SHIFTS, Bytes
from sync_job.consent.rules import Rule, Ruling, decide, decide_all

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
STATEMENTS = {"absent": NOTHING, "denied": DENIED, "allowed": ALLOWED, "blank": BLANK}
VALUES = {"-": NOTHING, "F": DENIED, "T": ALLOWED}


def test_every_case_is_in_the_table() -> None:
    """The table has all 144 cases of one channel: 4 statements, 3 States, 3 Dues, withdrawn, may grant."""
    assert set(CASES) == set(product((True, False), STATEMENTS, (True, False)))
    assert sum(len(row.split()) for row in CASES.values()) == 144


@pytest.mark.parametrize(("withdrawn", "says", "may_grant"), CASES)
def test_each_case_is_ruled_as_the_table_says(withdrawn: bool, says: str, may_grant: bool) -> None:
    """Target, rule, held and blocked are those of the first rule that matches."""
    for letter, (state, due) in zip(CASES[withdrawn, says, may_grant].split(), PAIRS, strict=True):
        ruling = decide(STATEMENTS[says], VALUES[state], VALUES[due], withdrawn=withdrawn, may_grant=may_grant)
        assert ruling == MEANING[letter], (state, due)


def _ruled(says: Bytes, state: Bytes, due: Bytes, withdrawn: Bytes, may_grant: npt.NDArray[np.bool_]) -> list[Bytes]:
    """Return target, held and blocked of every client by the table above, channel by channel."""
    table = np.zeros((4, 4, 4, 2, 2, 3), np.uint8)
    for (covered, statement, granting), row in CASES.items():
        for letter, (holds, owes) in zip(row.split(), PAIRS, strict=True):
            meaning = MEANING[letter]
            case = STATEMENTS[statement], VALUES[holds], VALUES[owes], int(covered), int(granting)
            table[case] = meaning.target, meaning.held, meaning.blocked
    result = [np.zeros(len(says), np.uint8) for _ in range(3)]
    for shift in SHIFTS:
        values = [(part >> shift) & 3 for part in (says, state, due)]
        ruled = table[(*values, (withdrawn >> shift) & 1, may_grant.astype(np.uint8))]
        for place in range(3):
            result[place] |= ruled[:, place] << shift
    return result


def _assert_ruled(says: Bytes, state: Bytes, due: Bytes, withdrawn: Bytes, may_grant: npt.NDArray[np.bool_]) -> None:
    rulings = decide_all(says, state, due, withdrawn, may_grant)
    for got, expected in zip(rulings, _ruled(says, state, due, withdrawn, may_grant), strict=True):
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shift", SHIFTS)
def test_each_channel_of_a_byte_is_ruled_by_itself(shift: int) -> None:
    """All 144 cases of a channel are ruled the same whatever the other three channels hold."""
    cases = np.array(list(product(range(4), range(3), range(3), range(2), range(2))), np.uint8)
    random = np.random.default_rng(shift)
    for _ in range(50):
        # One channel of each byte is the case; the others are anything valid.
        says, state, due = (_random_bytes(random, len(cases), highest) for highest in (4, 3, 3))
        withdrawn = _random_bytes(random, len(cases), 2)
        mask = np.uint8(0xFF ^ (3 << shift))
        columns = [
            np.asarray((part & mask) | (cases[:, place] << shift), np.uint8)
            for place, part in enumerate((says, state, due, withdrawn))
        ]
        _assert_ruled(columns[0], columns[1], columns[2], columns[3], cases[:, 4] != 0)


def test_whole_bytes_are_ruled_as_their_channels() -> None:
    """Over random clients of every kind, all four channels at once are ruled as the table says."""
    random = np.random.default_rng(7)
    many = 300_000
    says, state, due, withdrawn = (_random_bytes(random, many, highest) for highest in (4, 3, 3, 2))
    _assert_ruled(says, state, due, withdrawn, random.random(many) < 0.5)


def test_nobody_is_ruled_when_there_is_nobody() -> None:
    """No clients, no rulings."""
    none = np.zeros(0, np.uint8)
    assert [len(part) for part in decide_all(none, none, none, none, np.zeros(0, np.bool_))] == [0, 0, 0]


def _random_bytes(random: np.random.Generator, many: int, highest: int) -> Bytes:
    """Return bytes whose channels each hold a random value below *highest*."""
    values = np.zeros(many, np.uint8)
    for shift in SHIFTS:
        values |= random.integers(0, highest, many, np.uint8) << shift
    return values
