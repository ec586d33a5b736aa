"""Deltas are applied each once and in order: one that was missed is an error, for no later one says what it said."""

import time

from sync_job.config import Settings
from sync_job.errors import ExportError
from sync_job.exports import complete, naming, sources
from sync_job.ledger import deltas
from sync_job.ledger.deltas import Asked, File
from sync_job.ledger.state import State
from sync_job.report.lists import moment
from sync_job.runs.decide import Case, Wish, kind_of


def look(settings: Settings, wish: Wish) -> Asked | None:
    """Return the delta that is asked for, None if the export is none.

    A stream has no name by which it could be asked for again.
    """
    where = settings.export.path
    if kind_of(settings, wish) != "delta" or not where or where == naming.STANDARD_INPUT:
        return None
    try:
        places = complete.places(where, settings.export, settings.run.zone)
        found = [File(place.name, sources.digest(place), place.changed()) for place in places]
    except ExportError:
        return None  # the run will say so
    return Asked(found, time.time())


def ask(settings: Settings, asked: Asked | None) -> Asked | None:
    """Note, without the lock, that a delta is asked for; return the first note of it."""
    if asked is None:
        return None
    deltas.ask(settings.state.path, asked)
    return next((one for one in deltas.pending(settings.state.path) if one.key == asked.key), asked)


def check(state: State, left_out: list[tuple[str, float]], asked: Asked | None, wish: Wish, now: float) -> None:
    """Refuse to decide by a delta while one before it was not applied, also of those that the export *left_out*.

    Raises:
        ExportError: naming those that were missed.
    """
    if asked is None:
        return
    missed = [
        (one.files[0].name, one.files[0].changed)
        for one in deltas.pending(state.folder)
        if one.is_before(asked) and one.key != asked.key
    ]
    last = state.ledger.applied.newest_delta(now)
    if last is not None:
        known = {name for name, _ in missed}
        missed += [(name, made) for name, made in left_out if made > last and name not in known]
    if missed and wish.skip_missed != len(missed):
        names = ", ".join(f"{naming.shown(name)} of {moment(made)}" for name, made in missed[:5])
        raise ExportError(
            f"{len(missed):,} delta{' was' if len(missed) == 1 else 's were'} not applied, and what a delta says no "
            f"later one says again: {names}. Run it first (`consent-sync run FILE`), then this one; or run a full "
            f"export. If it is lost, say --skip-missed {len(missed)}: nobody then knows who said no in it."
        )


def superfluous_until(case: Case, now: float) -> float | None:
    """Return up to when what deltas said is said by a full export (epoch seconds); None if the export is none."""
    if case.kind != "full" or case.doubts:
        return None
    return now if case.newest is None else case.newest


def settle(state: State, asked: Asked | None, *, superfluous_until: float | None = None) -> None:
    """Note, once the plan of an export is durable, that a delta was decided by, and which others are not needed."""
    pending = deltas.pending(state.folder)
    if asked is not None:
        deltas.done(state.folder, [one for one in pending if one.is_before(asked) or one.key == asked.key])
    if superfluous_until is not None:
        deltas.done(state.folder, [one for one in pending if one.made <= superfluous_until])
