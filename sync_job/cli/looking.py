"""Commands that look and change nothing: an export, the snapshot, the runs so far, and what is running now."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sync_job.cli import completing, drawing, helping, options
from sync_job.errors import ConfigError

_snapshot = typer.Typer(
    help="What the platform is known to hold, and what is due.",
    epilog=helping.epilog("consent-sync snapshot show 12345 --config nightly.toml"),
    no_args_is_help=True,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (check, runs, report, status):
        app.command()(command)
    app.add_typer(_snapshot, name="snapshot")


def check(
    export: options.ExportArgument = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The configuration (TOML).", autocompletion=completing.configurations),
    ] = None,
    as_of: options.AsOfOption = "",
    sheet: options.SheetOption = "",
    infer: Annotated[
        bool, typer.Option("--infer", help="Print the [export] section that would read the file, with reasons.")
    ] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Read configuration and export, and say what was seen. No request, no state.

    Example: consent-sync check export.csv --config nightly.toml
    """
    from sync_job.config import ExportSettings, RunSettings
    from sync_job.report import check_text, infer_text
    from sync_job.runs import checking

    if config is None:
        settings, run_settings, made = ExportSettings(as_of="none"), RunSettings.model_validate({}), None
    else:
        loaded = options.load(config, shows=True)
        settings, run_settings = loaded.export, loaded.run
        made = options.moment(as_of, loaded, "--as-of")
    where = export or settings.path
    if not where:
        raise ConfigError("check: name an export, or a configuration with [export] path.")
    if sheet:
        settings = settings.model_copy(update={"sheet": sheet})
    if infer:
        with options.showing(quiet, "looking at the file"):
            guesses = checking.infer(settings, where)
        options.print_json({"guesses": guesses}) if as_json else typer.echo(infer_text.section(guesses))
        return
    found = checking.check(settings, run_settings.zone, where, options.watch(quiet), made)
    options.print_json(found) if as_json else drawing.show(check_text.check(found))


@_snapshot.command()
def show(
    clients: Annotated[list[int], typer.Argument(metavar="CLIENT…", help="Ids of clients.")],
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
) -> None:
    """Show what is known and due of single clients, what they withdrew, and what is owed to them.

    Example: consent-sync snapshot show 12345 12346 --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import explain, look

    settings, silent = options.load(config, shows=True), options.watch(True)
    found = look.show(settings, clients)
    for one in found:
        known = explain.explain(settings, one["Client"], silent, with_export=False)
        one["withdrawn"] = [channel for channel, said in known["channels"].items() if said["withdrawn"]]
        one["owed"] = [
            {name: owed[name] for name in ("owed", "source", "started", "limit_at")}
            for owed in known["obligations"]
            if owed["owed"]
        ]
        one["parked"] = bool(one["owed"] and known["waiting"] and known["waiting"]["not_found"])
    options.print_json({"clients": found}) if as_json else typer.echo(text.clients(found))


@_snapshot.command(name="export")
def export_(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A file ending in .csv or .parquet.", autocompletion=completing.files)
    ],
    config: options.ConfigOption,
    quiet: options.QuietOption = False,
) -> None:
    """Write the whole snapshot to a file: Client, the four flags, and what is due.

    Example: consent-sync snapshot export snapshot.csv --config nightly.toml
    """
    from sync_job.runs import look

    with options.showing(quiet, "writing the snapshot"):
        count = look.export(options.load(config, shows=True), out)
    if not quiet:
        typer.echo(f"{count:,} clients written to {out}")


def runs(config: options.ConfigOption, as_json: options.JsonOption = False) -> None:
    """List the runs so far.

    Example: consent-sync runs --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.history(options.load(config, shows=True))
    options.print_json({"runs": found}) if as_json else typer.echo(text.history(found))


def report(
    config: options.ConfigOption,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="A run's id or number; the last one if not given.", autocompletion=completing.runs
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open its page in the browser.")] = False,
    index: Annotated[bool, typer.Option("--index", help="Make the page over all runs whose reports are kept.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show the report of a run again, or its page.

    Example: consent-sync report 12 --open --config nightly.toml
    """
    settings = options.load(config, shows=True)
    if index and name:
        raise ConfigError("report: --index is over all runs; name none.")
    if open_ or index:
        from sync_job.runs import pages

        with options.showing(as_json, "drawing the page"):
            path = pages.index(settings) if index else pages.of(settings, name)
        options.print_json({"page": str(path)}) if as_json else typer.echo(path)
        if open_ and not webbrowser.open(path.absolute().as_uri()):
            raise ConfigError(f"There is no browser here; the page is {path}.")
        return
    from sync_job.runs import look

    found, earlier = look.told(settings, name)
    if as_json:
        options.print_json(found)
    else:
        from sync_job.report import terminal

        drawing.printed(terminal.report(found, earlier, str(config)))


def status(config: options.ConfigOption, as_json: options.JsonOption = False) -> None:
    """Show what is running now.

    Example: consent-sync status --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.status(options.load(config))
    options.print_json(found) if as_json else typer.echo(text.status(found))
