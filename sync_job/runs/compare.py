"""`compare`: holds what is known of the platform against a dump of it, and owes a denial where it allows too much."""

import time

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import CHANNELS, SHIFTS, Bytes, allowed, spread
from sync_job.consent.tables import union
from sync_job.errors import Exit
from sync_job.ledger import files
from sync_job.report import lists
from sync_job.report.counts import Summary
from sync_job.runs import dump, limits, night
from sync_job.runs.recover import holding
from sync_job.runs.watch import Watch

_VALUES = ("nothing", "denied", "allowed", "nothing")


def compare(settings: Settings, path: str, watch: Watch) -> Summary:
    """Return how snapshot and dump differ, channel by channel; nothing is sent, and State stays what was acknowledged.

    Who withdrew and is allowed on the platform is listed, and owed a denial from now on. A folder beside the reports of
    runs has list and figures; the history of runs has nothing of it.

    Raises:
        ExportError, ConfigError: when the dump cannot be read, or not every row of it.
    """
    held = dump.read(settings, path, watch)
    watch.stage("comparing")
    now = time.time()
    with holding(settings) as state:
        holdings, withdrawn = state.holdings(), state.ledger.withdrawals.in_force()
        ids = union(holdings.client, held.items()[0])
        known = np.zeros(len(ids), np.uint8)
        known[np.searchsorted(ids, holdings.client)] = holdings.state
        says = held.of(ids)
        wrong = (allowed(says) & withdrawn.of(ids)).astype(np.uint8)
        which = wrong != 0
        started = np.full(int(np.count_nonzero(which)), now)
        until = limits.of(settings, started)
        owed = state.ledger.obligations.add("compare", ids[which], wrong[which], started, until)
    folder = settings.report.path / f"compare-{night.name_at(now)}"
    lists.write_flags(folder / "withdrawn_but_allowed.csv", ids[which], spread(wrong[which]) & says[which])
    found: Summary = {
        "kind": "compare",
        "target": settings.endpoint.target,
        "clients": len(holdings),
        "clients_of_the_dump": held.clients(),
        "only_known": int(np.count_nonzero((known != 0) & (says == 0))),
        "only_in_the_dump": int(np.count_nonzero((known == 0) & (says != 0))),
        "channels": _matrices(known, says),
        "withdrawn_but_allowed": int(np.count_nonzero(which)),
        "owed_now": owed,
        "listed_in": str((folder / "withdrawn_but_allowed.csv").absolute()) if which.any() else None,
        "exit": int(Exit.ATTENTION if which.any() else Exit.OK),
    }
    files.make_folder(folder)
    files.replace_json(folder / "summary.json", found)
    watch.end()
    return found


def _matrices(known: Bytes, says: Bytes) -> Summary:
    """Return, per channel, how many clients are known as what and are what in the dump."""
    pairs = np.bincount(known.astype(np.uint16) << np.uint16(8) | says, minlength=1 << 16)
    found = {channel: {was: dict.fromkeys(_VALUES[:3], 0) for was in _VALUES[:3]} for channel in CHANNELS}
    for pair in np.flatnonzero(pairs).tolist():
        was, is_ = divmod(pair, 256)
        for channel, shift in zip(CHANNELS, SHIFTS, strict=True):
            found[channel][_VALUES[was >> shift & 3]][_VALUES[is_ >> shift & 3]] += int(pairs[pair])
    return found
