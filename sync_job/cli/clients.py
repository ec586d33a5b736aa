"""Commands about single clients: why, what was sent, erasure; and a look at the platform itself."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sync_job.cli import ending, options
from sync_job.errors import Exit


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (explain, history, forget, compare):
        app.command()(command)


_Client = Annotated[int, typer.Argument(metavar="CLIENT", help="The id of one client.", min=1, max=2**31 - 1)]


def explain(
    client: _Client,
    config: options.ConfigOption,
    export: options.ExportArgument = None,
    as_of: options.AsOfOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show everything of one client, the rule that decides each channel, and what a run would send now.

    Example: consent-sync explain 12345 export.csv --config nightly.toml
    """
    from sync_job.report import people_text
    from sync_job.runs import explain as runs

    settings = options.load(config, export, shows=True)
    made = options.moment(as_of, settings, "--as-of")
    with options.showing(quiet, "opening the state") as shown:
        found = runs.explain(settings, client, shown, with_export=bool(settings.export.path), as_of=made)
    options.print_json(found) if as_json else typer.echo(people_text.explained(found))


def history(
    client: _Client,
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what was sent of one client, when, and what was answered, from the reports that are kept.

    Example: consent-sync history 12345 --config nightly.toml
    """
    from sync_job.report import people_text
    from sync_job.runs import history as runs

    with options.showing(quiet, "reading reports") as shown:
        found = runs.history(options.load(config, shows=True), client, shown)
    options.print_json(found) if as_json else typer.echo(people_text.history(found))


def forget(
    config: options.ConfigOption,
    path: Annotated[str | None, typer.Argument(metavar="LIST", help="A list of ids of clients.")] = None,
    client: Annotated[list[int] | None, typer.Option("--client", min=1, max=2**31 - 1, help="One client.")] = None,
    sheet: options.SheetOption = "",
    lookup: options.LookupOption = "",
    reason: options.ReasonOption = "",
    by: options.ByOption = "",
    request_ref: Annotated[str, typer.Option(help="The reference of the request.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Show what it would do; erase nobody.")] = False,
    expect: Annotated[
        int | None, typer.Option(min=0, help="The number of clients, if a LIST names more than one.")
    ] = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Erase clients: deny every channel, then keep nothing of them but a code that nobody can read back.

    Example: consent-sync forget --client 12345 --reason "asked by letter" --by WHO --config nightly.toml
    """
    from sync_job.report import people_text
    from sync_job.runs import forgetting, telling

    settings = options.load(config)
    ids = forgetting.clients(settings, client or [], path, sheet=sheet, contacts=lookup)
    planned = forgetting.check(settings, ids, listed=path is not None)
    if check:
        options.print_json(planned) if as_json else typer.echo(people_text.to_forget(planned))
        return
    if planned["must_be_confirmed"]:
        forgetting.refuse_unsigned(by, reason)

    def typed(planned: Mapping[str, Any]) -> int | None:
        if not sys.stdin.isatty():
            return None
        return options.typed(people_text.to_forget(planned), "erase them")

    forgetting.confirm(planned, expect, typed)
    with telling.how_it_ends(settings, "forget"), options.showing(quiet, "erasing") as shown:
        found = forgetting.forget(settings, ids, request_ref, shown, by=by, reason=reason)
    found = ending.shown(found)
    options.print_json(found) if as_json else typer.echo(people_text.forgotten(found))
    raise typer.Exit(Exit(found["exit"]))


def compare(
    dump: Annotated[str, typer.Argument(metavar="DUMP", help="What the platform holds, in a format of exports.")],
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Hold what is known of the platform against a dump of it; who withdrew and is allowed there is owed a denial.

    Example: consent-sync compare dump.csv --config nightly.toml
    """
    from sync_job.report import people_text
    from sync_job.runs import compare as runs

    found = ending.shown(runs.compare(options.load(config), dump, options.watch(quiet)))
    options.print_json(found) if as_json else typer.echo(people_text.compared(found))
    raise typer.Exit(Exit(found["exit"]))
