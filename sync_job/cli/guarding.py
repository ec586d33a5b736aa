"""Commands with which a person answers for what the program would not do by itself."""

import sys
from typing import Annotated

import typer

from sync_job.cli import completing, options
from sync_job.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command()(approve)
    app.command()(pause)
    app.command()(resume)
    app.command()(purge)


def approve(
    config: options.ConfigOption,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="The run that held it: its id or number; none to list them.",
            autocompletion=completing.runs,
        ),
    ] = None,
    export: Annotated[
        str | None, typer.Argument(metavar="EXPORT", help="With --now: what to run, instead of [export] path.")
    ] = None,
    grants: Annotated[int | None, typer.Option(min=1, help="The number of clients whose grants it held.")] = None,
    revocations: Annotated[
        int | None, typer.Option(min=1, help="The number of clients whose revocations it held.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="The number of clients of its export, which is right as it is.")
    ] = None,
    reason: options.ReasonOption = "",
    by: options.ByOption = "",
    now: Annotated[bool, typer.Option("--now", help="Run at once.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Let through what a run held, by its number; the next run sends what of it is still stated.

    Example: consent-sync approve 12 --grants 1204 --reason "spring campaign" --by "CRM lead" --config nightly.toml
    """
    from sync_job.report import plan_text
    from sync_job.runs import approving, night, telling
    from sync_job.runs.decide import Wish

    if export and not now:
        raise ConfigError("approve: EXPORT is what --now runs; say --now, or leave EXPORT out.")
    settings = options.load(config, export)
    given = {"grants": grants, "revocations": revocations, "clients": clients}
    chosen = [(what, count) for what, count in given.items() if count is not None]
    if name is None:
        if chosen or now or reason or by:
            raise ConfigError("approve: say which RUN held it; `approve` without anything lists the runs that did.")
        held = [vars(one) for one in approving.held(settings)]
        options.print_json({"held": held}) if as_json else typer.echo(plan_text.held(held))
        return
    if len(chosen) != 1:
        raise ConfigError(
            "approve: say one of --grants N, --revocations N and --clients N, with the number that is meant."
        )
    ((what, count),) = chosen
    found = approving.approve(settings, name, what, count, reason=reason, by=by)
    if not now:
        options.print_json(found.shown()) if as_json else typer.echo(plan_text.approved(found.shown()))
        return
    if not as_json and sys.stdout.isatty():
        typer.echo(plan_text.approved(found.shown()))
    with telling.how_it_ends(settings, "run"):
        report = night.run(settings, Wish(), options.watch(quiet))
    options.tell(report.summary, config, as_json=as_json, quiet=quiet)


def pause(config: options.ConfigOption, reason: options.ReasonOption, by: options.ByOption) -> None:
    """Let nothing be sent until `resume`; a run that is under way goes on, and lists are still taken in.

    Example: consent-sync pause --reason "the platform is being migrated" --by operations --config nightly.toml
    """
    from sync_job.runs import pausing

    typer.echo(pausing.pause(options.load(config), reason=reason, by=by))


def resume(config: options.ConfigOption) -> None:
    """Let runs send again.

    Example: consent-sync resume --config nightly.toml
    """
    from sync_job.runs import pausing

    typer.echo(pausing.resume(options.load(config)))


def purge(
    config: options.ConfigOption, as_json: options.JsonOption = False, quiet: options.QuietOption = False
) -> None:
    """Remove now what names clients in reports older than [report] keep_days; every run does it at its end.

    Example: consent-sync purge --config nightly.toml
    """
    from sync_job.report import state_text
    from sync_job.runs import purging

    with options.showing(quiet, "removing"):
        found = purging.purge(options.load(config))
    if as_json:
        options.print_json(found)
    elif not quiet:
        typer.echo(state_text.purged(found))
