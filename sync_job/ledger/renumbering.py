"""The renumberings of the platform's ids that the state went through, each with its map.

The maps are kept for lists that still carry old ids. What of a ledger has ids is moved by the part that it is of.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.consent.renumber import IdMap, merged
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE renumberings (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, at REAL NOT NULL, run INTEGER NOT NULL,
    reason TEXT NOT NULL, by TEXT NOT NULL, counts TEXT NOT NULL, old BLOB NOT NULL, new BLOB NOT NULL
)
"""


@dataclass(frozen=True)
class Renumbering:
    """One renumbering: the digest of its map, when it was (epoch seconds), after which run, why, and who said so."""

    digest: str
    at: float
    run: int
    reason: str
    by: str
    counts: dict[str, Any]


class Renumberings(Store):
    """Reads and writes the renumberings of one ledger."""

    def all(self) -> list[Renumbering]:
        """Return every renumbering, the oldest first."""
        query = "SELECT digest, at, run, reason, by, counts FROM renumberings ORDER BY number"
        return [
            Renumbering(digest, at, run, reason, by, json.loads(counts))
            for digest, at, run, reason, by, counts in self._rows(query)
        ]

    def count(self) -> int:
        """Return how many there were."""
        return int(self._rows("SELECT count(*) FROM renumberings")[0][0])

    def has(self, digest: str) -> bool:
        """Return whether the map with this digest was applied."""
        return bool(self._rows("SELECT 1 FROM renumberings WHERE digest = ?", digest))

    def maps(self, since: int = 0) -> list[IdMap]:
        """Return the maps that were applied after run *since*, the oldest first."""
        rows = self._rows("SELECT old, new FROM renumberings WHERE run >= ? ORDER BY number", since)
        return [IdMap(np.frombuffer(old, np.int32), np.frombuffer(new, np.int32)) for old, new in rows]

    def begin(self, one: Renumbering, map_: IdMap, moving: IdMap, named: Ids) -> None:
        """Enter a renumbering, and let the other parts see what of it is *moving*, within its transaction.

        *named* are the clients that they know of.
        """
        self._db.execute(
            "INSERT INTO renumberings (digest, at, run, reason, by, counts, old, new) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(one.digest, one.at, one.run, one.reason, one.by, json.dumps(one.counts)),
                *(map_.old.tobytes(), map_.new.tobytes()),
            ),
        )
        here = moving.at(np.isin(moving.old, named, assume_unique=True))
        self._db.execute("CREATE TEMP TABLE moves (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)")
        self._db.executemany(
            "INSERT INTO temp.moves VALUES (?, ?)", zip(here.old.tolist(), here.new.tolist(), strict=True)
        )
        self._db.execute("CREATE TEMP TABLE merged (client INTEGER PRIMARY KEY)")
        self._db.executemany("INSERT INTO temp.merged VALUES (?)", ((one,) for one in merged(moving).tolist()))

    def end(self) -> None:
        """Let go of what `begin` showed the others, within the same transaction."""
        self._db.execute("DROP TABLE temp.moves")
        self._db.execute("DROP TABLE temp.merged")

    def forget(self, ids: Ids) -> None:
        """Take clients out of every map, under the ids that they had by then as well."""
        with self._writing():
            for (number,) in self._rows("SELECT number FROM renumberings ORDER BY number DESC"):
                ((old, new),) = self._rows("SELECT old, new FROM renumberings WHERE number = ?", number)
                map_ = IdMap(np.frombuffer(old, np.int32), np.frombuffer(new, np.int32))
                gone = np.isin(map_.new, ids)
                ids = map_.came_from(ids)
                if gone.any():
                    kept = map_.at(~gone)
                    self._db.execute(
                        "UPDATE renumberings SET old = ?, new = ? WHERE number = ?",
                        (kept.old.tobytes(), kept.new.tobytes(), number),
                    )

    def of(self, client: int) -> list[dict[str, Any]]:
        """Return, the latest first, after which run a client got its id and which it had before, as far as is kept."""
        found = []
        ids = np.array([client], np.int32)
        for one, map_ in zip(reversed(self.all()), reversed(self.maps()), strict=True):
            before = map_.came_from(ids)
            if before.tolist() != ids.tolist():
                found.append({"after_run": one.run, "at": one.at, "was": before.tolist()})
            ids = before
        return found
