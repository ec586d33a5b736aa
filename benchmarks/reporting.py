"""What the report of a large run costs: seconds and memory from the end of sending to the page that people look at.

`python -m benchmarks.reporting [MILLIONS]`: one million planned rows by default, one in a hundred of them refused. The
run is made without sending: plan and journal are written as sending would leave them. The report is made in a process
of its own, as the report of a run that died is.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sync_job import load_settings
from sync_job.consent.fold import Outcome
from sync_job.consent.known import Holdings
from sync_job.consent.rows import Lane, Rows
from sync_job.ledger import tables
from sync_job.ledger.journal import Journal, Settled
from sync_job.ledger.state import State
from sync_job.runs import leg as legs
from sync_job.runs import night, pages, recover

MILLION = 1_000_000
_CONFIG = """
[export]
path = "export.csv"
as_of = "none"
[endpoint]
base_url = "http://127.0.0.1:9"
"""
_MESSAGES = ("Клиент не найден", "The client is blocked", "Wrong phone number", "Consent is managed elsewhere")


def _rows(count: int) -> Rows:
    random = np.random.default_rng(7)
    ids = np.arange(1, count + 1, dtype=np.int32)
    sent = random.choice(np.array([0b01010101, 0b10101010, 0b01100110], np.uint8), count)
    lane = np.sort(random.choice(np.array([Lane.REVOCATION, Lane.DENIAL, Lane.GRANT], np.uint8), count))
    return Rows(ids, np.zeros(count, np.uint8), np.zeros(count, np.uint8), sent, lane)


async def _settle(journal: Journal, count: int, began: float) -> None:
    async with journal.writing():
        for row in range(count):
            await journal.clear(row)
            refused = row % 100 == 0
            journal.settle(
                Settled(
                    row,
                    Outcome.REFUSED if refused else Outcome.DELIVERED,
                    Outcome.OPEN,
                    0,
                    0.0,
                    1 + (row % 50 == 1),
                    200,
                    8 if refused else 0,
                    _MESSAGES[row // 100 % len(_MESSAGES)] if refused else "",
                    began + row / 1000,
                    began + row / 1000 + 0.1,
                )
            )


def prepare(folder: Path, millions: int) -> None:
    """Leave a run that has sent everything and has no report yet."""
    (folder / "config.toml").write_text(_CONFIG)
    settings, now = load_settings(folder / "config.toml"), time.time()
    nobody = Holdings(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    with State.create(settings.state.path, settings.endpoint.target, now) as state:
        state.replace_holdings(nobody, now)
        run = state.ledger.begin("run", now, night.name_at(now))
        rows = _rows(millions * MILLION)
        leg = state.new_leg(run, 0)
        tables.write_plan(leg.plan, rows, {"run": run, "leg": 0, "planned": now})
        asyncio.run(_settle(Journal(leg.journal, len(rows)), len(rows), now))
        legs.commit(state, settings, run, leg, rows, now)
        state.ledger.finish(run, time.time())


def report(folder: Path) -> dict[str, float]:
    """Make the report and its page; return seconds, and megabytes before and at most."""
    settings = load_settings(folder / "config.toml")
    before = _resident("VmRSS")
    begin = time.perf_counter()
    with State.open(settings.state.path, settings.endpoint.target, write=True) as state:
        (made,) = recover.recover(state, settings)
        middle = time.perf_counter()
        pages.make(state, settings, made.folder)
    end = time.perf_counter()
    return {"files": middle - begin, "page": end - middle, "before": before, "most": _resident("VmHWM")}


def _resident(what: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1000


def main() -> None:
    """Print what it took."""
    if sys.argv[1:2] == ["--report"]:
        sys.stdout.write(json.dumps(report(Path(sys.argv[2]))))
        return
    millions = int(sys.argv[1]) if sys.argv[1:] else 1
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), millions)
        command = [sys.executable, "-m", "benchmarks.reporting", "--report", name]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - our own
        found = json.loads(said.splitlines()[-1])  # below what is logged
    sys.stdout.write(
        f"{millions} million planned rows: files of the report {found['files']:.1f} s, page {found['page']:.1f} s; "
        f"{found['most']:,.0f} MB at most, {found['before']:,.0f} MB of them before it\n"
    )


if __name__ == "__main__":
    main()
