"""Which exports were read, what of them was sent, what the guards held, and what a person approved.

An export is *applied* if nothing spoke against its freshness. Of every export that was decided by, also of one that was
doubted, stay its time and the digest of what it states, so that an older one is known again. The grants that were held
are kept as a set, so that an approval means that set and not the next one; held denials are obligations.
"""

import json
import math
import statistics
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sync_job.consent.channels import Ids, allowed, blank, spread, stated
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.diff import Held
from sync_job.consent.freshness import Before, Kind
from sync_job.consent.guards import DAY_S, Past, Sent
from sync_job.consent.tables import Table, laid_over, tabulate
from sync_job.errors import ConfigError
from sync_job.ledger import files, tables
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE exports (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, digest TEXT NOT NULL,
    as_of REAL, newest REAL, covers REAL, clients INTEGER NOT NULL,
    lost INTEGER NOT NULL, new_grants INTEGER NOT NULL, applied INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE sent (
    run TEXT NOT NULL, leg INTEGER NOT NULL, at REAL NOT NULL, new_grants INTEGER NOT NULL, re_grants INTEGER NOT NULL,
    sms INTEGER NOT NULL, email INTEGER NOT NULL, push INTEGER NOT NULL, cheque INTEGER NOT NULL,
    changed INTEGER NOT NULL, unknown INTEGER NOT NULL, PRIMARY KEY (run, leg)
) WITHOUT ROWID;
CREATE TABLE accepted (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, clients INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE holds (
    run TEXT PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL, clients INTEGER NOT NULL,
    grants INTEGER NOT NULL, guards TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE approvals (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL, digest TEXT NOT NULL,
    reason TEXT NOT NULL, by TEXT NOT NULL, at REAL NOT NULL, until REAL NOT NULL
);
CREATE TABLE approved (
    client INTEGER NOT NULL, approval INTEGER NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (client, approval)
) WITHOUT ROWID
"""
APPROVED_S = 72 * 3600.0  # how long an approval holds: over a weekend, not into another week
_NIGHTS = 14  # that say what is usual
_HOLDS_KEPT_S = 14 * 86400.0


@dataclass(frozen=True)
class ReadExport:
    """An export that a run decided by: the digest of its statements, when it was made, and counts.

    *as_of* is the time of its oldest file, *newest* of its newest (epoch seconds, None if unknown); *at* when it was
    decided by.
    """

    run: str
    kind: Kind
    digest: str
    as_of: float | None
    newest: float | None
    clients: int
    lost: int
    new_grants: int
    applied: bool
    at: float


@dataclass(frozen=True)
class HeldSet:
    """What a run held: how many clients' grants and denials, of which export, by which guards.

    *revocations* are those that still wait.
    """

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

    def record(self, one: ReadExport) -> None:
        """Note that a run decides by an export, before anything of it is sent."""
        made, counts = (one.as_of, one.newest), (one.clients, one.lost, one.new_grants)
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO exports "
                "(run, kind, digest, as_of, newest, clients, lost, new_grants, applied, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (one.run, one.kind, one.digest, *made, *counts, one.applied, one.at),
            )
            if one.kind == "full" and one.applied:
                self._db.execute(
                    "INSERT OR REPLACE INTO accepted (digest, clients, at) VALUES (?, ?, ?)",
                    (one.digest, one.clients, one.at),
                )

    def before(self, kind: Kind, digest: str, now: float, *, dated: bool = True) -> Before:
        """Return what an export of this kind and content is judged by.

        A full export must not be older than the newest full one that was read, nor a part; a delta not older than the
        newest full one or delta. A time from the future is no time. An export that is not *dated* is replayed if
        one that it must not be older than was read after its first reading: to read it again makes it no newer.
        """
        ((as_of,),) = self._rows(
            "SELECT max(coalesce(newest, as_of)) FROM exports WHERE coalesce(newest, as_of) <= ?2 "
            "AND (kind = 'full' OR (kind = 'delta' AND ?1 = 'delta'))",
            kind,
            now + AHEAD_S,
        )
        seen = self._rows("SELECT kind, digest FROM exports ORDER BY number")
        replayed = kind != "part" and (kind, digest) in seen
        if replayed and dated:
            replayed = [one for one in seen if one[0] == kind][-1] != (kind, digest)
        elif replayed:
            since = seen[seen.index((kind, digest)) :]
            replayed = any(one != (kind, digest) and one[0] in ("full", kind) for one in since)
        clients = self._rows("SELECT clients FROM accepted ORDER BY number DESC LIMIT 1")
        return Before(as_of, replayed, int(clients[0][0]) if clients else None)

    def read_at(self, kind: Kind, digest: str, as_of: float, now: float) -> float:
        """Return when an export whose oldest file was made at *as_of* was read first, *now* if it never was.

        What it states is no newer than that, though a clock said so.
        """
        ((first,),) = self._rows(
            "SELECT min(at) FROM exports WHERE kind = ? AND digest = ? AND as_of = ?", kind, digest, as_of
        )
        return now if first is None else min(now, float(first))

    def current_at(self, kind: Kind, digest: str, now: float) -> float:
        """Return until when an export of unknown age was current, in epoch seconds.

        That is *now*, unless another export was read since: then it is when this content was read last before any
        other. To read it again makes it no newer. A part is as old as the newest full export, of which it is a piece;
        where none was read it may be older than any *no*.
        """
        if kind != "part":
            _, last, since = self._current(digest)
            return min(now, last) if since else now
        rows = self._rows("SELECT digest, as_of, at FROM exports WHERE kind = 'full' ORDER BY number DESC LIMIT 1")
        for whole, as_of, at in rows:
            return min(now, at if as_of is not None else self._current(whole)[0])
        return -math.inf

    def _current(self, digest: str) -> tuple[float, float, bool]:
        """Return when this content was read first, and last before any other, and whether another was read since."""
        times: list[float] = []
        for other, at in self._rows("SELECT digest, at FROM exports ORDER BY number"):
            if other == digest:
                times.append(at)
            elif times:
                return times[0], times[-1], True
        return (times[0], times[-1], False) if times else (math.inf, math.inf, False)

    def has_another(self, digest: str, moments: Collection[float]) -> bool:
        """Return whether an export of other content, that was made at one of *moments* (epoch seconds), was read."""
        others = self._rows(
            "SELECT as_of, newest, CASE WHEN newest IS NULL THEN at END FROM exports WHERE digest != ?", digest
        )
        return not set(moments).isdisjoint(moment for row in others for moment in row)

    def cover(self, run: str, until: float) -> None:
        """Note that the export of a run states what deltas made before *until* (epoch seconds) had said."""
        with self._writing():
            self._db.execute("UPDATE exports SET covers = ? WHERE run = ?", (until, run))

    def covered_until(self, now: float) -> float | None:
        """Return until when a full export states what deltas had said, None if none does. The future does not count."""
        rows = self._rows("SELECT max(covers) FROM exports WHERE covers <= ?", now + AHEAD_S)
        return None if rows[0][0] is None else float(rows[0][0])

    def last_delta(self) -> tuple[str, str] | None:
        """Return run and digest of the last export that was read, if it was a delta; a part is none."""
        rows = self._rows("SELECT run, digest, kind FROM exports WHERE kind != 'part' ORDER BY number DESC LIMIT 1")
        return rows[0][:2] if rows and rows[0][2] == "delta" else None

    def oldest_part(self, now: float) -> float | None:
        """Return when the oldest file of the newest full export was made, None if that is unknown."""
        rows = self._rows(
            "SELECT as_of FROM exports WHERE kind = 'full' AND coalesce(newest, as_of) <= ? "
            "ORDER BY coalesce(newest, as_of) DESC LIMIT 1",
            now + AHEAD_S,
        )
        return rows[0][0] if rows else None

    def last_run(self) -> str:
        """Return the run that read an export last, "" if none did."""
        rows = self._rows("SELECT run FROM exports ORDER BY number DESC LIMIT 1")
        return str(rows[0][0]) if rows else ""

    def is_last(self, kind: Kind, digest: str) -> bool:
        """Return whether the last export of this kind that was read states the same."""
        rows = self._rows("SELECT digest FROM exports WHERE kind = ? ORDER BY number DESC LIMIT 1", kind)
        return bool(rows) and rows[0][0] == digest

    def read(self) -> tuple[float, float] | None:
        """Return when the last applied export was applied first and last: how long it is the same; none before any."""
        rows = self._rows(
            "WITH newest AS (SELECT kind, digest FROM exports WHERE kind != 'part' AND applied ORDER BY number DESC "
            "LIMIT 1) SELECT min(a.at), max(a.at) FROM exports a, newest n WHERE a.applied AND a.kind = n.kind AND "
            "a.at > (SELECT coalesce(max(b.at), -1) FROM exports b WHERE b.applied AND b.kind = n.kind AND "
            "b.digest != n.digest)"
        )
        return (rows[0][0], rows[0][1]) if rows and rows[0][0] is not None else None

    def past(self, kind: Kind, now: float) -> Past:
        """Return what earlier exports were like, for the guards, and what was sent of them in the last day."""
        grants = [
            row[0]
            for row in self._rows(
                "SELECT e.new_grants FROM exports e LEFT JOIN runs r ON e.run = r.run "
                "WHERE coalesce(r.kind, '') != 'init' AND e.applied "
                "ORDER BY e.number DESC LIMIT ?",
                _NIGHTS,
            )
        ]
        lost = self._rows("SELECT lost FROM exports WHERE kind = ? AND applied ORDER BY number DESC LIMIT 1", kind)
        read = self._rows(
            "SELECT 1 FROM exports e LEFT JOIN runs r ON e.run = r.run WHERE coalesce(r.kind, '') != 'init' LIMIT 1"
        )
        return Past(
            usual_grants=float(statistics.median(grants)) if grants else 0.0,
            lost=int(lost[0][0]) if lost else None,
            first=not read,
            day=self._day(now),
        )

    def sent(self, run: str, leg: int, one: Sent, now: float) -> None:
        """Note what a leg changed by an export; the caller has begun the transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, leg, now, one.new_grants, one.re_grants, *one.revocations, one.changed, one.unknown),
        )
        self._db.execute("DELETE FROM sent WHERE at < ?", (now - 2 * DAY_S,))

    def _day(self, now: float) -> Sent:
        ((new, again, *revoked, changed, unknown),) = self._rows(
            "SELECT total(new_grants), total(re_grants), total(sms), total(email), total(push), total(cheque), "
            "total(changed), total(unknown) FROM sent WHERE at > ? AND at <= ?",
            now - DAY_S,
            now + AHEAD_S,
        )
        return Sent(int(new), int(again), tuple(int(one) for one in revoked), int(changed), int(unknown))

    # What was held, and approved

    def hold(self, state: Path, one: HeldSet, held: Held) -> None:
        """Keep the grants that a run held, for `approve`; sets that nobody approved in two weeks are dropped."""
        folder = state / "held"
        files.make_folder(folder)
        tables.write_held(folder / f"{one.run}.parquet", held.approvable())
        values = (one.run, one.at, one.kind, one.digest, one.clients, one.grants)
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, json.dumps(one.guards))
            )
            self._db.execute(f"DELETE FROM holds WHERE at < ? AND NOT {_WAITING}", (one.at - _HOLDS_KEPT_S,))
        self._sweep(folder)

    def _sweep(self, folder: Path) -> None:
        """Remove the sets of held rows that nobody may approve any more."""
        kept = {run for (run,) in self._rows("SELECT run FROM holds")}
        for path in folder.glob("*.parquet"):
            if path.stem not in kept:
                files.remove(path)

    def narrow(self, run: str, kind: Kind, statements: Table) -> None:
        """Note that *run* has read another export: the grants that earlier ones held are over.

        So is each approval of a grant that the export does not state, which a full one has to state again, and others
        must not deny. Who is denied meanwhile, and allowed again later, is a new case. Held denials still wait.
        """
        with self._writing():
            self._db.execute("UPDATE holds SET grants = 0, clients = 0 WHERE run != ?", (run,))
            self._db.execute(f"DELETE FROM holds WHERE run != ? AND NOT {_WAITING}", (run,))
            rows = self._db.execute("SELECT client, approval, value FROM approved").fetchall()
            if rows:
                says = statements.of(np.array([row[0] for row in rows], np.int32))
                values = np.array([row[2] for row in rows], np.uint8)
                still = stated(values) & ~stated(values ^ says)
                if kind != "full":
                    still |= stated(values) & (~stated(says) | blank(says))
                kept = (values & spread(still)).tolist()
                self._db.executemany(
                    "UPDATE approved SET value = ? WHERE client = ? AND approval = ?",
                    ((value, row[0], row[1]) for row, value in zip(rows, kept, strict=True)),
                )
                self._db.execute("DELETE FROM approved WHERE value = 0")
        self._sweep(self.path.parent / "held")

    def held(self, run: str) -> HeldSet | None:
        """Return what a run held, none if it held nothing."""
        rows = self._rows(f"SELECT {_HELD} FROM holds WHERE run = ?", run)
        return _held_set(rows[0]) if rows else None

    def is_unspent(self, one: Approval) -> bool:
        """Return whether anything is left to be sent by an approval of grants."""
        return bool(self._rows("SELECT 1 FROM approved WHERE approval = ? LIMIT 1", one.number))

    def held_runs(self) -> list[HeldSet]:
        """Return what runs held that may still be approved, the oldest first."""
        return [_held_set(row) for row in self._rows(f"SELECT {_HELD} FROM holds ORDER BY at")]

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
            if what == "revocations":
                # From now on they are owed like any other denial: the next run or drain sends them.
                self._db.execute("UPDATE obligations SET held = NULL WHERE held = ?", (one.run,))
            else:
                # Once: what is delivered by it must be asked about anew.
                self._db.execute(f"UPDATE holds SET {what} = 0 WHERE run = ?", (one.run,))
            if what == "clients" and one.kind == "full":
                self._db.execute(
                    "INSERT OR REPLACE INTO accepted (digest, clients, at) VALUES (?, ?, ?)",
                    (one.digest, one.clients, now),
                )
            if what == "grants":
                held = tables.read_held(state / "held" / f"{one.run}.parquet")
                value = held.stated & spread(allowed(held.stated))
                rows = zip(held.client[value != 0].tolist(), value[value != 0].tolist(), strict=True)
                self._db.executemany(
                    "INSERT INTO approved (approval, client, value) VALUES (?, ?, ?)",
                    ((number, *row) for row in rows),
                )
        return Approval(number, one.run, what, count, reason, by, now, now + APPROVED_S)

    def approvals(self, now: float) -> list[Approval]:
        """Return the approvals that hold."""
        query = (
            f"SELECT number, run, what, count, reason, by, at, until FROM approvals WHERE {_HOLDS_AT} ORDER BY number"
        )
        return [Approval(*row) for row in self._rows(query, now)]

    def is_accepted(self, digest: str, now: float) -> bool:
        """Return whether a person approved the clients of the export with this content, not long ago."""
        query = f"SELECT 1 FROM approvals WHERE {_HOLDS_AT} AND what = 'clients' AND digest = ?2"
        return bool(self._rows(query, now, digest))

    def approved(self, now: float) -> Table:
        """Return, as a byte, what was approved of each client and not delivered since."""
        rows = self._rows(
            f"SELECT client, value FROM approved JOIN approvals ON approval = number WHERE {_HOLDS_AT} ORDER BY client",
            now,
        )
        return _table(rows)

    def delivered(self, ids: Ids) -> None:
        """Forget what was approved of these clients, who got it; the caller has begun the transaction."""
        if self._rows("SELECT 1 FROM approved LIMIT 1"):
            self._db.executemany("DELETE FROM approved WHERE client = ?", ((client,) for client in ids.tolist()))

    def forget(self, ids: Ids) -> None:
        """Forget these clients; the caller has begun the transaction."""
        self._db.executemany("DELETE FROM approved WHERE client = ?", ((client,) for client in ids.tolist()))


# An approval holds for its time from now at most: one from the future was given by a clock that was wrong.
_HOLDS_AT = f"until > ?1 AND until <= ?1 + {APPROVED_S + AHEAD_S}"
# Denials that a run held and that still wait.
_WAITING = "EXISTS (SELECT 1 FROM obligations o WHERE o.held = holds.run AND o.owed != 0)"
_HELD = (
    "run, at, kind, digest, clients, grants, (SELECT count(DISTINCT client) FROM obligations o WHERE o.held = "
    "holds.run AND o.owed != 0), guards"
)
_HELD_COLUMNS = ("run", "at", "kind", "digest", "clients", "grants", "revocations", "guards")


def _held_set(row: tuple[Any, ...]) -> HeldSet:
    return HeldSet(**dict(zip(_HELD_COLUMNS, row, strict=True)) | {"guards": json.loads(row[-1])})


def _table(rows: list[tuple[int, int]]) -> Table:
    """Return a table of values, several a client laid over each other."""
    ids = np.array([row[0] for row in rows], np.int32)
    values = np.array([row[1] for row in rows], np.uint8)
    ids, values = laid_over(ids, values)
    return tabulate(ids, ids, values)
