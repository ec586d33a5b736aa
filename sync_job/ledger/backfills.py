"""Backfills: what was made due again, by whom it was approved, and which clients had an attempt in doubt since."""

from dataclasses import dataclass

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE backfills (
    run TEXT PRIMARY KEY, at REAL NOT NULL, channels INTEGER NOT NULL, grants INTEGER NOT NULL,
    approved INTEGER NOT NULL, clients INTEGER NOT NULL, ended REAL, how TEXT
) WITHOUT ROWID;
CREATE TABLE doubted (client INTEGER PRIMARY KEY)
"""


@dataclass(frozen=True)
class Backfill:
    """A backfill: the run that made it, when (epoch seconds), of which channels (low bits), and with grants or not.

    *approved* is how many clients were approved to be sent an *allowed*, *clients* how many were marked.
    """

    run: str
    at: float
    channels: int
    grants: bool
    approved: int
    clients: int


class Backfills(Store):
    """Reads and writes these tables of one ledger."""

    def open(self) -> Backfill | None:
        """Return the backfill that has not ended, if there is one."""
        rows = self._rows("SELECT run, at, channels, grants, approved, clients FROM backfills WHERE ended IS NULL")
        for run, at, channels, grants, approved, clients in rows:
            return Backfill(run, at, channels, bool(grants), approved, clients)
        return None

    def last(self) -> tuple[str, str] | None:
        """Return the run of the backfill that ended last, and how it ended; none if no backfill has ended."""
        rows = self._rows(
            "SELECT b.run, b.how FROM backfills b LEFT JOIN runs r ON r.run = b.run WHERE b.ended IS NOT NULL "
            "ORDER BY r.number DESC LIMIT 1"
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def begin(self, one: Backfill) -> None:
        """Enter a backfill, within the transaction that makes its snapshot count."""
        self._db.execute("DELETE FROM doubted")
        self._db.execute(
            "INSERT INTO backfills VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
            (one.run, one.at, one.channels, int(one.grants), one.approved, one.clients),
        )

    def doubt(self, ids: Ids) -> None:
        """Keep, within a transaction, that these clients had an attempt in doubt while a backfill is open."""
        if self.open():
            self._db.executemany("INSERT OR IGNORE INTO doubted VALUES (?)", ((client,) for client in ids.tolist()))

    def doubted(self) -> Ids:
        """Return the clients that had an attempt in doubt since the backfill began, ascending."""
        return np.array([client for (client,) in self._rows("SELECT client FROM doubted ORDER BY client")], np.int32)

    def end(self, how: str, now: float) -> None:
        """End the backfill that is open, within a transaction, and say *how*."""
        self._db.execute("UPDATE backfills SET ended = ?, how = ? WHERE ended IS NULL", (now, how))
        self._db.execute("DELETE FROM doubted")

    def forget(self, ids: Ids) -> None:
        """Take clients out, within a transaction."""
        self._db.executemany("DELETE FROM doubted WHERE client = ?", ((client,) for client in ids.tolist()))
