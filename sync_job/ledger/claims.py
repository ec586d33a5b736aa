"""Who ever withdrew, by a ledger: what the codes beside the keys have to know, and what they are held against."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import NOBODY, SHIFTS, Bytes, Ids, low_bits
from sync_job.consent.tables import tabulate
from sync_job.ledger import files
from sync_job.ledger.in_force import InForce
from sync_job.ledger.store import Store
from sync_job.ledger.withdrawals import WITHDRAWN_AT

Seconds = npt.NDArray[np.uint32]  # a row per client, a column per channel: epoch seconds, 0 for never
_ROW = np.dtype([("client", np.int32), ("channels", np.uint8), ("at", np.float64)])


@dataclass(frozen=True, eq=False)
class Claims:
    """The clients that ever withdrew, ascending: when each channel was last withdrawn and last consented to again.

    *in_force* has the low bit of each channel that is withdrawn today.
    """

    client: Ids
    withdrawn: Seconds
    granted: Seconds
    in_force: Bytes


class ClaimsStore(Store):
    """Reads the claims of one ledger."""

    def last_list(self) -> int:
        """Return the number of the list that was taken in last; 0 if there was none."""
        return int(self._rows("SELECT coalesce(max(number), 0) FROM lists")[0][0])

    def since(self, number: int) -> tuple[Ids, Seconds]:
        """Return who withdrew by the lists after *number*, ascending, and when each channel was last withdrawn."""
        query = f"SELECT client, channels, {WITHDRAWN_AT} FROM withdrawals WHERE list > ?"
        return _newest(self._read(query, number))

    def all(self) -> Claims:
        """Return what the ledger knows of everybody who ever withdrew.

        Raises:
            StateDamagedError: when the ledger is not what was written.
        """
        client, withdrawn = self.since(0)
        again, at = _newest(
            self._read("SELECT client, channels, granted_at FROM reconsents WHERE granted_at <= taken_in"), down=True
        )
        granted = np.zeros_like(withdrawn)
        known = np.isin(again, client, assume_unique=True)
        granted[np.searchsorted(client, again[known])] = at[known]
        ids, channels = InForce(self.path, self._db).read()
        return Claims(client, withdrawn, granted, tabulate(ids, ids, channels).of(client))

    def _read(self, query: str, *values: int) -> npt.NDArray[np.void]:
        with files.loading(self.path):
            return np.fromiter(self._db.execute(query, values), _ROW)


def named(ids: Ids, channels: Bytes, at: npt.NDArray[np.float64]) -> Claims:
    """Return the claims of a list of withdrawals that no ledger has yet."""
    rows = np.zeros(len(ids), _ROW)
    rows["client"], rows["channels"], rows["at"] = ids, channels, at
    client, withdrawn = _newest(rows)
    return Claims(client, withdrawn, np.zeros_like(withdrawn), low_bits(withdrawn != 0))


def _newest(rows: npt.NDArray[np.void], *, down: bool = False) -> tuple[Ids, Seconds]:
    """Return each client of *rows* once, and the newest time of each channel.

    Part of a second is rounded up, or *down*: a withdrawal is never taken for older than a consent that it follows.
    """
    if not len(rows):
        return NOBODY, np.zeros((0, len(SHIFTS)), np.uint32)
    client, place = np.unique(rows["client"], return_inverse=True)
    whole = (np.floor if down else np.ceil)(rows["at"])
    at = np.clip(whole, 1, np.iinfo(np.uint32).max).astype(np.uint32)
    newest = np.zeros((len(client), len(SHIFTS)), np.uint32)
    for column, shift in enumerate(SHIFTS):
        here = (rows["channels"] >> shift & 1).astype(np.bool_)
        np.maximum.at(newest[:, column], place[here], at[here])
    return client, newest
