"""`doctor`: looks at everything that a run needs, each thing for itself, and says what is wrong and how to mend it.

It works as far as it can with whatever is broken. It sends no update, waits for no lock, and changes nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sync_job.config import Settings
from sync_job.errors import ConsentSyncError, Exit, gravest
from sync_job.report.counts import Summary
from sync_job.runs.doctor import clock, configuration, disk, state, versions
from sync_job.runs.doctor.check import Area, Check, Verdict
from sync_job.runs.watch import Watch

Look = Callable[[], Iterable[Check]]


def examine(file: Path, watch: Watch, *, offline: bool = False, login: bool = False) -> Summary:
    """Return every check with what was found and the cure; `exit` is the code of the gravest problem.

    *offline*: the endpoint is not asked. *login*: a token is asked for as well.
    """
    watch.stage("looking at the configuration")
    settings, checks = configuration.load(file)
    with_secrets = not checks or checks[0].verdict is Verdict.OK
    checks += _guarded("configuration", Exit.CONFIG, lambda: configuration.look(file, settings))
    if settings is None:
        checks.append(Area("state", Exit.STATE).skipped("everything else", "the configuration cannot be used"))
    else:
        for name, code, look in _looks(settings):
            watch.stage(f"looking at: {name}")
            checks += _guarded(name, code, look)
        watch.stage("looking at: endpoint")
        asked = _endpoint(settings, offline=offline, login=login and with_secrets)
        checks += _guarded("endpoint", Exit.ENDPOINT, lambda: asked)
    checks += _guarded("versions", Exit.CONFIG, versions.look)
    watch.end()
    places = {area: place for place, area in reversed(list(enumerate(one.area for one in checks)))}
    checks.sort(key=lambda one: places[one.area])  # what was found of an area stands together, in the order of looking
    counts = Counter(one.verdict for one in checks)
    return {
        "target": settings.endpoint.target if settings else None,
        "config": str(file.absolute()),
        "at": time.time(),
        "checks": [one.shown() for one in checks],
        "counts": {str(verdict): counts[verdict] for verdict in Verdict},
        "exit": int(gravest({one.code for one in checks if one.verdict is Verdict.PROBLEM})),
    }


def _looks(settings: Settings) -> Iterator[tuple[str, Exit, Look]]:
    yield "disk", Exit.STATE, lambda: disk.look(settings)
    yield "export", Exit.EXPORT, lambda: disk.export(settings)
    yield "state", Exit.STATE, lambda: state.look(settings)
    yield "clock", Exit.STATE, lambda: clock.look(settings, state.newest_time(settings), time.time())


def _endpoint(settings: Settings, *, offline: bool, login: bool) -> Iterator[Check]:
    from sync_job.delivery import probe
    from sync_job.runs.doctor import endpoint  # brings aiohttp

    if offline:
        yield endpoint.unasked("--offline: not asked")
        return
    reached = probe.reach(settings.endpoint)
    yield from endpoint.look(settings, reached)
    yield from clock.beside(reached)
    if login:
        yield endpoint.login(settings)


def _guarded(name: str, code: Exit, look: Look) -> Iterator[Check]:
    """Yield what *look* finds; whatever ends it is a problem in its place, and ends no other look."""
    area = Area(name, code)
    try:
        yield from look()
    except ConsentSyncError as exc:
        yield area.problem("look", str(exc), code=exc.exit_code)
    except OSError as exc:
        yield area.problem("look", f"{exc.filename or name}: {exc.strerror or exc}", "Look at its owner and mode.")
    except Exception as exc:  # noqa: BLE001 - what is broken in a way that nobody thought of is a finding like any
        said = f"it could not be looked at: {type(exc).__name__}"
        yield area.problem("look", said, "`consent-sync state check` may say more; please report this.")
