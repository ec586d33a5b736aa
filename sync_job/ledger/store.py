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
