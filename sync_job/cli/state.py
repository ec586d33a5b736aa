"""Commands about the state folder itself: what it is worth, where it came from, and where it goes."""

from pathlib import Path
from typing import Annotated

import typer

from sync_job.cli import completing, ending, helping, options
from sync_job.errors import ConfigError

_commands = typer.Typer(
    help="The state folder itself.",
    epilog=helping.epilog("consent-sync state check --config nightly.toml"),
    no_args_is_help=True,
)


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
    missing: Annotated[
        int, typer.Option(min=0, help="How many people who withdrew are missing still, and can be named by nobody.")
    ] = 0,
    erased_missing: Annotated[
        int,
        typer.Option(
            min=0, help="Of how many erased people the codes are lost; who is not forgotten once more is sent again."
        ),
    ] = 0,
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
    with options.showing(quiet, "opening the state") as shown:
        found = restoring.restored(settings, listing, by, shown, missing=missing, erased_missing=erased_missing)
    options.print_json(found) if as_json else typer.echo(plan_text.restored(found))


@_commands.command()
def check(
    config: options.ConfigOption, as_json: options.JsonOption = False, quiet: options.QuietOption = False
) -> None:
    """Say of everything on disk what it is worth: whole, an orphan, too open, damaged. Changes nothing.

    Example: consent-sync state check --config nightly.toml
    """
    from sync_job.report import state_text
    from sync_job.runs import inspecting

    with options.showing(quiet, "looking at the state") as shown:
        found = inspecting.check(options.load(config, shows=True), shown)
    if as_json:
        options.print_json(found)
    elif found["exit"] or not quiet:
        typer.echo(state_text.checked(found))
    raise typer.Exit(found["exit"])


@_commands.command()
def repair(
    config: options.ConfigOption, as_json: options.JsonOption = False, quiet: options.QuietOption = False
) -> None:
    """Remove what is provably nobody's, and mend modes; damage is left as it is.

    Example: consent-sync state repair --config nightly.toml
    """
    from sync_job.report import state_text
    from sync_job.runs import inspecting

    with options.showing(quiet, "repairing the state"):
        found = ending.shown(inspecting.repair(options.load(config)))
    if as_json:
        options.print_json(found)
    elif found["exit"] or not quiet:
        typer.echo(state_text.repaired(found))
    raise typer.Exit(found["exit"])


@_commands.command()
def backup(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Where the backup goes; it must not be there yet.", autocompletion=completing.files
        ),
    ],
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write the state to one file, also while a run is under way. The folder of keys is not in it.

    Example: consent-sync state backup backup.tar --config nightly.toml
    """
    from sync_job.report import state_text
    from sync_job.runs import backups

    with options.showing(quiet, "copying the state") as shown:
        found = backups.backup(options.load(config, shows=True), path, shown)
    if as_json:
        options.print_json(found)
    elif not quiet:
        typer.echo(state_text.backup(found))


@_commands.command()
def restore(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `state backup` wrote.", autocompletion=completing.files)
    ],
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Put a backup into place where there is no state; runs grant nothing until `state restored`.

    Example: consent-sync state restore backup.tar --config nightly.toml
    """
    from sync_job.report import state_text
    from sync_job.runs import backups

    with options.showing(quiet, "unpacking the backup") as shown:
        found = backups.restore(options.load(config), path, shown)
    options.print_json(found) if as_json else typer.echo(state_text.restored(found))


@_commands.command()
def retarget(
    url: Annotated[str, typer.Argument(metavar="URL", help="The new address; the configuration may have old or new.")],
    config: options.ConfigOption,
    same_platform: Annotated[
        bool, typer.Option("--same-platform", help="Clients, and what is held of them, are the same there.")
    ] = False,
    reason: options.ReasonOption = "",
    by: options.ByOption = "",
    as_json: options.JsonOption = False,
) -> None:
    """Let the state go on at the platform's new address; another platform needs a state of its own.

    Example: consent-sync state retarget https://new.example/api --same-platform --reason "new host" --by operations
    --config nightly.toml
    """
    from sync_job.report import state_text
    from sync_job.runs import retargeting

    found = retargeting.retarget(options.load(config), url, same_platform=same_platform, reason=reason, by=by)
    options.print_json(found) if as_json else typer.echo(state_text.retargeted(found))
