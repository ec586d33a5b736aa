"""Who is to be erased and is not yet: a denial is still owed to them, or the erasure died before its end."""

import sqlite3
from pathlib import Path

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.ledger import files

SCHEMA = """
CREATE TABLE forgetting (client INTEGER PRIMARY KEY, request_ref TEXT NOT NULL, asked REAL NOT NULL)
"""


class Forgetting:
    """Reads and writes this table of one ledger."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    def ask(self, ids: Ids, request_ref: str, now: float) -> None:
        """Keep who is to be erased, durably, until they are."""
        with files.transaction(self._db, self.path):
            self._db.executemany(
                "INSERT OR IGNORE INTO forgetting VALUES (?, ?, ?)",
                ((client, request_ref, now) for client in ids.tolist()),
            )

    def asked(self) -> Ids:
        """Return who is to be erased, ascending."""
        with files.loading(self.path):
            rows = self._db.execute("SELECT client FROM forgetting ORDER BY client").fetchall()
        return np.array([row[0] for row in rows], np.int32)

    def done(self, ids: Ids) -> None:
        """Note that these are erased, from everything."""
        with files.transaction(self._db, self.path):
            self._db.executemany("DELETE FROM forgetting WHERE client = ?", ((client,) for client in ids.tolist()))
