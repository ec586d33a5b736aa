"""What a run would send, without sending: `plan` makes it, `apply` sends it later if nothing has changed since."""

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import Ids, Mask, allowed
from sync_job.consent.dates import Ages, Dates
from sync_job.consent.diff import Terms
from sync_job.consent.tables import tabulate, union
from sync_job.delivery import tls
from sync_job.errors import BusyError, ConfigError, Exit, StateDamagedError, gravest
from sync_job.ledger import lock, tables
from sync_job.ledger.applied import ReadExport
from sync_job.ledger.deltas import Asked, File
from sync_job.ledger.state import State
from sync_job.report import counts as tallies
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, backfills, decide, erasure, in_order, night, owing
from sync_job.runs.decide import Wish
from sync_job.runs.legs import Legs
from sync_job.runs.night import Read
from sync_job.runs.recover import holding, view
from sync_job.runs.report import Findings, Report, Stopwatch
from sync_job.runs.watch import Watch

VALID_S = 24 * 3600  # a plan is applied within a day (CONSENT.md would call anything older a stale file)


def plan(settings: Settings, watch: Watch, out: Path | None, wish: Wish, read: Read | None = None) -> Summary:
    """Return what a run, or a backfill, would send now, and write it to *out*; nothing else is changed on disk.

    Raises:
        BusyError: when a run holds the lock, because its outcome is not known yet.
    """
    folder = settings.state.path
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: no such folder to write the plan into. Make it first.")
    laps = Stopwatch()
    asked = in_order.look(settings, wish) if read is None else None
    with State.open(folder, settings.endpoint.target, write=False, live=True) as state:
        if lock.is_held(folder):
            raise BusyError(f"{folder}: busy, {lock.describe(lock.running(folder))}. Plan again when it has ended.")
        watch.stage("opening the state")
        holdings, lingering, dead = view(state, settings)
        last = state.ledger.applied.last_run()
        started = time.time()
        findings = Findings("plan", "", started)
        watch.stage("reading")
        if read is None:
            read = partial(decide.read, settings, watch, wish=wish, first_look=False, ledger=state.ledger)
        loaded, _ = read(None)
        findings.export = loaded.counts()
        in_order.check(state, settings, loaded.left_out, asked and in_order.noted(settings, asked), wish, started)
        files = in_order.as_read(asked, loaded)
        laps.lap("read")
        watch.stage("deciding")
        ledger = state.ledger
        if lacking := anchoring.lacking(state, settings):
            findings.add(
                Exit.STATE,
                f"the state is a backup that lacks {anchoring.people(lacking)} who withdrew: a run sends nothing of "
                "this before `consent-sync state restored`",
            )
        if recognised := anchoring.unnamed_among(settings, loaded.statements):
            loaded = replace(loaded, ungranted=union(loaded.ungranted, recognised.client))
        case = decide.judge(settings, findings, loaded, ledger, wish, started)
        in_order.note_unsent(state, case, findings)
        decide.drop_forgotten(case, erasure.among(settings, loaded.statements, ledger.forgetting.asked()))
        del loaded
        found, _, marked = decide.first_plan(case, ledger, holdings, lingering, started, started)
        decide.note(case, found, ledger, findings, started)
        findings.changes = tallies.changes(found.rows)
        owed = owing.figures(state, settings)
        if late := owing.reason(owed):
            findings.add(Exit.OBLIGATION, late)
        rate = settings.delivery.max_rps
        learned = ledger.about.learned_rate()
    export = decide.heard(case, found.held)
    about = findings.kept() | {
        "made": started,
        "target": settings.endpoint.target,
        "restate": settings.endpoint.restate,
        "rules": decide.rules(settings),
        "base": tables.digest_of(holdings),
        "last": last,
        "record": vars(decide.record(case, found, "", started)),
        "heard": {
            "kind": export.kind,
            "stated": export.stated,
            "alone": export.terms.alone,
            "grants": export.grants,
            "undoubted": export.undoubted,
        },
        "asked": asked.shown() if asked else None,
        "files": [vars(file) for file in files],
        "superfluous_until": in_order.superfluous_until(case, started),
        "fresh_until": case.fresh_until if math.isfinite(case.fresh_until) else None,
    }
    if out is not None:
        tables.write_saved_plan(out, found.rows, _said(export), about)
    laps.lap("plan")
    watch.end()
    return {
        "kind": "plan",
        "started": started,
        "target": settings.endpoint.target,
        "exit": int(gravest(findings.codes)),
        "reasons": findings.reasons,
        "restrict_only": findings.restrict_only,
        "doubts": findings.doubts,
        "guards": findings.guards,
        "approvals": findings.approvals,
        "approvable": findings.approvable,
        "grants": findings.grants,
        "withdrawals": owed,
        "lists_waiting": owed["lists_waiting"],
        "as_of": settings.export.as_of,
        "export": findings.export,
        "decided": findings.decided,
        **findings.changes,
        "requests": len(found.rows),
        "granted": backfills.granted(found.rows, marked),
        "least_seconds": round(len(found.rows) / rate, 1) if rate else None,
        "likely_seconds": round(len(found.rows) / learned, 1) if learned else None,
        "recovers": dead,
        "seconds": laps.seconds,
        "plan": str(out.absolute()) if out else None,
    }


def apply(settings: Settings, path: Path, watch: Watch, until: str = "") -> Report:
    """Send the plan in *path*, until the time of day that is given, and return the report.

    Raises:
        ConfigError: when it may not be sent any more: too old, another target, or something was applied since.
    """
    target = settings.endpoint.target
    try:
        rows, said, about = tables.read_saved_plan(path)
    except StateDamagedError as exc:
        raise ConfigError(f"{path}: no plan that can be read ({exc}). Make it again with `consent-sync plan`.") from exc
    again = "Make it again with `consent-sync plan`."
    if about["target"] != target:
        raise ConfigError(f"{path}: a plan for {about['target']}, and the configuration says {target}. {again}")
    if about["restate"] != settings.endpoint.restate:
        raise ConfigError(f"{path}: planned with restate = {about['restate']!r}. {again}")
    if about["rules"] != decide.rules(settings):
        raise ConfigError(f"{path}: planned with other guards or another [export] section. {again}")
    if not 0 <= time.time() - about["made"] <= VALID_S:
        raise ConfigError(f"{path}: older than {VALID_S // 3600} hours, or from the future. {again}")
    tls.context(settings.endpoint)
    asked = in_order.ask(settings, Asked.of(about["asked"]) if about["asked"] else None)
    with holding(settings) as state:
        if tables.digest_of(state.holdings()) != about["base"]:
            raise ConfigError(f"{path}: something was delivered since it was made. {again}")
        # An export that says no to those who were denied already delivers nothing, and is the last word all the same.
        if state.ledger.applied.last_run() != about["last"]:
            raise ConfigError(f"{path}: another run read an export since it was made. {again}")
        if state.ledger.about.restored() and allowed(rows.sent).any():
            raise ConfigError(f"{path}: the state is a restored backup, and the plan grants something. {again}")
        in_order.check(state, settings, [], asked, Wish(), time.time())
        rows = rows.at(~_gone(rows.client, state, settings))
        findings = night.begin(state, settings, "apply", watch)
        findings.take(about)
        findings.approvable = {}  # what it left out is known to no run: only one that reads the export can offer it
        if findings.guards or findings.doubts:
            findings.add(Exit.HELD, "the plan leaves out what was held when it was made")
        # The rejects of its export are those that the plan's reader saw; none is new by being applied.
        findings.reject_keys = [key for key in state.ledger.undone() if key[0] == "reject"]
        now = time.time()
        export = _heard(said.at(~_gone(said.client, state, settings)), about["heard"])
        anchoring.recognise(state, settings, export.statements)
        state.ledger.applied.record(ReadExport(**about["record"] | {"run": findings.run, "at": now}))
        taken_back = decide.overtaken(export, state.ledger, now)
        night.keep_decided(state, settings, export, taken_back, findings.run, now)
        night.note_read(state, settings, export, findings.run, now)
        legs = Legs(
            state, settings, findings, watch, Wish(until=until), hands_over=backfills.hands_over(state, "apply")
        )
        try:
            laps = Stopwatch()
            if not legs.owed():
                files = [File(**file) for file in about["files"]]
                settled = partial(
                    in_order.settle, state, findings.run, asked, files, superfluous_until=about["superfluous_until"]
                )
                legs.planned(rows, export.stated, about["fresh_until"] or math.inf, settled)
            laps.lap("deliver")
            return night.conclude(state, settings, findings, watch, laps)
        finally:
            watch.end()


def _gone(ids: Ids, state: State, settings: Settings) -> Mask:
    """Return who was erased since a plan was made, or is to be: of them nothing is sent but a denial."""
    return erasure.tombstones(settings).of(ids) | np.isin(ids, state.ledger.forgetting.asked())


def _said(export: decide.Heard) -> tables.Said:
    """Return what an export says as it is kept with a plan."""
    ids = union(export.statements.items()[0], export.held.items()[0])
    held, ungranted = export.held.of(ids), np.isin(ids, export.ungranted)
    return tables.Said(ids, export.statements.of(ids), held, ungranted, Dates.of(export.terms.stated_at(ids)))


def _heard(said: tables.Said, about: Summary) -> decide.Heard:
    """Return what the export of a plan says."""
    ids, ages = said.client, Ages()
    for place in np.unique(said.since.places):
        ages.add(ids[said.since.places == place], said.since.times[place], len(ids))
    return decide.Heard(
        about["kind"],
        tabulate(ids, ids, said.says),
        ids[said.ungranted],
        tabulate(ids, ids, said.held),
        about["stated"],
        Terms(ages=ages, alone=about["alone"]),
        about["grants"],
        about["undoubted"],
    )
