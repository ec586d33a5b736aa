"""The command line. Results go to standard output, progress and logs to standard error.

Modules that bring aiohttp or pandas are imported by the commands that need them, so that `--help`, `check` and
`plan` start quickly.
"""

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sync_job.cli import (
    again,
    clients,
    completing,
    doctor,
    ending,
    guarding,
    helping,
    looking,
    options,
    state,
    streams,
    trying,
    withdrawals,
)
from sync_job.errors import ConfigError, ConsentSyncError, Exit, TerminatedError, exit_of

if TYPE_CHECKING:
    from sync_job.runs.report import Report

app = typer.Typer(
    name="consent-sync",
    help="Keeps the consent that a loyalty platform holds equal to the consent that the CRM exports.",
    epilog=helping.epilog("consent-sync run export.csv --config nightly.toml"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib.metadata import version

        ours, python = version("consent-sync"), platform.python_version()
        typer.echo(f"consent-sync {ours}, Python {python}, {platform.platform()}")
        raise typer.Exit


@app.callback()
def _global(
    log_format: Annotated[Literal["console", "json"], typer.Option(help="How log lines look.")] = "console",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, typer.Option(help="What is logged.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and platform.")
    ] = False,
) -> None:
    from sync_job.runs import logs

    logs.configure(log_format, log_level or ("info" if log_format == "json" else "warning"))


@app.command()
def init(
    config: options.ConfigOption,
    export: Annotated[
        str | None, typer.Argument(metavar="EXPORT", help="A full export: a file, a glob or a folder.")
    ] = None,
    platform: Annotated[
        str,
        typer.Option(help="What the platform holds today: unknown, empty, equal (to the export), or a dump's path."),
    ] = "",
    approve_grants: Annotated[
        int | None, typer.Option(help="The number of clients that the next run would send an *allowed*.")
    ] = None,
    withdrawals: Annotated[
        str | None, typer.Option(metavar="LIST", help="Who withdrew so far; honoured from the first run on.")
    ] = None,
    no_withdrawals: Annotated[
        bool, typer.Option("--no-withdrawals", help="There is no list of withdrawals to begin with.")
    ] = False,
    missing: Annotated[int, typer.Option(min=0, help="How many people of a lost state nobody can name.")] = 0,
    received_at: Annotated[str, typer.Option(metavar="TIME", help="When that list was received.")] = "",
    scope: Annotated[str, typer.Option(help="What its rows cover: all, marketing, or channels.")] = "",
    basis: Annotated[str, typer.Option(help="On what ground.")] = "",
    as_of: options.AsOfOption = "",
    former: Annotated[
        Path | None,
        typer.Option("--from", metavar="OLD_STATE", help="The state of the same people by other ids."),
    ] = None,
    id_map: options.IdMapOption = None,
    expect: Annotated[int | None, typer.Option(min=0, help="The number of clients that --from carries.")] = None,
    drop_unlisted: Annotated[
        int | None, typer.Option(min=0, help="The number of people who withdrew and whom the map may leave out.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Say what --from would do, and change nothing.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make the state of a new target. Sends nothing; the next run does.

    Example: consent-sync init export.csv --config nightly.toml --platform unknown --no-withdrawals
    """
    from sync_job.runs import init as runs
    from sync_job.runs import telling
    from sync_job.runs.intake import Listing

    if former is not None:
        if export or platform or withdrawals or no_withdrawals or approve_grants is not None or as_of:
            raise ConfigError("init --from: the old state says it all; leave EXPORT and the options about it out.")
        if id_map is None:
            raise ConfigError("init --from: say with --id-map MAP which ids the clients have now.")
        _carry(config, former, id_map, expect, drop_unlisted, check=check, as_json=as_json, quiet=quiet)
        return
    if id_map is not None or expect is not None or drop_unlisted is not None or check:
        raise ConfigError("init: --id-map, --expect, --drop-unlisted and --check go with --from OLD_STATE.")
    if not export or not platform:
        raise ConfigError("init: name the EXPORT and what the platform holds (--platform), or --from OLD_STATE.")
    if no_withdrawals == (withdrawals is not None):
        raise ConfigError(
            "init: say --withdrawals LIST, so that nobody on it is contacted from the first run on, or "
            "--no-withdrawals if there is no such list; one of them."
        )
    if approve_grants is not None and approve_grants < 0:
        raise ConfigError("init: --approve-grants takes a number of clients.")

    def approve(grants: int) -> int | None:
        if approve_grants is not None or not sys.stdin.isatty():
            return approve_grants
        return options.typed(f"The next run would send an *allowed* to {grants:,} clients.", "approve it")

    settings = options.load(config, export)
    listing = None
    if withdrawals is not None:
        received = options.moment(received_at, settings, "--received-at")
        listing = Listing(withdrawals, received, scope, basis)
    made = options.moment(as_of, settings, "--as-of")
    with telling.how_it_ends(settings, "init"):
        report = runs.init(
            settings, platform, approve, options.watch(quiet), withdrawals=listing, missing=missing, as_of=made
        )
    options.tell(report.summary, config, as_json=as_json, quiet=quiet)


def _carry(
    config: Path,
    former: Path,
    id_map: Path,
    expect: int | None,
    drop_unlisted: int | None,
    *,
    check: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from sync_job.report import state_text
    from sync_job.runs import carrying

    settings = options.load(config)

    def approve(clients: int) -> int | None:
        if expect is not None or not sys.stdin.isatty():
            return expect
        return options.typed(f"{clients:,} clients would be carried from {former}.", "carry them")

    with options.showing(quiet, "opening the old state") as shown:
        found = carrying.carry(settings, former, id_map, shown, approve, drop_unlisted=drop_unlisted, check=check)
    options.print_json(found) if as_json else typer.echo(state_text.carried(found))


@app.command()
def run(
    config: options.ConfigOption,
    export: options.ExportArgument = None,
    part: options.PartOption = None,
    as_of: options.AsOfOption = "",
    require_new: Annotated[
        bool, typer.Option("--require-new", help="End in 3 if the export is the same as last time and sends nothing.")
    ] = False,
    restrict_only: options.RestrictOption = False,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Try what was refused again now, before its next try.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Send at most N rows of the export, beside all that is owed.")
    ] = None,
    skip_missed: Annotated[
        int, typer.Option(min=0, help="The number of deltas that were missed and that nobody can apply any more.")
    ] = 0,
    until: options.UntilOption = "",
    wait_for_export: options.WaitForExportOption = "",
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Wait so many seconds for a run that holds the lock.")
    ] = 0,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Send what changed, and write the report.

    Example: consent-sync run export.csv --config nightly.toml
    """
    from sync_job.runs import backfills, decide, night, telling
    from sync_job.runs.decide import Wish

    settings = options.load(config, options.one_of(export, part))
    wish = Wish(
        restrict_only=restrict_only,
        limit=limit,
        until=options.time_of_day(until),
        part=part is not None,
        as_of=options.moment(as_of, settings, "--as-of"),
        require_new=require_new,
        retry=retry_refused,
        skip_missed=skip_missed,
    )
    watch = options.watch(quiet)

    def act() -> "Report":
        return night.run(settings, wish, watch)

    def take_over() -> "Report":
        return backfills.taking_over(settings, act, watch, ready=lambda: decide.look(settings))

    with telling.how_it_ends(settings, "run", called="part" if part else ""):
        options.await_export(settings, wait_for_export, watch, part=part is not None)
        # A part is no night: it waits for a backfill as it waits for any run.
        report = options.waiting(wait_s, watch, act if part else take_over)
    options.tell(report.summary, config, as_json=as_json, quiet=quiet)


@app.command()
def plan(
    config: options.ConfigOption,
    export: options.ExportArgument = None,
    part: options.PartOption = None,
    as_of: options.AsOfOption = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write the plan to this file, for `apply`.", autocompletion=completing.files),
    ] = None,
    restrict_only: options.RestrictOption = False,
    wait_for_export: options.WaitForExportOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show what a run would send. Sends nothing, and changes nothing but the plan file.

    Example: consent-sync plan export.csv --config nightly.toml -o tonight.plan
    """
    from sync_job.report import plan_text
    from sync_job.runs import planning
    from sync_job.runs.decide import Wish

    settings = options.load(config, options.one_of(export, part))
    made = options.moment(as_of, settings, "--as-of")
    wish = Wish(restrict_only=restrict_only, part=part is not None, as_of=made)
    watch = options.watch(quiet)
    options.await_export(settings, wait_for_export, watch, part=part is not None)
    found = ending.shown(planning.plan(settings, watch, out, wish))
    if as_json:
        options.print_json(found)
    elif not quiet:
        typer.echo(plan_text.plan(found, str(config)))
    raise typer.Exit(found["exit"])


@app.command()
def apply(
    path: Annotated[
        Path, typer.Argument(metavar="PLAN", help="What `plan -o` wrote.", autocompletion=completing.files)
    ],
    config: options.ConfigOption,
    until: options.UntilOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Send a plan, if nothing was delivered since it was made and it is not older than a day.

    Example: consent-sync apply tonight.plan --config nightly.toml
    """
    from sync_job.runs import planning, telling

    settings, ends = options.load(config), options.time_of_day(until)
    with telling.how_it_ends(settings, "apply"):
        report = planning.apply(settings, path, options.watch(quiet), ends)
    options.tell(report.summary, config, as_json=as_json, quiet=quiet)


for commands in (again, looking, withdrawals, guarding, state, clients, doctor, trying, completing):
    commands.add_to(app)
helping.examples_last(app)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with an exit code; errors become messages, and a traceback is for a bug alone.

    Whatever the command ended in, a denial past its limit is 7 (`ending`).
    """
    ending.begin()
    code = Exit.OK
    try:
        try:
            yield
        finally:
            options.end_watches()
    except ConsentSyncError as exc:
        typer.echo(f"consent-sync: {exc}", err=True)
        code = exc.exit_code
        if code is Exit.BUG:
            traceback.print_exc()
    except (KeyboardInterrupt, TerminatedError) as exc:
        code = exit_of(exc)
        typer.echo(f"consent-sync: {code.name.lower()}; nothing that was acknowledged is lost.", err=True)
    except SystemExit as exc:
        if not isinstance(exc.code, int | None):
            raise
        raise SystemExit(_last(exc.code or 0)) from None
    except MemoryError:
        typer.echo("consent-sync: out of memory; nothing that was acknowledged is lost.", err=True)
        code = Exit.BUG
    except Exception:  # noqa: BLE001 - the outermost function: whatever is left is a bug
        traceback.print_exc()
        typer.echo(
            "consent-sync: a bug. Nothing that was acknowledged is lost; please report the lines above.", err=True
        )
        code = Exit.BUG
    raise SystemExit(_last(int(code)))


def _last(code: int) -> int:
    """Return the code that the process ends with; an interruption meanwhile, or a bug, does not hide *code*.

    What was done is done when its output could not be written: that alone is 4, and no other code gives way to it.
    """
    try:
        code = ending.last(code)
        if why := streams.output_lost():
            typer.echo(f"consent-sync: standard output could not be written: {why}. What was done is done.", err=True)
            return code or int(Exit.STATE)
        return code
    except KeyboardInterrupt:
        return code
    except Exception:  # noqa: BLE001 - as below
        traceback.print_exc()
        return int(Exit.BUG)


@contextlib.contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """End the block at a SIGTERM as at a Ctrl-C: whoever watches hears of it, and a container's first process ends."""

    def terminate(*_: object) -> None:
        raise TerminatedError

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; the process ends with its exit code."""
    completing.prepare()
    with streams.kept_open(), exit_codes(), _heeding_sigterm():
        command: Callable[..., object] = app
        command(arguments)


if __name__ == "__main__":
    main()
