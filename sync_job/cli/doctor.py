"""The command that looks at everything a run needs."""

from typing import Annotated

import typer

from sync_job.cli import options


def add_to(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(doctor)


def doctor(
    config: options.ConfigOption,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the endpoint.")] = False,
    login: Annotated[
        bool, typer.Option("--login", help='Ask for a token too, where [endpoint.auth] kind = "password".')
    ] = False,
    as_json: options.JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and nothing of what is well.")] = False,
) -> None:
    """Look at everything a run needs, and say what is wrong and how to mend it. Sends no update, changes nothing.

    Example: consent-sync doctor --config nightly.toml
    """
    from sync_job.report import doctor_text
    from sync_job.runs import doctor as runs

    found = runs.examine(config, options.watch(quiet), offline=offline, login=login)
    if as_json:
        options.print_json(found)
    elif not quiet or found["counts"]["warning"] or found["counts"]["problem"]:
        typer.echo(doctor_text.examined(found, str(config), quiet=quiet))
    raise typer.Exit(found["exit"])
