"""What a backfill makes due again, and what of that may be taken back.

It marks only what is to be *stated again*: a denial where the platform is not known to allow, an *allowed* where it is
known to allow. What the export changes beyond that is an ordinary change, and the guards look at it as ever.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import LOW_BITS, Bytes, Ids, allowed, denied, spread, stated
from sync_job.consent.known import Holdings, Known
from sync_job.consent.tables import Table, union


@dataclass(frozen=True)
class Again:
    """What is to be sent again: every stated denial in *channels* (low bits), with *grants* every *allowed* too."""

    channels: int = int(LOW_BITS)
    grants: bool = False


class Mark(NamedTuple):
    """Clients, ascending, their State when they were marked, and as a byte what was made due of each."""

    client: Ids
    state: Bytes
    made: Bytes


def mark(statements: Table, known: Known, ungranted: Ids, again: Again) -> Mark:
    """Return what has to be made due so that all of it is sent again; *ungranted* (ascending) are marked no grant.

    Whoever withdrew is denied again too, where the platform was told before or the export has the client. What is due
    already is not made due, so that taking the mark back leaves it.
    """
    holdings = known.holdings
    covered_ids = known.withdrawn.items()[0]
    ids = union(statements.items()[0], covered_ids[holdings.has(covered_ids)])
    says = statements.of(ids)
    state, due = holdings.of(ids)
    covered = known.withdrawn.of(ids)
    told = stated(state) | np.where(says != 0, LOW_BITS, np.uint8(0))
    denials = (denied(says) | (covered & told)) & ~allowed(state)
    grants = allowed(says) & allowed(state) & ~covered if again.grants else np.zeros_like(says)
    grants[np.isin(ids, ungranted, assume_unique=True)] = 0
    made = ((denials | grants << 1) & spread(np.uint8(again.channels) & ~stated(due))).astype(np.uint8)
    which = made != 0
    return Mark(ids[which], state[which], made[which])


def marked(holdings: Holdings, what: Mark) -> Holdings:
    """Return the holdings in which *what* is due."""
    state, due = holdings.of(what.client)
    return holdings.replaced(Holdings(what.client, state, due | what.made))


def left(what: Mark, holdings: Holdings) -> Bytes:
    """Return the channels of each marked client, a low bit each, that are still due as the mark made them.

    A row in doubt is one of them: it is sent until it is acknowledged.
    """
    due = holdings.of(what.client)[1]
    return np.asarray(~stated(due ^ what.made) & stated(what.made), np.uint8)


def untouched(what: Mark, holdings: Holdings, in_doubt: Ids) -> Bytes:
    """Return the channels of each marked client, a low bit each, that may be taken back.

    They are `left` with the State that they had: nothing of them was acknowledged, and no attempt is *in doubt*
    (ascending ids).
    """
    state, _ = holdings.of(what.client)
    same = left(what, holdings) & ~stated(state ^ what.state)
    same[np.isin(what.client, in_doubt, assume_unique=True)] = 0
    return np.asarray(same, np.uint8)


def taken_back(holdings: Holdings, what: Mark, in_doubt: Ids) -> Holdings:
    """Return the holdings without what is `untouched` of the mark; what was due before it stays.

    So does a denial of what the platform was never told: the export had decided it, and it repeats nothing.
    """
    channels = untouched(what, holdings, in_doubt) & ~(denied(what.made) & ~stated(what.state))
    which = channels != 0
    ids = what.client[which]
    state, due = holdings.of(ids)
    return holdings.replaced(Holdings(ids, state, (due & ~spread(channels[which])).astype(np.uint8)))
