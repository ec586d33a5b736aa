"""Ids that clients had before `init --from`, and that nobody has by its map: an export may still have them."""

import numpy as np

from sync_job.consent.channels import NOBODY, Ids
from sync_job.consent.id_map import IdMap, among
from sync_job.consent.tables import Table, union
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE former_ids (only INTEGER PRIMARY KEY CHECK (only = 1), old BLOB NOT NULL, new BLOB NOT NULL)
"""


class FormerIds(Store):
    """Reads and writes this table of one ledger; whoever writes has begun the transaction."""

    def of(self, statements: Table) -> Ids:
        """Return, ascending, the clients of an export who are likely others under the ids of before.

        The platform may give such an id to a new client. An export that names that one names the client who had the
        id before as well, by the new one; an export that has the ids of before does not.
        """
        map_ = self._read()
        there = map_.at(statements.of(map_.old) != 0)
        return there.at(statements.of(there.new) == 0).old

    def keep(self, map_: IdMap) -> None:
        """Keep those old ids of a map that are not new ones, too."""
        self._write(map_.at(~among(map_.old, union(map_.new))))

    def forget(self, ids: Ids) -> None:
        """Forget these clients."""
        map_ = self._read()
        gone = np.isin(map_.new, ids)
        if gone.any():
            self._write(map_.at(~gone))

    def _read(self) -> IdMap:
        rows = self._rows("SELECT old, new FROM former_ids")
        if not rows:
            return IdMap(NOBODY, NOBODY)
        return IdMap(np.frombuffer(rows[0][0], np.int32), np.frombuffer(rows[0][1], np.int32))

    def _write(self, map_: IdMap) -> None:
        values = map_.old.tobytes(), map_.new.tobytes()
        self._db.execute("INSERT OR REPLACE INTO former_ids VALUES (1, ?, ?)", values)
