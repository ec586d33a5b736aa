"""Commands about the state folder itself: what it is worth, where it came from, and where it goes."""

from typing import Annotated

import typer

from sync_job.cli import options
from sync_job.errors import ConfigError

_commands = typer.Typer(help="The state folder itself.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.add_typer(_commands, name="state")


@_commands.command()
def restored(
    config: options.ConfigOption,
    by: options.ByOption,
    withdrawals_since: Annotated[
        str | None, typer.Option(metavar="LIST", help="Who withdrew since the backup was made.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Nobody withdrew since.")] = False,
    received_at: Annotated[str, typer.Option(metavar="TIME", help="When that list was received.")] = "",
    scope: Annotated[str, typer.Option(help="What its rows cover: all, marketing, or channels.")] = "",
    basis: Annotated[str, typer.Option(help="On what ground.")] = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Say what a restored backup lacks, so that runs may grant again.

    Example: consent-sync state restored --withdrawals-since since.csv --by operations --config nightly.toml
    """
    from sync_job.report import plan_text
    from sync_job.runs import restoring
    from sync_job.runs.intake import Listing

    if none == (withdrawals_since is not None):
        raise ConfigError(
            "state restored: say --withdrawals-since LIST, or --none if nobody withdrew since; one of them."
        )
    settings = options.load(config)
    listing = None
    if withdrawals_since is not None:
        received = options.moment(received_at, settings, "--received-at")
        listing = Listing(withdrawals_since, received, scope, basis)
    found = restoring.restored(settings, listing, by, options.watch(quiet))
    options.print_json(found) if as_json else typer.echo(plan_text.restored(found))
