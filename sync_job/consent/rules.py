"""What is to be sent for one channel, as a plain function and as the tables made from it.

`docs/architecture.md` states the rules; a test enumerates every case of `decide` against their laws.
Which rows are sent, and in what order, is `diff`'s; which changes are held, `guards`'.
"""

from enum import IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import (
    ALLOWED,
    BLANK,
    DENIED,
    LOW_BITS,
    NOTHING,
    SHIFTS,
    Bytes,
    allowed,
    denied,
    spread,
    stated,
)
from sync_job.consent.dates import Seconds


class Rule(IntEnum):
    """The rule that decided a channel; the first that matches wins. P0, the forgotten, never gets here."""

    P1 = 1  # a withdrawal covers it
    P2 = 2  # the export says denied
    P3 = 3  # the export says allowed, and the run may grant
    P5 = 5  # a denial is due
    P6 = 6  # nothing to do


class Change(IntEnum):
    """What an export asks to be changed of a channel, as the guards count it."""

    NONE = 0
    NEW_GRANT = 1  # towards allowed, where nothing is known
    RE_GRANT = 2  # towards allowed, where State or Due is denied
    REVOCATION = 3  # from allowed to denied


class Hold(NamedTuple):
    """Which changes the guards hold in this run; revocations channel by channel, a low bit each."""

    new_grants: bool = False
    re_grants: bool = False
    revocations: int = 0


FREE = Hold()


class Ruling(NamedTuple):
    """What one channel is to become, by which rule, what was overruled on the way, and what the export asked for."""

    target: int
    rule: Rule
    held: bool = False
    blocked: bool = False
    change: Change = Change.NONE


def asked(statement: int, state: int, due: int) -> Change:
    """Return what a statement asks to be changed of a channel that no withdrawal covers."""
    if statement == ALLOWED and due != ALLOWED and not (state == ALLOWED and due == NOTHING):
        return Change.RE_GRANT if DENIED in (state, due) else Change.NEW_GRANT
    if statement == DENIED and state == ALLOWED and due != DENIED:
        return Change.REVOCATION
    return Change.NONE


def decide(
    statement: int,
    state: int,
    due: int,
    *,
    withdrawn: bool,
    may_grant: bool,
    owed: bool = False,
    held: frozenset[Change] = frozenset(),
) -> Ruling:
    """Return the ruling for one channel.

    *owed* is whether an obligation is to be sent now; *held* has the changes that a guard holds for this client.
    A ruling is *held* (rule P4, or a revocation that P2 passes over) when what the export says was not let through
    and would have been sent or restated as due; *blocked* when a withdrawal overruled its *allowed*. What is owed is
    due, whatever the snapshot says, and is never held.
    """
    if withdrawn and (statement != NOTHING or state != NOTHING or due != NOTHING or owed):
        return Ruling(DENIED, Rule.P1, blocked=statement == ALLOWED)
    if owed:
        due = DENIED  # so that it is no revocation that a guard may hold, and an *allowed* against it is a re-grant
    change = asked(statement, state, due)
    if statement == DENIED and change not in held:
        return Ruling(DENIED, Rule.P2, change=change)
    if statement == ALLOWED and may_grant and change not in held:
        return Ruling(ALLOWED, Rule.P3, change=change)
    is_held = statement == DENIED or (statement == ALLOWED and (state != ALLOWED or due != NOTHING))
    if due == DENIED:
        return Ruling(DENIED, Rule.P5, held=is_held, change=change)
    return Ruling(NOTHING, Rule.P6, held=is_held, change=change)


# How a ruling lies in a table's byte: the target in the two lowest bits, then these.
_HELD, _BLOCKED, _DIFFERS = 4, 8, 16
_CHANGE = 5  # and from this bit on the change


@cache
def _table(hold: Hold, channel: int) -> Bytes:
    """Return the rulings of one channel, by statement, State, Due, withdrawn, owed, may grant and approved."""
    changes = {
        Change.NEW_GRANT: hold.new_grants,
        Change.RE_GRANT: hold.re_grants,
        Change.REVOCATION: bool(hold.revocations >> SHIFTS[channel] & 1),
    }
    held = frozenset(change for change, is_held in changes.items() if is_held)
    table = np.zeros(1024, np.uint8)
    for case in range(1024):
        statement, state, due = case & 3, (case >> 2) & 3, (case >> 4) & 3
        if BLANK in (state, due):
            continue
        ruling = decide(
            statement,
            state,
            due,
            withdrawn=bool(case & 64),
            owed=bool(case & 128),
            may_grant=bool(case & 256),
            held=frozenset() if case & 512 else held,
        )
        differs = ruling.target not in (NOTHING, state, due)
        table[case] = (
            ruling.target
            | _HELD * ruling.held
            | _BLOCKED * ruling.blocked
            | _DIFFERS * differs
            | ruling.change << _CHANGE
        )
    return table


class Rulings(NamedTuple):
    """The rulings of many clients: target and `Change` as a value a channel, the others as one low bit a channel."""

    target: Bytes
    held: Bytes
    blocked: Bytes
    differs: Bytes  # the target is neither State nor Due
    change: Bytes


class Cases(NamedTuple):
    """What many clients are decided by, an entry a client.

    *statement*, *state*, *due* as bytes; *withdrawn*, *owed* and *may_grant* have the low bit of each such channel;
    *approved* has, as a byte, what a person let through though a guard holds it.
    """

    statement: Bytes
    state: Bytes
    due: Bytes
    withdrawn: Bytes
    owed: Bytes
    may_grant: Bytes
    approved: Bytes


def decide_all(cases: Cases, hold: Hold = FREE) -> Rulings:
    """Return what `decide` says of every channel of every client."""
    target, held, blocked, differs, change = (np.zeros(len(cases.statement), np.uint8) for _ in range(5))
    let_through = approved(cases.statement, cases.approved)
    for place, shift in enumerate(SHIFTS):
        case = ((cases.statement >> shift) & 3).astype(np.uint16)
        case |= ((cases.state >> shift) & 3).astype(np.uint16) << 2
        case |= ((cases.due >> shift) & 3).astype(np.uint16) << 4
        case |= ((cases.withdrawn >> shift) & 1).astype(np.uint16) << 6
        case |= ((cases.owed >> shift) & 1).astype(np.uint16) << 7
        case |= ((cases.may_grant >> shift) & 1).astype(np.uint16) << 8
        case |= ((let_through >> shift) & 1).astype(np.uint16) << 9
        ruled = _table(hold, place)[case]
        target |= (ruled & 3) << shift
        held |= ((ruled >> 2) & 1) << shift
        blocked |= ((ruled >> 3) & 1) << shift
        differs |= ((ruled >> 4) & 1) << shift
        change |= (ruled >> _CHANGE & 3) << shift
    return Rulings(target, held, blocked, differs, change)


def older(as_of: Seconds, state: Bytes, due: Bytes, denied_at: Seconds, *, alone: bool) -> Bytes:
    """Return the channels, one low bit each, that an *allowed* stated at *as_of* may not grant, for it is not newer.

    *denied_at* is when the newest denial was stated; both have the epoch seconds of each client. What is older grants
    nothing. If no other export states anything as of that time, it is *alone*: a denial of that time is its own, of
    another channel. Else it may grant another channel, but not one that is denied or due to be, unless the grant was
    decided before (it is due).
    """
    if alone:
        return np.where(as_of < denied_at, LOW_BITS, np.uint8(0)).astype(np.uint8)
    overturned = denied(due) | (denied(state) & ~allowed(due))
    before = np.where(as_of < denied_at, LOW_BITS, np.uint8(0))
    return np.asarray(np.where(as_of == denied_at, overturned, before), np.uint8)


def approved(statement: Bytes, values: Bytes) -> Bytes:
    """Return the channels, one low bit each, of which a person approved just what the export says now."""
    return stated(values) & ~stated(values ^ statement)


def of_kind(changes: Bytes, kind: Change) -> Bytes:
    """Return the channels, one low bit each, whose change is of this kind."""
    return LOW_BITS & ~stated(changes ^ np.uint8(kind * LOW_BITS))


def keep(values: Bytes, chosen: Bytes) -> Bytes:
    """Return *values* in the chosen channels (one low bit each), NOTHING elsewhere."""
    return np.asarray(values & spread(chosen), np.uint8)
