"""Who withdrew which channels, laid together and kept ready: a million withdrawals are read in no time."""

import hashlib

import numpy as np

from sync_job.consent.channels import NOBODY, Bytes, Ids
from sync_job.consent.tables import laid_over
from sync_job.ledger import files
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE in_force (
    only INTEGER PRIMARY KEY CHECK (only = 1), client BLOB NOT NULL, channels BLOB NOT NULL, digest TEXT NOT NULL
)
"""


class InForce(Store):
    """Reads and writes this table of one ledger; whoever writes has begun the transaction."""

    def read(self) -> tuple[Ids, Bytes]:
        """Return the clients, ascending, and the low bit of each withdrawn channel.

        Raises:
            StateDamagedError: when it is not what was written.
        """
        rows = self._rows("SELECT client, channels, digest FROM in_force")
        if not rows:
            return NOBODY, np.zeros(0, np.uint8)
        with files.loading(self.path):
            ids, channels = np.frombuffer(rows[0][0], np.int32), np.frombuffer(rows[0][1], np.uint8)
            if len(ids) != len(channels) or rows[0][2] != _digest(rows[0][0], rows[0][1]):
                raise ValueError("who withdrew is not what was written")
        return ids, channels

    def rows(self, query: str) -> tuple[Ids, Bytes]:
        """Return the clients and channels that a query finds."""
        found = np.fromiter(self._db.execute(query), np.dtype([("client", np.int32), ("channels", np.uint8)]))
        return np.ascontiguousarray(found["client"]), np.ascontiguousarray(found["channels"])

    def keep(self, parts: list[tuple[Ids, Bytes]]) -> None:
        """Keep this; several rows of a client are laid over each other, and a client with no channel is left out."""
        ids, channels = laid_over(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        some = channels != 0
        kept = ids[some].tobytes(), channels[some].tobytes()
        self._db.execute("INSERT OR REPLACE INTO in_force VALUES (1, ?, ?, ?)", (*kept, _digest(*kept)))

    def gather(self) -> None:
        """Keep it anew from the withdrawals, after some were lifted."""
        self.keep([self.rows("SELECT client, in_force FROM withdrawals WHERE in_force != 0")])


def _digest(client: bytes, channels: bytes) -> str:
    return hashlib.sha256(client + channels).hexdigest()
