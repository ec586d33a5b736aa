"""The steps by which a ledger of an older version becomes one of today's: each a function, each one transaction.

A step is never changed once it was released; a new version of the schema is a new step at the end.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from sync_job.ledger import files

Step = Callable[[sqlite3.Connection], None]
STEPS: tuple[Step, ...] = ()  # The first makes version 2 of version 1. There has been no other version yet.


def newest(steps: tuple[Step, ...] = STEPS) -> int:
    """Return the version that these steps lead to."""
    return 1 + len(steps)


def migrate(connection: sqlite3.Connection, path: Path, version: int, steps: tuple[Step, ...]) -> None:
    """Bring a ledger of *version* to the newest; one that dies in between is of the version that it got to."""
    for number, step in enumerate(steps[version - 1 :], version + 1):
        with files.transaction(connection, path):
            step(connection)
            connection.execute("UPDATE about SET value = ? WHERE key = 'version'", (str(number),))
