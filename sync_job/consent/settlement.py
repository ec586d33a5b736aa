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
    """Revocations that were planned and not acknowledged, the low bit of each channel: they are owed from now on."""

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
    """All of it; *delivered* are the clients whose rows were delivered whole."""

    acknowledged: Acknowledged
    revoked: Revoked
    refused: Refused
    delivered: Ids

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
) -> Settlement:
    """Return what follows from how *rows* ended.

    *settled* is when each did, in epoch seconds, *started* when the leg was planned and *lingering* who lingered then.
    A denial that was acknowledged while an older request may still be applied, or after an attempt in doubt, stays
    owed: it is sent once more when the linger has ended.
    """
    denials = np.where(endings.denials != Outcome.OPEN, endings.denials, endings.outcome)
    done = denials == Outcome.DELIVERED
    says_no = denied(rows.sent)
    sure = done & (endings.doubt == 0) & ~lingering.of(rows.client, started)[0] & (says_no != 0)
    revoked = np.where(done, 0, says_no & allowed(rows.state)).astype(np.uint8)
    refused = endings.outcome == Outcome.REFUSED
    return Settlement(
        Acknowledged(rows.client[sure], says_no[sure], settled[sure]),
        Revoked(rows.client[revoked != 0], revoked[revoked != 0]),
        Refused(rows.client[refused], rows.sent[refused], not_found[refused]),
        rows.client[endings.outcome == Outcome.DELIVERED],
    )
