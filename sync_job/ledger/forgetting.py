"""Who is to be erased and is not yet, and a record of the requests to erase that names none of the clients."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Ids
from sync_job.consent.lists import without_ids
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE forgetting (client INTEGER PRIMARY KEY, request_ref TEXT NOT NULL, asked REAL NOT NULL);
CREATE TABLE erasures (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, clients INTEGER NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL,
    request_ref TEXT NOT NULL
)
"""


class Forgetting(Store):
    """Reads and writes these tables of one ledger."""

    def ask(self, ids: Ids, request_ref: str, at: float | npt.NDArray[np.float64]) -> None:
        """Keep who is to be erased and since when (epoch seconds), durably, until they are."""
        with self._writing():
            self.add(ids, request_ref, at)

    def add(self, ids: Ids, request_ref: str, at: float | npt.NDArray[np.float64]) -> None:
        """Keep the same within a transaction."""
        self._db.executemany(
            "INSERT OR IGNORE INTO forgetting VALUES (?, ?, ?)",
            (
                (client, request_ref, when)
                for client, when in zip(ids.tolist(), np.broadcast_to(at, len(ids)).tolist(), strict=True)
            ),
        )

    def record(self, ids: Ids, request_ref: str, now: float, *, by: str, reason: str) -> None:
        """Record a request to erase these clients, without their ids, within a transaction."""
        said = (without_ids(text, set(ids.tolist())) for text in (by, reason, request_ref))
        self._db.execute(
            "INSERT INTO erasures (at, clients, by, reason, request_ref) VALUES (?, ?, ?, ?, ?)", (now, len(ids), *said)
        )

    def erasures(self, since: float, until: float) -> list[dict[str, Any]]:
        """Return the requests to erase between two times (epoch seconds), the oldest first."""
        names = ("at", "clients", "by", "reason", "request_ref")
        query = f"SELECT {', '.join(names)} FROM erasures WHERE at >= ? AND at < ? ORDER BY number"
        return [dict(zip(names, row, strict=True)) for row in self._rows(query, since, until)]

    def asked(self) -> Ids:
        """Return who is to be erased, ascending."""
        return np.array([client for (client,) in self._rows("SELECT client FROM forgetting ORDER BY client")], np.int32)

    def asked_at(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Return when it was asked to erase each of *ids*, in epoch seconds; 0 for those who are not to be."""
        asked: dict[int, float] = dict(self._rows("SELECT client, asked FROM forgetting"))
        return np.array([asked.get(client, 0.0) for client in ids.tolist()], np.float64)

    def done(self, ids: Ids) -> None:
        """Note that these are erased, from everything."""
        with self._writing():
            self._db.executemany("DELETE FROM forgetting WHERE client = ?", ((client,) for client in ids.tolist()))
