"""Takes what one ledger knows of clients into another, under new ids: `init --from`.

What runs did, what they held and what a person approved stays behind: it was said of the old ids.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from sync_job.consent.carrying import merged
from sync_job.consent.channels import LOW_BITS, Bytes, Ids
from sync_job.consent.id_map import IdMap, Lookup
from sync_job.ledger import files
from sync_job.ledger.former_ids import FormerIds
from sync_job.ledger.in_force import InForce
from sync_job.ledger.store import Store

_NAMING = ("withdrawals", "reconsents", "obligations", "waiting", "lingering", "forgetting")
_VOID = "list IN (SELECT number FROM lists WHERE voided IS NOT NULL)"
_ROWS = 1 << 16


class Former(Store):
    """The ledger that clients are carried from, to read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, files.connect_reading(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def named(self) -> Ids:
        """Return every client that is named outside the snapshot, ascending."""
        return self._ids(" UNION ".join(f"SELECT client FROM {table}" for table in _NAMING))

    def binding(self) -> Ids:
        """Return, ascending, who withdrew, is owed a denial or is to be erased: nobody whom to forget is harmless."""
        return self._ids(
            "SELECT client FROM withdrawals WHERE in_force != 0 UNION SELECT client FROM obligations WHERE owed != 0 "
            "UNION SELECT client FROM forgetting"
        )

    def kept_about(self) -> dict[str, str]:
        """Return what the ledger says of itself that the new one says as well."""
        said = dict(self._rows("SELECT key, value FROM about WHERE key = 'lingering_until'"))
        ((run,),) = self._rows(
            "SELECT max((SELECT coalesce(max(number), 0) FROM runs), "
            "(SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM about WHERE key = 'last_run'))"
        )
        return said | {"last_run": str(run)}

    def last_export(self) -> tuple[float | None, float | None, int, int, float | None] | None:
        """Return of the last full export when it was made, oldest and newest file, and how many it had and lost.

        Last is until when full exports state what deltas had said.
        """
        rows = self._rows(
            "SELECT as_of, newest, clients, lost, (SELECT max(covers) FROM exports) FROM exports WHERE kind = 'full' "
            "ORDER BY number DESC LIMIT 1"
        )
        return rows[0] if rows else None

    def _ids(self, query: str) -> Ids:
        with files.loading(self.path):
            found = np.fromiter(self._db.execute(query), np.dtype([("client", np.int32)]))
        return np.sort(found["client"])

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns."""
        return [str(row[1]) for row in self._rows(f"PRAGMA table_info({table})")]

    def reading(self, table: str, columns: Sequence[str], more: str = "") -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a table, some at a time."""
        with files.loading(self.path):
            cursor = self._db.execute(f"SELECT {', '.join(columns)} FROM {table} {more}")
            while rows := cursor.fetchmany(_ROWS):
                yield rows


class Carrier(Store):
    """Fills a new ledger from a former one, within the transaction that makes its first snapshot count."""

    def __init__(self, path: Path, connection: sqlite3.Connection, former: Former, map_: IdMap) -> None:
        super().__init__(path, connection)
        self._former, self._map, self._lookup = former, map_, Lookup(map_)
        self._merged = set(merged(map_).tolist())

    def carry(self, about: dict[str, Any], *, erase: Ids, owe: tuple[Ids, Bytes], now: float, limit_at: float) -> None:
        """Take everything of the listed clients in, and keep what is said *about* it.

        *erase* are to be erased besides, after all channels were denied to them; *owe* has the channels, low bits,
        that are to be denied to clients who were several. The ledger is not to be used before `About.end_carrying`.
        """
        for table in ("lists", "evidence"):
            self._copy(table)
        self._withdrawals()
        for table in ("repeats", "given", "reconsents"):
            self._copy(table, settle="ON CONFLICT DO NOTHING")
        # What the list of one said of both is a repeat; of a withdrawal's own list it says nothing.
        self._db.execute(
            "DELETE FROM repeats AS i WHERE EXISTS (SELECT 1 FROM withdrawals w WHERE w.client = i.client "
            "AND w.channels = i.channels AND w.withdrawn_at = i.withdrawn_at AND w.request_ref = i.request_ref "
            "AND w.list = i.list)"
        )
        self._copy("obligations", without=("id", "run"))  # the runs that owed them are not here
        # Denials that a guard held still wait for approval; the grants beside them were of the old ids.
        self._copy("holds", which="WHERE EXISTS (SELECT 1 FROM obligations o WHERE o.held = holds.run AND o.owed != 0)")
        self._db.execute("UPDATE holds SET grants = 0, clients = 0")
        self._copy(
            "lingering",
            settle="ON CONFLICT DO UPDATE SET until = max(until, excluded.until), "
            "acknowledged = min(acknowledged, excluded.acknowledged)",
        )
        self._copy("forgetting", settle="ON CONFLICT DO NOTHING")
        # Who was refused as one of several, or as an id that the platform did not know, waits for nothing.
        self._copy("waiting", which="WHERE NOT not_found", apart=True)
        self._db.executemany(
            "INSERT OR IGNORE INTO forgetting (client, request_ref, asked) VALUES (?, '', ?)",
            ((client, now) for client in erase.tolist()),
        )
        InForce(self.path, self._db).gather()
        self._owe("erasure", erase, np.full(len(erase), LOW_BITS), now, limit_at)
        self._owe("merge", *owe, now, limit_at)
        FormerIds(self.path, self._db).keep(self._map)
        self._copy("delta_files")
        self._copy("sent")  # the guards count over a day, whatever the numbers are
        self._measures(now)
        said = {"carried": json.dumps(about, ensure_ascii=False), "carrying": "yes"}
        for key, value in (self._former.kept_about() | said).items():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def _measures(self, now: float) -> None:
        """Let the next export be held against the last one, though that had other ids: its age, and how many it had."""
        if found := self._former.last_export():
            self._db.execute(
                "INSERT INTO exports "
                "(run, kind, digest, as_of, newest, clients, lost, covers, new_grants, applied, at) "
                "VALUES ('', 'full', '', ?, ?, ?, ?, ?, 0, 1, ?)",
                (*found, now),
            )
            self._db.execute("INSERT INTO accepted (digest, clients, at) VALUES ('', ?, ?)", (found[2], now))

    def _copy(
        self, table: str, *, which: str = "", settle: str = "", without: tuple[str, ...] = (), apart: bool = False
    ) -> None:
        """Copy a table; rows of clients get their new ids, or stay behind. *apart*: also those who become one."""
        columns = [name for name in self._former.columns(table) if name not in without]
        places = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM (VALUES ({places})) WHERE true {settle}"
        for rows in self._former.reading(table, columns, which):
            self._db.executemany(insert, self._renamed(rows, columns, apart=apart))

    def _renamed(
        self, rows: list[tuple[Any, ...]], columns: Sequence[str], *, apart: bool = False
    ) -> list[tuple[Any, ...]]:
        if "client" not in columns:
            return rows
        place = columns.index("client")
        ids = self._lookup.of(np.array([row[place] for row in rows], np.int32)).tolist()
        return [
            (*row[:place], new, *row[place + 1 :])
            for row, new in zip(rows, ids, strict=True)
            if new and not (apart and new in self._merged)
        ]

    def _withdrawals(self) -> None:
        """Copy withdrawals; the same of two clients that become one is one, and in force if either was."""
        columns = self._former.columns("withdrawals")
        names = ", ".join(columns)
        insert = (
            f"INSERT INTO withdrawals ({names}) VALUES ({', '.join('?' * len(columns))}) ON CONFLICT DO UPDATE SET "
            "received_at = min(received_at, excluded.received_at), in_force = in_force | excluded.in_force"
        )
        key = [columns.index(name) for name in ("client", "channels", "withdrawn_at", "request_ref", "list")]
        # Those of a void list last: what another list says as well is that one's.
        for rows in self._former.reading("withdrawals", columns, f"ORDER BY {_VOID}, received_at"):
            renamed = self._renamed(rows, columns)
            self._db.executemany(insert, renamed)
            self._db.executemany(
                "INSERT OR IGNORE INTO repeats SELECT ?, ?, ?, ?, ? WHERE ?5 NOT IN "
                "(SELECT number FROM lists WHERE voided IS NOT NULL)",
                ([row[place] for place in key] for row in renamed if row[key[0]] in self._merged),
            )

    def _owe(self, source: str, client: Ids, channels: Bytes, now: float, limit_at: float) -> None:
        """Owe denials of channels for which nothing is owed yet."""
        for one, bits in zip(client.tolist(), channels.tolist(), strict=True):
            ((owed,),) = self._db.execute(
                "SELECT coalesce(max(owed & 1) | max(owed & 4) | max(owed & 16) | max(owed & 64), 0) "
                "FROM obligations WHERE client = ?",
                (one,),
            ).fetchall()
            if fresh := bits & ~owed:
                self._db.execute(
                    "INSERT INTO obligations (client, channels, owed, source, started, limit_at) "
                    "VALUES (?1, ?2, ?2, ?3, ?4, ?5)",
                    (one, fresh, source, now, limit_at),
                )
