"""The command line. Results go to standard output, progress and logs to standard error.

Modules that bring aiohttp or pandas are imported by the commands that need them, so that `--help`, `check` and
`plan` start quickly.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from sync_job.cli import clients, guarding, options, withdrawals
from sync_job.errors import ConfigError, ConsentSyncError, Exit

app = typer.Typer(
    name="consent-sync",
    help="Keeps the consent that a loyalty platform holds equal to the consent that the CRM exports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
snapshot_app = typer.Typer(help="What the platform is known to hold, and what is due.", no_args_is_help=True)
app.add_typer(snapshot_app, name="snapshot")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"consent-sync {version('consent-sync')}")
        raise typer.Exit


@app.callback()
def _global(
    log_format: Annotated[Literal["console", "json"], typer.Option(help="How log lines look.")] = "console",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, typer.Option(help="What is logged.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from sync_job.runs import logs

    logs.configure(log_format, log_level or ("info" if log_format == "json" else "warning"))


@app.command()
def init(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="A full export: a file, a glob or a folder.")],
    config: options.ConfigOption,
    platform: Annotated[
        str,
        typer.Option(help="What the platform holds today: unknown, empty, equal (to the export), or a dump's path."),
    ],
    approve_grants: Annotated[
        int | None, typer.Option(help="The number of clients that the next run would send an *allowed*.")
    ] = None,
    withdrawals: Annotated[
        str | None, typer.Option(metavar="LIST", help="Who withdrew so far; honoured from the first run on.")
    ] = None,
    no_withdrawals: Annotated[
        bool, typer.Option("--no-withdrawals", help="There is no list of withdrawals to begin with.")
    ] = False,
    received_at: Annotated[str, typer.Option(metavar="TIME", help="When that list was received.")] = "",
    scope: Annotated[str, typer.Option(help="What its rows cover: all, marketing, or channels.")] = "",
    basis: Annotated[str, typer.Option(help="On what ground.")] = "",
    as_of: options.AsOfOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make the state of a new target. Sends nothing; the next run does.

    Example: consent-sync init export.csv --config nightly.toml --platform unknown --no-withdrawals
    """
    from sync_job.runs import init as runs
    from sync_job.runs.intake import Listing

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
    report = runs.init(
        settings,
        platform,
        approve,
        options.watch(quiet),
        withdrawals=listing,
        as_of=options.moment(as_of, settings, "--as-of"),
    )
    options.tell(report.summary, as_json=as_json, quiet=quiet)


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
        int | None, typer.Option(min=0, help="Send so many rows at most; the rest is for the next run.")
    ] = None,
    until: options.UntilOption = "",
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Wait so many seconds for a run that holds the lock.")
    ] = 0,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Send what changed, and write the report.

    Example: consent-sync run export.csv --config nightly.toml
    """
    from sync_job.runs import night
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
    )
    watch = options.watch(quiet)
    report = options.waiting(wait_s, watch, lambda: night.run(settings, wish, watch))
    options.tell(report.summary, as_json=as_json, quiet=quiet)


@app.command()
def plan(
    config: options.ConfigOption,
    export: options.ExportArgument = None,
    part: options.PartOption = None,
    as_of: options.AsOfOption = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the plan to this file, for `apply`.")] = None,
    restrict_only: options.RestrictOption = False,
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
    found = planning.plan(settings, options.watch(quiet), out, wish)
    if as_json:
        options.print_json(found)
    elif not quiet:
        typer.echo(plan_text.plan(found))
    raise typer.Exit(found["exit"])


@app.command()
def apply(
    path: Annotated[Path, typer.Argument(metavar="PLAN", help="What `plan -o` wrote.")],
    config: options.ConfigOption,
    until: options.UntilOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Send a plan, if nothing was delivered since it was made and it is not older than a day.

    Example: consent-sync apply tonight.plan --config nightly.toml
    """
    from sync_job.runs import planning

    report = planning.apply(options.load(config), path, options.watch(quiet), options.time_of_day(until))
    options.tell(report.summary, as_json=as_json, quiet=quiet)


@app.command()
def check(
    export: options.ExportArgument = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The configuration (TOML).")] = None,
    as_of: options.AsOfOption = "",
    as_json: options.JsonOption = False,
) -> None:
    """Read configuration and export, and say what was seen. No request, no state.

    Example: consent-sync check export.csv --config nightly.toml
    """
    from sync_job.config import ExportSettings, RunSettings
    from sync_job.report import text
    from sync_job.runs import look

    if config is None:
        settings, run_settings, made = ExportSettings(as_of="none"), RunSettings.model_validate({}), None
    else:
        loaded = options.load(config)
        settings, run_settings = loaded.export, loaded.run
        made = options.moment(as_of, loaded, "--as-of")
    where = export or settings.path
    if not where:
        raise ConfigError("check: name an export, or a configuration with [export] path.")
    found = look.check(settings, run_settings.zone, where, options.watch(False), made)
    options.print_json(found) if as_json else typer.echo(text.check(found))


@app.command(name="try")
def try_(
    client: Annotated[int, typer.Argument(help="The id of one client, 1 to 2147483647.", min=1, max=2**31 - 1)],
    deny: Annotated[str, typer.Option(help="The channels to deny: sms, email, push, emailonlinecheque.")],
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
) -> None:
    """Send one request that denies channels of one client, and show everything about it. Never grants.

    Example: consent-sync try 12345 --deny push --config nightly.toml
    """
    from sync_job.delivery.verdict import Kind
    from sync_job.report import text
    from sync_job.runs import trial

    try:
        found = trial.send(options.load(config), client, [name for name in deny.split(",") if name.strip()])
    except ValueError as exc:
        raise ConfigError(f"try: {exc}.") from exc
    shown = {
        "url": found.url,
        "headers": found.headers,
        "body": found.body.decode(),
        "status": found.answer.status,
        "failure": found.answer.failure.name.lower() if found.answer.failure else None,
        "code": found.answer.reply.code if found.answer.reply else None,
        "message": found.answer.reply.message if found.answer.reply else "",
        "verdict": found.verdict.kind.name.lower(),
        "why": found.verdict.why,
        "in_doubt": found.verdict.doubt,
    }
    options.print_json(shown) if as_json else typer.echo(text.trial(shown))
    ends = {Kind.DELIVERED: Exit.OK, Kind.REFUSED: Exit.ATTENTION}
    raise typer.Exit(ends.get(found.verdict.kind, Exit.ENDPOINT))


@snapshot_app.command()
def show(
    clients: Annotated[list[int], typer.Argument(metavar="CLIENT…", help="Ids of clients.")],
    config: options.ConfigOption,
    as_json: options.JsonOption = False,
) -> None:
    """Show what is known and due of single clients.

    Example: consent-sync snapshot show 12345 12346 --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.show(options.load(config), clients)
    options.print_json({"clients": found}) if as_json else typer.echo(text.clients(found))


@snapshot_app.command(name="export")
def export_(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file ending in .csv or .parquet.")],
    config: options.ConfigOption,
) -> None:
    """Write the whole snapshot to a file: Client, the four flags, and what is due.

    Example: consent-sync snapshot export snapshot.csv --config nightly.toml
    """
    from sync_job.runs import look

    count = look.export(options.load(config), out)
    typer.echo(f"{count:,} clients written to {out}")


@app.command()
def runs(config: options.ConfigOption, as_json: options.JsonOption = False) -> None:
    """List the runs so far.

    Example: consent-sync runs --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.history(options.load(config))
    options.print_json({"runs": found}) if as_json else typer.echo(text.history(found))


@app.command()
def report(
    config: options.ConfigOption,
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's id or number; the last one if not given.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show the report of a run again.

    Example: consent-sync report --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.report(options.load(config), name)
    options.print_json(found) if as_json else typer.echo(text.summary(found))


@app.command()
def status(config: options.ConfigOption, as_json: options.JsonOption = False) -> None:
    """Show what is running now.

    Example: consent-sync status --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.status(options.load(config))
    options.print_json(found) if as_json else typer.echo(text.status(found))


@app.command()
def standin(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 for any free one.")],
    latency_ms: Annotated[float, typer.Option(min=0, help="Milliseconds before each answer.")] = 0,
    jitter_ms: Annotated[float, typer.Option(min=0, help="Milliseconds of random delay on top, on average.")] = 0,
    unknown_every: Annotated[int, typer.Option(min=0, help="Every client divisible by N is unknown; 0 for none.")] = 0,
    busy_every: Annotated[int | None, typer.Option(min=1, help="Every Nth request is answered 503.")] = None,
    reset_every: Annotated[int | None, typer.Option(min=1, help="Every Nth request meets a broken connection.")] = None,
    stall_every: Annotated[
        int | None, typer.Option(min=1, help="Every Nth request is applied and not answered.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Serve so many requests at once; 0 for any number.")] = 0,
    service_ms: Annotated[float, typer.Option(min=0, help="Milliseconds that serving one takes a worker.")] = 0,
    queue: Annotated[int, typer.Option(min=0, help="So many wait for a worker; one more is answered 503.")] = 1000,
    max_rps: Annotated[
        float, typer.Option(min=0, help="More requests a second are answered 429; 0 for any number.")
    ] = 0,
    record: Annotated[Path | None, typer.Option(help="Keep what is held in this CSV file.")] = None,
) -> None:
    """Run a stand-in of the platform on loopback, until it is interrupted.

    Example: consent-sync standin --port 8080 --record held.csv
    """
    import asyncio

    from sync_job.standin.faults import Fault
    from sync_job.standin.options import Options
    from sync_job.standin.server import serve

    every = {Fault.UNAVAILABLE: busy_every, Fault.RESET_AFTER: reset_every, Fault.STALL: stall_every}
    options = Options(
        latency_ms=latency_ms,
        jitter_ms=jitter_ms,
        unknown_every=unknown_every,
        every={fault: number for fault, number in every.items() if number},
        workers=workers,
        service_ms=service_ms,
        queue=queue,
        max_rps=max_rps,
        keep_log=False,
    )
    try:
        asyncio.run(serve(options, port, record=record, ready=lambda url: typer.echo(f"listening on {url}")))
    except OSError as exc:
        raise ConfigError(f"standin: port {port}: {exc.strerror or exc}. Choose another with --port.") from exc


for commands in (withdrawals, guarding, clients):
    commands.add_to(app)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn errors into messages on standard error and exit codes; a traceback is for a bug alone."""
    try:
        yield
    except ConsentSyncError as exc:
        typer.echo(f"consent-sync: {exc}", err=True)
        code = exc.exit_code
        if code is Exit.BUG:
            traceback.print_exc()
    except KeyboardInterrupt:
        typer.echo("consent-sync: interrupted; nothing that was acknowledged is lost.", err=True)
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except MemoryError:
        typer.echo("consent-sync: out of memory; nothing that was acknowledged is lost.", err=True)
        code = Exit.BUG
    except Exception:  # noqa: BLE001 - the outermost function: whatever is left is a bug
        traceback.print_exc()
        typer.echo(
            "consent-sync: a bug. Nothing that was acknowledged is lost; please report the lines above.", err=True
        )
        code = Exit.BUG
    else:
        return
    raise SystemExit(int(code))


def main(arguments: list[str] | None = None) -> None:
    """Run the command; the process ends with its exit code."""
    with _exit_codes():
        command: Callable[..., object] = app
        command(arguments)


if __name__ == "__main__":
    main()
