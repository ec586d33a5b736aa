"""What every part of a ledger has: its file, its one connection, and access that names the file in errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sync_job.ledger import files


class Store:
    """Some tables of one ledger."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make everything in the block durable in one step, or nothing of it."""
        with files.transaction(self._db, self.path):
            yield

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with files.loading(self.path):
            return self._db.execute(query, values).fetchall()

    def _move(self, table: str, columns: str, *, keep: str = "true", order: str = "client", settle: str = "") -> None:
        """Give the rows of clients that are renumbered their new ids, all at once, within its transaction.

        Only those that *keep* is true of stay. *settle* says what becomes of rows that are one then, in this *order*.
        """
        self._db.execute(
            f"CREATE TEMP TABLE moving AS SELECT m.new AS client, {columns} "
            f"FROM {table} JOIN temp.moves m ON m.old = client"
        )
        self._db.execute(f"DELETE FROM {table} WHERE client IN (SELECT old FROM temp.moves)")
        self._db.execute(
            f"INSERT INTO {table} (client, {columns}) SELECT client, {columns} FROM temp.moving "
            f"WHERE {keep} ORDER BY {order} {settle}"
        )
        self._db.execute("DROP TABLE temp.moving")
