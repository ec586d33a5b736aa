"""Looking without touching: the snapshot, the history, and what is running now."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.config import Settings
from sync_job.consent.channels import FIELDS, flags, letters
from sync_job.consent.tables import Table, tabulate
from sync_job.errors import ConfigError
from sync_job.ledger import lock, pause
from sync_job.ledger.ledger import Run
from sync_job.ledger.state import State
from sync_job.report import lists
from sync_job.report.counts import Summary
from sync_job.runs import backfills, in_order, owing


def _open(settings: Settings) -> State:
    return State.open(settings.state.path, settings.endpoint.target, write=False)


def show(settings: Settings, clients: list[int]) -> list[Summary]:
    """Return what is known and due of *clients*; one that the snapshot does not have is not known."""
    with _open(settings) as state:
        holdings = state.holdings()
    wanted = np.unique(np.clip(np.array(clients, np.int64), 0, 2**31 - 1)).astype(np.int32)
    states = _lookup(holdings.client, holdings.state, wanted)
    dues = _lookup(holdings.client, holdings.due, wanted)
    return [
        {
            "Client": client,
            "known": bool(held or due),
            **dict(zip(FIELDS, flags(held), strict=True)),
            "due": letters(due),
        }
        for client, held, due in zip(wanted.tolist(), states.of(wanted).tolist(), dues.of(wanted).tolist(), strict=True)
    ]


def _lookup(ids: Any, values: Any, wanted: Any) -> Table:
    here = np.isin(ids, wanted)
    return tabulate(ids[here], ids[here], values[here])


def export(settings: Settings, out: Path) -> int:
    """Write the snapshot to *out*, and return how many clients it has.

    Raises:
        ConfigError: when the name ends in neither .csv nor .parquet, or it cannot be written.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{out}: the name must end in .csv or .parquet.")
    with _open(settings) as state:
        holdings = state.holdings()
    due = pa.array([letters(byte) for byte in range(256)]).take(pa.array(holdings.due.astype(np.int32)))
    table = lists.flag_table(holdings.client, holdings.state).append_column("due", due)
    try:
        lists.open_private(out)
        if out.suffix == ".csv":
            pa.csv.write_csv(table, str(out))
        else:
            pq.write_table(table, out)
    except OSError as exc:
        raise ConfigError(f"{out}: {exc.strerror or exc}.") from exc
    return len(holdings)


def history(settings: Settings) -> list[Summary]:
    """Return a line for each run, the oldest first."""
    with _open(settings) as state:
        found = state.ledger.runs()
    busy = lock.is_held(settings.state.path)
    return [
        {
            "run": run.run,
            "kind": run.kind,
            "stage": run.stage if run.stage == "reported" else "running" if busy else "died",
            "started": run.started,
            "exit": run.exit,
            "planned": (run.summary or {}).get("planned"),
            "outcomes": (run.summary or {}).get("outcomes"),
        }
        for run in found
    ]


def report(settings: Settings, name: str | None) -> Summary:
    """Return the summary of a run, by its id or number; of the last one that was reported by default.

    Raises:
        ConfigError: when there is no such report.
    """
    with _open(settings) as state:
        return reported(state, name).summary or {}


def told(settings: Settings, name: str | None, most: int = 400) -> tuple[Summary, list[Summary]]:
    """Return the summary of a run, and those of up to so many runs before it, the newest last.

    Raises:
        ConfigError: when there is no such report.
    """
    with _open(settings) as state:
        found = reported(state, name).summary or {}
        return found, earlier(state, found, most)


def earlier(state: State, found: Summary, most: int) -> list[Summary]:
    """Return the summaries of runs that began before the one of *found*, among the last so many, the newest last."""
    return [one for one in state.ledger.summaries(most) if one["started"] < found["started"]]


def reported(state: State, name: str | None) -> Run:
    """Return a run that was reported, by its id or number; the last one by default.

    Raises:
        ConfigError: when there is no such run.
    """
    found = [run for run in state.ledger.runs() if run.summary is not None]
    wanted = [run for run in found if name is None or run.run == name or str(run.number) == name.lstrip("0")]
    if not wanted:
        known = ", ".join(run.run for run in found[-5:]) or "none"
        raise ConfigError(f"No report of a run {name!r}; the last are: {known}.")
    return wanted[-1]


def status(settings: Settings) -> Summary:
    """Return whether something is running, what it last said of itself, and how the last run ended."""
    with _open(settings) as state:
        last = [run for run in state.ledger.runs() if run.stage == "reported"]
        dead = [run.run for run in state.ledger.unfinished()]
        restored = state.ledger.about.restored()
        backfill = backfills.open_one(state)
        owed = owing.figures(state, settings)
        deltas = in_order.figures(state)
    busy = lock.is_held(settings.state.path)
    found = lock.running(settings.state.path) if busy else {}
    if "started" in found:
        found["seconds"] = round(time.time() - float(found["started"]), 1)
    return {
        "running": found or None,
        "busy": busy,
        "beside": run if found and (run := lock.alive(settings.state.path)) != found.get("run") else "",
        "paused": pause.paused(settings.state.path),
        "restored": restored,
        "backfill": backfill,
        "died": [] if busy else dead,
        "owed": owed,
        "deltas": deltas,
        "last": {"run": last[-1].run, "exit": last[-1].exit, "ended": last[-1].ended} if last else None,
    }
