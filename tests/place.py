"""A target for tests of whole sequences: shipped configurations, moved to a folder, and the command line."""

import csv
import json
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sync_job.standin.platform import Platform
from tests.commands import Cli, Said
from tests.shop import FIELDS, Consent

CONFIGS = Path(__file__).parent.parent / "configs"
YES, NO, NONE = (True,) * 4, (False,) * 4, (None,) * 4


class Place:
    """One target: `nightly.toml` and others of `configs/` with their paths and address, and what was exported."""

    def __init__(self, folder: Path, url: str, cli: Cli, more: str = "", **changes: str) -> None:
        self.folder, self.url, self.cli = folder, url, cli
        self.export = folder / "latest.csv"
        self.config = self.shipped("nightly", more, **changes)

    def shipped(self, name: str, more: str = "", *, called: str = "", **changes: str) -> Path:
        """Return a copy of a shipped configuration, with *changes* of its keys and *more* lines."""
        text = (CONFIGS / f"{name}.toml").read_text("utf-8")
        text = text.replace("https://loyalty.example.com/partner", self.url)
        text = text.replace("/var/lib/consent-sync/loyalty", str(self.folder))
        text = text.replace("/var/spool/crm/consent/latest.csv", str(self.export))
        text = text.replace('[endpoint.auth]\nkind = "bearer"\n', "")
        for key, value in changes.items():
            old = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
            text = text.replace(old, f"{key} = {value}")
        path = self.folder / f"{called or name}.toml"
        path.write_text(f"{text}\n{more}\n", "utf-8")
        return path

    def write(self, people: Mapping[int, Consent], name: str = "", *, age_s: float = 0.0, **columns: str) -> Path:
        """Write an export that is so old, with more *columns* of one value each."""
        path = self.folder / name if name else self.export
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {True: "true", False: "false", None: ""}
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Client", *FIELDS, *columns])
            for client, flags in people.items():
                writer.writerow([client, *(text[flag] for flag in flags), *columns.values()])
        made = time.time() - age_s
        os.utime(path, (made, made))
        return path

    def __call__(self, *arguments: object, config: Path | None = None) -> Said:
        """Run a command with the configuration."""
        return self.cli(*arguments, "--config", config or self.config)

    def summary(self, *arguments: object, config: Path | None = None) -> dict[str, Any]:
        """Run a command, and return its JSON."""
        found: dict[str, Any] = json.loads(self(*arguments, "--json", config=config).out)
        return found

    def init(self, people: Mapping[int, Consent], platform: str = "equal", *, age_s: float = 0.0) -> None:
        """Make the state from an export of *people*."""
        self.write(people, age_s=age_s)
        said = self("init", self.export, "--platform", platform, "--no-withdrawals")
        assert said.code == 0, said.err

    def opt_out(self, *clients: int, scope: str = "all", more: tuple[str, ...] = ()) -> Said:
        """Send a list of opt-outs that was received a minute ago."""
        path = self.folder / f"opt-outs-{time.time_ns()}.csv"
        path.write_text("Client\n" + "".join(f"{client}\n" for client in clients))
        received = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 60))
        return self("opt-out", path, "--received-at", received, "--scope", scope, "--basis", "objection", *more)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query finds in the ledger."""
        with closing(sqlite3.connect(self.folder / "state" / "ledger.db")) as db:
            return db.execute(query).fetchall()

    def let_pass(self, hours: float) -> None:
        """Let time pass for the guards and for what is owed, by making everything in the ledger older."""
        with closing(sqlite3.connect(self.folder / "state" / "ledger.db")) as db, db:
            by = hours * 3600
            db.execute("UPDATE sent SET at = at - ?", (by,))
            db.execute("UPDATE obligations SET started = started - ?1, limit_at = limit_at - ?1", (by,))


def allowed_since(platform: Platform, start: int = 0) -> list[int]:
    """Return the clients that were sent an *allowed*, in the order of requests from *start* on."""
    return [entry.client for entry in list(platform.log)[start:] if any(flag is True for flag in entry.flags)]
