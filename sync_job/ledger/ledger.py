"""The ledger: which snapshot counts, which runs there were and how far each got, who lingers, what is owed.

SQLite with a rollback journal and one writer, the lock's holder. Every method that writes is one transaction.
"""

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.consent.known import Lingering
from sync_job.consent.settlement import OwedSince, Settlement
from sync_job.errors import ForeignStateError, NoStateError
from sync_job.ledger import applied, files, forgetting, obligations, withdrawals
from sync_job.ledger.applied import Applied
from sync_job.ledger.forgetting import Forgetting
from sync_job.ledger.obligations import Obligations
from sync_job.ledger.withdrawals import Withdrawals

VERSION = 1
_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (number INTEGER PRIMARY KEY, digest TEXT NOT NULL, clients INTEGER NOT NULL, made REAL NOT NULL);
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, stage TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, exit INTEGER, summary TEXT
);
CREATE TABLE legs (
    run TEXT NOT NULL, leg INTEGER NOT NULL, snapshot INTEGER NOT NULL, PRIMARY KEY (run, leg)
) WITHOUT ROWID;
CREATE TABLE lingering (client INTEGER PRIMARY KEY, until REAL NOT NULL, acknowledged INTEGER NOT NULL);
CREATE TABLE undone (kind TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID
"""

# How far a run got: it began (legs may be committed), everything that it did is in the snapshot, it was reported.
Stage = Literal["open", "committed", "reported"]


@dataclass(frozen=True)
class Run:
    """One run in the history; times in epoch seconds."""

    number: int
    run: str
    kind: str
    stage: Stage
    started: float
    ended: float | None
    exit: int | None
    summary: dict[str, Any] | None


class Place(TypedDict):
    """How far a ledger has come: its id, the numbers of its last run and snapshot, and what it has taken in."""

    state: str
    run: int
    snapshot: int
    withdrawals: int
    reconsents: int


class Ledger:
    """Reads and writes one ledger."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self.withdrawals = Withdrawals(path, connection)
        self.obligations = Obligations(path, connection)
        self.applied = Applied(path, connection)
        self.forgetting = Forgetting(path, connection)

    @classmethod
    def create(cls, path: Path, target: str, now: float) -> Self:
        """Return a new ledger for *target*, with nothing in it; it counts from the first commit on."""
        connection = files.connect(path)
        with files.transaction(connection, path):
            for schema in (_SCHEMA, withdrawals.SCHEMA, obligations.SCHEMA, applied.SCHEMA, forgetting.SCHEMA):
                for statement in schema.split(";\n"):
                    connection.execute(statement)
            about = {"version": str(VERSION), "state": uuid.uuid4().hex, "target": target, "made": str(now)}
            connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path, target: str, *, write: bool) -> Self:
        """Return the ledger in *path*.

        Raises:
            NoStateError, StateDamagedError, ForeignStateError: when it is not there, not whole, or another target's.
        """
        with files.storing(path):  # A folder that this user may not enter is not one without state.
            there = path.exists()
        if not there:
            raise NoStateError(
                f"{path.parent.absolute()}: no state. If there should be one, [state] path is wrong or the folder "
                "was lost: restore it. For a new target, begin with `consent-sync init`."
            )
        connection = files.connect(path) if write else files.connect_reading(path)
        ledger = cls(path, connection)
        try:
            ledger._check(target)
        except BaseException:
            connection.close()
            raise
        return ledger

    def _check(self, target: str) -> None:
        with files.loading(self.path):
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
            if "about" not in tables:
                raise NoStateError(
                    f"{self.path.parent.absolute()}: `init` did not end here; nothing is lost. "
                    "Remove the folder and begin with `consent-sync init` again."
                )
            about = dict(self._db.execute("SELECT key, value FROM about").fetchall())
            if about["version"] != str(VERSION):
                raise ValueError(f"version {about['version']} of the ledger; this program knows {VERSION}")
            if self._db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise ValueError("the database's own check fails")
            ((pages,), (size,)) = (
                self._db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
            )
            if self.path.stat().st_size < pages * size:  # more is another process that writes
                raise ValueError("it was cut short")
        if about["target"] != target:
            raise ForeignStateError(
                f"{self.path.parent.absolute()}: the state of {about['target']}, and the configuration says {target}. "
                "Another platform needs a state folder of its own: mend [endpoint] base_url or operator, or "
                "[state] path."
            )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with files.transaction(self._db, self.path):
            yield

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with files.loading(self.path):
            return self._db.execute(query, values).fetchall()

    # Snapshots

    def current(self) -> tuple[int, str]:
        """Return number and digest of the snapshot that counts.

        Raises:
            NoStateError: when there is none yet: `init` died before it committed.
        """
        rows = self._rows("SELECT number, digest FROM snapshots ORDER BY number DESC LIMIT 1")
        if not rows:
            raise NoStateError(
                f"{self.path.parent.absolute()}: `init` did not end here; nothing is lost. "
                "Remove the folder and begin with `consent-sync init` again."
            )
        return int(rows[0][0]), str(rows[0][1])

    def has_snapshot(self) -> bool:
        """Return whether there is a snapshot: `init` ended."""
        return bool(self._rows("SELECT 1 FROM snapshots LIMIT 1"))

    # Runs

    def begin(self, kind: str, started: float, name: str) -> str:
        """Return the id of a new run; *name* is its time as people read it."""
        with self._writing():
            ((number,),) = self._db.execute(
                "SELECT 1 + max((SELECT coalesce(max(number), 0) FROM runs), "
                "(SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM about WHERE key = 'last_run'))"
            ).fetchall()
            run = f"{number:04d}-{name}"
            self._db.execute(
                "INSERT INTO runs (number, run, kind, stage, started) VALUES (?, ?, ?, 'open', ?)",
                (number, run, kind, started),
            )
        return run

    def commit_leg(
        self,
        run: str,
        leg: int,
        *,
        digest: str,
        clients: int,
        lingering: Lingering,
        now: float,
        settlement: Settlement | None = None,
        owed: OwedSince | None = None,
        started: float = 0.0,
    ) -> int:
        """Make the next snapshot the one that counts: the commit point of a leg. Return its number.

        With it, in the same step, obligations are closed or made as *settlement* says, and refused rows wait. *owed*
        has since when and until when each of its revocations is owed, *started* is when the leg was planned.
        """
        with self._writing():
            number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM snapshots").fetchone()[0])
            self._db.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", (number, digest, clients, now))
            self._db.execute("INSERT INTO legs VALUES (?, ?, ?)", (run, leg, number))
            self._db.execute("DELETE FROM lingering")
            self._db.executemany(
                "INSERT INTO lingering VALUES (?, ?, ?)",
                zip(
                    lingering.client.tolist(),
                    lingering.until.tolist(),
                    lingering.acknowledged.astype(int).tolist(),
                    strict=True,
                ),
            )
            if settlement is not None and owed is not None:
                self.obligations.settle(settlement, owed, run, started=started)
                self.applied.delivered(settlement.delivered)
        return number

    def commit_snapshot(self, *, digest: str, clients: int, now: float) -> int:
        """Make the next snapshot the one that counts, of itself. Return its number."""
        with self._writing():
            number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM snapshots").fetchone()[0])
            self._db.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", (number, digest, clients, now))
        return number

    def erase(self, ids: Ids, *, digest: str, clients: int, now: float) -> int:
        """Forget everything of these clients, with the next snapshot, which lacks them. Return its number.

        That they are to be erased stays known until the rest of the state and the reports are without them, too.
        """
        with self._writing():
            number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM snapshots").fetchone()[0])
            self._db.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", (number, digest, clients, now))
            self.withdrawals.forget(ids)
            self.obligations.forget(ids)
            self.applied.forget(ids)
            gone = [(client,) for client in ids.tolist()]
            self._db.executemany("DELETE FROM lingering WHERE client = ?", gone)
            self._db.executemany("DELETE FROM undone WHERE kind != 'reject' AND key = ?", ((str(c),) for (c,) in gone))
        return number

    def clients(self) -> int:
        """Return how many clients the snapshot that counts has."""
        rows = self._rows("SELECT clients FROM snapshots ORDER BY number DESC LIMIT 1")
        return int(rows[0][0]) if rows else 0

    def next_snapshot(self) -> int:
        """Return the number that the next commit will give."""
        return int(self._rows("SELECT coalesce(max(number), 0) + 1 FROM snapshots")[0][0])

    def is_committed(self, run: str, leg: int) -> bool:
        """Return whether the leg is in the snapshot."""
        return bool(self._rows("SELECT 1 FROM legs WHERE run = ? AND leg = ?", run, leg))

    def finish(self, run: str, ended: float) -> None:
        """Note that everything the run did is in the snapshot; what is left is its report."""
        with self._writing():
            self._db.execute("UPDATE runs SET stage = 'committed', ended = ? WHERE run = ?", (ended, run))

    def report(self, run: str, exit_code: int, summary: dict[str, Any], undone: Iterable[tuple[str, str]]) -> None:
        """Note that the run was reported; *undone* is what it did not do, for the next run to know it again."""
        with self._writing():
            self._db.execute(
                "UPDATE runs SET stage = 'reported', exit = ?, summary = ? WHERE run = ?",
                (exit_code, json.dumps(summary, ensure_ascii=False), run),
            )
            self._db.execute("DELETE FROM undone")
            self._db.executemany("INSERT OR IGNORE INTO undone VALUES (?, ?)", undone)

    def learn(self, limit: float, rows_per_s: float = 0.0) -> None:
        """Keep how many requests in flight did well at this target in the end, and how many rows a second that was."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO about VALUES ('limit', ?)", (str(limit),))
            if rows_per_s:
                self._db.execute("INSERT OR REPLACE INTO about VALUES ('rows_per_s', ?)", (str(rows_per_s),))

    def learned(self) -> float:
        """Return the limit that `learn` kept; 0 where nothing is known."""
        return float(self._about("limit") or 0)

    def learned_rate(self) -> float:
        """Return how many rows a second were delivered lately; 0 where nothing is known."""
        return float(self._about("rows_per_s") or 0)

    # Where it stands beside its anchor

    def _about(self, key: str) -> str:
        rows = self._rows("SELECT value FROM about WHERE key = ?", key)
        return str(rows[0][0]) if rows else ""

    def _note(self, **values: str) -> None:
        with self._writing():
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values.items())

    def place(self) -> Place:
        """Return what an anchor holds of this ledger: its id, its last run and snapshot, and what it has taken in."""
        ((run, snapshot),) = self._rows(
            "SELECT (SELECT coalesce(max(number), 0) FROM runs), (SELECT coalesce(max(number), 0) FROM snapshots)"
        )
        counts = self.withdrawals.counts()
        return Place(
            state=self._about("state"),
            run=int(run),
            snapshot=int(snapshot),
            withdrawals=counts["withdrawals"],
            reconsents=counts["reconsents"],
        )

    def is_anchored(self) -> bool:
        """Return whether an anchor was ever written for it."""
        return bool(self._about("anchored"))

    def note_anchored(self) -> None:
        """Note that there is an anchor; one that is missing later was lost."""
        if not self.is_anchored():
            self._note(anchored="yes")

    def buried(self) -> int:
        """Return how many tombstones there were: fewer beside the keys means that some were lost."""
        return int(self._about("buried") or 0)

    def note_buried(self, count: int) -> None:
        """Note how many tombstones there are."""
        self._note(buried=str(count))

    def restored(self) -> str:
        """Return how it was found to be a restored backup: "older" or "shrunken"; "" when it was not."""
        return self._about("restored")

    def note_restored(self, how: str, run: int) -> None:
        """Note that it is a restored backup; its next run is numbered after *run*, the last one before it was."""
        self._note(restored=how, last_run=str(run))

    def note_everyone_lingers(self, until: float) -> None:
        """Note that what nobody knows to be on its way may be applied *until* then, in epoch seconds."""
        self._note(lingering_until=str(until))

    def note_whole(self, words: str) -> None:
        """Note in *words* why it is no longer taken for a restored backup."""
        self._note(restored="", made_whole=words)

    def unfinished(self) -> list[Run]:
        """Return the runs that died before they were reported, the oldest first."""
        return [run for run in self.runs() if run.stage != "reported"]

    def runs(self) -> list[Run]:
        """Return the history, the oldest run first."""
        query = "SELECT number, run, kind, stage, started, ended, exit, summary FROM runs ORDER BY number"
        return [
            Run(number, run, kind, stage, started, ended, code, json.loads(summary) if summary else None)
            for number, run, kind, stage, started, ended, code, summary in self._rows(query)
        ]

    # What is known of clients

    def lingering(self) -> Lingering:
        """Return the clients with an attempt in doubt not long ago."""
        rows = self._rows("SELECT client, until, acknowledged FROM lingering ORDER BY client")
        return Lingering(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.float64),
            np.array([row[2] for row in rows], np.bool_),
            float(self._about("lingering_until") or 0),
        )

    def undone(self) -> set[tuple[str, str]]:
        """Return what the last run did not do, as `report` was told."""
        return {(kind, key) for kind, key in self._rows("SELECT kind, key FROM undone")}
