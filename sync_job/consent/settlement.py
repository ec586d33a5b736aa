"""What a leg's outcomes mean beside the snapshot: which denials were acknowledged, which are owed now, who waits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Bytes, Ids, Mask, allowed, denied
from sync_job.consent.fold import Endings, Outcome
from sync_job.consent.known import Lingering
from sync_job.consent.rows import Rows
from sync_job.consent.tables import Table


class Acknowledged(NamedTuple):
    """Denials that the platform acknowledged for sure, the low bit of each channel, and when (epoch seconds)."""

    client: Ids
    channels: Bytes
    at: npt.NDArray[np.float64]


class Revoked(NamedTuple):
    """Denials of what the platform may allow that are not acknowledged for sure, the low bit of each channel.

    They are owed from now on.
    """

    client: Ids
    channels: Bytes


class OwedSince(NamedTuple):
    """Since when, and until when, each of the revocations of a settlement is owed, in epoch seconds."""

    started: npt.NDArray[np.float64]
    limit_at: npt.NDArray[np.float64]


class Refused(NamedTuple):
    """Rows that the platform refused for good, what they sent, and whether it knows no such client."""

    client: Ids
    sent: Bytes
    not_found: Mask


class Settlement(NamedTuple):
    """All of it; *delivered* are the clients whose rows were delivered whole.

    *unanswered* are those whose row was tried, and neither delivered nor refused: whatever was said of them before, it
    is not the last answer any more.
    """

    acknowledged: Acknowledged
    revoked: Revoked
    refused: Refused
    delivered: Ids
    unanswered: Ids

    def less_revoked(self, channels: Table) -> "Settlement":
        """Return the same without what was revoked of these channels (low bits, by client)."""
        left = np.asarray(self.revoked.channels & ~channels.of(self.revoked.client), np.uint8)
        return self._replace(revoked=Revoked(self.revoked.client[left != 0], left[left != 0]))


def settle(
    rows: Rows,
    endings: Endings,
    settled: npt.NDArray[np.float64],
    not_found: Mask,
    lingering: Lingering,
    started: float,
    tried: Mask,
) -> Settlement:
    """Return what follows from how *rows* ended.

    *settled* is when each did, in epoch seconds, *started* when the leg was planned and *lingering* who lingered then;
    *tried* are the rows of which a request was made, or may have been.
    A denial that was acknowledged while an older request may still be applied, or after an attempt in doubt, stays
    owed: it is sent once more when the linger has ended.
    """
    denials = np.where(endings.denials != Outcome.OPEN, endings.denials, endings.outcome)
    done = denials == Outcome.DELIVERED
    says_no = denied(rows.sent)
    lingers = lingering.of(rows.client, started)[0]
    sure = done & (endings.doubt == 0) & ~lingers & (says_no != 0)
    revoked = (says_no & np.where(done, late_grants(rows, lingers), may_be_allowed(rows))).astype(np.uint8)
    refused = endings.outcome == Outcome.REFUSED
    return Settlement(
        Acknowledged(rows.client[sure], says_no[sure], settled[sure]),
        Revoked(rows.client[revoked != 0], revoked[revoked != 0]),
        Refused(rows.client[refused], rows.sent[refused], not_found[refused]),
        rows.client[endings.outcome == Outcome.DELIVERED],
        rows.client[tried & (endings.outcome != Outcome.DELIVERED) & ~refused],
    )


def may_be_allowed(rows: Rows) -> Bytes:
    """Return the channels, a low bit each, that the platform may allow when a row is planned.

    It acknowledged that, or a grant was sent whose answer was lost: until something else is acknowledged, that is Due.
    """
    return allowed(rows.state) | allowed(rows.due)


def late_grants(rows: Rows, lingers: Mask) -> Bytes:
    """Return the channels, a low bit each, that a grant in doubt may still allow after the row was delivered."""
    return np.where(lingers, allowed(rows.due), np.uint8(0)).astype(np.uint8)
