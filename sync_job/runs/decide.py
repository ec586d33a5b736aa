"""From an export and what is known to the plan: what `run`, `plan` and `apply` have in common.

An export is judged once: whether it is fresh, and what of it the guards hold. Each leg is then decided anew within
that judgement, from the statements that are still in memory and what is known by then.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sync_job.config import Settings
from sync_job.consent import backfill, freshness, guards
from sync_job.consent.backfill import Again, Mark
from sync_job.consent.channels import CHANNELS, DENIED, NOBODY, SHIFTS, Bytes, Ids, allowed, denied
from sync_job.consent.diff import Diff, Held, Terms, diff, nothing_held
from sync_job.consent.freshness import Doubt, Kind
from sync_job.consent.guards import Guard, Judgement, Tally, Thresholds, Trip
from sync_job.consent.known import Holdings, Known, Lingering, Obligations
from sync_job.consent.rules import FREE
from sync_job.consent.tables import Table, tabulate, union
from sync_job.errors import ConfigError, Exit
from sync_job.exports import loader, sources
from sync_job.exports.blocks import Rejects
from sync_job.exports.loader import Export
from sync_job.ledger.applied import HeldSet, ReadExport
from sync_job.ledger.ledger import Ledger
from sync_job.report import counts as tallies
from sync_job.report import lists
from sync_job.report.lists import RejectsFile
from sync_job.runs.report import Findings
from sync_job.runs.watch import Watch

_NAMED = 5  # files that are too old, of as many as there may be


@dataclass(frozen=True)
class Wish:
    """What a run was asked for beyond its settings.

    *part*: the export is a part, such as repaired rejects; *as_of*: when it was made, in epoch seconds, where the
    configuration leaves that to the command line; *require_new*: the same export as last time is an error; *retry*:
    what was refused is tried again before its time; *again*: what is sent once more though it was acknowledged, where
    so many clients are *approved* to be sent an *allowed* by it; *sample*: so many rows of each kind, and no more;
    *skip_missed*: how many deltas before this one were not applied, and will not be.
    """

    restrict_only: bool = False
    limit: int | None = None
    until: str = ""
    part: bool = False
    as_of: float | None = None
    require_new: bool = False
    retry: bool = False
    again: Again | None = None
    approved: int | None = None
    sample: int | None = None
    skip_missed: int = 0


def kind_of(settings: Settings, wish: Wish) -> Kind:
    """Return what the export is taken for."""
    return "part" if wish.part else settings.export.kind


def thresholds(settings: Settings) -> Thresholds:
    """Return from which number on each guard trips."""
    return Thresholds(**settings.guards.model_dump(exclude={"grants"}))


def look(settings: Settings) -> None:
    """Hold that there is an export that can be opened.

    Raises:
        ExportError: when there is none.
    """
    loader.names(settings.export.path, settings.export)


def not_before(settings: Settings, ledger: Ledger | None, now: float) -> float:
    """Return before when a file grants nothing: it is too old, or older than the last full export in *ledger*."""
    oldest = now - 3600 * settings.export.max_age_h
    last = ledger.applied.oldest_part(now) if ledger else None
    return oldest if last is None else max(oldest, last)


def read(
    settings: Settings,
    watch: Watch,
    folder: Path | None,
    *,
    wish: Wish,
    first_look: bool,
    ledger: Ledger | None = None,
) -> tuple[Export, list[tuple[str, str]]]:
    """Return the export, and the keys by which its rejects are known again.

    Rejects and clients whose rows disagree are listed in *folder*. Of several files those that are too old, or
    older than the last full export in *ledger*, grant nothing.
    """
    if not settings.export.path:
        raise ConfigError("No export: name it on the command line, or set [export] path.")
    watch.stage("reading")
    file = RejectsFile(folder / "rejects.csv") if folder else None

    def keep(found: Rejects) -> None:
        if file:
            file.write(found.table)

    now = time.time()
    try:
        export = loader.load(
            settings.export,
            settings.run.zone,
            where=settings.export.path,
            first_look=first_look,
            kind=kind_of(settings, wish),
            as_of=wish.as_of,
            now=now,
            sink=keep,
            progress=watch.at,
            not_before=not_before(settings, ledger, now),
        )
    finally:
        if file:
            file.close()
    if folder:
        lists.write_flags(folder / "duplicates.csv", export.conflicting, export.statements.of(export.conflicting))
    return export, file.keys if file else []


@dataclass
class Case:
    """An export and everything that it is decided by, but for what each leg finds known.

    *made* and *newest* are when its oldest and its newest file were made (epoch seconds, None if unknown), *oldest* is
    *made* with the files that are too old, *stated* when what it denies was stated; after *fresh_until* it grants
    nothing. *forgotten* is how many of its clients were erased, and are in its statements no more; with *retry* nothing
    waits; *again* is what is sent once more. *deferred* are as in a `Diff`, of the last plan.
    """

    settings: Settings
    kind: Kind
    digest: str
    statements: Table
    clients: int
    ungranted: Ids
    terms: Terms
    made: float | None = None
    newest: float | None = None
    oldest: float | None = None
    stated: float = 0.0
    fresh_until: float = math.inf
    forgotten: int = 0
    retry: bool = False
    again: Again | None = None
    deferred: Ids = field(default_factory=lambda: NOBODY)
    first: bool | None = None  # whether no export was read since `init`
    tally: Tally = field(default_factory=Tally)
    judgement: Judgement = field(default_factory=Judgement)
    doubts: list[freshness.Finding] = field(default_factory=list)

    @property
    def lacks_column(self) -> bool:
        """Whether a mapped column is not in the export."""
        return any(one.doubt is Doubt.COLUMN for one in self.doubts)


class Channels(NamedTuple):
    """Clients, ascending, with the low bit of some channels of each."""

    client: Ids
    channels: Bytes


def known(
    ledger: Ledger,
    holdings: Holdings,
    lingering: Lingering,
    now: float,
    *,
    since: float = 0.0,
    says: Table | None = None,
    less: Channels | None = None,
    retry: bool = False,
) -> tuple[Known, Ids]:
    """Return what is known at *now*, and the clients with an open obligation, who are granted nothing.

    What the platform does not know is tried again when its id is in the export, of which *says* is the table, and
    was not refused *since* (the run's start, in epoch seconds). *less* is owed no more. With *retry*
    nothing waits for its next try.
    """
    owed = ledger.obligations.owed(now)
    if less is not None and len(less.client):
        gone = tabulate(less.client, less.client, less.channels).of(owed.client)
        channels = owed.channels & ~gone
        owed = replace(owed, channels=channels, held=owed.held & ~gone).at(channels != 0)
    waiting = ledger.obligations.waiting()
    due = owed.due.copy()
    if says is not None and len(owed.client):
        recent = waiting.client[waiting.since >= since]
        due |= owed.parked & (says.of(owed.client) != 0) & ~np.isin(owed.client, recent)
    tried = waiting.since >= since if since else np.zeros(len(waiting.client), np.bool_)
    if retry:
        due |= ~np.isin(owed.client, waiting.client[tried])
    waits = (waiting.next_at > now) & (tried | (not retry)) & ~np.isin(waiting.client, owed.client[due])
    free = owed.channels & ~owed.held
    due &= free != 0
    return (
        Known(
            holdings,
            ledger.withdrawals.in_force(),
            Obligations(owed.client[due], free[due], owed.limit_at[due]),
            lingering,
            tabulate(waiting.client[waits], waiting.client[waits], waiting.sent[waits]),
        ),
        owed.client,
    )


@dataclass(frozen=True)
class Heard:
    """What an export says beside the rows that are sent of it, and how far that counts.

    *held* is what of its statements is not let through. Its denials were stated at *stated* (epoch seconds). What it
    allows ends older denials that are owed because of another export, if it *grants*; by its *terms* it says how old it
    is. *undoubted*: nothing was wrong with it.
    """

    kind: Kind
    statements: Table
    ungranted: Ids
    held: Table
    stated: float
    terms: Terms
    grants: bool
    undoubted: bool

    def denials_held(self) -> Channels:
        """Return the denials that are held: they are owed, though nothing of them is sent."""
        ids, says = self.held.items()
        channels = denied(says)
        return Channels(ids[channels != 0], channels[channels != 0])


def heard(case: Case, held: Held) -> Heard:
    """Return what an export says, of which *held* is not let through."""
    return Heard(
        case.kind,
        case.statements,
        case.ungranted,
        tabulate(held.client, held.client, held.stated),
        case.stated,
        case.terms,
        case.terms.may_grant and not case.judgement.only_owed,
        not case.doubts and not case.judgement.only_owed,
    )


def overtaken(export: Heard, ledger: Ledger, now: float) -> Channels:
    """Return the denials owed because of an export that this one, being newer, allows: they end by that.

    What a guard holds takes nothing back.
    """
    owed = ledger.obligations.owed(now)
    says = allowed(export.statements.of(owed.client)) & ~allowed(export.held.of(owed.client))
    ungranted = np.isin(owed.client, export.ungranted, assume_unique=True)
    channels = np.where(ungranted | (not export.grants), 0, owed.revoked & says).astype(np.uint8)
    stated = export.terms.stated_at(owed.client)
    channels[owed.stated > stated if export.terms.alone else owed.stated >= stated] = 0
    return Channels(owed.client[channels != 0], channels[channels != 0])


def reopen(export: Heard, ledger: Ledger) -> None:
    """Note what the export allows of denials that a person closed by hand: if it is denied again, it is a new case."""
    ids, channels = ledger.obligations.closed_by_hand().items()
    again = (channels & allowed(export.statements.of(ids))).astype(np.uint8)
    if again.any() and export.undoubted:
        ledger.obligations.reopen(ids, again)


def judge(settings: Settings, findings: Findings, export: Export, ledger: Ledger, wish: Wish, now: float) -> Case:
    """Return the case of an export, with its freshness judged and noted; the guards come with the plan."""
    kind = kind_of(settings, wish)
    full = kind == "full"
    applied = ledger.applied
    dated = settings.export.as_of != "none" or export.as_of is not None
    max_age_s = 3600 * settings.export.max_age_h
    doubts = freshness.judge(
        freshness.Seen(export.as_of, export.clients, export.rows, export.rejects, export.newest),
        applied.before(kind, export.digest, now, dated=dated),
        dated=dated,
        max_age_s=max_age_s,
        now=now,
        full=full,
        accepted=applied.is_accepted(export.digest, now),
        limits=thresholds(settings),
    )
    for said in _stale(export.stale, now):
        findings.add(Exit.HELD, said)
    if export.missing:
        missing = ", ".join(map(repr, export.missing))
        doubts.append(freshness.Finding(Doubt.COLUMN, f"it has no column {missing}"))
        findings.add(
            Exit.HELD,
            f"the export has no column {missing}: nothing is granted until it is back, or "
            'mapped to "" in [export.columns]',
        )
    if ledger.about.restored():
        doubts.append(
            freshness.Finding(
                Doubt.RESTORED,
                "the state is a restored backup: say what came in since with `consent-sync state restored`",
            )
        )
    for doubt in doubts:
        if doubt.doubt is not Doubt.COLUMN:
            findings.add(Exit.HELD, f"the export may not grant: {doubt.why}")
    why = [doubt.why for doubt in doubts]
    if wish.restrict_only:
        why.append("asked for (--restrict-only)")
    if settings.guards.grants == "never":
        why.append('[guards] grants = "never"')
    findings.restrict_only = "; ".join(why)
    findings.doubts = [{"doubt": str(one.doubt), "why": one.why} for one in doubts]
    mapped = sum(DENIED << shift for shift, name in zip(SHIFTS, settings.export.columns.channels, strict=True) if name)
    denies = full and settings.export.absent == "deny" and not doubts
    ages = None
    if dated and export.as_of is not None:
        read_at = applied.read_at(kind, export.digest, export.as_of, now)
        as_of, ages = min(export.as_of, read_at), export.ages and export.ages.until(read_at)
    else:
        as_of = applied.current_at(kind, export.digest, now)
    terms = Terms(
        may_grant=not why,
        as_of=as_of,
        ages=ages,
        alone=not applied.has_another(export.digest, [as_of] if ages is None else ages.times.tolist()),
        restate=settings.endpoint.restate == "denials",
        approved=applied.approved(now),
        absent=mapped if denies else 0,
    )
    former = ledger.former_ids.of(export.statements)
    if len(former):
        findings.add(
            Exit.ATTENTION,
            f"{len(former):,} clients are named by ids from before the platform's ids changed, and are granted nothing",
        )
    newest = export.newest if export.newest is not None else export.as_of
    return Case(
        settings,
        kind,
        export.digest,
        export.statements,
        export.clients,
        union(export.ungranted, former),
        terms,
        made=export.as_of if dated else None,
        newest=newest if dated else None,
        oldest=min([export.as_of, *(made for _, made in export.stale)]) if dated and export.as_of is not None else None,
        stated=min(now, newest) if dated and newest is not None else now,
        fresh_until=as_of + max_age_s if dated else math.inf,
        retry=wish.retry,
        again=wish.again,
        doubts=doubts,
    )


def _stale(files: list[tuple[str, float]], now: float) -> Iterator[str]:
    """Yield, in words, which files are too old to grant anything: a folder may keep hundreds."""
    for name, made in files[:_NAMED]:
        yield (
            f"{name} is {(now - made) / 3600:,.1f} h old: its clients are granted nothing. Leave it out, or export it "
            "again"
        )
    if more := len(files[_NAMED:]):
        yield f"{more:,} more files are too old: their clients are granted nothing"


def drop_forgotten(case: Case, forgotten: Ids) -> None:
    """Take the statements of erased clients out of the case: nothing of them is sent or kept."""
    if len(forgotten):
        case.statements.values[case.statements.slots.of(forgotten)] = 0
        case.forgotten = len(forgotten)


def plan(case: Case, known_now: Known, owing: Ids, now: float) -> Diff:
    """Return what has to be sent now, within what was judged; *owing* are granted nothing."""
    terms = replace(case.terms, ungranted=case.ungranted, owing=owing)
    found = diff(case.statements, known_now, terms, now)
    found.counts.forgotten = case.forgotten
    found.counts.stated += case.forgotten
    if case.kind != "full":
        found.counts.absent = 0
    return found


class Planned(NamedTuple):
    """The plan of an export within what the guards let through, and the revocations owed that it has taken back.

    *marked* is what has to be made due first, so that it is sent again; none where nothing is.
    """

    diff: Diff
    taken_back: Channels
    marked: Mark | None = None


def first_plan(
    case: Case, ledger: Ledger, holdings: Holdings, lingering: Lingering, since: float, now: float
) -> Planned:
    """Return the plan of the first leg of an export, within what the guards let through."""
    found, taken_back, known_now, owing = _planned(case, ledger, holdings, lingering, since, now, retry=case.retry)
    if case.again is None or case.judgement.only_owed:
        return Planned(found, taken_back)
    # After the guards: what is only sent again is no change, and must not make one look small or large.
    marked = backfill.mark(case.statements, known_now, union(case.ungranted, owing), case.again)
    again = replace(known_now, holdings=backfill.marked(known_now.holdings, marked))
    return Planned(plan(case, again, owing, now), taken_back, marked)


def next_plan(
    case: Case, ledger: Ledger, holdings: Holdings, lingering: Lingering, since: float, now: float
) -> Planned:
    """Return the plan of a later leg of an export: what may be granted only now is judged by the guards as well."""
    found, taken_back, _, _ = _planned(case, ledger, holdings, lingering, since, now)
    return Planned(found, taken_back)


def _planned(
    case: Case,
    ledger: Ledger,
    holdings: Holdings,
    lingering: Lingering,
    since: float,
    now: float,
    *,
    retry: bool = False,
) -> tuple[Diff, Channels, Known, Ids]:
    look = partial(known, ledger, holdings, lingering, now, since=since, says=case.statements, retry=retry)
    known_now, owing = look()
    found = _guarded(case, known_now, owing, ledger, now)
    taken_back = overtaken(heard(case, nothing_held()), ledger, now)
    if len(taken_back.client):
        # The export, being newer, allows again what is owed a denial: that ends, and the plan is made without it.
        known_now, owing = look(less=taken_back)
        found = _guarded(case, known_now, owing, ledger, now)
        held = tabulate(found.held.client, found.held.client, allowed(found.held.stated)).of(taken_back.client)
        if (held & taken_back.channels).any():
            # What a guard holds takes nothing back: that denial is still owed.
            left = np.asarray(taken_back.channels & ~held, np.uint8)
            taken_back = Channels(taken_back.client[left != 0], left[left != 0])
            known_now, owing = look(less=taken_back)
            found = plan(case, known_now, owing, now)
    case.deferred = found.deferred if case.terms.may_grant else NOBODY
    return found, taken_back, known_now, owing


def _guarded(case: Case, known_now: Known, owing: Ids, ledger: Ledger, now: float) -> Diff:
    case.terms = replace(case.terms, hold=FREE, only_owed=False)
    found = plan(case, known_now, owing, now)
    past = ledger.applied.past(case.kind, now)
    case.first = past.first if case.first is None else case.first
    past = replace(past, first=case.first)
    case.tally = found.tally
    case.judgement = guards.judge(
        found.tally,
        # A part says little of whom it lacks, and a missing column is an alarm of its own.
        replace(past, lost=None) if case.kind == "part" or case.lacks_column else past,
        thresholds(case.settings),
        full=case.kind == "full",
        accepted=ledger.applied.is_accepted(case.digest, now),
    )
    if case.judgement.hold != FREE or case.judgement.only_owed:
        case.terms = replace(case.terms, hold=case.judgement.hold, only_owed=case.judgement.only_owed)
        found = plan(case, known_now, owing, now)
    return found


def note(case: Case, found: Diff, ledger: Ledger, findings: Findings, now: float) -> None:
    """Note in *findings* how the clients were decided, and which guards tripped; again for each leg."""
    for trip in case.judgement.trips:
        findings.add_once(Exit.HELD, _said(trip))
    if why := _older(found.held, dated=case.made is not None):
        findings.add_once(Exit.HELD, why)
    doubtful = [one.trip for one in case.doubts if one.trip]
    findings.guards = [
        {"guard": str(one.guard), "channel": one.channel, "count": one.count, "at_most": one.at_most}
        for one in (*doubtful, *case.judgement.trips)
    ]
    tally = case.tally
    findings.grants = {
        "new": tally.new_grants,
        "re": tally.re_grants,
        "revocations": dict(zip(CHANNELS, tally.revocations, strict=True)),
        "lost": tally.lost,
        "unknown": tally.unknown,
    }
    if one := held_set(case, found.held, ledger, "", now):
        wrong_size = case.judgement.only_owed or any(doubt.doubt is Doubt.SHRUNKEN for doubt in case.doubts)
        findings.approvable = {
            "grants": one.grants,
            "revocations": one.revocations,
            "clients": one.clients if wrong_size else 0,
        }
    findings.approvals = [one.shown() for one in ledger.applied.approvals(now)]
    findings.decided = tallies.decided(found.counts)


def _older(held: Held, *, dated: bool) -> str:
    """Return, in words, of how many clients something is held because the export is not newer than their denial."""
    which = held.older != 0
    count = int(np.count_nonzero(which))
    if not count:
        return ""
    last = lists.moment(float(held.denied_at[which].max()))
    cure = "A newer export" if dated else "An export with other statements"  # without an age none is newer by itself
    return (
        f"{count:,} client{'' if count == 1 else 's'} denied something no earlier than this export was made (the last "
        f"at {last}): what it allows them is held (held.csv). {cure} that allows it is sent"
    )


def _said(trip: Trip) -> str:
    """Return what a guard held, and what to do."""
    if trip.guard in (Guard.CHANGED, Guard.UNKNOWN):
        return f"{trip}: the ids look renumbered, and nothing but obligations is sent. Mend the export, or approve it"
    if trip.guard is Guard.LOST:
        return f"{trip}: the export may have stopped saying no. Nothing is held; look at the column's blanks"
    return f"{trip}: held until approved (held.csv), or until the export is mended"


def held_set(case: Case, held: Held, ledger: Ledger, run: str, now: float) -> HeldSet | None:
    """Return what `approve` may let through; none where no guard held anything that a person may approve.

    A denial that is owed for another reason, or that a person closed, does not wait for it.
    """
    approvable = [one.trip for one in case.doubts if one.doubt is Doubt.SHRUNKEN and one.trip]
    trips = [trip for trip in case.judgement.trips if trip.guard is not Guard.LOST]
    if not trips and not approvable:
        return None
    approvable_ = held.approvable()
    grants = int(np.count_nonzero(allowed(approvable_.stated)))
    revocations = int(np.count_nonzero(ledger.obligations.would_hold(*heard(case, held).denials_held())))
    if not case.terms.may_grant or case.judgement.only_owed:
        grants = 0  # An approval does not make an export fresh, nor its ids right.
    said = [str(trip) for trip in (*approvable, *trips)]
    return HeldSet(run, now, case.kind, case.digest, case.clients, grants, revocations, said)


def restated(export: Heard, ledger: Ledger) -> Channels:
    """Return the denials that an earlier run held, that this export states again, and that no guard holds now."""
    ids, held = ledger.obligations.held().items()
    channels = np.asarray(held & denied(export.statements.of(ids)) & ~denied(export.held.of(ids)), np.uint8)
    return Channels(ids[channels != 0], channels[channels != 0])


def record(case: Case, found: Diff, run: str, now: float) -> ReadExport:
    """Return what is to be noted of an export that a run decides by."""
    doubted = case.judgement.only_owed or any(one.doubt is not Doubt.RESTORED for one in case.doubts)
    new = 0 if case.judgement.hold.new_grants else case.tally.new_grants
    counted = case.clients, found.tally.lost, new
    return ReadExport(run, case.kind, case.digest, case.made, case.newest, *counted, applied=not doubted, at=now)


def rules(settings: Settings) -> str:
    """Return the digest of everything in the configuration that decides what is sent."""
    said = [part.model_dump(mode="json") for part in (settings.export, settings.guards, settings.withdrawals)]
    said[0].pop("path")
    if settings.export.id_map is not None:
        said[0]["id_map"] = sources.digest(sources.LocalFile(settings.export.id_map))
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
