"""Deltas are applied each once and in order: one that was missed is an error, for no later one says what it said."""

import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sync_job.config import Settings
from sync_job.errors import ConfigError, Exit, ExportDateError, ExportError, ExportIncompleteError
from sync_job.exports import age, complete, loader, naming, sources
from sync_job.exports.loader import Export
from sync_job.exports.sources import Place
from sync_job.ledger import deltas
from sync_job.ledger.deltas import Asked, File
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.report.lists import moment
from sync_job.runs.decide import Case, Wish, kind_of
from sync_job.runs.report import Findings

_SHOWN = 5


def look(settings: Settings, wish: Wish) -> Asked | None:
    """Return the delta that is asked for, None if the export is none or not there."""
    where = settings.export.path
    if kind_of(settings, wish) != "delta" or not where:
        return None
    try:
        places = complete.places(where, settings.export, settings.run.zone)
        files = [_file(settings, place) for place in places]
    except ExportError:
        return None  # the run will say so
    whole = settings.export.pick == "all" and where != naming.STANDARD_INPUT
    return Asked(files, _full(where) if whole else "", _is_ready(settings, places))


def _file(settings: Settings, place: Place) -> File:
    """Return what is noted of one file, also if this user may not read it."""
    if settings.export.path == naming.STANDARD_INPUT:
        return File(place.name, sources.digest(place), time.time(), time.time())
    changed = place.changed()
    try:
        digest = sources.digest(place)
    except ExportIncompleteError:
        raise
    except ExportError:
        digest = ""
    try:
        made = age.of_file(settings.export.as_of, place, settings.run.zone)
    except ExportDateError:
        made = changed
    return File(_full(place.name), digest, changed, made)


def _full(name: str) -> str:
    """Return a path from the root, so that it is the same from whatever folder it was named; an address as it is."""
    return name if naming.is_url(name) else str(Path(name).absolute())


def _is_ready(settings: Settings, places: list[Place]) -> bool:
    """Return whether the delta is complete and has a header that can be read, as far as that is known without waiting.

    A stream is: another one is never the same.
    """
    where = settings.export.path
    if where == naming.STANDARD_INPUT:
        return True
    try:
        complete.ready(where, settings.export, settings.run.zone, sleep=_refuse_waiting)
        for place in places:
            loader.check_header(place, settings.export)
    except ExportError:
        return False
    except ConfigError:
        return True  # which is not the file's fault
    return True


def _refuse_waiting(_: float) -> None:
    raise ExportIncompleteError("it may still be written")


def ask(settings: Settings, asked: Asked | None) -> Asked | None:
    """Note, without the lock, that a delta is asked for; return the note."""
    return asked and deltas.ask(settings.state.path, asked)


def noted(settings: Settings, asked: Asked) -> Asked:
    """Return a delta with the number that asking for it would give it, and note nothing."""
    return deltas.numbered(deltas.pending(settings.state.path), asked)


@contextmanager
def reading(state: State, asked: Asked | None) -> Iterator[None]:
    """Note it if the delta that is read in the block is not complete, or cannot be read."""
    try:
        yield
    except ExportDateError:
        raise
    except ExportError:
        if asked:
            deltas.not_ready(state.folder, asked)
        raise


def as_read(asked: Asked | None, export: Export) -> list[File]:
    """Return the files of a delta with the digests of what was read, which may be more than when it was asked for."""
    read = {_full(one.path): one.sha256 for one in export.inputs}
    files = [] if asked is None else asked.files
    return [replace(file, digest=read.get(file.name, file.digest)) for file in files]


class _Missed(NamedTuple):
    """A delta that was not applied: what to type for it, and when it was made (epoch seconds)."""

    names: list[str]
    made: float

    @property
    def name(self) -> str:
        return " and ".join(shlex.quote(naming.shown(name)) for name in self.names)

    def __str__(self) -> str:
        return f"{self.name} of {moment(self.made)}"


def check(
    state: State, settings: Settings, left_out: list[tuple[str, float]], asked: Asked | None, wish: Wish, now: float
) -> list[File]:
    """Refuse to decide by a delta while one before it was not applied, also of those that the export *left_out*.

    Return the files that were left out, were never applied, and are given up because *wish* says so.

    Raises:
        ExportError: naming those that were missed.
    """
    if asked is None:
        return []
    before = [note for note in _missed(state) if note.is_before(asked, now) and not _concern_each_other(note, asked)]
    files = _never_applied(state, settings, left_out, now)
    named = {file.digest for note in before for file in note.files}
    missed = [_Missed(_typed(note), note.made) for note in before]
    missed += [_Missed([file.name], file.made) for file in files if file.digest not in named]
    if missed and wish.skip_missed != len(missed):
        raise ExportError(_said(missed))
    return files


def _said(missed: list[_Missed]) -> str:
    several = len(missed) > 1
    more = f" and {len(missed) - _SHOWN:,} more" if len(missed) > _SHOWN else ""
    return (
        f"{len(missed):,} delta{'s were' if several else ' was'} not applied, and what a delta says no later one says "
        f"again: {', '.join(map(str, missed[:_SHOWN]))}{more}. Run {'them' if several else 'it'} first "
        "(`consent-sync run FILE`), then this one; or run a full export that was made later. If "
        f"{'they are' if several else 'it is'} lost, say --skip-missed {len(missed)}: nobody then knows who said no in "
        f"{'them' if several else 'it'}."
    )


def _missed(state: State) -> list[Asked]:
    """Return the deltas that were asked for and not applied, in that order, each once."""
    notes = deltas.pending(state.folder)
    applied = state.ledger.delta_files.are_known({digest for note in notes for digest in note.digests})
    notes = [note for note in notes if not note.is_among([], applied)]
    return [note for note in notes if not any(note.digests < other.digests for other in notes)]


def _concern_each_other(note: Asked, asked: Asked) -> bool:
    """Return whether what is asked for is what was noted, has it within, or is a piece of it."""
    return note.is_among(asked.files) or asked.is_among(note.files)


def _typed(note: Asked) -> list[str]:
    """Return what has to be typed to have a delta applied."""
    return [note.where] if note.where and len(note.files) > 1 else [file.name for file in note.files]


def _never_applied(state: State, settings: Settings, left_out: list[tuple[str, float]], now: float) -> list[File]:
    """Return the files that `pick` left out, that were not applied and that no full export covers, the oldest first."""
    covered, known = state.ledger.applied.covered_until(now), state.ledger.delta_files
    if not left_out:
        return []
    # A name with a date alone dates a file to its first minute, and it may say what was said later that day.
    made = dict(left_out)
    places = [place for place in sources.places(settings.export.path) if place.name in made]
    files = [
        _file(settings, place)
        for place in places
        if (covered is None or max(made[place.name], place.changed()) >= covered)
        and not known.has(_full(place.name), place.changed())
    ]
    applied = known.are_known({file.digest for file in files})
    return sorted((file for file in files if file.digest not in applied), key=lambda file: file.made)


def superfluous_until(case: Case, now: float) -> float | None:
    """Return until when what deltas said is said by a full export (epoch seconds); None if it says nothing for sure.

    That is when the oldest of its files was made. One of unknown age may be older than any delta, and one that was
    doubted may lack what they said.
    """
    if case.kind != "full" or case.doubts or case.judgement.only_owed or case.oldest is None:
        return None
    return min(now, case.oldest)


def settle(
    state: State, run: str, asked: Asked | None, files: Iterable[File], *, superfluous_until: float | None = None
) -> None:
    """Note, once the plan of an export is durable, that a delta was decided by, and which others are not needed.

    *files* are those that were read, and those that were given up.
    """
    notes, ledger = deltas.pending(state.folder), state.ledger
    if asked is not None:
        files = list(files)
        ledger.delta_files.add(files)
        applied = ledger.delta_files.are_known({digest for note in notes for digest in note.digests})
        given, now = [*files, *asked.files], time.time()
        over = [note for note in notes if note.is_among(given, applied)]
        over += [note for note in notes if note.is_before(asked, now) and not _concern_each_other(note, asked)]
        deltas.done(state.folder, over)
    if superfluous_until is not None:
        ledger.applied.cover(run, superfluous_until)
        deltas.done(state.folder, [note for note in notes if note.newest < superfluous_until])


# Grants of a delta that was cut short


def note_unsent(state: State, case: Case, findings: Findings) -> None:
    """Note that the delta before this one was not sent whole, for what it grants is in no later one."""
    unsent = _unsent(state)
    if case.kind == "delta" and unsent and unsent["digest"] != case.digest:
        findings.add(
            Exit.ATTENTION,
            f"{', '.join(unsent['files'])} was not sent whole, and this delta came after it: {unsent['grants']:,} "
            "clients did not get what it grants them, and do not before a newer export says it again",
        )


def _unsent(state: State) -> Summary | None:
    """Return files, digest and how many clients' grants were not sent of the last delta, if any were not."""
    last = state.ledger.applied.last_delta()
    run = last and state.ledger.run(last[0])
    if not last or not run or not (run.summary or {}).get("grants_unsent"):
        return None
    summary = run.summary or {}
    return {
        "run": run.run,
        "files": [naming.shown(one["path"]) for one in summary["export"]["inputs"][:_SHOWN]],
        "digest": last[1],
        "grants": summary["grants_unsent"],
    }


def figures(state: State) -> Summary:
    """Return which deltas were asked for and not applied, and the last one if its grants were not all sent."""
    missed = [{"name": _Missed(_typed(note), note.made).name, "made": note.made} for note in _missed(state)]
    return {"missed": missed, "unsent": _unsent(state)}
