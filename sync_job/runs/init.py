"""Makes the state of a new target from what is known of the platform today. Sends nothing; the next run does."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import NOBODY, Bytes, Ids, allowed, blank, denied
from sync_job.consent.dates import NEVER, Dates
from sync_job.consent.known import Holdings, no_lingering
from sync_job.consent.tables import Table, laid_over, tabulate, union
from sync_job.errors import ConfigError, StateError
from sync_job.exports.lists import List
from sync_job.exports.loader import Export
from sync_job.ledger import anchor, claims, files, lock
from sync_job.ledger.applied import ReadExport
from sync_job.ledger.claims import Claims
from sync_job.ledger.state import State
from sync_job.ledger.withdrawn import Recognised, Withdrawn
from sync_job.runs import anchoring, decide, dump, erasure, intake, logs, night, notifying, report
from sync_job.runs.decide import Wish
from sync_job.runs.intake import Listing
from sync_job.runs.report import Findings, Report, Stopwatch
from sync_job.runs.watch import Watch

UNKNOWN, EMPTY, EQUAL = "unknown", "empty", "equal"

Approve = Callable[[int], int | None]


class Start(NamedTuple):
    """The first snapshot, and how many clients the next run would send an *allowed*."""

    holdings: Holdings
    grants: int


def start(
    platform: str | Table,
    statements: Table,
    ungranted: Ids,
    withdrawn: Table | None = None,
    *,
    stated: float = NEVER,
) -> Start:
    """Return the first snapshot of a platform that is unknown, empty, equal to the export, or as a dump says.

    Every denial in it is taken as *stated* when the export was made (epoch seconds).

    *unknown*: what the export allows is taken as held and what it denies is due, so that the first run sends every
    denial and nothing else: an error under-contacts. Nobody is granted a channel that is *withdrawn* (low bits).
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
    if withdrawn is not None:
        grants &= ~withdrawn.of(ids)
    denials = denied(says) & ~denied(state)
    due = (denials | (grants << 1)).astype(np.uint8)
    full = (state | due) != 0
    ids, state, due = ids[full], state[full], due[full]
    dates = Dates.of(np.where(denied(state) | denied(due), stated, NEVER))
    return Start(Holdings(ids, state, due, dates), int(np.count_nonzero(grants)))


def _without_blanks(says: Bytes) -> Bytes:
    return np.asarray(denied(says) | (allowed(says) << 1), np.uint8)


def init(
    settings: Settings,
    platform: str,
    approve: Approve,
    watch: Watch,
    *,
    withdrawals: Listing | None = None,
    missing: int = 0,
    as_of: float | None = None,
) -> Report:
    """Make the state, and return a report of what the export holds.

    *platform* is unknown, empty, equal, or the path of a dump. *approve* is told how many clients the next run
    would send an *allowed*, and returns the number that was approved, or none. *withdrawals* are honoured from the
    first run on. *missing* is how many people withdrew by a state that was lost and can be named by nobody; they are
    denied where their ids come up.

    Raises:
        StateError: when there is state already, or there was some in which people withdrew whom nobody names now.
        ConfigError: when the grants were not approved by their number.
    """
    folder, target = settings.state.path, settings.endpoint.target
    _refuse_existing(folder, target)
    listed = intake.read(settings, withdrawals, watch) if withdrawals else None
    named = _claims(listed)
    codes = _refuse_forgetting(settings, named, missing)
    started = time.time()
    run = f"0001-{night.name_at(started)}"
    laps = Stopwatch()
    findings = Findings("init", run, started)
    wish = Wish(as_of=as_of)
    export, findings.reject_keys = decide.read(
        settings, watch, report.folder_of(settings, run), wish=wish, first_look=True
    )
    findings.export = export.counts()
    forgotten = erasure.among(settings, export.statements)  # by a state that was before this one
    if len(forgotten):
        export.statements.values[export.statements.slots.of(forgotten)] = 0
        erasure.without(settings, [(report.folder_of(settings, run), forgotten)])
    laps.lap("read")
    held = platform if platform in (UNKNOWN, EMPTY, EQUAL) else dump.read(settings, platform, watch)
    if isinstance(held, Table):
        held.values[held.slots.of(erasure.among(settings, held))] = 0
    stated = min(started, export.newest if export.newest is not None else started)
    ids = export.statements.items()[0]
    ids = union(ids, named.client, held.items()[0]) if isinstance(held, Table) else union(ids, named.client)
    known = codes.recognise(ids, codes.behind(named))
    first = start(held, export.statements, export.ungranted, _withdrawn(named, known), stated=stated)
    if first.grants:
        watch.end()  # a person may be asked at the same terminal
        approved = approve(first.grants)
        if approved != first.grants:
            said = "" if approved is None else f", not {approved:,}"
            raise ConfigError(
                f"The next run would send an *allowed* to {first.grants:,} clients{said}. If that is meant, say "
                f"--approve-grants {first.grants}; if not, --platform unknown sends denials only. No state was made."
            )
    watch.stage("making the state")
    files.make_folder(folder)
    with lock.held(folder), logs.of_its_own(), State.create(folder, target, started) as state:
        findings.run = state.ledger.begin("init", started, night.name_at(started))
        logs.begin(findings.run)
        notifying.began(findings.run)
        if listed:
            intake.put(settings, listed, started)
            intake.absorb(state, settings)
        state.ledger.applied.record(_record(export, settings, findings.run, first, started))
        if settings.export.as_of != "none" and export.as_of is not None:
            oldest = min([started, export.as_of, *(made for _, made in export.stale)])
            state.ledger.applied.cover(findings.run, oldest)
        anchoring.take_over(state, settings, ids)
        state.commit_leg(findings.run, 0, holdings=first.holdings, lingering=no_lingering(), now=started)
        findings.made = {
            "state": str(folder.absolute()),
            "clients": len(first.holdings),
            "denials_due": int(np.count_nonzero(denied(first.holdings.due))),
            "grants_due": first.grants,
        }
        made = night.conclude(state, settings, findings, watch, laps)
        watch.end()
        return made


def _record(export: Export, settings: Settings, run: str, first: Start, now: float) -> ReadExport:
    """Return what the first export is a measure of for those to come."""
    ids, says = export.statements.items()
    lost = int(np.count_nonzero(blank(says) & allowed(first.holdings.of(ids)[0])))
    made = export.as_of, export.newest
    return ReadExport(
        run, settings.export.kind, export.digest, *made, export.clients, lost, new_grants=0, applied=True, at=now
    )


def _claims(listed: List | None) -> Claims:
    """Return who withdrew by a list."""
    if listed is None:
        return claims.named(NOBODY, np.zeros(0, np.uint8), np.zeros(0))
    return claims.named(*(listed.table.column(name).to_numpy() for name in ("client", "channels", "withdrawn_at")))


def _withdrawn(listed: Claims, known: Recognised) -> Table:
    """Return what withdrew who is on a list, or is known by the keys."""
    ids, channels = np.concatenate([listed.client, known.client]), np.concatenate([listed.in_force, known.channels])
    ids, channels = laid_over(ids, channels)
    return tabulate(ids, ids, channels)


def _refuse_forgetting(settings: Settings, named: Claims, missing: int) -> Withdrawn:
    """Refuse to begin anew without people who withdrew: their state was lost, not done with. Return their codes."""
    keys, target = settings.state.keys, settings.endpoint.target
    if moved := anchor.moved(keys, target):
        raise StateError(
            f"{keys.absolute()}: the state of this target has moved to {moved}; go on with it there. If another "
            f"platform has this address now, move {anchor.tag(target)}.anchor.json away. No state was made."
        )
    codes = Withdrawn.open(keys, target, anchor.read(keys, target))
    lacking = int(np.count_nonzero(codes.missing(named, anew=True)))
    if missing and not lacking:
        raise ConfigError("init: nobody who withdrew is missing; leave --missing out. No state was made.")
    if lacking != missing:
        listed = f"The list that was given has {len(codes) - lacking:,} of them. " if len(named.client) else ""
        cure = (
            "Restore a backup of it; or, if it is lost for good, name them with --withdrawals LIST. If nobody can name "
            f"the {lacking:,} others, say --missing {lacking}: they are denied as soon as their ids come up."
        )
        raise StateError(
            f"{keys.absolute()}: there was state of this target, with {anchoring.people(len(codes))} who withdrew, and "
            f"it is not in {settings.state.path.absolute()}. {listed}"
            f"{cure} No state was made."
        )
    return codes


def _refuse_existing(folder: Path, target: str) -> None:
    with files.storing(folder):
        exists = (folder / "ledger.db").exists()
    if exists:
        with lock.held(folder):
            State.create(folder, target, time.time()).close()
            files.remove(folder / "ledger.db")
