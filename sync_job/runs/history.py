"""`history` of one client: what was sent, when, and what was answered, from the reports that are kept."""

from typing import Any

import pyarrow.compute as pc

from sync_job.config import Settings
from sync_job.ledger.state import State
from sync_job.report import kept, results
from sync_job.report.counts import Summary
from sync_job.report.results import SCHEMA
from sync_job.runs.explain import readable
from sync_job.runs.watch import Watch

_TIMES = ("first_sent", "settled")


def history(settings: Settings, client: int, watch: Watch | None = None) -> Summary:
    """Return what was sent of a client and answered, the oldest first, and the lists that name it.

    A run shows once it is reported; what older reports said is gone with them.

    Raises:
        StateError: when there is no state, or a results file cannot be read.
    """
    rows: list[dict[str, Any]] = []
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        targets = state.ledger.about.targets()
        before = state.ledger.about.carried().get("run", 0)  # its reports have other clients' ids
    folders = kept.folders(settings.report.path, *targets, after=before)
    for place, folder in enumerate(folders):
        if watch:
            watch.at(place, len(folders))
        for path in sorted(folder.glob("results.*")):
            found = (batch.filter(pc.equal(batch.column("Client"), client)) for batch in results.reading(path))
            for row in (row for batch in found for row in batch.to_pylist()):
                said = {name: row[name] for name in SCHEMA.names if name != "Client"}
                said |= {name: row[name].isoformat() if row[name] is not None else None for name in _TIMES}
                rows.append({"run": folder.name} | said)
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        said = readable(state.ledger.withdrawals.of(client), settings.run.zone)
    return {"client": client, "target": settings.endpoint.target, "sent": rows, **said}
