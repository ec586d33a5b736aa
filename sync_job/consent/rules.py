"""What is to be sent for one channel, as a plain function and as the table made from it.

`docs/architecture.md` states the rules; a test enumerates every case of `decide` against their laws.
Which rows are sent, and in what order, is `diff`'s.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, NOTHING, SHIFTS, Bytes, Mask


class Rule(IntEnum):
    """The rule that decided a channel; the first that matches wins. P0, the forgotten, never gets here."""

    P1 = 1  # a withdrawal covers it
    P2 = 2  # the export says denied
    P3 = 3  # the export says allowed, and the run may grant
    P5 = 5  # a denial is due
    P6 = 6  # nothing to do


class Ruling(NamedTuple):
    """What one channel is to become, by which rule, and what was overruled on the way."""

    target: int
    rule: Rule
    held: bool = False
    blocked: bool = False


def decide(statement: int, state: int, due: int, *, withdrawn: bool, may_grant: bool) -> Ruling:
    """Return the ruling for one channel.

    *Held* (rule P4) means that the export's *allowed* was not let through and would have been sent or restated as
    due; *blocked* that a withdrawal overruled it.
    """
    if withdrawn and (statement != NOTHING or state != NOTHING or due != NOTHING):
        return Ruling(DENIED, Rule.P1, blocked=statement == ALLOWED)
    if statement == DENIED:
        return Ruling(DENIED, Rule.P2)
    if statement == ALLOWED and may_grant:
        return Ruling(ALLOWED, Rule.P3)
    held = statement == ALLOWED and (state != ALLOWED or due != NOTHING)
    if due == DENIED:
        return Ruling(DENIED, Rule.P5, held=held)
    return Ruling(NOTHING, Rule.P6, held=held)


_HELD, _BLOCKED = 4, 8


def _table() -> Bytes:
    table = np.zeros(256, np.uint8)
    for case in range(256):
        statement, state, due = case & 3, (case >> 2) & 3, (case >> 4) & 3
        if BLANK not in (state, due):
            ruling = decide(statement, state, due, withdrawn=bool(case & 64), may_grant=bool(case & 128))
            table[case] = ruling.target | _HELD * ruling.held | _BLOCKED * ruling.blocked
    return table


TABLE = _table()


class Rulings(NamedTuple):
    """The rulings of many clients: target values as bytes, held and blocked as one low bit a channel."""

    target: Bytes
    held: Bytes
    blocked: Bytes


def decide_all(statement: Bytes, state: Bytes, due: Bytes, withdrawn: Bytes, may_grant: Mask) -> Rulings:
    """Return what `decide` says of every channel of every client.

    *withdrawn* has the low bit of each withdrawn channel; *may_grant* is one truth a client.
    """
    target, held, blocked = (np.zeros(len(statement), np.uint8) for _ in range(3))
    granting = may_grant.astype(np.uint8) << 7
    for shift in SHIFTS:
        case = (statement >> shift) & 3
        case |= ((state >> shift) & 3) << 2
        case |= ((due >> shift) & 3) << 4
        case |= ((withdrawn >> shift) & 1) << 6
        case |= granting
        ruled = TABLE[case]
        target |= (ruled & 3) << shift
        held |= ((ruled >> 2) & 1) << shift
        blocked |= ((ruled >> 3) & 1) << shift
    return Rulings(target, held, blocked)
