"""What is known of the clients before an export is looked at: what they hold, what is owed, who withdrew or waits."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Bytes, Ids, Mask, denied
from sync_job.consent.dates import NEVER, Dates, Seconds
from sync_job.consent.tables import Table, tabulate


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """What is known and owed, one row per client in ascending order: int32 ids, State and Due as bytes (uint8).

    *dates* has when the newest denial of each client was stated; if it is omitted, none ever was.
    """

    client: Ids
    state: Bytes
    due: Bytes
    dates: Dates = field(default_factory=lambda: Dates.never(0))

    def __post_init__(self) -> None:
        if len(self.dates) != len(self.client):
            object.__setattr__(self, "dates", Dates.never(len(self.client)))

    def __len__(self) -> int:
        return len(self.client)

    def has(self, ids: Ids) -> Mask:
        """Return which of *ids* anything is known or owed of."""
        return self._here(ids)[0]

    def of(self, ids: Ids) -> tuple[Bytes, Bytes]:
        """Return State and Due of each of *ids*, 0 for those of whom nothing is known."""
        here, place = self._here(ids)
        state, due = np.zeros(len(ids), np.uint8), np.zeros(len(ids), np.uint8)
        state[here], due[here] = self.state[place[here]], self.due[place[here]]
        return state, due

    def denied_at(self, ids: Ids) -> Seconds:
        """Return when the newest denial of each of *ids* was stated, in epoch seconds, NEVER if none was."""
        here, place = self._here(ids)
        found = np.full(len(ids), NEVER)
        found[here] = self.dates.times[self.dates.places[place[here]]]
        return found

    def at(self, which: Mask) -> "Holdings":
        """Return the holdings of the chosen clients."""
        return Holdings(self.client[which], self.state[which], self.due[which], self.dates.at(which))

    def replaced(self, rows: "Holdings") -> "Holdings":
        """Return the holdings with *rows* in place of what they held; clients with nothing left are dropped.

        The later date of a denial stays.
        """
        if not len(rows):
            return self
        here, place = self._here(rows.client)
        full = (rows.state | rows.due) != 0
        dates = np.maximum(rows.dates.seconds(), self.denied_at(rows.client))
        if here.all() and full.all() and self.dates.has_room(dates):  # most nights: nobody comes or goes
            state, due = self.state.copy(), self.due.copy()
            state[place], due[place] = rows.state, rows.due
            return Holdings(self.client, state, due, self.dates.changed(place, dates))
        kept = np.ones(len(self), np.bool_)
        kept[place[here]] = False
        client = np.concatenate([self.client[kept], rows.client[full]])
        order = np.argsort(client, kind="stable")
        return Holdings(
            client[order],
            np.concatenate([self.state[kept], rows.state[full]])[order],
            np.concatenate([self.due[kept], rows.due[full]])[order],
            self.dates.replaced(kept, dates[full], order),
        )

    def denied_again(self, says: Table, at: float) -> "Holdings":
        """Return the holdings with what *says* denies once more dated *at* which it was stated again."""
        ids, values = says.items()
        which = denied(values) != 0
        ids, values = ids[which], values[which]
        state, due = self.of(ids)
        again = ((denied(values) & (denied(state) | denied(due))) != 0) & (self.denied_at(ids) < at)
        return self.replaced(
            Holdings(ids[again], state[again], due[again], Dates.of(np.full(int(np.count_nonzero(again)), at)))
        )

    def _here(self, ids: Ids) -> tuple[Mask, npt.NDArray[np.intp]]:
        if not len(self):
            return np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.intp)
        place = np.minimum(np.searchsorted(self.client, ids), len(self) - 1)
        return self.client[place] == ids, place


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
