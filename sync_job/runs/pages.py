"""The pages that people look at: one beside each summary, and one over all that are kept."""

import json
import time
from contextlib import suppress
from pathlib import Path

import structlog

from sync_job.config import Settings
from sync_job.errors import ConfigError, StorageError
from sync_job.ledger import files
from sync_job.ledger.state import State
from sync_job.report import kept
from sync_job.report.counts import Summary
from sync_job.runs import look

_log = structlog.get_logger()
_AT_ONCE = 5  # pages that a run makes at most: its own, and those of runs that died before they did
_LOOKED_THROUGH = 400  # runs back, among which the last thirty nights are


def make(state: State, settings: Settings, own: Path) -> None:
    """Make the page of a run's *own* report, and of each of the newest others that has none.

    It is the last thing that a run does, and whatever is wrong with a page ends no run: the report itself is there.
    """
    if not settings.report.page:
        return
    newest: list[Path] = []
    with suppress(OSError):
        newest = kept.folders(settings.report.path, *state.ledger.about.targets())[-_AT_ONCE:]
    for folder in dict.fromkeys([own, *newest]):
        began = time.perf_counter()
        try:
            found = None if _page(folder).exists() else _summary(folder)
            if found:
                _write(state, settings, folder, found)
                _log.info("page.written", run=folder.name, seconds=round(time.perf_counter() - began, 2))
        except StorageError as exc:  # the next run makes it
            _log.warning("page.unwritten", run=folder.name, why=str(exc))
        except Exception as exc:  # noqa: BLE001 - a bug, and no reason to keep the next target's opt-outs waiting
            _log.warning("page.unwritten", run=folder.name, why=f"a bug, please report it: {type(exc).__name__}")


def of(settings: Settings, name: str | None) -> Path:
    """Return where the page of a run is, which is made if there is none.

    Raises:
        ConfigError: when there is no such run, or its report is not in its place any more.
    """
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        run = look.reported(state, name)
        folder = settings.report.path / run.run
        found = _summary(folder)
        if not found:
            raise ConfigError(f"{folder}: no report of run {run.run}. Was it moved, or [report] path changed?")
        if not _page(folder).exists():
            _write(state, settings, folder, found)
        return _page(folder)


def index(settings: Settings) -> Path:
    """Write the page over all reports that are kept, and return where it is."""
    from sync_job.report import page

    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        targets = state.ledger.about.targets()
    found = [one for folder in kept.folders(settings.report.path, *targets) if (one := _summary(folder))]
    path = settings.report.path / "index.html"
    text = page.index(found, settings.report.language)
    files.replace(path, lambda place: place.write_text(text, "utf-8"))
    return path


def _write(state: State, settings: Settings, folder: Path, found: Summary) -> None:
    from sync_job.report import page  # brings matplotlib, which takes a second

    earlier = look.earlier(state, found, _LOOKED_THROUGH)
    text = page.report(found, earlier, settings.report.language, found.get("config", ""))
    files.replace(_page(folder), lambda path: path.write_text(text, "utf-8"))


def _page(folder: Path) -> Path:
    return folder / "report.html"


def _summary(folder: Path) -> Summary | None:
    """Return the summary of a run's report; none where that is not finished, or of a comparison, which is no run."""
    try:
        found: Summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):  # also one that is damaged, of whomever it is
        return None
    return found if isinstance(found, dict) and "run" in found else None
