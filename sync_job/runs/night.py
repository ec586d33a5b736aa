"""The main run: recover, obligations, then the export's plan, each leg delivered and committed, then the report."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from sync_job.config import Settings
from sync_job.consent.diff import Rows, obligations
from sync_job.delivery import hours, tls
from sync_job.delivery.sending import HOPELESS
from sync_job.errors import ConfigError, Exit, ExportError
from sync_job.ledger import inbox
from sync_job.ledger.state import State
from sync_job.report import lists
from sync_job.runs import decide, leg, report
from sync_job.runs.recover import holding
from sync_job.runs.report import Findings, Report, Stopwatch
from sync_job.runs.watch import Watch

_log = structlog.get_logger()


@dataclass(frozen=True)
class Wish:
    """What this run was asked for beyond its settings."""

    restrict_only: bool = False
    limit: int | None = None
    until: str = ""


def name_at(moment: float) -> str:
    """Return a time as it stands in a run's id."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")


def run(settings: Settings, wish: Wish, watch: Watch) -> Report:
    """Bring the platform to what the export says, and return the report.

    Raises:
        ConsentSyncError: what ended the run before its report; nothing that was acknowledged is lost by it.
    """
    tls.context(settings.endpoint)  # what is wrong with its files is said before a leg is begun
    with holding(settings) as state:
        started = time.time()
        findings = Findings("run", state.ledger.begin("run", started, name_at(started)), started)
        _log.info("run.started", run=findings.run)
        watch.announce(settings.state.path, "run", findings.run)
        laps = Stopwatch()
        try:
            if not first_leg(state, settings, findings, watch, wish.limit):
                _export_leg(state, settings, findings, watch, laps, wish)
            return conclude(state, settings, findings, watch, laps)
        except (ConfigError, ExportError) as exc:
            # What was owed is delivered; the rest could not be known. The history says so, and why.
            findings.add(exc.exit_code, str(exc))
            conclude(state, settings, findings, watch, laps)
            raise
        finally:
            watch.end()


def first_leg(state: State, settings: Settings, findings: Findings, watch: Watch, limit: int | None) -> bool:
    """Deliver what is owed before the export is opened, whatever the hour; return whether the run has to stop."""
    inbox.absorb(state.folder)
    owed = state.ledger.obligations()
    if not owed.clients():
        return False
    rows = obligations(state.holdings(), owed)
    stopped = _send(state, settings, findings, watch, 0, rows, leg.Manner(limit))
    # A handful of rows without a good answer may be those rows; whether the endpoint is there, the export shows.
    return stopped and not (findings.codes == {Exit.ENDPOINT} and len(rows) < HOPELESS)


def _export_leg(
    state: State, settings: Settings, findings: Findings, watch: Watch, laps: Stopwatch, wish: Wish
) -> None:
    folder = report.folder_of(settings, findings.run)
    export, findings.reject_keys = decide.read(settings, watch, folder, first_look=False)
    laps.lap("read")
    known = state.holdings(), state.ledger.lingering()
    found = decide.decide(
        settings,
        findings,
        export,
        known,
        state.ledger.withdrawn(),
        state.ledger.obligations(),
        watch,
        laps,
        restrict_only=wish.restrict_only,
    )
    if settings.export.kind == "full":
        lists.write_clients(folder / "absent.csv", found.absent)
    rows = found.rows
    del export, known, found
    send_plan(state, settings, findings, watch, rows, wish)
    laps.lap("deliver")


def send_plan(state: State, settings: Settings, findings: Findings, watch: Watch, rows: Rows, wish: Wish) -> None:
    """Deliver the plan of an export, as far as its hours let it."""
    delivery, zone = settings.delivery, settings.run.zone
    until = hours.closes_at(delivery.window, wish.until, findings.started, zone)
    if until is None:  # not open when the run began; it may be now
        until = hours.closes_at(delivery.window, wish.until, time.time(), zone)
    if until is None:
        if len(rows):
            findings.add(Exit.ATTENTION, f"outside [delivery] window = {delivery.window!r}: the export was not sent")
        _send(state, settings, findings, watch, 1, rows, leg.Manner(limit=0))
    else:
        _send(state, settings, findings, watch, 1, rows, leg.Manner(wish.limit, until, delivery.canary))


def _send(
    state: State, settings: Settings, findings: Findings, watch: Watch, number: int, rows: Rows, manner: leg.Manner
) -> bool:
    """Deliver a leg, and note how it went and why it stopped early; return whether it did."""
    about = findings.kept() if number else {}
    stopped, delivery = leg.deliver(state, settings, findings.run, number, rows, about, watch, manner)
    findings.deliveries.append(delivery)
    if stopped:
        findings.add(stopped.exit_code, stopped.why)
    inbox.absorb(state.folder)
    return stopped is not None


def conclude(state: State, settings: Settings, findings: Findings, watch: Watch, laps: Stopwatch) -> Report:
    """Note that everything is committed, and write the report."""
    watch.stage("reporting")
    ended = time.time()
    state.ledger.finish(findings.run, ended)
    made = report.write(state, settings, findings, laps, ended)
    _log.info("run.ended", run=findings.run, exit=int(made.exit_code))
    return made
