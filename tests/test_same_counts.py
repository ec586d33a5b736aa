"""A run says the same on its page, on the terminal, in `--json`, in the metrics and in its lists."""

import csv
import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import sync_job
from sync_job.report import text
from sync_job.standin.background import running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, changed, people

SAID = {
    "delivered": "Delivered",
    "refused": "Platform said no",
    "exhausted": "No sure answer",
    "deferred": "Not sent yet",
    "duplicates": "Repeated rows",
    "rejects": "Unreadable rows",
    "unchanged": "Unchanged",
    "waiting": "Next try later",
    "held": "Held",
    "blocked": "Stopped by opt-out",
}
GUARDS = "re_grants = 3\nnew_grants = 1000\nrevocations = 1000\nchanged = 1000\nunknown = 1000\nlost = 1000"


class _Tables(HTMLParser):
    """Keeps the rows of all tables by their first cells; of rows of one name the first."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self._row: list[str] = []
        self._within = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag == "tr":
            self._row = []
        if tag in ("td", "th"):
            self._within = True
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._within = False
        if tag == "tr" and self._row:
            self.rows.setdefault(self._row[0].strip(), self._row[1:])

    def handle_data(self, data: str) -> None:
        if self._within:
            self._row[-1] += data

    def count(self, name: str) -> int:
        return int(self.rows[name][0].replace(",", "")) if name in self.rows else 0


def _metrics(path: Path) -> dict[tuple[str, ...], float]:
    """Return the samples of nights by name and the value of their own label."""
    found = {}
    for family in text_string_to_metric_families(path.read_text("utf-8")):
        for one in family.samples:
            own = [value for name, value in sorted(one.labels.items()) if name not in ("target", "kind")]
            if one.labels.get("kind", "run") == "run":
                found[(one.name.removeprefix("consent_sync_"), *own)] = one.value
    return found


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    path = folder / name
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _counts(summary: dict[str, Any]) -> dict[str, int]:
    """Return what is to be the same everywhere, by name."""
    outcomes: dict[str, int] = summary["outcomes"]
    fates = {name: summary["decided"][name] for name in ("unchanged", "waiting", "held", "blocked")}
    return outcomes | fates | {name: summary["export"][name] for name in ("duplicates", "rejects")}


@pytest.mark.parametrize("seed", range(2))
def test_a_run_says_the_same_everywhere(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Over some nights with dirt, doubles, refusals, losses, opt-outs, and what a guard holds."""
    monkeypatch.setenv("CONSENT_SYNC__REPORT__PAGE", "true")
    rng = random.Random(seed)

    def unlucky(number: int, client: int) -> Fault | None:
        return Fault.ERROR_BEFORE if client % 11 == 0 or number % 13 == 0 else None

    textfile = tmp_path / "run.prom"
    with running(Options(script=unlucky, unknown_every=9)) as platform:
        shop = Shop(tmp_path, platform.url, guards=GUARDS)
        config = shop.config.read_text().replace("attempts = 6", "attempts = 1")
        shop.config.write_text(f"{config}[metrics]\ntextfile = '{textfile}'\n")
        said = people(120, seed=seed)
        shop.write(said)
        shop.init()
        seen = Counter[str]()
        for night in range(3):
            shop.write(said)
            with shop.export.open("a", encoding="utf-8") as file:
                for client in rng.sample(sorted(said), 5):
                    file.write(f"{client},{rng.choice(('true', 'perhaps', 'x'))},,,\n")
                file.write("nobody,true,true,true,true\n1,2\n")
            if night:
                shop.withdraw(dict.fromkeys(rng.sample(sorted(said), 3), "all"))
            report = sync_job.run(shop.settings)
            summary = report.summary
            wanted = _counts(summary)
            seen.update(name for name, count in wanted.items() if count)

            assert json.loads((report.folder / "summary.json").read_text("utf-8")) == summary
            assert json.loads(cli("report", "--json", "--config", str(shop.config))[1]) == summary

            page = _Tables((report.folder / "report.html").read_text("utf-8"))
            assert {name: page.count(SAID[name]) for name in wanted} == wanted
            assert page.count("Rows") == summary["export"]["rows"]
            assert page.count("Clients") == summary["decided"]["stated"]
            assert page.count("Requests") == summary["requests"]

            shown = cli("report", "--config", str(shop.config))[1]
            told = {name: re.search(rf"^ *{re.escape(SAID[name])} +([\d,]+) *$", shown, re.M) for name in wanted}
            assert {name: int(one[1].replace(",", "")) if one else 0 for name, one in told.items()} == wanted
            assert f"{summary['planned']:,} planned: {text.named(summary['outcomes'], *summary['outcomes'])}" in (
                text.summary(summary)
            )

            metrics = _metrics(textfile)
            assert {name: metrics[("outcomes", name)] for name in summary["outcomes"]} == summary["outcomes"]
            for name in ("unchanged", "waiting", "held", "blocked"):
                assert metrics[("clients", name)] == wanted[name], name
            for name in ("rows", "clients", "duplicates", "rejects"):
                assert metrics[(f"export_{name}",)] == summary["export"][name], name
            assert (metrics[("requests",)], metrics[("retries",)]) == (summary["requests"], summary["retries"])
            assert metrics[("obligations_open",)] == summary["withdrawals"]["open"]

            rows = _rows(report.folder, "results.csv")
            last = {row["Client"]: row["outcome"] for row in sorted(rows, key=lambda row: int(row["leg"]))}
            assert Counter(last.values()) == {name: n for name, n in summary["outcomes"].items() if n}
            assert sum(int(row["attempts"]) for row in rows) == summary["requests"]
            assert len(_rows(report.folder, "rejects.csv")) == summary["export"]["rejects"]
            assert len({row["Client"] for row in _rows(report.folder, "held.csv")}) >= wanted["held"]
            assert len(_rows(report.folder, "blocked.csv")) >= wanted["blocked"]
            said = changed(said, 0.3, seed=seed + night)
    assert {"delivered", "refused", "exhausted", "rejects", "duplicates", "waiting", "blocked"} <= set(seen)
