"""A small shop for tests: a configuration, exports, and what the platform must hold after them by the plain rules."""

import csv
import random
from collections.abc import Mapping
from pathlib import Path

from sync_job import load_settings
from sync_job.config import Settings
from sync_job.runs import init
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
"""


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
    ) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.export = folder / "export.csv"
        self.config.write_text(
            _CONFIG.format(
                url=url, format=format_, concurrency=concurrency, timeout_s=timeout_s, linger_s=linger_s, more=more
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
    for night in nights:
        for client, flags in night.items():
            mine = held.setdefault(client, [None] * len(FIELDS))
            for place, flag in enumerate(flags):
                mine[place] = flag if flag is not None else mine[place]
    return {client: tuple(flags) for client, flags in held.items() if any(one is not None for one in flags)}
