"""Commands that send once more what was acknowledged, or take back what a run sent."""

from typing import Annotated

import typer

from sync_job.cli import completing, ending, options
from sync_job.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command()(backfill)
    app.command()(undo)


def backfill(
    config: options.ConfigOption,
    export: options.ExportArgument = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Send every *allowed* again too, for a platform that lost them.")
    ] = False,
    denials: Annotated[bool, typer.Option("--denials", help="Send every denial again, the default.")] = False,
    only: Annotated[str, typer.Option(metavar="CHANNELS", help="Of these channels, with commas: sms,email.")] = "",
    approve_grants: Annotated[
        int | None, typer.Option(min=0, help="With --all: the number of clients that are sent an *allowed*.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Send N random rows of every kind, and stop.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Show what it would send; make nothing due.")] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Take back what is neither acknowledged nor in doubt.")
    ] = False,
    as_of: options.AsOfOption = "",
    wait_for_export: options.WaitForExportOption = "",
    limit: Annotated[
        int | None, typer.Option(min=0, help="Send at most N rows of the export, beside all that is owed.")
    ] = None,
    until: options.UntilOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Send again what the platform should hold. It makes all of it due first; any later run carries it on.

    Example: consent-sync backfill export.csv --denials --sample 10 --config backfill.toml
    """
    from sync_job.report import plan_text
    from sync_job.runs import backfills, night, planning, telling
    from sync_job.runs.decide import Wish

    if everything and denials:
        raise ConfigError("backfill: --all and --denials are both said; --all sends the denials too.")
    if approve_grants is not None and not everything and not cancel:
        raise ConfigError("backfill: --approve-grants is for --all; nothing else sends an *allowed* again.")
    settings = options.load(config, export)
    if cancel:
        said = export or everything or denials or only or sample or check or until or as_of or wait_for_export
        if said or limit is not None or approve_grants is not None:
            raise ConfigError("backfill: --cancel takes back the backfill that is open, and nothing is said with it.")
        found = backfills.cancel(settings)
        options.print_json(found) if as_json else typer.echo(plan_text.cancelled(found))
        return
    wish = Wish(
        limit=limit,
        until=options.time_of_day(until),
        as_of=options.moment(as_of, settings, "--as-of"),
        again=backfills.again(only, grants=everything),
        approved=approve_grants,
        sample=sample,
    )
    watching = options.watch(quiet, lines=True)
    options.await_export(settings, wait_for_export, watching)
    watching.end()
    if check or (everything and approve_grants is None):
        found = planning.plan(settings, options.watch(quiet), None, wish)
        found = ending.shown(found) if check else found
        if as_json and check:
            options.print_json(found)
        else:
            typer.echo(plan_text.plan(found, str(config)), err=not check)
        if check:
            raise typer.Exit(found["exit"])
        wish = options.approved(wish, found["granted"])
        backfills.refuse_unapproved(found["granted"], wish.approved)
    with telling.how_it_ends(settings, "backfill"):
        report = night.run(settings, wish, options.watch(quiet, lines=True), kind="backfill")
    options.tell(report.summary, config, as_json=as_json, quiet=quiet)


def undo(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="The run: its id or number.", autocompletion=completing.runs)
    ],
    config: options.ConfigOption,
    check: Annotated[bool, typer.Option("--check", help="Show what it would send; send nothing.")] = False,
    restrict_only: options.RestrictOption = False,
    limit: Annotated[int | None, typer.Option(min=0, help="Send at most N rows, beside all that is owed.")] = None,
    until: options.UntilOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Deny what a run granted, if the platform still allows it. It grants nothing, and the guards apply.

    Example: consent-sync undo 12 --check --config nightly.toml
    """
    from sync_job.report import plan_text
    from sync_job.runs import night, planning, telling
    from sync_job.runs import undo as runs
    from sync_job.runs.decide import Wish

    settings = options.load(config)
    read = runs.reading(settings, name)
    wish = Wish(restrict_only=restrict_only, limit=limit, until=options.time_of_day(until), part=True)
    if check:
        found = ending.shown(planning.plan(settings, options.watch(quiet), None, wish, read))
        options.print_json(found) if as_json else typer.echo(plan_text.plan(found, str(config)))
        raise typer.Exit(found["exit"])
    with telling.how_it_ends(settings, "undo"):
        report = night.run(settings, wish, options.watch(quiet), kind="undo", read=read)
    options.tell(report.summary, config, as_json=as_json, quiet=quiet)
