"""Holds a ledger and the codes of who withdrew, which lie beside the keys, against each other.

The codes never lose anybody but by erasure, so whoever they know and a ledger does not was lost with what the ledger
had after it was backed up.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.ledger import anchor
from sync_job.ledger.about import Accounted
from sync_job.ledger.anchor import Anchor, Standing
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.withdrawn import Withdrawn


class Stand(NamedTuple):
    """How a state stands beside its anchor, and how many people who withdrew it lacks."""

    anchor: Anchor | None
    standing: Standing
    missing: int


def stand(ledger: Ledger, keys: Path, target: str) -> Stand:
    """Return how a ledger stands beside the anchor and the codes of its target.

    Raises:
        StateError: when one of them cannot be read.
    """
    found = anchor.read(keys, target)
    lacks = missing(ledger, Withdrawn.open(keys, target, found))
    anchored = ledger.about.is_anchored()
    return Stand(found, anchor.compare(found, missing=lacks, anchored=anchored, **ledger.place()), lacks)


def missing(ledger: Ledger, codes: Withdrawn) -> int:
    """Return how many people withdrew, by the codes, whom the ledger does not deny what they withdrew."""
    noted = ledger.about.accounted()
    if not len(codes) or (noted and noted.whole and noted.digest == codes.digest):
        return 0
    return int(np.count_nonzero(codes.missing(ledger.claims.all())))


def enter(ledger: Ledger, keys: Path, codes: Withdrawn) -> Withdrawn:
    """Make sure that the codes have everybody who withdrew by this ledger, durably, and return them."""
    noted, last = ledger.about.accounted(), ledger.claims.last_list()
    known = noted if noted and noted.digest == codes.digest else None
    if known and known.last_list == last:
        return codes
    after = codes.with_(keys, *ledger.claims.since(known.last_list if known else 0))
    if after is not codes:
        after.write()
    whole = known.whole if known else not missing(ledger, after)
    if len(after):
        ledger.about.note_accounted(Accounted(after.digest, last, whole))
    return after


def entered(ledger: Ledger, found: Anchor | None) -> bool:
    """Return whether the codes that the anchor names have everybody who withdrew by this ledger."""
    noted = ledger.about.accounted()
    if noted is None:
        return not ledger.claims.last_list() and not (found and found.edition)
    return found is not None and found.digest == noted.digest and noted.last_list == ledger.claims.last_list()


def erase(ledger: Ledger, codes: Withdrawn, ids: Ids) -> None:
    """Take people who are erased out of the codes, durably, before the ledger forgets them.

    In a restored backup only those whom it knows to have withdrawn: of others the codes know what came since.
    """
    noted = ledger.about.accounted()
    known = noted if noted and noted.digest == codes.digest else None
    if not (known and known.whole):
        ids = ids[np.isin(ids, ledger.withdrawals.clients())]
    after = codes.without(ids)
    if after is not codes:
        after.write()
        ledger.about.note_accounted(known._replace(digest=after.digest) if known else None)
