"""A small shop for tests: a configuration, exports, and what the platform must hold after them by the plain rules."""

import csv
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sync_job import load_settings
from sync_job.config import Settings
from sync_job.consent.backfill import Again
from sync_job.ledger.state import State
from sync_job.runs import init, intake, night
from sync_job.runs.decide import Wish
from sync_job.runs.intake import Listing
from sync_job.runs.report import Report
from sync_job.runs.watch import Watch
from sync_job.standin.platform import Platform

FIELDS = ("AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque")
Consent = tuple[bool | None, ...]
People = dict[int, Consent]

_CONFIG = """
[export]
path = "export.csv"
as_of = "none"
[endpoint]
base_url = "{url}"
format = "{format}"
operator = 7
site_code = "тест & <b>"
not_found_codes = [8]
[delivery]
max_concurrency = {concurrency}
attempts = 6
timeout_s = {timeout_s}
linger_s = {linger_s}
{more}
[withdrawals]
scope = "all"
basis = "consent-withdrawn"
[guards]
{guards}
"""
# A shop of a few hundred clients changes by shares that no real one does: most tests are not about that.
NO_GUARDS = "\n".join(
    f"{name} = 1000000"
    for name in (
        *("re_grants", "new_grants", "revocations", "changed", "unknown"),
        *("lost", "shrinkage", "rejects", "list"),
    )
)


class Shop:
    """One target: a folder with configuration, export, state and reports."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        format_: str = "json",
        concurrency: int = 16,
        timeout_s: float = 5,
        linger_s: float = 0.2,
        more: str = "",
        guards: str = NO_GUARDS,
    ) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.export = folder / "export.csv"
        self.config.write_text(
            _CONFIG.format(
                url=url,
                format=format_,
                concurrency=concurrency,
                timeout_s=timeout_s,
                linger_s=linger_s,
                guards=guards,
                more=more,
            )
        )

    @property
    def settings(self) -> Settings:
        """The settings in the file."""
        return load_settings(self.config)

    def write(self, people: Mapping[int, Consent]) -> None:
        """Export *people*."""
        text = {True: "true", False: "false", None: ""}
        with self.export.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Client", *FIELDS])
            writer.writerows([client, *(text[flag] for flag in flags)] for client, flags in people.items())

    def listing(self, people: Mapping[int, str], **said: Any) -> Listing:
        """Return a list of people with the channels that each withdrew."""
        path = self.folder / "opt-outs.csv"
        rows = "".join(f"{client},{scope}\n" for client, scope in people.items())
        path.write_text(f"Client,scope\n{rows}", "utf-8")
        listing = Listing(str(path), received_at=time.time() - 60, basis="consent-withdrawn")
        return replace(listing, **said)

    def withdraw(self, people: Mapping[int, str], **said: Any) -> str:
        """Take a list in without sending it, and return its digest."""
        listing = self.listing(people, **said)
        (taken,) = intake.take_in([self.settings], lambda _: listing, lambda count, _: count, Watch())
        return taken.found.digest

    @contextmanager
    def state(self, *, write: bool = False) -> Iterator[State]:
        """Open the state."""
        with State.open(self.settings.state.path, self.settings.endpoint.target, write=write) as state:
            yield state

    def a_day_later(self) -> None:
        """Let a day pass for the guards, which count what was sent in the last one."""
        with closing(sqlite3.connect(self.settings.state.path / "ledger.db")) as db, db:
            db.execute("UPDATE sent SET at = at - 86400")

    def owed(self) -> dict[int, int]:
        """Return the channels that are owed a denial, a low bit each, by client."""
        with self.state() as state:
            found = state.ledger.obligations.owed(time.time())
        return dict(zip(found.client.tolist(), found.channels.tolist(), strict=True))

    def init(self, platform: str = "empty") -> None:
        """Make the state from the export, with everything approved."""
        init.init(self.settings, platform, lambda grants: grants, Watch())


def people(count: int, seed: int = 1, first: int = 1000) -> People:
    """Return some clients with random consents."""
    rng = random.Random(seed)
    return {first + i: tuple(rng.choice((True, False, False, None)) for _ in FIELDS) for i in range(count)}


def changed(before: Mapping[int, Consent], share: float, seed: int = 2) -> People:
    """Return *before* with a share of its clients changed."""
    rng = random.Random(seed)
    return {
        client: tuple(rng.choice((True, False)) for _ in FIELDS) if rng.random() < share else flags
        for client, flags in before.items()
    }


def holds(platform: Platform) -> People:
    """Return what the stand-in platform holds."""
    return {client: tuple(flags) for client, flags in platform.state.items() if any(one is not None for one in flags)}


def expected(*nights: Mapping[int, Consent]) -> People:
    """Return what an empty platform must hold after these exports: each channel as it was last stated."""
    held: dict[int, list[bool | None]] = {}
    for said in nights:
        for client, flags in said.items():
            mine = held.setdefault(client, [None] * len(FIELDS))
            for place, flag in enumerate(flags):
                mine[place] = flag if flag is not None else mine[place]
    return {client: tuple(flags) for client, flags in held.items() if any(one is not None for one in flags)}


def backfill(shop: Shop, again: Again = Again(), **said: Any) -> Report:  # noqa: B008 - frozen
    """Run a backfill, by default of the denials."""
    return night.run(shop.settings, replace(Wish(again=again), **said), Watch(), "backfill")
