"""Withdrawals and re-consents in the ledger: what people took back, by which list, and what evidence lifted it.

A withdrawal is ours to keep until a later, evidenced re-consent. Its identity is client, channels, when it was
withdrawn and its reference: the same again is a repeat, whatever list it comes with. The CRM's number by which it was
given is kept beside it, for the platform's number that this means may change. Obligations are `obligations`'s.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.consent.channels import LOW_BITS, Bytes, Ids, Mask
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.lists import BASES, scope_text, without_ids
from sync_job.consent.tables import Table, tabulate
from sync_job.ledger import files
from sync_job.ledger.in_force import InForce
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE lists (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, source TEXT NOT NULL, taken_in REAL NOT NULL,
    absorbed REAL NOT NULL, rows INTEGER NOT NULL, fresh INTEGER NOT NULL, repeats INTEGER NOT NULL,
    superseded INTEGER NOT NULL, erased INTEGER NOT NULL, voided REAL, reason TEXT, by TEXT, approved_by TEXT
);
CREATE TABLE erased (
    list INTEGER NOT NULL, hour REAL NOT NULL, own INTEGER NOT NULL, repeated INTEGER NOT NULL,
    PRIMARY KEY (list, hour)
) WITHOUT ROWID;
CREATE TABLE withdrawals (
    client INTEGER NOT NULL, channels INTEGER NOT NULL, withdrawn_at REAL NOT NULL, request_ref TEXT NOT NULL,
    received_at REAL NOT NULL, basis INTEGER NOT NULL, list INTEGER NOT NULL,
    in_force INTEGER NOT NULL, PRIMARY KEY (client, channels, withdrawn_at, request_ref)
) WITHOUT ROWID;
CREATE INDEX withdrawals_by_list ON withdrawals (list);
CREATE TABLE repeats (
    client INTEGER NOT NULL, channels INTEGER NOT NULL, withdrawn_at REAL NOT NULL, request_ref TEXT NOT NULL,
    list INTEGER NOT NULL, PRIMARY KEY (client, channels, withdrawn_at, request_ref, list)
) WITHOUT ROWID;
CREATE INDEX repeats_by_list ON repeats (list);
CREATE TABLE given (
    given INTEGER NOT NULL, client INTEGER NOT NULL, channels INTEGER NOT NULL, withdrawn_at REAL NOT NULL,
    request_ref TEXT NOT NULL, PRIMARY KEY (given, client, channels, withdrawn_at, request_ref)
) WITHOUT ROWID;
CREATE INDEX given_by_client ON given (client);
CREATE TABLE reconsents (
    client INTEGER NOT NULL, channels INTEGER NOT NULL, granted_at REAL NOT NULL, method TEXT NOT NULL,
    evidence_ref TEXT NOT NULL, taken_in REAL NOT NULL, PRIMARY KEY (client, channels, granted_at)
) WITHOUT ROWID;
CREATE TABLE evidence (
    number INTEGER PRIMARY KEY, taken_in REAL NOT NULL, rows INTEGER NOT NULL, lifted INTEGER NOT NULL
)
"""
_INCOMING = """
CREATE TEMP TABLE IF NOT EXISTS incoming (
    client INTEGER NOT NULL, channels INTEGER NOT NULL, withdrawn_at REAL NOT NULL, request_ref TEXT NOT NULL,
    received_at REAL NOT NULL, basis INTEGER NOT NULL, limit_at REAL NOT NULL, known INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (client, channels, withdrawn_at, request_ref)
) WITHOUT ROWID
"""
_KEYS = (
    "w.client = i.client AND w.channels = i.channels AND w.withdrawn_at = i.withdrawn_at "
    "AND w.request_ref = i.request_ref"
)
# The channels that evidence has lifted after the withdrawal: SQLite has no aggregate that ORs. Evidence from the future
# (after ?2) lifts nothing: a clock was wrong when it was taken in, and nobody knows which of the two came later.
_LIFTED = (
    "coalesce((SELECT max(r.channels & 1) | max(r.channels & 4) | max(r.channels & 16) | max(r.channels & 64) "
    "FROM reconsents r WHERE r.client = i.client AND r.granted_at > i.withdrawn_at "
    "AND r.granted_at <= min(?2, r.taken_in)), 0)"
)
_ANY_IN_FORCE = " | ".join(f"max(w.in_force & {bit})" for bit in (1, 4, 16, 64))
_VOID = "list IN (SELECT number FROM lists WHERE voided IS NOT NULL)"
# When a client withdrew. No list may say that it was more than a day after it was received, and that time is brought to
# now if a clock was wrong: otherwise no evidence would be late enough.
WITHDRAWN_AT = "min(withdrawn_at, received_at + 86400)"
_BEFORE = "this evidence lifted it before"
# What the batch that is being taken in added.
_NEW = f"SELECT w.client, w.in_force FROM temp.incoming i JOIN withdrawals w ON {_KEYS} WHERE NOT i.known"
# What became of each withdrawal, the first that holds. An open denial of one of its channels counts whatever it is owed
# for: nothing is called acknowledged that the platform may still allow.
_FATE = """
    CASE WHEN l.voided IS NOT NULL THEN 'void'
    WHEN EXISTS (SELECT 1 FROM obligations o WHERE o.client = w.client AND o.owed & w.in_force) THEN CASE
        (SELECT not_found FROM waiting t WHERE t.client = w.client) WHEN 1 THEN 'parked' WHEN 0 THEN 'refused'
        ELSE 'open' END
    WHEN own.ended IS NOT NULL THEN own.ended
    ELSE 'superseded' END
"""
_FATED = (
    "JOIN lists l ON l.number = w.list LEFT JOIN obligations own ON own.id = (SELECT max(o.id) "
    "FROM obligations o WHERE o.client = w.client AND o.list = w.list AND o.channels = w.channels "
    "AND o.withdrawn_at = w.withdrawn_at AND o.request_ref = w.request_ref)"
)
# Whether taking in a row (client, channels, withdrawn_at, request_ref) owes a denial, or one is owed for it already.
_OWES = f"""
    SELECT CASE WHEN EXISTS (
        SELECT 1 FROM withdrawals w JOIN lists l ON l.number = w.list WHERE w.client = ?1 AND w.channels = ?2
        AND w.withdrawn_at = ?3 AND w.request_ref = ?4 AND l.voided IS NULL
    ) THEN EXISTS (
        SELECT 1 FROM obligations WHERE client = ?1 AND owed != 0 AND source = 'withdrawal' AND channels = ?2
        AND withdrawn_at = ?3 AND request_ref = ?4
    ) ELSE i.channels & ~{_LIFTED} != 0 END FROM (
        SELECT ?1 AS client, ?2 AS channels, ?3 AS withdrawn_at, ?4 AS request_ref
    ) i
"""
FATES = ("acknowledged", "open", "refused", "parked")  # whatever else became of a withdrawal ended otherwise
Times = npt.NDArray[np.float64]
LimitOf = Callable[[Times], Times]
ErasedAt = Callable[[Ids], Times]


@dataclass(frozen=True)
class Absorbed:
    """What became of the rows of a list: new withdrawals, repeats, and those that evidence had lifted already.

    *erased* rows were received before their client was erased, and were not taken in.
    """

    rows: int
    fresh: int
    repeats: int
    superseded: int
    erased: int = 0


@dataclass(frozen=True)
class Lifted:
    """What became of a ledger of evidence: how many rows lifted something, and what was refused, with the rule.

    A row that lifts some channels and not others is in both. One that lifted something *before* has nothing to lift.
    """

    rows: int
    lifted: int
    before: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Voided:
    """What a void list takes with it: its withdrawals, the denials still owed for it, and what another list keeps.

    *since*: it was void before, by the same words of the same people, and nothing was changed.
    """

    withdrawals: int
    obligations: int
    kept: int
    since: float | None = None


class Withdrawals(Store):
    """Reads and writes withdrawals and re-consents of one ledger; every method that writes is one transaction."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self._ready = InForce(path, connection)

    def absorb(
        self,
        batches: Iterable[pa.RecordBatch],
        about: dict[str, Any],
        *,
        now: float,
        limit_of: LimitOf,
        erased_at: ErasedAt | None = None,
    ) -> Absorbed:
        """Take a list in, and owe a denial for each new withdrawal; a list that was taken in before changes nothing.

        *batches* have the columns of the inbox; *limit_of* gives, for times of receipt, until when a denial is owed.
        A repeat keeps the earliest receipt, and owes nothing new. *erased_at* gives when clients were erased, in epoch
        seconds or NaN: a row that was not received later than that is not taken in.
        """
        digest = str(about["digest"])
        resolved = self._rows("SELECT value FROM about WHERE key = 'resolved'")
        known = self._rows(
            "SELECT rows, fresh, repeats, superseded, erased, voided FROM lists WHERE digest = ?", digest
        )
        if known and known[0][-1] is None:
            return Absorbed(*known[0][:-1])
        with files.storing(self.path):
            self._db.execute(_INCOMING)
        with self._writing():
            # A list that was made void and comes in again is meant: it is a new one, and the old one keeps its record.
            self._db.execute("UPDATE lists SET digest = digest || ' void ' || number WHERE digest = ?", (digest,))
            number = self._db.execute(
                "INSERT INTO lists (digest, source, taken_in, absorbed, rows, fresh, repeats, superseded, erased) "
                "VALUES (?, ?, ?, ?, 0, 0, 0, 0, 0)",
                (digest, about["source"], about["taken_in"], now),
            ).lastrowid
            rows = fresh = superseded = erased = 0
            taken: list[tuple[Ids, Bytes]] = []
            for batch in batches:
                rows += batch.num_rows
                if erased_at is not None:
                    gone = ~later_than_erasure(
                        batch.column("client"), batch.column("received_at"), erased_at, now + AHEAD_S
                    )
                    erased += int(np.count_nonzero(gone))
                    batch = batch.filter(pa.array(~gone))
                if not batch.num_rows:
                    continue
                new, lifted = self._take(batch, int(number or 0), limit_of, now)
                fresh, superseded = fresh + new, superseded + lifted
                if new:
                    taken.append(self._ready.rows(_NEW))
            if resolved and resolved[0][0] != about["id_map"]:
                self._db.execute("DELETE FROM about WHERE key = 'resolved'")  # another map may mean others by its ids
            self._ready.keep([self._ready.read(), *taken])
            found = Absorbed(rows, fresh, rows - fresh - superseded - erased, superseded, erased)
            self._db.execute(
                "UPDATE lists SET rows = ?, fresh = ?, repeats = ?, superseded = ?, erased = ? WHERE number = ?",
                (found.rows, found.fresh, found.repeats, found.superseded, found.erased, number),
            )
        return found

    def _take(self, batch: pa.RecordBatch, number: int, limit_of: LimitOf, now: float) -> tuple[int, int]:
        """Take in a batch; return how many of its rows are new and in force, and new but lifted already."""
        received = batch.column("received_at").to_numpy()
        columns = [batch.column(name).to_pylist() for name in ("client", "channels", "withdrawn_at", "request_ref")]
        basis = batch.column("basis").to_pylist()
        self._db.execute("DELETE FROM temp.incoming")
        self._db.executemany(
            "INSERT INTO temp.incoming (client, channels, withdrawn_at, request_ref, received_at, basis, limit_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "received_at = min(received_at, excluded.received_at), limit_at = min(limit_at, excluded.limit_at)",
            zip(*columns, received.tolist(), basis, limit_of(received).tolist(), strict=True),
        )
        # What a void list said never was: the same from another list is new.
        self._db.execute(
            f"DELETE FROM withdrawals AS w WHERE {_VOID} AND EXISTS (SELECT 1 FROM temp.incoming i WHERE {_KEYS})"
        )
        self._db.execute(
            f"UPDATE temp.incoming AS i SET known = 1 WHERE EXISTS (SELECT 1 FROM withdrawals w WHERE {_KEYS})"
        )
        repeated = self._db.execute("SELECT EXISTS (SELECT 1 FROM temp.incoming WHERE known)").fetchone()[0]
        if repeated:
            self._db.execute(
                "UPDATE withdrawals AS w SET received_at = min(w.received_at, i.received_at) "
                f"FROM temp.incoming i WHERE i.known AND {_KEYS}"
            )
            self._db.execute(
                "INSERT OR IGNORE INTO repeats SELECT w.client, w.channels, w.withdrawn_at, w.request_ref, ?1 "
                f"FROM temp.incoming i JOIN withdrawals w ON {_KEYS} WHERE i.known AND w.list != ?1",
                (number,),
            )
            self._db.execute(
                "UPDATE obligations AS w SET started = min(started, i.received_at), "
                "limit_at = min(w.limit_at, i.limit_at) "
                f"FROM temp.incoming i WHERE i.known AND w.owed != 0 AND w.source = 'withdrawal' AND {_KEYS}"
            )
        before = self._db.total_changes
        self._db.execute(
            "INSERT INTO withdrawals SELECT client, channels, withdrawn_at, request_ref, received_at, basis, ?1, "
            f"channels & ~{_LIFTED} FROM temp.incoming i WHERE NOT known",
            (number, now + AHEAD_S),
        )
        new = self._db.total_changes - before
        before = self._db.total_changes
        self._db.execute(
            "INSERT INTO obligations "
            "(client, channels, owed, source, started, limit_at, list, withdrawn_at, request_ref) "
            "SELECT w.client, w.channels, w.in_force, 'withdrawal', w.received_at, i.limit_at, ?, w.withdrawn_at, "
            f"w.request_ref FROM temp.incoming i JOIN withdrawals w ON {_KEYS} "
            "WHERE NOT i.known AND w.in_force != 0",
            (number,),
        )
        owed = self._db.total_changes - before
        self._keep_given(batch)
        # A person who asks is not made to wait for the next try of something else.
        self._db.execute("DELETE FROM waiting WHERE client IN (SELECT client FROM temp.incoming WHERE NOT known)")
        return owed, new - owed

    def _keep_given(self, batch: pa.RecordBatch) -> None:
        """Keep by which of the CRM's numbers withdrawals were given; the caller has begun the transaction."""
        batch = batch.filter(pc.not_equal(batch.column("given"), 0))
        names = ("given", "client", "channels", "withdrawn_at", "request_ref")
        self._db.executemany(
            "INSERT OR IGNORE INTO given VALUES (?, ?, ?, ?, ?)",
            zip(*(batch.column(name).to_pylist() for name in names), strict=True),
        )

    def has_given(self) -> bool:
        """Return whether any withdrawal was given by the CRM's number."""
        return bool(self._rows("SELECT 1 FROM given LIMIT 1"))

    def given(self) -> tuple[Ids, Ids]:
        """Return each of the CRM's numbers by which there are withdrawals, with each client who has one by it."""
        with files.loading(self.path):
            query = self._db.execute("SELECT DISTINCT given, client FROM given")
            found = np.fromiter(query, np.dtype([("given", np.int32), ("client", np.int32)]))
        return np.ascontiguousarray(found["given"]), np.ascontiguousarray(found["client"])

    def ambiguous(self) -> int:
        """Return how many withdrawals were given by a number of the CRM that has meant several clients."""
        return int(
            self._rows(
                "SELECT count(*) FROM (SELECT 1 FROM given GROUP BY given, channels, withdrawn_at, request_ref "
                "HAVING count(*) > 1)"
            )[0][0]
        )

    def hold_for(self, given: Ids, client: Ids, limit_of: LimitOf) -> int:
        """Let what was withdrawn by each number *given* hold for a *client* as well; return how many withdrawals.

        Each is a withdrawal like the one that came, of the same list, and is owed from the same receipt.
        """
        with self._writing():
            # These come by lists that the codes beside the keys were made of already.
            self._db.execute("DELETE FROM about WHERE key = 'accounted'")
            self._db.execute("CREATE TEMP TABLE moves (given INTEGER, client INTEGER, PRIMARY KEY (given, client))")
            self._db.executemany(
                "INSERT OR IGNORE INTO temp.moves VALUES (?, ?)", zip(given.tolist(), client.tolist(), strict=True)
            )
            # Evidence of whoever had that number before lifts nothing of this.
            rows = self._db.execute(
                "SELECT m.client, i.channels, i.withdrawn_at, i.request_ref, min(w.received_at), w.basis, w.list, "
                f"{_ANY_IN_FORCE}, i.given "
                f"FROM temp.moves m JOIN given i ON i.given = m.given JOIN withdrawals w ON {_KEYS} "
                "WHERE w.in_force != 0 AND NOT EXISTS (SELECT 1 FROM given g WHERE g.given = i.given "
                "AND g.client = m.client AND g.channels = i.channels AND g.withdrawn_at = i.withdrawn_at "
                "AND g.request_ref = i.request_ref) "
                "GROUP BY m.client, i.given, i.channels, i.withdrawn_at, i.request_ref"
            ).fetchall()
            self._db.execute("DROP TABLE temp.moves")
            limits = limit_of(np.array([row[4] for row in rows], np.float64)).tolist() if rows else []
            for row, limit_at in zip(rows, limits, strict=True):
                client_, channels, withdrawn_at, ref, received, _, number, force, given_ = row
                self._db.execute(
                    "INSERT INTO given VALUES (?, ?, ?, ?, ?)", (given_, client_, channels, withdrawn_at, ref)
                )
                self._db.execute(
                    "INSERT INTO withdrawals VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "received_at = min(received_at, excluded.received_at), in_force = in_force | excluded.in_force, "
                    f"list = CASE WHEN {_VOID} THEN excluded.list ELSE list END",
                    row[:-1],
                )
                key = (client_, channels, withdrawn_at, ref)
                self._db.execute(
                    "INSERT OR IGNORE INTO repeats SELECT client, channels, withdrawn_at, request_ref, ?5 "
                    "FROM withdrawals WHERE client = ?1 AND channels = ?2 AND withdrawn_at = ?3 AND request_ref = ?4 "
                    "AND list != ?5",
                    (*key, number),
                )
                self._db.execute(
                    "INSERT OR IGNORE INTO repeats SELECT ?, channels, withdrawn_at, request_ref, list FROM repeats "
                    "WHERE client IN (SELECT client FROM given WHERE given = ?) AND channels = ? "
                    "AND withdrawn_at = ? AND request_ref = ? AND list != ?",
                    (client_, given_, channels, withdrawn_at, ref, number),
                )
                self._db.execute(
                    "INSERT INTO obligations (client, channels, owed, source, started, limit_at, list, withdrawn_at, "
                    "request_ref) VALUES (?, ?, ?, 'withdrawal', ?, ?, ?, ?, ?)",
                    (client_, channels, force, received, limit_at, number, withdrawn_at, ref),
                )
                self._db.execute("DELETE FROM waiting WHERE client = ?", (client_,))
            if rows:
                self._ready.gather()
        return len(rows)

    def in_force(self) -> Table:
        """Return the low bit of each withdrawn channel of each client."""
        ids, channels = self._ready.read()
        return tabulate(ids, ids, channels)

    def clients(self) -> Ids:
        """Return every client that a list or evidence has named, ascending."""
        query = "SELECT client FROM withdrawals UNION SELECT client FROM reconsents ORDER BY 1"
        return np.array([client for (client,) in self._rows(query)], np.int32)

    def received_at(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Return when the newest withdrawal of each of *ids* was received, in epoch seconds; 0 if there is none."""
        query = "SELECT max(received_at) FROM withdrawals WHERE client = ?"
        return np.array([self._rows(query, client)[0][0] or 0.0 for client in ids.tolist()], np.float64)

    def lift(self, batches: Iterable[pa.RecordBatch], now: float) -> Lifted:
        """Lift what evidence lifts: named channels that were withdrawn before they were granted again.

        *batches* have client, channels, granted_at, method, evidence_ref. What is owed for a lifted channel ends.
        """
        rows = lifted = before = 0
        refused: list[tuple[int, str]] = []
        with self._writing():
            for batch in batches:
                for row in batch.to_pylist():
                    rows += 1
                    lifts, why = self._lift(row, now)
                    lifted += lifts
                    if why == _BEFORE:
                        before += 1
                    elif why:
                        refused.append((row["client"], why))
            if lifted:
                self._ready.gather()
            self._db.execute("INSERT INTO evidence (taken_in, rows, lifted) VALUES (?, ?, ?)", (now, rows, lifted))
        return Lifted(rows, lifted, before, refused)

    def _lift(self, row: dict[str, Any], now: float) -> tuple[bool, str]:
        """Record one re-consent and lift what it lifts; return whether that is anything, and why not all of it."""
        client, channels, granted_at = row["client"], row["channels"], row["granted_at"]
        if granted_at > now:
            return False, "granted_at is in the future"
        lifts = stands = 0
        for bits, withdrawn_at in self._db.execute(
            f"SELECT in_force & ?2, {WITHDRAWN_AT} FROM withdrawals WHERE client = ?1 AND in_force & ?2",
            (client, channels),
        ):
            if withdrawn_at < granted_at:
                lifts |= bits
            else:
                stands |= bits
        if not lifts | stands:
            known = "SELECT 1 FROM reconsents WHERE client = ? AND channels = ? AND granted_at = ?"
            if self._db.execute(known, (client, channels, granted_at)).fetchone():
                return False, _BEFORE
            return False, "nothing of these channels is withdrawn"
        why = f"it is not later than the withdrawal of {scope_text(stands)}" if stands else ""
        if not lifts:
            return False, why
        self._db.execute(
            "INSERT OR IGNORE INTO reconsents VALUES (?, ?, ?, ?, ?, ?)",
            (client, channels, granted_at, row["method"], row["evidence_ref"], now),
        )
        self._db.execute(
            f"UPDATE withdrawals SET in_force = in_force & ~? WHERE client = ? AND {WITHDRAWN_AT} < ?",
            (channels, client, granted_at),
        )
        self._db.execute(
            "UPDATE obligations SET closed = CASE WHEN owed & ~?1 = 0 THEN ?2 END, "
            "ended = CASE WHEN owed & ~?1 = 0 THEN 'lifted' END, owed = owed & ~?1 "
            "WHERE client = ?3 AND owed != 0 AND source = 'withdrawal' "
            "AND min(withdrawn_at, started + 86400) < ?4",
            (channels, now, client, granted_at),
        )
        return True, why

    def void(self, digest: str, reason: str, by: str, approved_by: str, now: float) -> Voided:
        """Take a list back: its withdrawals bind no more, but for those that another list repeats.

        Raises:
            ValueError: when no list, or more than one, begins with *digest*, others made it void already, or one person
                alone says so.
        """
        if not by or not approved_by or by.casefold() == approved_by.casefold():
            raise ValueError("two people must say so: --by and --approved-by name the same, or nobody")
        found = self._rows(
            "SELECT number, voided, reason, by, approved_by FROM lists WHERE substr(digest, 1, length(?1)) = ?1",
            digest.strip().lower(),
        )
        if len(found) != 1 or not digest.strip():
            raise ValueError(f"{len(found) or 'no'} lists begin with {digest!r}; `withdrawals status` names them")
        number, voided, *said = found[0]
        if voided is not None and said == [reason, by, approved_by]:
            return Voided(0, 0, 0, since=voided)
        if voided is not None:
            raise ValueError(f"the list is void already: {said[1]} and {said[2]} said so, {said[0]}")
        with self._writing():
            self._db.execute(
                "UPDATE lists SET voided = ?, reason = ?, by = ?, approved_by = ? WHERE number = ?",
                (now, reason, by, approved_by, number),
            )
            self._db.execute("DELETE FROM repeats WHERE list = ?", (number,))
            # What another list says as well is that one's from now on.
            heir = f"(SELECT min(i.list) FROM repeats i WHERE {_KEYS})"
            self._db.execute(
                f"UPDATE obligations AS w SET list = {heir} WHERE w.list = ? AND {heir} IS NOT NULL", (number,)
            )
            kept = self._db.execute(
                f"UPDATE withdrawals AS w SET list = {heir} WHERE w.list = ? AND {heir} IS NOT NULL", (number,)
            ).rowcount
            self._db.execute(
                f"DELETE FROM repeats AS i WHERE EXISTS (SELECT 1 FROM withdrawals w WHERE {_KEYS} AND w.list = i.list)"
            )
            gone = self._db.execute("UPDATE withdrawals SET in_force = 0 WHERE list = ?", (number,)).rowcount
            self._ready.gather()
            ended = self._db.execute(
                "UPDATE obligations SET owed = 0, closed = ?, ended = 'void', reason = ?, by = ? "
                "WHERE list = ? AND owed != 0",
                (now, reason, by, number),
            ).rowcount
        return Voided(gone, ended, kept)

    def lists(self, limit: int) -> list[dict[str, Any]]:
        """Return the lists that were taken in last, the newest first."""
        names = (
            "digest",
            "source",
            "taken_in",
            "absorbed",
            "rows",
            "fresh",
            "repeats",
            "superseded",
            "erased",
            "voided",
            "by",
        )
        query = f"SELECT {', '.join(names)} FROM lists ORDER BY number DESC LIMIT ?"
        return [dict(zip(names, row, strict=True)) for row in self._rows(query, limit)]

    def coming(
        self, batches: Iterable[pa.RecordBatch], digest: str, erased_at: ErasedAt, now: float
    ) -> tuple[Ids, Times]:
        """Return the rows of a list that `absorb` would owe a denial for: each client, and when it was received.

        A repeat counts if its denial is still owed, because its receipt may be the earlier one. What *erased_at* is is
        for `absorb` to say.
        """
        ids, received = [np.zeros(0, np.int32)], [np.zeros(0, np.float64)]
        if not self._rows("SELECT 1 FROM lists WHERE digest = ? AND voided IS NULL", digest):
            for listed in batches:
                kept = later_than_erasure(
                    listed.column("client"), listed.column("received_at"), erased_at, now + AHEAD_S
                )
                batch = listed.filter(pa.array(kept))
                names = ("client", "channels", "withdrawn_at", "request_ref")
                rows = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
                with files.loading(self.path):
                    owes = np.array([bool(self._db.execute(_OWES, row).fetchone()[0]) for row in rows], np.bool_)
                ids.append(batch.column("client").to_numpy()[owes])
                received.append(batch.column("received_at").to_numpy()[owes])
        return np.concatenate(ids), np.concatenate(received)

    def list_state(self, digest: str) -> dict[str, Any] | None:
        """Return what became of a list's rows so far, also of those that another list had brought before.

        None if the list was not taken into the ledger yet. *open*: owed and to be sent; *refused* and *parked* (no such
        client): owed, and waiting for their next try. *elsewhere* are its acknowledged rows that another list brought.
        """
        found = self._rows(
            "SELECT number, rows, fresh, repeats, superseded, erased, voided FROM lists WHERE digest = ?", digest
        )
        if not found:
            return None
        number, rows, fresh, repeats, superseded, passed, voided = found[0]
        counts: dict[str, int] = {"void": rows} if voided is not None else {}
        elsewhere = 0
        for fate, another, count in (
            []
            if counts
            else self._rows(
                f"SELECT {_FATE}, w.list != ?1, count(*) FROM (SELECT client, channels, withdrawn_at, request_ref "
                "FROM withdrawals WHERE list = ?1 UNION SELECT client, channels, withdrawn_at, request_ref "
                f"FROM repeats WHERE list = ?1) i JOIN withdrawals w ON {_KEYS} {_FATED} GROUP BY 1, 2",
                number,
            )
        ):
            counts[fate] = counts.get(fate, 0) + count
            elsewhere += count if another and fate == "acknowledged" else 0
        ((erased,),) = self._rows("SELECT coalesce(sum(own + repeated), 0) FROM erased WHERE list = ?", number)
        if erased + passed and voided is None:
            counts["erased"] = int(erased) + passed  # since then, or before they came in
        if (twice := rows - sum(counts.values())) > 0:  # an id map that changed may add clients
            counts["twice"] = twice  # the same row again in the same list
        return {
            "rows": rows,
            "fresh": fresh,
            "repeats": repeats,
            "superseded": superseded,
            "erased": passed,
            **{fate: counts.pop(fate, 0) for fate in FATES},
            "elsewhere": elsewhere,
            "ended_otherwise": counts,
        }

    def report(self, since: float, until: float) -> dict[str, Any]:
        """Return how many withdrawals were received between two times, and what became of them until now.

        *after_s* is how long the acknowledged ones took, in seconds.
        """
        rows = self._rows(
            f"SELECT {_FATE}, own.acknowledged - own.started, own.acknowledged > own.limit_at "
            f"FROM withdrawals w {_FATED} WHERE w.received_at >= ? AND w.received_at < ?",
            since,
            until,
        )
        counts = Counter("open" if fate == "refused" else fate for fate, _, _ in rows)
        took = np.sort([seconds for fate, seconds, _ in rows if fate == "acknowledged"])
        ((erased,),) = self._rows("SELECT sum(own) FROM erased WHERE hour >= ? AND hour < ?", since, until)
        if erased:
            counts["erased"] = int(erased)
        ((received,),) = self._rows(
            "SELECT count(*) FROM withdrawals WHERE received_at >= ? AND received_at < ?", since, until
        )
        return {
            "received": int(received) + int(erased or 0),
            **{fate: counts.pop(fate, 0) for fate in ("acknowledged", "open", "parked")},
            "late": sum(bool(late) for fate, _, late in rows if fate == "acknowledged"),
            "after_s": {
                name: round(float(np.quantile(took, share)), 1) if len(took) else None
                for name, share in (("median", 0.5), ("p95", 0.95), ("longest", 1.0))
            },
            "ended_otherwise": dict(sorted(counts.items())),
        }

    def of(self, client: int) -> dict[str, Any]:
        """Return every withdrawal and re-consent of a client."""
        withdrawals = self._rows(
            "SELECT w.channels, withdrawn_at, request_ref, received_at, basis, l.digest, l.voided, in_force "
            "FROM withdrawals w JOIN lists l ON l.number = w.list WHERE client = ? ORDER BY withdrawn_at",
            client,
        )
        names = ("channels", "withdrawn_at", "request_ref", "received_at", "basis", "list", "voided", "in_force")
        found = [dict(zip(names, row, strict=True)) for row in withdrawals]
        for one in found:
            one["basis"] = BASES[one["basis"]]
            one["given"] = [
                given
                for (given,) in self._rows(
                    "SELECT given FROM given WHERE client = ? AND channels = ? AND withdrawn_at = ? "
                    "AND request_ref = ? ORDER BY given",
                    *(client, one["channels"], one["withdrawn_at"], one["request_ref"]),
                )
            ]
        evidence = ("channels", "granted_at", "method", "evidence_ref", "taken_in")
        query = f"SELECT {', '.join(evidence)} FROM reconsents WHERE client = ? ORDER BY granted_at"
        return {
            "withdrawals": found,
            "reconsents": [dict(zip(evidence, row, strict=True)) for row in self._rows(query, client)],
        }

    def counts(self) -> dict[str, int]:
        """Return how many withdrawals and re-consents were ever taken in; neither ever grows smaller."""
        ((withdrawals, reconsents),) = self._rows(
            "SELECT (SELECT coalesce(sum(fresh + superseded), 0) FROM lists), "
            "(SELECT coalesce(sum(lifted), 0) FROM evidence)"
        )
        return {"withdrawals": int(withdrawals), "reconsents": int(reconsents)}

    def export_rows(self, size: int = 1 << 16) -> Iterator[pa.RecordBatch]:
        """Yield every withdrawal with the columns of a list, what of it is in force, and the digest of its list.

        *crm_id* is the CRM's number by which it was given; one that was given by several has a row for each.
        """
        query = (
            "SELECT w.client, w.channels, received_at, w.withdrawn_at, basis, w.request_ref, in_force, l.digest, "
            f"i.given FROM withdrawals w JOIN lists l ON l.number = w.list LEFT JOIN given i ON {_KEYS} "
            "ORDER BY w.client, w.withdrawn_at"
        )
        with files.loading(self.path):
            cursor = self._db.execute(query)
            while True:
                rows = cursor.fetchmany(size)
                if not rows:
                    return
                columns = list(zip(*rows, strict=True))
                yield pa.record_batch(
                    {
                        "Client": pa.array(columns[0], pa.int32()),
                        "received_at": _times(columns[2]),
                        "withdrawn_at": _times(columns[3]),
                        "scope": _NAMES.take(pa.array(columns[1], pa.int32())),
                        "basis": pa.array(BASES).take(pa.array(columns[4], pa.int32())),
                        "request_ref": pa.array(columns[5], pa.string()),
                        "in_force": _NAMES.take(pa.array(columns[6], pa.int32())),
                        "list": pa.array(columns[7], pa.string()),
                        "crm_id": pa.array(columns[8], pa.int32()),
                    }
                )

    def forget(self, ids: Ids) -> None:
        """Forget these clients, also in what lists are called; the caller has begun the transaction."""
        gone = set(ids.tolist())
        named = ("source", "reason")
        for number, *texts in self._rows(f"SELECT number, {', '.join(named)} FROM lists"):
            for name, text in zip(named, texts, strict=True):
                if text and (without := without_ids(text, gone)) != text:
                    self._db.execute(f"UPDATE lists SET {name} = ? WHERE number = ?", (without, number))
        # How many rows of which list there were stays known, so that what was received still adds up.
        for client in ids.tolist():
            self._db.execute(
                "INSERT INTO erased SELECT i.list, 3600 * (CAST(w.received_at AS INTEGER) / 3600), sum(i.own), "
                "sum(NOT i.own) FROM (SELECT *, 1 AS own FROM (SELECT client, channels, withdrawn_at, request_ref, "
                "list FROM withdrawals WHERE client = ?1) UNION ALL SELECT *, 0 FROM repeats WHERE client = ?1) i "
                f"JOIN withdrawals w ON {_KEYS} WHERE true GROUP BY 1, 2 "
                "ON CONFLICT DO UPDATE SET own = own + excluded.own, repeated = repeated + excluded.repeated",
                (client,),
            )
        for table in ("withdrawals", "reconsents", "repeats", "given"):
            query = f"DELETE FROM {table} WHERE client = ?"
            self._db.executemany(query, ((client,) for client in ids.tolist()))
        self._ready.gather()


def later_than_erasure(client: pa.Array, at: pa.Array, erased_at: ErasedAt, latest: float) -> Mask:
    """Return which rows are of a client who was not erased, or was erased before the time of the row.

    An erasure after *latest* was noted by a clock that was wrong: nobody knows which came first, and it outdoes no row
    of until then, so that no opt-out is lost.
    """
    erased, times = erased_at(client.to_numpy()), at.to_numpy()
    # Lists have microseconds: what is finer is no difference.
    later = np.isnan(erased) | (np.rint(times * 1e6) > np.rint(erased * 1e6))
    return np.asarray(later | (erased > latest) & (times <= latest), np.bool_)


_NAMES = pa.array([scope_text(byte & int(LOW_BITS)) for byte in range(256)])


def _times(seconds: tuple[float, ...]) -> pa.Array:
    return pa.array([round(one * 1000) for one in seconds], pa.int64()).cast(pa.timestamp("ms", "UTC"))
