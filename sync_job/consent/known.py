"""What is known of the clients before an export is looked at: what they hold, what is owed, who withdrew or waits."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Bytes, Ids, Mask
from sync_job.consent.tables import Table, tabulate

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """What is known and owed, one row a client in ascending order: int32 ids, and State and Due as bytes."""

    client: Ids
    state: Bytes
    due: Bytes

    def __len__(self) -> int:
        return len(self.client)


class Lingering(NamedTuple):
    """Clients with an attempt in doubt not long ago, ascending: int32 ids, end in epoch seconds, acknowledged since.

    Until *everyone*, in epoch seconds, all others linger too: nobody knows what a restored backup had on its way. What
    ended before that was acknowledged before it, and counts no more.
    """

    client: Ids
    until: Seconds
    acknowledged: Mask
    everyone: float = 0.0

    def of(self, ids: Ids, now: float) -> tuple[Mask, Mask]:
        """Return which of *ids* still linger at *now*, and which of those were acknowledged meanwhile."""
        found = self.ends(ids) > now
        if not len(self.client):
            return found, np.zeros(len(ids), np.bool_)
        place = self._place(ids)
        own = (self.client[place] == ids) & (self.until[place] >= self.everyone)
        return found, found & own & self.acknowledged[place]

    def ends(self, ids: Ids) -> Seconds:
        """Return until when each of *ids* lingers, in epoch seconds; 0 for who never did."""
        ends = np.full(len(ids), self.everyone)
        if len(self.client):
            place = self._place(ids)
            ends = np.where(self.client[place] == ids, np.maximum(self.until[place], ends), ends)
        return ends

    def _place(self, ids: Ids) -> npt.NDArray[np.intp]:
        return np.minimum(np.searchsorted(self.client, ids), len(self.client) - 1)


def no_lingering() -> Lingering:
    """Return that nobody lingers."""
    return Lingering(np.zeros(0, np.int32), np.zeros(0, np.float64), np.zeros(0, np.bool_))


class Obligations(NamedTuple):
    """Denials that are owed and to be sent now, ascending by client: int32 ids, the low bit of each channel, limits.

    *limit_at* is until when each is to be acknowledged, in epoch seconds.
    """

    client: Ids
    channels: Bytes
    limit_at: npt.NDArray[np.float64]

    def table(self) -> Table:
        """Return the channels by client."""
        return tabulate(self.client, self.client, self.channels)

    def first(self, client: Ids) -> npt.NDArray[np.float64]:
        """Return the limit of each of *client*, infinity for those to whom nothing is owed."""
        limits = np.full(len(client), np.inf)
        if len(self.client):
            place = np.minimum(np.searchsorted(self.client, client), len(self.client) - 1)
            limits = np.where(self.client[place] == client, self.limit_at[place], np.inf)
        return limits


def nobody() -> Table:
    """Return the table that has no client."""
    return tabulate(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8))


def nothing_owed() -> Obligations:
    """Return that nothing is owed."""
    return Obligations(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.float64))


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the clients before an export is looked at.

    *withdrawn* has the low bit of each withdrawn channel; *waiting* has, as a byte, what clients were refused, until
    their next try.
    """

    holdings: Holdings
    withdrawn: Table = field(default_factory=nobody)
    owed: Obligations = field(default_factory=nothing_owed)
    lingering: Lingering = field(default_factory=no_lingering)
    waiting: Table = field(default_factory=nobody)
