"""A shop that starts from the shipped configs/nightly.toml: its guards and defaults, with paths and a platform here."""

import csv
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sync_job import load_settings
from sync_job.config import Settings
from tests.commands import Cli, Said
from tests.shop import FIELDS, Consent

_SHIPPED = Path(__file__).parent.parent / "configs" / "nightly.toml"
DAY_S = 86400.0


class Clock:
    """The clock of the commands that are run in this process: the real one, and so many seconds ahead of it."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        self._real = time.time
        patched.setattr(time, "time", self.now)

    def now(self) -> float:
        """Return what the clock says."""
        return self._real() + self.ahead_s


class Nightly:
    """One brand in a folder of its own; `run` gives its command line its configuration."""

    def __init__(self, folder: Path, url: str, cli: Cli, *, config: Path | None = None, **more: str) -> None:
        """Write the configuration; *more* has lines for the end of sections, by name, as `delivery="attempts = 1"`."""
        folder.mkdir(exist_ok=True)
        self.folder, self._cli = folder, cli
        self.export = folder / "export.csv"
        self.config = config or folder / "nightly.toml"
        text = _SHIPPED.read_text("utf-8")
        for before, after in (
            ("/var/spool/crm/consent/latest.csv", str(self.export)),
            ("https://loyalty.example.com/partner", url),
            ("/var/lib/consent-sync/loyalty", str(folder)),
            ("not_found_codes = []", "not_found_codes = [8]"),
            ('[endpoint.auth]\nkind = "bearer"\n', ""),
        ):
            assert before in text
            text = text.replace(before, after)
        for name, lines in more.items():
            section = f"[{name}]\n"
            text = text.replace(section, section + lines + "\n") if section in text else f"{text}\n{section}{lines}\n"
        self.config.write_text(text, "utf-8")

    @property
    def settings(self) -> Settings:
        """The settings in the file."""
        return load_settings(self.config)

    def run(self, *arguments: object) -> Said:
        """Run a command with this configuration."""
        return self._cli(*arguments, "--config", self.config)

    def told(self, *arguments: object) -> Any:
        """Return what a command prints with --json."""
        said = self.run(*arguments, "--json")
        return json.loads(said.out)

    def write(self, people: Mapping[int, Consent], *, age_s: float = 0.0) -> None:
        """Export *people*; the file is as old as that by the clock."""
        text = {True: "true", False: "false", None: ""}
        with self.export.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Client", *FIELDS])
            writer.writerows([client, *(text[flag] for flag in flags)] for client, flags in people.items())
        made = time.time() - age_s
        os.utime(self.export, (made, made))

    def list(self, *clients: int, name: str = "opt-outs.csv") -> Path:
        """Return a list of these clients."""
        path = self.folder / name
        path.write_text("Client\n" + "".join(f"{client}\n" for client in clients))
        return path

    def opt_out(self, *clients: int, **said: str) -> Said:
        """Take a list of these clients in, received a minute ago, and send it."""
        received = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
        more = [word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", value)]
        return self.run("opt-out", self.list(*clients), "--received-at", received, "--scope", "all", *more)
