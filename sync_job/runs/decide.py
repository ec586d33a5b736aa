"""From an export and what is known to the plan: what `run`, `plan` and `apply` have in common."""

import time
from pathlib import Path

from sync_job.config import Settings
from sync_job.consent.diff import Diff, Holdings, Lingering, Terms, diff, owed_first
from sync_job.consent.tables import Table, union
from sync_job.errors import ConfigError, Exit
from sync_job.exports import loader
from sync_job.exports.blocks import Rejects
from sync_job.exports.loader import Export
from sync_job.report import counts, lists
from sync_job.report.lists import RejectsFile
from sync_job.runs.report import Findings, Stopwatch
from sync_job.runs.watch import Watch


def read(
    settings: Settings, watch: Watch, folder: Path | None, *, first_look: bool
) -> tuple[Export, list[tuple[str, str]]]:
    """Return the export, and the keys by which its rejects are known again.

    Rejects and clients whose rows disagree are listed in *folder*.
    """
    if not settings.export.path:
        raise ConfigError("No export: name it on the command line, or set [export] path.")
    watch.stage("reading")
    file = RejectsFile(folder / "rejects.csv") if folder else None

    def keep(found: Rejects) -> None:
        if file:
            file.write(found.table)

    try:
        export = loader.load(
            settings.export,
            settings.run.zone,
            where=settings.export.path,
            first_look=first_look,
            sink=keep,
            progress=watch.at,
        )
    finally:
        if file:
            file.close()
    if folder:
        lists.write_flags(folder / "duplicates.csv", export.conflicting, export.statements.of(export.conflicting))
    return export, file.keys if file else []


def decide(
    settings: Settings,
    findings: Findings,
    export: Export,
    known: tuple[Holdings, Lingering],
    withdrawn: Table,
    owed: Table,
    watch: Watch,
    laps: Stopwatch,
    *,
    restrict_only: bool,
) -> Diff:
    """Return what has to be sent, and note in *findings* how it was decided.

    A client with an open obligation (*owed*) is granted nothing: its row carries denials alone.
    """
    watch.stage("deciding")
    if restrict_only:
        findings.restrict_only = "asked for (--restrict-only)"
    if export.missing:
        findings.restrict_only = f"the export lacks {', '.join(map(repr, export.missing))}"
        findings.add(
            Exit.HELD,
            f"the export has no column {', '.join(map(repr, export.missing))}: nothing is granted until it is back, or "
            'mapped to "" in [export.columns]',
        )
    terms = Terms(
        may_grant=not findings.restrict_only,
        restate=settings.endpoint.restate == "denials",
        ungranted=union(export.ungranted, owed.items()[0]),
    )
    found = diff(export.statements, known[0], withdrawn, known[1], terms, time.time())
    if owed.clients():
        found = found._replace(rows=owed_first(found.rows, owed))
    if settings.export.kind == "delta":
        found.counts.absent = 0
    findings.export = export.counts()
    findings.decided = counts.decided(found.counts)
    findings.changes = counts.changes(found.rows)
    laps.lap("decide")
    return found
