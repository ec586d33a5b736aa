"""Deltas are applied each once and in order: one that was missed is an error, for no later one says what it said."""

import time

from sync_job.config import Settings
from sync_job.errors import ExportError
from sync_job.exports import complete, naming
from sync_job.exports.loader import Export
from sync_job.ledger import deltas
from sync_job.ledger.deltas import Asked, File
from sync_job.ledger.state import State
from sync_job.report.lists import moment
from sync_job.runs.decide import Case, Wish, kind_of


def ask(settings: Settings, wish: Wish) -> Asked | None:
    """Note, without the lock, that a run is asked for a delta; return the note, None if the export is no delta.

    A stream has no name by which it could be asked for again.
    """
    where = settings.export.path
    if kind_of(settings, wish) != "delta" or not where or where == naming.STANDARD_INPUT:
        return None
    try:
        places = complete.places(where, settings.export, settings.run.zone)
        found = [File(place.name, place.size_bytes(), place.changed()) for place in places]
    except ExportError:
        return None  # the run will say so
    asked = Asked(found, time.time())
    deltas.ask(settings.state.path, asked)
    return next((one for one in deltas.pending(settings.state.path) if one.key == asked.key), asked)


def check(state: State, export: Export, asked: Asked | None, wish: Wish, now: float) -> None:
    """Refuse to decide by a delta while one before it was not applied.

    Raises:
        ExportError: naming those that were missed.
    """
    if asked is None:
        return
    missed = [
        (one.files[0].name, one.files[0].changed)
        for one in deltas.pending(state.folder)
        if one.is_before(asked) and not one.is_same(asked)
    ]
    last = state.ledger.applied.newest_delta(now)
    if last is not None:
        known = {name for name, _ in missed}
        missed += [(name, made) for name, made in export.left_out if made > last and name not in known]
    if missed and wish.skip_missed != len(missed):
        names = ", ".join(f"{naming.shown(name)} of {moment(made)}" for name, made in missed[:5])
        raise ExportError(
            f"{len(missed):,} delta{' was' if len(missed) == 1 else 's were'} not applied, and what a delta says no "
            f"later one says again: {names}. Run it first (`consent-sync run FILE`), then this one; or run a full "
            f"export. If it is lost, say --skip-missed {len(missed)}: nobody then knows who said no in it."
        )


def settle(state: State, case: Case, asked: Asked | None, now: float) -> None:
    """Note that the ledger has what was asked for, and that a full export makes older deltas superfluous."""
    pending = deltas.pending(state.folder)
    if asked is not None:
        deltas.done(state.folder, [one for one in pending if one.is_before(asked) or one.is_same(asked)])
    elif case.kind == "full" and not case.doubts:
        made = now if case.newest is None else case.newest
        deltas.done(state.folder, [one for one in pending if one.made <= made])
