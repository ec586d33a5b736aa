"""What exports were applied, what of them the guards held, and what a person approved.

An export is applied when its plan was made and nothing spoke against its freshness. Contents are numbered when they
are first applied, so that an old one is known again. What was held is kept as a set, so that an approval means just
that set and not the next one.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sync_job.consent.channels import Bytes, Ids, allowed, denied, spread, stated
from sync_job.consent.diff import Held
from sync_job.consent.freshness import Before, Kind
from sync_job.consent.guards import Past
from sync_job.consent.tables import Table, tabulate
from sync_job.errors import ConfigError
from sync_job.ledger import files, tables
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE contents (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, digest TEXT NOT NULL, run TEXT NOT NULL, UNIQUE (kind, digest)
);
CREATE TABLE applied (
    run TEXT PRIMARY KEY, kind TEXT NOT NULL, digest TEXT NOT NULL, as_of REAL, clients INTEGER NOT NULL,
    lost INTEGER NOT NULL, new_grants INTEGER NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE accepted (digest TEXT PRIMARY KEY, clients INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE holds (
    run TEXT PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL, clients INTEGER NOT NULL,
    grants INTEGER NOT NULL, revocations INTEGER NOT NULL, guards TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE approvals (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL, digest TEXT NOT NULL,
    reason TEXT NOT NULL, by TEXT NOT NULL, at REAL NOT NULL, until REAL NOT NULL
);
CREATE TABLE approved (
    client INTEGER NOT NULL, approval INTEGER NOT NULL, value INTEGER NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (client, approval)
) WITHOUT ROWID
"""
APPROVED_S = 72 * 3600.0  # how long an approval holds: over a weekend, not into another week
_NIGHTS = 14  # that say what is usual
_HOLDS_KEPT_S = 14 * 86400.0


@dataclass(frozen=True)
class Application:
    """An export that was applied: its content's digest, as-of (epoch seconds, none if unknown) and counts."""

    run: str
    kind: Kind
    digest: str
    as_of: float | None
    clients: int
    lost: int
    new_grants: int
    at: float


@dataclass(frozen=True)
class HeldSet:
    """What a run held: how many clients' grants and revocations, of which export, by which guards."""

    run: str
    at: float
    kind: Kind
    digest: str
    clients: int
    grants: int
    revocations: int
    guards: list[str]


@dataclass(frozen=True)
class Approval:
    """What a person let through, why, and until when."""

    number: int
    run: str
    what: str
    count: int
    reason: str
    by: str
    at: float
    until: float

    def shown(self) -> dict[str, Any]:
        """Return it as a report shows it."""
        return vars(self)


class Applied(Store):
    """Reads and writes these tables of one ledger; every method that writes is one transaction but `delivered`."""

    # Exports

    def apply(self, one: Application) -> None:
        """Note that an export was applied; a part has no number and is no measure for others."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO applied VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (one.run, one.kind, one.digest, one.as_of, one.clients, one.lost, one.new_grants, one.at),
            )
            if one.kind != "part":
                self._db.execute(
                    "INSERT OR IGNORE INTO contents (kind, digest, run) VALUES (?, ?, ?)",
                    (one.kind, one.digest, one.run),
                )
            if one.kind == "full":
                self._db.execute("INSERT OR REPLACE INTO accepted VALUES (?, ?, ?)", (one.digest, one.clients, one.at))

    def before(self, kind: Kind, digest: str) -> Before:
        """Return what an export of this kind and content is held against."""
        if kind == "part":
            return Before()
        ((as_of,),) = self._rows("SELECT max(as_of) FROM applied WHERE kind != 'part'")
        ((later,),) = self._rows(
            "SELECT count(*) FROM contents WHERE kind = ? AND number > "
            "(SELECT number FROM contents WHERE kind = ? AND digest = ?)",
            kind,
            kind,
            digest,
        )
        clients = self._rows("SELECT clients FROM accepted ORDER BY at DESC LIMIT 1")
        return Before(as_of, bool(later), int(clients[0][0]) if clients else None)

    def is_last(self, kind: Kind, digest: str) -> bool:
        """Return whether the last applied export of this kind had the same content."""
        rows = self._rows("SELECT digest FROM applied WHERE kind = ? ORDER BY at DESC LIMIT 1", kind)
        return bool(rows) and rows[0][0] == digest

    def read(self) -> tuple[float, float] | None:
        """Return when the last applied export was applied first and last: how long it is the same; none before any."""
        rows = self._rows(
            "WITH newest AS (SELECT kind, digest FROM applied WHERE kind != 'part' ORDER BY at DESC LIMIT 1) "
            "SELECT min(a.at), max(a.at) FROM applied a, newest n WHERE a.kind = n.kind AND a.at > (SELECT "
            "coalesce(max(b.at), -1) FROM applied b WHERE b.kind = n.kind AND b.digest != n.digest)"
        )
        return (rows[0][0], rows[0][1]) if rows and rows[0][0] is not None else None

    def past(self, kind: Kind) -> Past:
        """Return what earlier exports were like, for the guards."""
        grants = [
            row[0]
            for row in self._rows(
                "SELECT a.new_grants FROM applied a LEFT JOIN runs r ON a.run = r.run "
                "WHERE coalesce(r.kind, '') != 'init' ORDER BY a.at DESC LIMIT ?",
                _NIGHTS,
            )
        ]
        lost = self._rows("SELECT lost FROM applied WHERE kind = ? ORDER BY at DESC LIMIT 1", kind)
        return Past(
            usual_grants=float(statistics.median(grants)) if grants else 0.0,
            lost=int(lost[0][0]) if lost else None,
            first=not grants,
        )

    # What was held, and approved

    def hold(self, state: Path, one: HeldSet, held: Held) -> None:
        """Keep what a run held, for `approve`; sets that nobody approved in two weeks are dropped."""
        folder = state / "held"
        files.make_folder(folder)
        tables.write_held(folder / f"{one.run}.parquet", held)
        values = (one.run, one.at, one.kind, one.digest, one.clients, one.grants, one.revocations)
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, json.dumps(one.guards))
            )
            self._db.execute("DELETE FROM holds WHERE at < ?", (one.at - _HOLDS_KEPT_S,))
        self._sweep(folder)

    def _sweep(self, folder: Path) -> None:
        """Remove the sets of held rows that nobody may approve any more."""
        kept = {run for (run,) in self._rows("SELECT run FROM holds")}
        for path in folder.glob("*.parquet"):
            if path.stem not in kept:
                files.remove(path)

    def narrow(self, run: str, statements: Table) -> None:
        """Note that *run* has read another export: what earlier ones held is over, and each approval that it undoes.

        An approval is for what the export said then. Who is denied meanwhile, and allowed again later, is a new case.
        """
        with self._writing():
            self._db.execute("DELETE FROM holds WHERE run != ?", (run,))
            rows = self._db.execute("SELECT client, approval, value FROM approved").fetchall()
            if rows:
                says = statements.of(np.array([row[0] for row in rows], np.int32))
                values = np.array([row[2] for row in rows], np.uint8)
                still = stated(values) & ~stated(values ^ says)
                kept = (values & spread(still)).tolist()
                self._db.executemany(
                    "UPDATE approved SET value = ? WHERE client = ? AND approval = ?",
                    ((value, row[0], row[1]) for row, value in zip(rows, kept, strict=True)),
                )
                self._db.execute("DELETE FROM approved WHERE value = 0")
        self._sweep(self.path.parent / "held")

    def held(self, run: str) -> HeldSet | None:
        """Return what a run held, none if it held nothing."""
        rows = self._rows("SELECT * FROM holds WHERE run = ?", run)
        return _held_set(rows[0]) if rows else None

    def held_runs(self) -> list[HeldSet]:
        """Return what runs held that may still be approved, the oldest first."""
        return [_held_set(row) for row in self._rows("SELECT * FROM holds ORDER BY at")]

    def approve(
        self, state: Path, one: HeldSet, what: str, count: int, *, reason: str, by: str, now: float
    ) -> Approval:
        """Let through what a run held, if *count* is its number.

        Raises:
            ConfigError: when it is another number, or nothing of the kind was held.
        """
        there = {"grants": one.grants, "revocations": one.revocations, "clients": one.clients}[what]
        if not there:
            raise ConfigError(
                f"Run {one.run} held no {what} that still wait; its report says what it held. Nothing was approved."
            )
        if count != there:
            raise ConfigError(
                f"Run {one.run} held {there:,} clients' {what}, not {count:,}. Look at its held.csv, and approve the "
                "number that is meant. Nothing was approved."
                if what != "clients"
                else f"The export of run {one.run} has {there:,} clients, not {count:,}. Nothing was approved."
            )
        with self._writing():
            cursor = self._db.execute(
                "INSERT INTO approvals (run, what, count, digest, reason, by, at, until) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (one.run, what, count, one.digest, reason, by, now, now + APPROVED_S),
            )
            number = int(cursor.lastrowid or 0)
            # Once: what is delivered by it must be asked about anew.
            self._db.execute(f"UPDATE holds SET {what} = 0 WHERE run = ?", (one.run,))
            if what == "clients":
                if one.kind == "full":
                    self._db.execute("INSERT OR REPLACE INTO accepted VALUES (?, ?, ?)", (one.digest, one.clients, now))
            else:
                held = tables.read_held(state / "held" / f"{one.run}.parquet")
                chosen = _values(held, what)
                which = chosen != 0
                self._db.executemany(
                    "INSERT INTO approved VALUES (?, ?, ?, ?)",
                    (
                        (client, number, value, one.at)
                        for client, value in zip(held.client[which].tolist(), chosen[which].tolist(), strict=True)
                    ),
                )
        return Approval(number, one.run, what, count, reason, by, now, now + APPROVED_S)

    def approvals(self, now: float) -> list[Approval]:
        """Return the approvals that hold."""
        query = "SELECT number, run, what, count, reason, by, at, until FROM approvals WHERE until > ? ORDER BY number"
        return [Approval(*row) for row in self._rows(query, now)]

    def is_accepted(self, digest: str, now: float) -> bool:
        """Return whether a person approved the clients of the export with this content, not long ago."""
        query = "SELECT 1 FROM approvals WHERE what = 'clients' AND digest = ? AND until > ?"
        return bool(self._rows(query, digest, now))

    def approved(self, now: float) -> Table:
        """Return, as a byte, what was approved of each client and not delivered since."""
        rows = self._rows(
            "SELECT client, value FROM approved JOIN approvals ON approval = number WHERE until > ? ORDER BY client",
            now,
        )
        return _table(rows)

    def held_since(self, ids: Ids, now: float) -> dict[int, float]:
        """Return since when what was approved of these clients had been held, for those there are."""
        rows = self._rows(
            "SELECT client, min(since) FROM approved JOIN approvals ON approval = number "
            "WHERE until > ? GROUP BY client",
            now,
        )
        wanted = set(ids.tolist()) if rows else set()
        return {client: since for client, since in rows if client in wanted}

    def delivered(self, ids: Ids) -> None:
        """Forget what was approved of these clients, who got it; the caller has begun the transaction."""
        if self._rows("SELECT 1 FROM approved LIMIT 1"):
            self._db.executemany("DELETE FROM approved WHERE client = ?", ((client,) for client in ids.tolist()))

    def forget(self, ids: Ids) -> None:
        """Forget these clients; the caller has begun the transaction."""
        self._db.executemany("DELETE FROM approved WHERE client = ?", ((client,) for client in ids.tolist()))


_HELD_COLUMNS = ("run", "at", "kind", "digest", "clients", "grants", "revocations", "guards")


def _held_set(row: tuple[Any, ...]) -> HeldSet:
    return HeldSet(**dict(zip(_HELD_COLUMNS, row, strict=True)) | {"guards": json.loads(row[-1])})


def _values(held: Held, what: str) -> Bytes:
    """Return, as a byte, the grants or the revocations among what is held."""
    chosen = allowed(held.stated) if what == "grants" else denied(held.stated)
    return np.asarray(held.stated & spread(chosen), np.uint8)


def _table(rows: list[tuple[int, int]]) -> Table:
    """Return a table of values, several a client laid over each other."""
    ids = np.array([row[0] for row in rows], np.int32)
    values = np.array([row[1] for row in rows], np.uint8)
    unique, place = np.unique(ids, return_inverse=True)
    merged = np.zeros(len(unique), np.uint8)
    np.bitwise_or.at(merged, place, values)
    return tabulate(unique, unique, merged)


def counts(held: Held) -> tuple[int, int]:
    """Return of how many clients grants, and of how many revocations are held."""
    return int(np.count_nonzero(allowed(held.stated))), int(np.count_nonzero(denied(held.stated)))
