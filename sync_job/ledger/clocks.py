"""Times in the ledger that are later than now: a clock was ahead when they were written, or is behind.

Nothing may wait for such a time. What waits is brought to now whenever the lock is taken; everything else stays until a
person says that the clock is right (`state repair`), since with a clock that is behind the times are right.
"""

from dataclasses import dataclass

from sync_job.consent.clocks import AHEAD_S
from sync_job.ledger.store import Store

# Every column with a time that is no identity of a row. `tests/test_sequences_clocks.py` holds that none is missing.
COLUMNS = {
    "accepted": ("at",),
    "approvals": ("at",),
    "backfills": ("at", "ended"),
    "erasures": ("at",),
    "evidence": ("taken_in",),
    "exports": ("as_of", "newest", "covers", "at"),
    "forgetting": ("asked",),
    "holds": ("at",),
    "lists": ("taken_in", "absorbed", "voided"),
    "obligations": ("started", "acknowledged", "closed", "stated"),
    "reconsents": ("taken_in",),
    "runs": ("started", "ended"),
    "sent": ("at",),
    "snapshots": ("made",),
    "waiting": ("since",),
    "withdrawals": ("received_at",),
}
# Not changed: they follow from another column, or say which withdrawal or evidence it is.
LEFT = {
    "delta_files": ("changed",),
    "erased": ("hour",),
    "given": ("withdrawn_at",),
    "approvals": ("until",),
    "lingering": ("until",),
    "obligations": ("limit_at", "withdrawn_at"),
    "reconsents": ("granted_at",),
    "repeats": ("withdrawn_at",),
    "waiting": ("next_at",),
    "withdrawals": ("withdrawn_at",),
}
# What else is set with the time; ?1 is now, ?2 the limit of what is owed from now on.
_ALSO = {
    ("approvals", "at"): ", until = ?1",  # it holds no longer: nobody knows for how long it has
    ("obligations", "started"): ", limit_at = CASE WHEN owed != 0 THEN ?2 ELSE limit_at END",
    ("waiting", "since"): ", next_at = ?1",
}
_LINGER = "lingering_until"


@dataclass(frozen=True)
class Now:
    """What times are held against: *now*, how long a client lingers, and the limit of what is owed from now on."""

    now: float
    linger_s: float
    limit_at: float


class Clocks(Store):
    """Finds and changes times from the future in all tables of one ledger."""

    def ahead(self, now: Now) -> dict[str, int]:
        """Return how many times of each kind are in the future, by table and column."""
        latest = now.now + AHEAD_S
        found = {
            f"{table}.{column}": self._count(f"SELECT count(*) FROM {table} WHERE {column} > ?", latest)
            for table, columns in COLUMNS.items()
            for column in columns
        }
        found["lingering.until"] = self._count("SELECT count(*) FROM lingering WHERE until > ?", latest + now.linger_s)
        found[f"about.{_LINGER}"] = self._count(
            "SELECT count(*) FROM about WHERE key = ? AND CAST(value AS REAL) > ?", _LINGER, latest + now.linger_s
        )
        return {kind: count for kind, count in found.items() if count}

    def hurry(self, now: Now) -> dict[str, int]:
        """Let nothing that is owed, waits or lingers do so for longer than from now on; return how many did, by kind.

        It is right whichever clock was wrong: denials go out, and alarms come, sooner rather than later.
        """
        found = {kind: count for kind, count in self.ahead(now).items() if kind in _HURRIED}
        if found:
            with self._writing():
                self._bring("waiting", "since", now, "")
                self._bring("obligations", "started", now, "AND owed != 0")
                self._bring_linger(now)
        return found

    def bring_back(self, now: Now) -> dict[str, int]:
        """Bring every time from the future to now; return how many there were, by kind."""
        found = self.ahead(now)
        if found:
            with self._writing():
                for table, columns in COLUMNS.items():
                    for column in columns:
                        self._bring(table, column, now, "")
                self._bring_linger(now)
        return found

    def _count(self, query: str, *values: object) -> int:
        return int(self._rows(query, *values)[0][0])

    def _bring(self, table: str, column: str, now: Now, only: str) -> None:
        also = _ALSO.get((table, column), "")
        self._db.execute(
            f"UPDATE {table} SET {column} = ?1{also} WHERE {column} > ?3 {only}",
            (now.now, now.limit_at, now.now + AHEAD_S),
        )

    def _bring_linger(self, now: Now) -> None:
        ends, latest = now.now + now.linger_s, now.now + now.linger_s + AHEAD_S
        self._db.execute("UPDATE lingering SET until = ? WHERE until > ?", (ends, latest))
        self._db.execute(
            "UPDATE about SET value = ? WHERE key = ? AND CAST(value AS REAL) > ?", (str(ends), _LINGER, latest)
        )


_HURRIED = ("waiting.since", "obligations.started", "lingering.until", f"about.{_LINGER}")
