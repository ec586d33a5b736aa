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
from typing import Any, Literal, Self

import numpy as np

from sync_job.consent.channels import Ids
from sync_job.consent.diff import Lingering
from sync_job.consent.tables import Table, tabulate
from sync_job.errors import ForeignStateError, NoStateError
from sync_job.ledger import files

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
CREATE TABLE withdrawals (client INTEGER PRIMARY KEY, channels INTEGER NOT NULL);
CREATE TABLE obligations (client INTEGER PRIMARY KEY, channels INTEGER NOT NULL);
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


class Ledger:
    """Reads and writes one ledger."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def create(cls, path: Path, target: str, now: float) -> Self:
        """Return a new ledger for *target*, with nothing in it; it counts from the first commit on."""
        connection = files.connect(path)
        with files.transaction(connection, path):
            for statement in _SCHEMA.split(";\n"):
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
            number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM runs").fetchone()[0])
            run = f"{number:04d}-{name}"
            self._db.execute(
                "INSERT INTO runs (number, run, kind, stage, started) VALUES (?, ?, ?, 'open', ?)",
                (number, run, kind, started),
            )
        return run

    def commit_leg(
        self, run: str, leg: int, *, digest: str, clients: int, lingering: Lingering, now: float, closed: Table
    ) -> int:
        """Make the next snapshot the one that counts: the commit point of a leg. Return its number.

        *closed* has the low bit of each obligation's channel that was acknowledged.
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
            ids, channels = closed.items()
            self._db.executemany(
                "UPDATE obligations SET channels = channels & ~? WHERE client = ?",
                zip(channels.tolist(), ids.tolist(), strict=True),
            )
            self._db.execute("DELETE FROM obligations WHERE channels = 0")
        return number

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

    def learn(self, limit: float) -> None:
        """Keep how many requests in flight did well at this target in the end."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO about VALUES ('limit', ?)", (str(limit),))

    def learned(self) -> float:
        """Return what `learn` kept; 0 where nothing is known."""
        rows = self._rows("SELECT value FROM about WHERE key = 'limit'")
        return float(rows[0][0]) if rows else 0.0

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
        )

    def withdrawn(self) -> Table:
        """Return the low bit of each withdrawn channel of each client."""
        return self._channels("SELECT client, channels FROM withdrawals ORDER BY client")

    def obligations(self) -> Table:
        """Return the low bit of each channel that is owed a denial."""
        return self._channels("SELECT client, channels FROM obligations ORDER BY client")

    def _channels(self, query: str) -> Table:
        rows = self._rows(query)
        ids: Ids = np.array([row[0] for row in rows], np.int32)
        return tabulate(ids, ids, np.array([row[1] for row in rows], np.uint8))

    def undone(self) -> set[tuple[str, str]]:
        """Return what the last run did not do, as `report` was told."""
        return {(kind, key) for kind, key in self._rows("SELECT kind, key FROM undone")}

    def make_obligations(self, owed: Iterable[tuple[int, int]]) -> None:
        """Owe each client a denial of the channels whose low bits are given, until it is acknowledged."""
        with self._writing():
            self._db.executemany(
                "INSERT INTO obligations VALUES (?, ?) "
                "ON CONFLICT (client) DO UPDATE SET channels = channels | excluded.channels",
                owed,
            )
