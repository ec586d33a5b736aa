"""The ledger: which snapshot counts, which runs there were and how far each got, who lingers, what is owed.

SQLite with a rollback journal and one writer, the lock's holder. Every method that writes is one transaction.
"""

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import numpy as np

from sync_job.consent.channels import NOBODY, Ids
from sync_job.consent.guards import NOTHING_SENT, Sent
from sync_job.consent.id_map import IdMap
from sync_job.consent.known import Lingering
from sync_job.consent.settlement import OwedSince, Settlement
from sync_job.errors import ForeignStateError, NoStateError, OlderStateError
from sync_job.ledger import (
    applied,
    backfills,
    deltas,
    files,
    forgetting,
    former_ids,
    in_force,
    migrations,
    obligations,
    withdrawals,
)
from sync_job.ledger.about import About
from sync_job.ledger.applied import Applied
from sync_job.ledger.backfills import Backfills
from sync_job.ledger.carrying import Carrier, Former
from sync_job.ledger.claims import ClaimsStore
from sync_job.ledger.clocks import Clocks
from sync_job.ledger.deltas import DeltaFiles
from sync_job.ledger.forgetting import Forgetting
from sync_job.ledger.former_ids import FormerIds
from sync_job.ledger.migrations import Step
from sync_job.ledger.obligations import Obligations
from sync_job.ledger.store import Store
from sync_job.ledger.withdrawals import Withdrawals

VERSION = migrations.newest()
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

_PARTS = (withdrawals, in_force, obligations, applied, forgetting, backfills, former_ids, deltas)

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
    reconsents: int


def target_of(path: Path) -> str:
    """Return whose ledger it is, whatever the configuration says.

    Raises:
        NoStateError, StateDamagedError: when it is not there, or cannot be read.
    """
    _refuse_missing(path)
    with files.loading(path), closing(files.connect_reading(path)) as db:
        ((target,),) = db.execute("SELECT value FROM about WHERE key = 'target'").fetchall()
        return str(target)


def _refuse_missing(path: Path) -> None:
    with files.storing(path):  # A folder that this user may not enter is not one without state.
        there = path.exists()
    if not there:
        raise NoStateError(
            f"{path.parent.absolute()}: no state. If there should be one, [state] path is wrong or the folder "
            "was lost: restore it. For a new target, begin with `consent-sync init`."
        )


class Ledger(Store):
    """Reads and writes one ledger."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self.withdrawals = Withdrawals(path, connection)
        self.claims = ClaimsStore(path, connection)
        self.obligations = Obligations(path, connection)
        self.applied = Applied(path, connection)
        self.forgetting = Forgetting(path, connection)
        self.backfills = Backfills(path, connection)
        self.about = About(path, connection)
        self.former_ids = FormerIds(path, connection)
        self.clocks = Clocks(path, connection)
        self.delta_files = DeltaFiles(path, connection)

    @classmethod
    def create(cls, path: Path, target: str, now: float) -> Self:
        """Return a new ledger for *target*, with nothing in it; it counts from the first commit on."""
        connection = files.connect(path)
        with files.transaction(connection, path):
            for schema in (_SCHEMA, *(part.SCHEMA for part in _PARTS)):
                for statement in schema.split(";\n"):
                    connection.execute(statement)
            about = {"version": str(VERSION), "state": uuid.uuid4().hex, "target": target, "made": str(now)}
            connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path, target: str, *, write: bool, steps: tuple[Step, ...] = migrations.STEPS) -> Self:
        """Return the ledger in *path*; who may *write* brings one of an older version to today's, by *steps*.

        Raises:
            NoStateError, StateDamagedError, ForeignStateError: when it is not there, not whole, or another target's.
            OlderStateError: when it is of an older version, and not to be written.
        """
        _refuse_missing(path)
        connection = files.connect(path) if write else files.connect_reading(path)
        ledger = cls(path, connection)
        try:
            version = ledger._check(target, migrations.newest(steps))
            if version < migrations.newest(steps):
                if not write:
                    raise OlderStateError(
                        f"{path.absolute()}: version {version} of the ledger, and this program's is "
                        f"{migrations.newest(steps)}. `consent-sync state repair` brings it to that, as does the next "
                        "run."
                    )
                migrations.migrate(connection, path, version, steps)
        except BaseException:
            connection.close()
            raise
        return ledger

    def _check(self, target: str, newest: int) -> int:
        """Return its version, if it is whole, not newer than that, and of this target."""
        with files.loading(self.path):
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
            if "about" not in tables:
                raise NoStateError(
                    f"{self.path.parent.absolute()}: `init` did not end here; nothing is lost. "
                    "Remove the folder and begin with `consent-sync init` again."
                )
            about = dict(self._db.execute("SELECT key, value FROM about").fetchall())
            version = int(about["version"])
            if not 1 <= version <= newest:
                raise ValueError(f"version {version} of the ledger; this program knows {newest}")
            if self._db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise ValueError("the database's own check fails")
            ((pages,), (size,)) = (
                self._db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
            )
            if self.path.stat().st_size < pages * size:  # more is another process that writes
                raise ValueError("it was cut short")
            its_own = about["target"]
        if its_own != target:
            said = f"{self.path.parent.absolute()}: the state of {its_own}, and the configuration says {target}"
            if target in (one["target"] for one in json.loads(about.get("moved") or "[]")):
                address = its_own.rpartition(" operator ")[0]
                raise ForeignStateError(f'{said}, where it was before. Set [endpoint] base_url = "{address}".')
            raise ForeignStateError(
                f"{said}. Another platform needs a state folder of its own: mend [endpoint] base_url or operator, or "
                "[state] path."
            )
        return version

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing change in the ledger while the block runs: whoever commits waits, and must not have to for long.

        The caller's connection is one that reads.
        """
        self._rows("BEGIN")
        try:
            self._rows("SELECT count(*) FROM about")
            yield
        finally:
            self._rows("ROLLBACK")

    def copy(self, path: Path) -> None:
        """Write a copy to *path*, as of one moment."""
        with files.storing(path), closing(files.connect(path)) as copy:
            self._db.backup(copy)

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
        in_doubt: Ids = NOBODY,
        stated: float | None = None,
        sent: Sent = NOTHING_SENT,
        excused: bool = False,
    ) -> int:
        """Make the next snapshot the one that counts: the commit point of a leg. Return its number.

        With it, in the same step, obligations are closed or made as *settlement* says, and refused rows wait. *owed*
        has since when and until when each of its revocations is owed, *started* is when the leg was planned, *stated*
        when its export stated what it sends, *in_doubt* the clients of which an attempt is. *sent* is for the
        guards; *excused* is as in `Obligations.settle`.
        """
        with self._writing():
            number = self._count_snapshot(digest, clients, now)
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
                self.obligations.settle(settlement, owed, run, started=started, stated=stated, excused=excused)
                self.applied.delivered(settlement.delivered)
                self.applied.sent(run, leg, sent, now)
            self.backfills.doubt(in_doubt)
        return number

    def commit_snapshot(self, *, digest: str, clients: int, now: float, also: Callable[[], None] = lambda: None) -> int:
        """Make the next snapshot the one that counts, of itself, and do *also* that in the same step."""
        with self._writing():
            number = self._count_snapshot(digest, clients, now)
            also()
        return number

    def carrier(self, former: Former, map_: IdMap) -> Carrier:
        """Return what fills this ledger from a former one."""
        return Carrier(self.path, self._db, former, map_)

    def _count_snapshot(self, digest: str, clients: int, now: float) -> int:
        number = int(self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM snapshots").fetchone()[0])
        self._db.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", (number, digest, clients, now))
        return number

    def erase(self, ids: Ids, *, digest: str, clients: int, now: float) -> int:
        """Forget everything of these clients, with the next snapshot, which lacks them. Return its number.

        That they are to be erased stays known until the rest of the state and the reports are without them, too.
        """
        with self._writing():
            number = self._count_snapshot(digest, clients, now)
            self.withdrawals.forget(ids)
            self.obligations.forget(ids)
            self.applied.forget(ids)
            self.backfills.forget(ids)
            self.former_ids.forget(ids)
            gone = [(client,) for client in ids.tolist()]
            self._db.executemany("DELETE FROM lingering WHERE client = ?", gone)
            self._db.executemany("DELETE FROM undone WHERE kind != 'reject' AND key = ?", ((str(c),) for (c,) in gone))
        return number

    def people(self) -> Ids:
        """Return every client that any table names, ascending."""
        tables = (
            *("withdrawals", "reconsents", "repeats", "given", "obligations", "waiting", "lingering", "forgetting"),
            *("approved", "doubted"),
        )
        query = " UNION ".join(f"SELECT client FROM {table}" for table in tables)
        query += " UNION SELECT CAST(key AS INTEGER) FROM undone WHERE kind != 'reject'"
        with files.loading(self.path):
            found = np.fromiter(self._db.execute(query), np.dtype([("client", np.int32)]))
        return np.sort(found["client"])

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

    def do(self, what: Callable[[], None]) -> None:
        """Do this as one step."""
        with self._writing():
            what()

    def place(self) -> Place:
        """Return what an anchor holds of this ledger: its id, its last run and snapshot, and what it has taken in."""
        ((run, snapshot),) = self._rows(
            "SELECT (SELECT coalesce(max(number), 0) FROM runs), (SELECT coalesce(max(number), 0) FROM snapshots)"
        )
        return Place(
            state=self.about.said("state"),
            run=int(run),
            snapshot=int(snapshot),
            reconsents=self.withdrawals.counts()["reconsents"],
        )

    def unfinished(self) -> list[Run]:
        """Return the runs that died before they were reported, the oldest first."""
        return self._runs("WHERE stage != 'reported'")

    def runs(self) -> list[Run]:
        """Return the history, the oldest run first."""
        return self._runs("")

    def run(self, name: str) -> Run | None:
        """Return the run of this id, None if there is none."""
        return next(iter(self._runs("WHERE run = ?", name)), None)

    def _runs(self, which: str, *values: object) -> list[Run]:
        query = f"SELECT number, run, kind, stage, started, ended, exit, summary FROM runs {which} ORDER BY number"
        with files.loading(self.path):
            return [
                Run(number, run, kind, stage, started, ended, code, json.loads(summary) if summary else None)
                for number, run, kind, stage, started, ended, code, summary in self._rows(query, *values)
            ]

    def summaries(self, most: int) -> list[dict[str, Any]]:
        """Return the summaries of the last runs that were reported, the oldest first."""
        query = "SELECT summary FROM runs WHERE summary IS NOT NULL ORDER BY number DESC LIMIT ?"
        with files.loading(self.path):
            return [json.loads(summary) for (summary,) in reversed(self._rows(query, most))]

    # What is known of clients

    def lingering(self) -> Lingering:
        """Return the clients with an attempt in doubt not long ago."""
        rows = self._rows("SELECT client, until, acknowledged FROM lingering ORDER BY client")
        return Lingering(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.float64),
            np.array([row[2] for row in rows], np.bool_),
            self.about.everyone_lingers_until(),
        )

    def undone(self) -> set[tuple[str, str]]:
        """Return what the last run did not do, as `report` was told."""
        return {(kind, key) for kind, key in self._rows("SELECT kind, key FROM undone")}
