"""Obligations in the ledger: denials we owe, since when and until when; and the rows that wait for their next try.

An obligation ends when its last channel is acknowledged, by hand with a reason, when a newer export allows again what
an export denied, or with the list, the withdrawal or the client that it comes from. It never just goes away. One that a
guard holds is not sent until a person approves it, and counts against its limit all the same.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import LOW_BITS, SHIFTS, Bytes, Ids, Mask, denied
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.settlement import OwedSince, Refused, Settlement
from sync_job.consent.tables import Table, laid_over, starts, tabulate
from sync_job.ledger import files
from sync_job.ledger.store import Store

SCHEMA = """
CREATE TABLE obligations (
    id INTEGER PRIMARY KEY, client INTEGER NOT NULL, channels INTEGER NOT NULL, owed INTEGER NOT NULL,
    source TEXT NOT NULL, started REAL NOT NULL, limit_at REAL NOT NULL, list INTEGER, run TEXT, withdrawn_at REAL,
    request_ref TEXT, acknowledged REAL, closed REAL, ended TEXT, reason TEXT, by TEXT, stated REAL, held TEXT
);
CREATE INDEX obligations_owed ON obligations (client) WHERE owed != 0;
CREATE INDEX obligations_by_list ON obligations (list);
CREATE INDEX obligations_by_client ON obligations (client);
CREATE INDEX obligations_held ON obligations (held) WHERE held IS NOT NULL;
CREATE TABLE waiting (
    client INTEGER PRIMARY KEY, sent INTEGER NOT NULL, tries INTEGER NOT NULL, since REAL NOT NULL,
    next_at REAL NOT NULL, not_found INTEGER NOT NULL
);
CREATE TABLE closed_by_hand (client INTEGER PRIMARY KEY, channels INTEGER NOT NULL)
"""
_DAY_S = 86400.0
_AGES_H = (1, 6, 24, 48, 72)  # where ages of what is owed are told apart
# A night that begins a little earlier than the last one is a night later all the same.
_SLACK_S = 3600.0
_NOT_FOUND_DAYS, _OWED_DAYS, _OTHER_DAYS = (1, 7, 30), (1,), (1, 2, 4, 7)

Source = Literal["withdrawal", "revocation", "compare", "erasure", "merge"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Owed:
    """Who is owed a denial, ascending by client, and of which channels (the low bit of each); times in epoch seconds.

    *due*: to be sent now; otherwise it waits for its next try. *parked*: the platform knows no such client.
    *revoked*: the channels that are owed because of an export, and for nothing else. *held*: those that a guard holds,
    and which are not sent; what is owed for another reason too is not held. *stated* is when the newest of the denials
    was stated.
    """

    client: Ids
    channels: Bytes
    started: Floats
    limit_at: Floats
    due: Mask
    parked: Mask
    revoked: Bytes
    held: Bytes
    stated: Floats

    def at(self, which: Mask) -> "Owed":
        """Return the chosen ones."""
        return Owed(*(getattr(self, one.name)[which] for one in fields(self)))


@dataclass(frozen=True, eq=False)
class Coming:
    """What lists in the inbox will owe as soon as they are taken in: a client, since when, and until when, per row."""

    client: Ids
    started: Floats
    limit_at: Floats


@dataclass(frozen=True, eq=False)
class Waiting:
    """Clients whose row was refused, ascending: what it sent, since and until when they wait, and what was said."""

    client: Ids
    sent: Bytes
    since: Floats
    next_at: Floats
    not_found: Mask


class Obligations(Store):
    """Reads and writes obligations and waiting rows of one ledger."""

    def _columns(self, query: str, **kinds: type) -> npt.NDArray[Any]:
        with files.loading(self.path):
            return np.fromiter(self._db.execute(query), np.dtype(list(kinds.items())))

    def owed(self, now: float) -> Owed:
        """Return what is owed at *now*, all of a client's obligations together."""
        rows = self._columns(
            "SELECT o.client, o.owed, o.started, o.limit_at, o.source = 'revocation', coalesce(w.next_at, 0), "
            "coalesce(w.since, 0), coalesce(w.not_found, 0), o.held IS NOT NULL, coalesce(o.stated, o.started) "
            "FROM obligations o LEFT JOIN waiting w ON w.client = o.client WHERE o.owed != 0 ORDER BY o.client",
            client=np.int32,
            owed=np.uint8,
            started=np.float64,
            limit_at=np.float64,
            revocation=np.bool_,
            next_at=np.float64,
            since=np.float64,
            not_found=np.bool_,
            held=np.bool_,
            stated=np.float64,
        )
        ids = rows["client"]
        if not len(ids):
            none, when, which = np.zeros(0, np.uint8), np.zeros(0, np.float64), np.zeros(0, np.bool_)
            return Owed(np.zeros(0, np.int32), none, when, when, which, which, none, none, when)
        first = starts(ids)

        def any_of(channels: Bytes) -> Bytes:
            return np.asarray(np.bitwise_or.reduceat(channels, first), np.uint8)

        revoked = any_of(np.where(rows["revocation"], rows["owed"], 0))
        others = any_of(np.where(rows["revocation"], 0, rows["owed"]))
        free = any_of(np.where(rows["held"], 0, rows["owed"]))
        return Owed(
            np.ascontiguousarray(ids[first]),
            revoked | others,
            np.minimum.reduceat(rows["started"], first),
            np.minimum.reduceat(rows["limit_at"], first),
            (rows["next_at"][first] <= now) | (rows["since"][first] > now + AHEAD_S),
            rows["not_found"][first].copy(),
            revoked & ~others,
            (revoked | others) & ~free,
            np.maximum.reduceat(rows["stated"], first),
        )

    def waiting(self) -> Waiting:
        """Return every row that was refused and not delivered since, also those whose next try has come."""
        rows = self._columns(
            "SELECT client, sent, since, next_at, not_found FROM waiting ORDER BY client",
            client=np.int32,
            sent=np.uint8,
            since=np.float64,
            next_at=np.float64,
            not_found=np.bool_,
        )
        return Waiting(*(np.ascontiguousarray(rows[one.name]) for one in fields(Waiting)))

    def settle(
        self,
        found: Settlement,
        owed: OwedSince,
        run: str,
        *,
        started: float,
        stated: float | None = None,
        excused: bool = False,
    ) -> None:
        """Close what was acknowledged, owe what was revoked and was not, and let refused rows wait.

        *started* is when the leg was planned, *stated* when its export stated what it revokes. If it is *excused*, a
        row that was refused for the first time may be tried again at once. The caller has begun the transaction: it is
        the commit point's.
        """
        open_now = self._open()
        self._acknowledge(found, open_now)
        revoked = found.revoked
        fresh = revoked.channels & ~self._open().of(revoked.client) & ~self.closed_by_hand().of(revoked.client)
        which = np.flatnonzero(fresh)
        since = owed.started[which], owed.limit_at[which]
        self._add("revocation", revoked.client[which], fresh[which], *since, run=run, stated=stated)
        self._unpark(found.unanswered)
        self._refuse(found.refused, started, excused)
        if self._rows("SELECT 1 FROM waiting LIMIT 1"):
            self._delete_waiting(found.delivered)

    def hold(
        self, run: str, client: Ids, channels: Bytes, *, stated: float | None, started: float, limit_at: float
    ) -> None:
        """Owe denials that a guard of *run* holds: they are not sent, and count against their limit.

        What an earlier run held of them is this run's from now on, since when it was held.
        """
        again = channels & self.held().of(client)
        fresh = self.would_hold(client, channels) & ~again
        ids, bits = client[again != 0], again[again != 0]
        with self._writing():
            self._db.executemany(
                "UPDATE obligations SET held = ? WHERE client = ? AND owed & ? != 0 AND held IS NOT NULL",
                ((run, *row) for row in zip(ids.tolist(), bits.tolist(), strict=True)),
            )
            for shift in SHIFTS:  # one obligation per channel: each is approved, sent or overtaken by itself
                which = np.flatnonzero(fresh & (1 << shift))
                since, until = np.full(len(which), started), np.full(len(which), limit_at)
                owed = np.full(len(which), 1 << shift, np.uint8)
                self._add("revocation", client[which], owed, since, until, run=run, stated=stated, held=run)

    def would_hold(self, client: Ids, channels: Bytes) -> Bytes:
        """Return which of these denials would wait for an approval: not owed otherwise, nor closed by a person."""
        owed = self._open("AND held IS NULL").of(client) | self.closed_by_hand().of(client)
        return np.asarray(channels & ~owed, np.uint8)

    def owe_too(
        self, run: str, client: Ids, channels: Bytes, *, stated: float, started: float, limit_at: float
    ) -> None:
        """Owe denials that are owed by a list or the like for the sake of an export too: it does not say them again."""
        ours = self._open("AND source = 'revocation'").of(client)
        more = np.asarray(channels & self._open().of(client) & ~ours & ~self.closed_by_hand().of(client), np.uint8)
        which = more != 0
        count = int(np.count_nonzero(which))
        if count:
            since, until = np.full(count, started), np.full(count, limit_at)
            with self._writing():
                self._add("revocation", client[which], more[which], since, until, run=run, stated=stated)

    def release(self, client: Ids, channels: Bytes) -> None:
        """Let denials that were held be sent: an export states them again, and no guard holds it."""
        with self._writing():
            self._db.executemany(
                "UPDATE obligations SET held = NULL WHERE client = ? AND owed & ? != 0 AND held IS NOT NULL",
                zip(client.tolist(), channels.tolist(), strict=True),
            )

    def state_again(self, says: Table, stated: float) -> None:
        """Note when the denials that an export stated before, and that are still owed, were *stated* again."""
        ids, channels = self._open("AND source = 'revocation'").items()
        again = np.asarray(channels & denied(says.of(ids)), np.uint8)
        with self._writing():
            self._db.executemany(
                "UPDATE obligations SET stated = max(coalesce(stated, started), ?) "
                "WHERE client = ? AND owed & ? != 0 AND source = 'revocation'",
                ((stated, *row) for row in zip(ids[again != 0].tolist(), again[again != 0].tolist(), strict=True)),
            )

    def held(self) -> Table:
        """Return the channels, a low bit each, of the denials that guards hold, by client."""
        return self._open("AND held IS NOT NULL")

    def _open(self, which: str = "") -> Table:
        rows = self._columns(
            f"SELECT client, owed FROM obligations WHERE owed != 0 {which} ORDER BY client",
            client=np.int32,
            owed=np.uint8,
        )
        ids, channels = laid_over(np.ascontiguousarray(rows["client"]), np.ascontiguousarray(rows["owed"]))
        return tabulate(ids, ids, channels)

    def _acknowledge(self, found: Settlement, open_now: Table) -> None:
        ids, channels, at = found.acknowledged
        which = np.flatnonzero(open_now.of(ids) & channels)
        self._db.executemany(
            "UPDATE obligations SET acknowledged = CASE WHEN owed & ~?1 = 0 THEN ?2 END, "
            "closed = CASE WHEN owed & ~?1 = 0 THEN ?2 END, "
            "ended = CASE WHEN owed & ~?1 = 0 THEN 'acknowledged' END, owed = owed & ~?1 "
            "WHERE client = ?3 AND owed != 0 AND owed & ?1 != 0",
            zip(channels[which].tolist(), at[which].tolist(), ids[which].tolist(), strict=True),
        )
        self._reopen(ids, channels)

    def _add(
        self,
        source: Source,
        client: Ids,
        channels: Bytes,
        started: Floats,
        limit_at: Floats,
        *,
        run: str | None = None,
        stated: float | None = None,
        held: str | None = None,
    ) -> None:
        self._db.executemany(
            "INSERT INTO obligations (client, channels, owed, source, started, limit_at, run, stated, held) "
            "VALUES (?1, ?2, ?2, ?5, ?3, ?4, ?6, ?7, ?8)",
            (
                (*row, source, run, stated, held)
                for row in zip(client.tolist(), channels.tolist(), started.tolist(), limit_at.tolist(), strict=True)
            ),
        )

    def _refuse(self, refused: Refused, started: float, excused: bool) -> None:
        owing = self._open().of(refused.client) != 0
        for ids, sent, unknown, owes in zip(
            refused.client.tolist(), refused.sent.tolist(), refused.not_found.tolist(), owing.tolist(), strict=True
        ):
            before = self._db.execute("SELECT sent, tries FROM waiting WHERE client = ?", (ids,)).fetchone()
            again = before is not None and before[0] == sent
            if excused and not again:
                self._db.execute(
                    "INSERT OR REPLACE INTO waiting VALUES (?, ?, 0, ?, ?, 0)", (ids, sent, started, started)
                )
                continue
            tries = before[1] + 1 if again else 1
            days = (_NOT_FOUND_DAYS if unknown else _OWED_DAYS) if owes else _OTHER_DAYS
            next_at = started + days[min(tries, len(days)) - 1] * _DAY_S - _SLACK_S
            self._db.execute(
                "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?, ?)",
                (ids, sent, tries, started, next_at, unknown and owes),
            )

    def _unpark(self, ids: Ids) -> None:
        """Have clients whose last attempt got another answer than *not found* sent again, and count again."""
        self._db.executemany(
            "DELETE FROM waiting WHERE client = ? AND not_found", ((client,) for client in ids.tolist())
        )

    def closed_by_hand(self) -> Table:
        """Return the channels of each client whose denial a person closed: a revocation is owed no more for them."""
        rows = self._columns(
            "SELECT client, channels FROM closed_by_hand ORDER BY client", client=np.int32, channels=np.uint8
        )
        ids = np.ascontiguousarray(rows["client"])
        return tabulate(ids, ids, np.ascontiguousarray(rows["channels"]))

    def reopen(self, client: Ids, channels: Bytes) -> None:
        """Let a denial of these channels be owed again, although a person closed one: they were allowed since."""
        with self._writing():
            self._reopen(client, channels)

    def _reopen(self, client: Ids, channels: Bytes) -> None:
        closed = channels & self.closed_by_hand().of(client)
        which = np.flatnonzero(closed)
        pairs = list(zip(client[which].tolist(), closed[which].tolist(), strict=True))
        self._db.executemany("UPDATE closed_by_hand SET channels = channels & ~?2 WHERE client = ?1", pairs)
        if pairs:
            self._db.execute("DELETE FROM closed_by_hand WHERE channels = 0")

    def _delete_waiting(self, ids: Ids) -> None:
        waits = self._columns("SELECT client FROM waiting", client=np.int32)["client"]
        gone = waits[np.isin(waits, ids)]
        self._db.executemany("DELETE FROM waiting WHERE client = ?", ((client,) for client in gone.tolist()))

    def overtake(self, client: Ids, channels: Bytes, now: float) -> None:
        """End what is owed for revocations that a fresh export has taken back."""
        with self._writing():
            self._db.executemany(
                "UPDATE obligations SET closed = CASE WHEN owed & ~?1 = 0 THEN ?2 END, "
                "ended = CASE WHEN owed & ~?1 = 0 THEN 'overtaken' END, owed = owed & ~?1 "
                "WHERE client = ?3 AND owed != 0 AND source = 'revocation'",
                ((bits, now, one) for one, bits in zip(client.tolist(), channels.tolist(), strict=True)),
            )

    def add(self, source: Source, client: Ids, channels: Bytes, started: Floats, limit_at: Floats) -> int:
        """Owe denials of channels for which nothing is owed yet, to whoever waits too; return how many clients."""
        fresh = channels & ~self._open().of(client)
        which = np.flatnonzero(fresh)
        with self._writing():
            self._add(source, client[which], fresh[which], started[which], limit_at[which])
            self._db.executemany("DELETE FROM waiting WHERE client = ?", ((one,) for one in client.tolist()))
        return len(which)

    def owe_before_erasure(self, client: Ids, started: float, limit_at: Floats) -> None:
        """Owe a denial of every channel, within a transaction, to clients who are to be erased.

        It is an obligation of its own, so that the erasure waits for nothing that is held, closed or lifted.
        """
        self._db.executemany(
            "INSERT INTO obligations (client, channels, owed, source, started, limit_at) "
            "SELECT ?1, ?2, ?2, 'erasure', ?3, ?4 "
            "WHERE NOT EXISTS (SELECT 1 FROM obligations WHERE client = ?1 AND source = 'erasure' AND owed = ?2)",
            (
                (one, int(LOW_BITS), started, until)
                for one, until in zip(client.tolist(), limit_at.tolist(), strict=True)
            ),
        )
        # A person who asks is not made to wait for the next try of something else.
        self._db.executemany("DELETE FROM waiting WHERE client = ?", ((one,) for one in client.tolist()))

    def close(self, client: int, reason: str, by: str, now: float) -> int:
        """End by hand what is owed to a client, and return how many obligations that were; its withdrawal stays."""
        with self._writing():
            for (owed,) in self._db.execute(
                "SELECT owed FROM obligations WHERE client = ? AND owed != 0", (client,)
            ).fetchall():
                self._db.execute(
                    "INSERT INTO closed_by_hand VALUES (?1, ?2) ON CONFLICT DO UPDATE SET channels = channels | ?2",
                    (client, owed),
                )
            closed = self._db.execute(
                "UPDATE obligations SET owed = 0, closed = ?, ended = 'by hand', reason = ?, by = ? "
                "WHERE client = ? AND owed != 0",
                (now, reason, by, client),
            ).rowcount
        return int(closed)

    def status(self, now: float, target_s: float, coming: Coming | None = None) -> dict[str, Any]:
        """Return how many clients are owed a denial: in all, past target and limit, by age and by source.

        Each client counts once. *coming* counts as if it were taken in already.
        """
        owed = self.owed(now)
        by_source = dict(
            self._rows(
                "SELECT source, count(DISTINCT client) FROM obligations WHERE owed != 0 GROUP BY source ORDER BY source"
            )
        )
        started, limit_at, parked = owed.started, owed.limit_at, owed.parked
        if coming is not None and len(coming.client):
            by_source["inbox"] = len(np.unique(coming.client))
            started, limit_at, parked = _together(owed, coming)
        age = now - started
        loose = ~parked
        by_age = np.bincount(np.digitize(age[loose] / 3600, _AGES_H), minlength=len(_AGES_H) + 1)
        ((last,),) = self._rows("SELECT max(acknowledged) FROM obligations WHERE source = 'withdrawal'")
        late = loose & (limit_at < now)
        return {
            "open": int(np.count_nonzero(loose)),
            "parked": int(np.count_nonzero(parked)),
            "past_target": int(np.count_nonzero(loose & (age > target_s))),
            "past_limit": int(np.count_nonzero(late)),
            "oldest_started": float(started[loose].min()) if loose.any() else None,
            "oldest_past_limit": float(started[late].min()) if late.any() else None,
            "first_limit": float(limit_at[loose].min()) if loose.any() else None,
            "ages": [
                {"upto_h": upto, "open": count} for upto, count in zip((*_AGES_H, None), by_age.tolist(), strict=True)
            ],
            "by_source": by_source,
            "last_acknowledged": last,
        }

    def open_list(self, limit: int) -> list[dict[str, Any]]:
        """Return what is owed, the earliest limit first, for people."""
        names = ("client", "channels", "source", "started", "limit_at", "request_ref", "parked", "tries", "next_at")
        rows = self._rows(
            "SELECT o.client, owed, source, started, limit_at, coalesce(request_ref, ''), coalesce(w.not_found, 0), "
            "coalesce(w.tries, 0), w.next_at FROM obligations o LEFT JOIN waiting w ON w.client = o.client "
            "WHERE owed != 0 ORDER BY coalesce(w.not_found, 0), limit_at LIMIT ?",
            limit,
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def others(self, since: float, until: float) -> dict[str, Any]:
        """Return what became of the denials that were owed between two times for another reason than a list."""
        rows = self._rows(
            "SELECT CASE WHEN o.owed = 0 THEN o.ended WHEN coalesce(w.not_found, 0) THEN 'parked' ELSE 'open' END, "
            "count(*) FROM obligations o LEFT JOIN waiting w ON w.client = o.client "
            "WHERE source != 'withdrawal' AND started >= ? AND started < ? GROUP BY 1 ORDER BY 1",
            since,
            until,
        )
        counts = dict(rows)
        return {
            "owed": sum(counts.values()),
            **{name: counts.pop(name, 0) for name in ("acknowledged", "open", "parked")},
            "ended_otherwise": counts,
        }

    def of(self, client: int) -> dict[str, Any]:
        """Return every obligation of a client, and what of it waits for its next try."""
        names = [one.strip() for one in _SHOWN.split(",")]
        query = f"SELECT {_SHOWN} FROM obligations WHERE client = ? ORDER BY id"
        waits = self._rows("SELECT sent, tries, since, next_at, not_found FROM waiting WHERE client = ?", client)
        return {
            "obligations": [dict(zip(names, row, strict=True)) for row in self._rows(query, client)],
            "waiting": dict(zip(("sent", "tries", "since", "next_at", "not_found"), waits[0], strict=True))
            if waits
            else None,
        }

    def forget(self, ids: Ids) -> None:
        """Forget these clients; the caller has begun the transaction."""
        for table in ("obligations", "waiting", "closed_by_hand"):
            query = f"DELETE FROM {table} WHERE client = ?"
            self._db.executemany(query, ((client,) for client in ids.tolist()))


_SHOWN = "channels, owed, source, started, limit_at, list, run, acknowledged, closed, ended, reason, by"


def _together(owed: Owed, coming: Coming) -> tuple[Floats, Floats, Mask]:
    """Return since and until when each client is owed a denial, and who is parked, lists to come included."""
    ids, place = np.unique(np.concatenate([owed.client, coming.client]), return_inverse=True)
    started, limit_at = np.full(len(ids), np.inf), np.full(len(ids), np.inf)
    np.minimum.at(started, place, np.concatenate([owed.started, coming.started]))
    np.minimum.at(limit_at, place, np.concatenate([owed.limit_at, coming.limit_at]))
    parked = np.ones(len(ids), np.bool_)
    # Whoever asks anew is sent at once, also if the platform did not know the client before.
    np.logical_and.at(parked, place, np.concatenate([owed.parked, np.zeros(len(coming.client), np.bool_)]))
    return started, limit_at, parked
