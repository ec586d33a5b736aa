"""Makes the state of a new target from what is known of the platform today. Sends nothing; the next run does."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sync_job.config import ColumnSettings, Settings
from sync_job.consent.channels import FIELDS, Bytes, Ids, allowed, denied
from sync_job.consent.diff import Holdings, no_lingering
from sync_job.consent.tables import Table, tabulate, union
from sync_job.errors import ConfigError
from sync_job.exports import loader
from sync_job.ledger import files, lock
from sync_job.ledger.state import State
from sync_job.runs import decide, night, report
from sync_job.runs.report import Findings, Report, Stopwatch
from sync_job.runs.watch import Watch

UNKNOWN, EMPTY, EQUAL = "unknown", "empty", "equal"

Approve = Callable[[int], int | None]


class Start(NamedTuple):
    """The first snapshot, and how many clients the next run would send an *allowed*."""

    holdings: Holdings
    grants: int


def start(platform: str | Table, statements: Table, ungranted: Ids) -> Start:
    """Return the first snapshot of a platform that is unknown, empty, equal to the export, or as a dump says.

    *unknown*: what the export allows is taken as held and what it denies is due, so that the first run sends every
    denial and nothing else: an error under-contacts.
    """
    if isinstance(platform, Table):
        ids = union(statements.items()[0], platform.items()[0])
        state = _without_blanks(platform.of(ids))
        says = statements.of(ids)
        grants = allowed(says) & ~allowed(state)
    else:
        ids, says = statements.items()
        held = {
            UNKNOWN: (allowed(says) << 1).astype(np.uint8),
            EMPTY: np.zeros_like(says),
            EQUAL: _without_blanks(says),
        }
        state = held[platform]
        grants = allowed(says) if platform == EMPTY else np.zeros_like(says)
    grants = np.where(np.isin(ids, ungranted, assume_unique=True), 0, grants).astype(np.uint8)
    denials = denied(says) if not isinstance(platform, Table) and platform != EQUAL else np.zeros_like(says)
    due = (denials | (grants << 1)).astype(np.uint8)
    full = (state | due) != 0
    return Start(Holdings(ids[full], state[full], due[full]), int(np.count_nonzero(grants)))


def _without_blanks(says: Bytes) -> Bytes:
    return np.asarray(denied(says) | (allowed(says) << 1), np.uint8)


def init(settings: Settings, platform: str, approve: Approve, watch: Watch) -> Report:
    """Make the state, and return a report of what the export holds.

    *platform* is unknown, empty, equal, or the path of a dump. *approve* is told how many clients the next run
    would send an *allowed*, and returns the number that was approved, or none.

    Raises:
        StateError: when there is state already.
        ConfigError: when the grants were not approved by their number.
    """
    folder, target = settings.state.path, settings.endpoint.target
    _refuse_existing(folder, target)
    started = time.time()
    run = f"0001-{night.name_at(started)}"
    laps = Stopwatch()
    findings = Findings("init", run, started)
    export, findings.reject_keys = decide.read(settings, watch, report.folder_of(settings, run), first_look=True)
    findings.export = export.counts()
    laps.lap("read")
    held = platform if platform in (UNKNOWN, EMPTY, EQUAL) else _dump(settings, platform, watch)
    first = start(held, export.statements, export.ungranted)
    if first.grants:
        approved = approve(first.grants)
        if approved != first.grants:
            said = "" if approved is None else f", not {approved:,}"
            raise ConfigError(
                f"The next run would send an *allowed* to {first.grants:,} clients{said}. If that is meant, say "
                f"--approve-grants {first.grants}; if not, --platform unknown sends denials only. No state was made."
            )
    files.make_folder(folder)
    with lock.held(folder), State.create(folder, target, started) as state:
        findings.run = state.ledger.begin("init", started, night.name_at(started))
        _commit(state, findings.run, first.holdings, started)
        made = night.conclude(state, settings, findings, watch, laps)
        watch.end()
        return made


def _refuse_existing(folder: Path, target: str) -> None:
    with files.storing(folder):
        exists = (folder / "ledger.db").exists()
    if exists:
        with lock.held(folder):
            State.create(folder, target, time.time()).close()
            files.remove(folder / "ledger.db")


def _commit(state: State, run: str, holdings: Holdings, now: float) -> None:
    none = tabulate(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8))
    state.commit_leg(run, 0, holdings=holdings, lingering=no_lingering(), now=now, closed=none)


def _dump(settings: Settings, path: str, watch: Watch) -> Table:
    """Return what a dump of the platform says; its columns are the platform's own names, or those of the export."""
    watch.stage("reading the dump")
    own = ColumnSettings.model_validate({})
    names = loader.names(path, settings.export.format)
    columns = own if own.Client in names and set(FIELDS) & set(names) else settings.export.columns
    columns = columns.model_copy(update={"consent_changed_at": ""})
    columns = columns.model_copy(update={name: "" for name in FIELDS if getattr(columns, name) not in names})
    found = loader.load(
        settings.export.model_copy(update={"columns": columns, "kind": "full"}),
        settings.run.zone,
        where=path,
        first_look=True,
        progress=watch.at,
    )
    if found.rejects:
        raise ConfigError(
            f"{path}: {found.rejects:,} rows of the dump cannot be read ({', '.join(list(found.reasons)[:3])}). "
            "What the platform holds must be known for sure: mend the dump, or use --platform unknown."
        )
    return found.statements
