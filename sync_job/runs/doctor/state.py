"""The state and what is beside it: whose it is, whether it is whole, what is under way, and what a person has to do.

Damage is looked for where it costs little; `state check` reads everything.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sync_job.config import Settings
from sync_job.errors import Exit, OlderStateError, StateError
from sync_job.ledger import accounting, anchor, backed_up, inbox, lock, pause, rebinding
from sync_job.ledger.anchor import Standing
from sync_job.ledger.ledger import Run
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.report import text
from sync_job.runs import clocks, in_order, owing
from sync_job.runs.doctor.check import Area, Check, ago

_STATE = Area("state", Exit.STATE)
_KEYS = Area("keys", Exit.STATE)
_PAST = Area("past", Exit.ATTENTION)
_OWED = Area("owed", Exit.OBLIGATION)
_NIGHTLY = ("run", "apply")
_WELL = (Exit.OK, Exit.ATTENTION)  # it did what it could
_NIGHT_S = 36 * 3600.0
_BACKUP_S = 7 * 86400.0


def look(settings: Settings) -> Iterator[Check]:
    """Yield how the state is; what needs its ledger is left out where that cannot be read."""
    folder, target = settings.state.path, settings.endpoint.target
    yield from _beside_ledger(settings)
    try:
        state = State.open(folder, target, write=False)
    except OlderStateError as exc:
        yield _STATE.warning("ledger", str(exc))
        return
    except StateError as exc:
        yield _STATE.problem("ledger", str(exc))
        yield _PAST.skipped("runs", "the ledger cannot be read")
        yield _OWED.skipped("obligations", "the ledger cannot be read")
        return
    with state:
        if given := state.ledger.about.given_up():
            cure = "Use the configuration of that state, and take this one away from cron."
            yield _STATE.problem("given up", f"its people went to {given['to']} ({given['target']})", cure)
            return
        yield from _ledger(state)
        yield _anchor(state, settings)
        yield _erased(state, settings)
        yield from _past(state.ledger.runs(), time.time())
        yield from _owed(state, settings)
        yield from _times(state, settings)
    yield _backup(settings, time.time())


def newest_time(settings: Settings) -> float:
    """Return the newest time that the state knows of, in epoch seconds; 0 where it knows of none."""
    try:
        with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
            known = [moment for run in state.ledger.runs() for moment in (run.started, run.ended) if moment]
        found = anchor.read(settings.state.keys, settings.endpoint.target)
    except StateError:
        return 0.0
    return max([*known, found.written if found else 0.0], default=0.0)


def _beside_ledger(settings: Settings) -> Iterator[Check]:
    """Yield what lies in files of its own: a pause, and lists that wait."""
    folder = settings.state.path
    if found := pause.paused(folder):
        said = f"by {found['by']}: {found['reason']}; nothing is sent"
        yield _STATE.warning("paused", said, "consent-sync resume")
    aside = inbox.set_aside_files(folder)
    if aside:
        said = f"{len(aside)} lists cannot be read, and runs of exports wait: {aside[0].name}"
        yield _STATE.problem("inbox", said, "Take the list in again from its source, then remove that file.")
    elif waiting := inbox.waiting(folder):
        yield _STATE.warning("inbox", f"{len(waiting)} lists wait to be sent", "consent-sync drain")


def _ledger(state: State) -> Iterator[Check]:
    number, _ = state.ledger.current()
    busy = lock.is_held(state.folder)
    place, withdrawals = state.ledger.place(), state.ledger.withdrawals.counts()["withdrawals"]
    snapshot = state.folder / "snapshots" / f"{number}.parquet"
    if not snapshot.is_file() or not snapshot.stat().st_size:
        yield _STATE.problem("snapshot", f"{snapshot}: the one that counts is missing or empty", "Restore a backup.")
    else:
        said = f"run {place['run']}, snapshot {number} of {state.ledger.clients():,} clients"
        yield _STATE.ok("ledger", f"{said}, {withdrawals:,} withdrawals; `state check` reads all of it")
    if busy:
        yield _STATE.ok("running", lock.describe(lock.running(state.folder)))
    elif dead := state.ledger.unfinished():
        said = f"{', '.join(run.run for run in dead)} died; what was acknowledged is kept"
        yield _STATE.warning("died", said, "The next run, or `consent-sync drain`, finishes it.")
    how = state.ledger.about.restored()
    cure = "Say what it lacks: consent-sync state restored --withdrawals-since LIST --by NAME"
    if how == "shrunken":
        yield _STATE.problem("restored", "a restored backup that lacks withdrawals; only lists are sent", cure)
    elif how:
        yield _STATE.warning("restored", "a restored backup; nobody is granted anything", cure)
    for said, cure in text.deltas(in_order.figures(state)):
        yield _STATE.warning("delta", said, cure)
    if one := state.ledger.backfills.open():
        said = f"of {one.run}, {one.clients:,} clients, begun {ago(time.time() - one.at)} ago"
        yield _STATE.ok("backfill under way", said)


def _anchor(state: State, settings: Settings) -> Check:
    keys = settings.state.keys
    target = settings.endpoint.target
    try:
        found, standing, missing = accounting.stand(state.ledger, keys, target)
        moved = anchor.moved(keys, target)
        former = _former(state, keys, target)
    except StateError as exc:
        return _KEYS.problem("anchor", str(exc))
    if former:
        said = f"an older copy of the keys: it has what belongs to this state under its former name {former}"
        return _KEYS.warning("anchor", said, "The next command that sends anything brings it under today's name.")
    if found is None and standing is Standing.RESTORED:
        said = f"missing in {keys.absolute()}: the state is taken for a backup, and grants nothing"
        return _KEYS.problem("anchor", said, "Restore the folder of keys from its backup.")
    if found is None and standing is Standing.GOOD:
        return _KEYS.ok("anchor", "none yet; the next run makes it")
    run = found.run if found else 0
    words = {
        Standing.FOREIGN: ("it is of another state of this target", "If that one is lost for good, move it away."),
        Standing.MOVED: (f"the state has moved to {moved}", "consent-sync state retarget, with that address"),
        Standing.SHRUNKEN: (f"{missing:,} who withdrew are missing in this state", "consent-sync state restored"),
        Standing.RESTORED: (f"it knows of run {run}, and this state does not", "consent-sync state restored"),
    }
    if standing in words:
        return _KEYS.problem("anchor", *words[standing])
    return _KEYS.ok("anchor", f"in step, run {run}, {found.withdrawn if found else 0:,} who withdrew")


def _former(state: State, keys: Path, target: str) -> str:
    return rebinding.left_under(keys, state.ledger.place()["state"], state.ledger.about.targets(), target)


def _erased(state: State, settings: Settings) -> Check:
    keys, target = settings.state.keys, settings.endpoint.target
    try:
        found = anchor.read(keys, target)
        there = len(Tombstones.open(keys, _former(state, keys, target) or target))
    except StateError as exc:
        return _KEYS.problem("erased", str(exc))
    about = state.ledger.about
    before = anchor.codes_before(found, state=about.said("state"), buried=about.buried())
    if there < before:
        said = f"the codes of {before - there:,} of {before:,} erased people are lost in {keys.absolute()}"
        cure = (
            "Restore the folder of keys from its newest backup; or `forget` once more whom you can name, then: "
            f"consent-sync state restored --none --erased-missing {before - there} --by NAME"
        )
        return _KEYS.problem("erased", said, cure)
    return _KEYS.ok("erased", f"codes of {there:,} erased people")


# What there was


def _past(runs: list[Run], now: float) -> Iterator[Check]:
    """Yield when something ended well, and whether the last night did."""
    ended = [run for run in runs if run.stage == "reported" and run.ended is not None]
    nights = [run for run in ended if run.kind in _NIGHTLY]
    good = [run for run in nights if run.exit in _WELL]
    if not nights:
        yield _PAST.warning("last success", "no export was sent yet", "consent-sync run")
    elif not good:
        yield _PAST.warning("last success", f"none of {len(nights)} nights ended well", "consent-sync report")
    else:
        said = f"{_named(good[-1], now)}"
        late = now - (good[-1].ended or 0) > _NIGHT_S
        cure = "See why no other did since: consent-sync runs, and the log of whatever starts it."
        yield _PAST.warning("last success", said, cure) if late else _PAST.ok("last success", said)
    if nights and nights[-1].exit not in _WELL:
        yield _PAST.warning("last night", _named(nights[-1], now), f"consent-sync report {nights[-1].number}")
    if ended and ended[-1].kind not in _NIGHTLY:
        yield _PAST.ok("last run", _named(ended[-1], now))


def _named(run: Run, now: float) -> str:
    return f"{run.kind} {run.run}, exit {run.exit}, {ago(now - (run.ended or run.started))} ago"


def _backup(settings: Settings, now: float) -> Check:
    found = backed_up.last(settings.state.keys, settings.endpoint.target)
    cure = f"consent-sync state backup FILE, and apart from it {settings.state.keys.absolute()}"
    if found is None:
        return _PAST.warning("last backup", "none is known", cure)
    said = f"{ago(now - found.at)} ago, to {found.file}"
    return _PAST.warning("last backup", said, cure) if now - found.at > _BACKUP_S else _PAST.ok("last backup", said)


# What is to be done


def _times(state: State, settings: Settings) -> Iterator[Check]:
    """Yield how many times are in the future, if any: a clock was wrong."""
    try:
        found = clocks.ahead(state, settings)
    except StateError:
        return  # the keys cannot be read, which is said already
    if found:
        said = f"{sum(found.values()):,} times in state and keys are in the future: a clock was wrong"
        cure = "If this machine's clock is right now: consent-sync state check, then consent-sync state repair"
        yield _PAST.warning("times", said, cure)


def _owed(state: State, settings: Settings) -> Iterator[Check]:
    """Yield what people who withdrew are owed, and what waits for a person."""
    found: dict[str, Any] = owing.figures(state, settings)
    said = f"{found['open']:,} open, {found['parked']:,} parked, {found['past_limit']:,} past their limit"
    if found["lists_waiting"]:
        said += f"; {found['clients_waiting']:,} of them by {text.counted(found['lists_waiting'], 'list')} in the inbox"
    if found["past_limit"]:
        cure = "consent-sync withdrawals status, then consent-sync drain"
        yield _OWED.problem("obligations", said, cure)
    elif found["past_target"]:
        said += f", {found['past_target']:,} past their target"
        yield _OWED.warning("obligations", said, "consent-sync withdrawals status, then consent-sync drain")
    else:
        yield _OWED.ok("obligations", said)
    if held := state.ledger.applied.held_runs():
        names = ", ".join(f"{one.run} ({one.grants:,} grants, {one.revocations:,} revocations)" for one in held)
        yield _OWED.warning("held", f"{names} wait for approval", "`consent-sync approve` without a run lists them")
    else:
        yield _OWED.ok("held", "nothing waits for approval")
