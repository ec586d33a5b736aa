"""`state check` and `state repair`: what is on disk, and the removal of what is provably nobody's."""

from collections import Counter
from contextlib import suppress

from sync_job.config import Settings
from sync_job.errors import Exit, NoStateError, OlderStateError, StateError, gravest
from sync_job.ledger import files, inspection, lock
from sync_job.ledger.inspection import Finding, Verdict
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.runs import clocks, whose
from sync_job.runs.watch import Watch
from sync_job.runs.whose import Bound

_TRIES = 3  # a run that commits while it is looked at makes things seem what they are not
_MENDED = (Verdict.ORPHAN, Verdict.MODE)
_TIDY = (Verdict.OK, Verdict.BUSY)


def check(settings: Settings, watch: Watch | None = None) -> Summary:
    """Return what everything on disk is worth; nothing is changed, and no run is kept waiting.

    It is judged as what it is, whatever address the configuration has; *mend* says if that is another, which is 4.

    Raises:
        NoStateError: when there is none.
    """
    folder = settings.state.path
    _refuse_missing(settings)
    bound = whose.bound(settings)
    settings = bound.settings
    times = _ahead(settings)
    for _ in range(_TRIES):
        busy, before = lock.is_held(folder), _fingerprint(settings)
        found = _inspect(bound, busy=busy, watch=watch)
        unsound = any(one.verdict not in _TIDY for one in found)
        if not unsound or (busy, before) == (lock.is_held(folder), _fingerprint(settings)):
            break
    counts = Counter(one.verdict for one in found)
    return {
        "target": settings.endpoint.target,
        "state": str(folder.absolute()),
        "keys": str(settings.state.keys.absolute()),
        "running": lock.describe(lock.running(folder)) if busy else "",
        "things": [_shown(one) for one in found],
        "counts": {str(verdict): counts[verdict] for verdict in Verdict},
        "from_the_future": times,
        "mend": bound.mend,
        "exit": int(gravest({_exit(found, bound), Exit.ATTENTION if times else Exit.OK})),
    }


def repair(settings: Settings) -> Summary:
    """Remove orphans, fix modes and times from the future; return what was done and what is left. Damage is left.

    Raises:
        NoStateError, BusyError: when there is no state, or a run is under way.
    """
    folder = settings.state.path
    _refuse_missing(settings)
    bound = whose.bound(settings)
    settings = bound.settings
    with lock.held(folder):
        migrated = _migrate(settings)
        done = [one for one in _inspect(bound, busy=False) if one.verdict in _MENDED]
        for one in done:
            if one.verdict is Verdict.ORPHAN:
                files.remove(one.path)
            else:
                files.make_private(one.path)
        times = _bring_back(settings)
        left = [one for one in _inspect(bound, busy=False) if one.verdict not in _TIDY]
    return {
        "target": settings.endpoint.target,
        "migrated": migrated,
        "removed": [_shown(one) for one in done if one.verdict is Verdict.ORPHAN],
        "brought_to_now": times,
        "mended": [_shown(one) for one in done if one.verdict is Verdict.MODE],
        "left": [_shown(one) for one in left],
        "mend": bound.mend,
        "exit": int(_exit(left, bound)),
    }


def _migrate(settings: Settings) -> bool:
    """Bring a ledger of an older version to today's, and return whether it was one; damage is for the look at it."""
    path, target = settings.state.path / "ledger.db", settings.endpoint.target
    with suppress(StateError):
        try:
            Ledger.open(path, target, write=False).close()
        except OlderStateError:
            Ledger.open(path, target, write=True).close()
            return True
    return False


def _ahead(settings: Settings) -> dict[str, int]:
    """Return how many times of each kind are in the future; nothing if state or keys cannot be read."""
    with suppress(StateError), State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        return clocks.ahead(state, settings)
    return {}


def _bring_back(settings: Settings) -> dict[str, int]:
    """Bring times from the future to now, and return how many of each kind; damage is left as it is."""
    with suppress(StateError), State.open(settings.state.path, settings.endpoint.target, write=True) as state:
        return clocks.bring_back(state, settings)
    return {}


def _inspect(bound: Bound, *, busy: bool, watch: Watch | None = None) -> list[Finding]:
    state, target = bound.settings.state, bound.settings.endpoint.target
    keys = state.keys if bound.keyed else None
    return inspection.inspect(state.path, target, busy=busy, keys=keys, progress=(watch or Watch()).at)


def _refuse_missing(settings: Settings) -> None:
    folder = settings.state.path
    with files.storing(folder):
        there = folder.is_dir() and any(folder.iterdir())
    if not there:
        raise NoStateError(f"{folder.absolute()}: no state. Is [state] path right?")


def _fingerprint(settings: Settings) -> tuple[int, int]:
    """Return what changes with every commit of the ledger."""
    path = settings.state.path / "ledger.db"
    with files.storing(path):
        said = path.stat() if path.exists() else None
    return (said.st_mtime_ns, said.st_size) if said else (0, 0)


def _exit(found: list[Finding], bound: Bound) -> Exit:
    codes = {Exit.ATTENTION for one in found if one.verdict not in _TIDY}
    if bound.mend or any(one.verdict is Verdict.DAMAGED for one in found):
        codes.add(Exit.STATE)
    return gravest(codes)


def _shown(one: Finding) -> Summary:
    return {"what": one.what, "verdict": str(one.verdict), "words": one.words}
