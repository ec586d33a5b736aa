"""Whether a ledger fits together: its pages, what its rows refer to, and what it keeps ready."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from sync_job.ledger import files

# Each counts rows of the ledger that name something that it does not have.
_REFERENCES = {
    "withdrawals of a list that is not there": "SELECT count(*) FROM withdrawals WHERE list NOT IN "
    "(SELECT number FROM lists)",
    "repeats of a list that is not there": "SELECT count(*) FROM repeats WHERE list NOT IN (SELECT number FROM lists)",
    "numbers of the CRM of a withdrawal that is not there": "SELECT count(*) FROM given i WHERE NOT EXISTS "
    "(SELECT 1 FROM withdrawals w WHERE w.client = i.client AND w.channels = i.channels AND w.withdrawn_at = "
    "i.withdrawn_at AND w.request_ref = i.request_ref)",
    "obligations of a list that is not there": "SELECT count(*) FROM obligations WHERE list IS NOT NULL AND list "
    "NOT IN (SELECT number FROM lists)",
    "obligations of a run that is not there": "SELECT count(*) FROM obligations WHERE run IS NOT NULL AND run "
    "NOT IN (SELECT run FROM runs)",
    "obligations of a withdrawal that is not there": "SELECT count(*) FROM obligations o WHERE source = 'withdrawal' "
    "AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.client = o.client AND w.withdrawn_at = o.withdrawn_at "
    "AND w.request_ref = o.request_ref)",
    "obligations that owe what they are not about": "SELECT count(*) FROM obligations WHERE owed & ~channels != 0",
    "withdrawals in force of channels that they are not about": "SELECT count(*) FROM withdrawals WHERE "
    "in_force & ~channels != 0",
    "approved clients of an approval that is not there": "SELECT count(*) FROM approved WHERE approval NOT IN "
    "(SELECT number FROM approvals)",
    "legs of a run that is not there": "SELECT count(*) FROM legs WHERE run NOT IN (SELECT run FROM runs)",
    "legs of a snapshot that is not there": "SELECT count(*) FROM legs WHERE snapshot NOT IN "
    "(SELECT number FROM snapshots)",
    "runs that are in no stage that there is": "SELECT count(*) FROM runs WHERE stage NOT IN "
    "('open', 'committed', 'reported')",
    "runs whose summary cannot be read": "SELECT count(*) FROM runs WHERE summary IS NOT NULL AND NOT "
    "json_valid(summary)",
}


def check(path: Path) -> None:
    """Hold that the ledger's pages, its references and what it keeps ready fit together.

    Raises:
        StateDamagedError: saying what does not.
    """
    with files.loading(path), closing(files.connect_reading(path)) as db:
        db.execute("BEGIN")
        said = [words for (words,) in db.execute("PRAGMA integrity_check")]
        if said != ["ok"]:
            raise ValueError(f"the database's own check: {said[0]}")
        for words, query in _REFERENCES.items():
            ((count,),) = db.execute(query).fetchall()
            if count:
                raise ValueError(f"{count:,} {words}")
        if not _ready(db):
            raise ValueError("who withdrew what, as it is kept ready, is not what the withdrawals say")


def _ready(db: sqlite3.Connection) -> bool:
    """Return whether the row with all withdrawals in force is what the withdrawals say."""
    rows = db.execute("SELECT client, in_force FROM withdrawals WHERE in_force != 0 ORDER BY client").fetchall()
    said: dict[int, int] = {}
    for client, channels in rows:
        said[client] = said.get(client, 0) | channels
    kept = db.execute("SELECT client, channels FROM in_force").fetchall()
    if not kept:
        return not said
    ids, channels = np.frombuffer(kept[0][0], np.int32), np.frombuffer(kept[0][1], np.uint8)
    return list(said.items()) == list(zip(ids.tolist(), channels.tolist(), strict=True))
