"""Who is to be erased and is not yet: a denial is still owed to them, or the erasure died before its end."""

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE forgetting (client INTEGER PRIMARY KEY, request_ref TEXT NOT NULL, asked REAL NOT NULL)
"""


class Forgetting(Store):
    """Reads and writes this table of one ledger."""

    def ask(self, ids: Ids, request_ref: str, now: float) -> None:
        """Keep who is to be erased, durably, until they are."""
        with self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO forgetting VALUES (?, ?, ?)",
                ((client, request_ref, now) for client in ids.tolist()),
            )

    def asked(self) -> Ids:
        """Return who is to be erased, ascending."""
        return np.array([client for (client,) in self._rows("SELECT client FROM forgetting ORDER BY client")], np.int32)

    def done(self, ids: Ids) -> None:
        """Note that these are erased, from everything."""
        with self._writing():
            self._db.executemany("DELETE FROM forgetting WHERE client = ?", ((client,) for client in ids.tolist()))
