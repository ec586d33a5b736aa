"""The command line. Results go to standard output, progress and logs to standard error.

Modules that bring aiohttp or pandas are imported by the commands that need them, so that `--help`, `check` and
`plan` start quickly.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sync_job.errors import ConfigError, ConsentSyncError, Exit

if TYPE_CHECKING:
    from sync_job.config import Settings
    from sync_job.runs.watch import Watch

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

ExportArgument = Annotated[
    str | None, typer.Argument(metavar="EXPORT", help="A file, a glob or a folder; instead of [export] path.")
]
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration (TOML).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, and no summary of a run that went well.")
]
UntilOption = Annotated[
    str, typer.Option(metavar="HH:MM", help="Have the last answer by then, in [run] timezone; the rest is deferred.")
]
RestrictOption = Annotated[bool, typer.Option("--restrict-only", help="Deny what has to be denied, and grant nothing.")]


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


def _load(config: Path, export: str | None = None) -> "Settings":
    from sync_job import config as configuration

    flags: dict[str, Mapping[str, object]] = {"export": {"path": str(Path(export).absolute())}} if export else {}
    return configuration.load(config, **flags)


def _time_of_day(text: str) -> str:
    from sync_job.config import clock_time

    try:
        return text and clock_time(text).isoformat()
    except ValueError as exc:
        raise ConfigError(f"--until: {exc}.") from exc


def _watch(quiet: bool) -> "Watch":
    if quiet or not sys.stderr.isatty():
        from sync_job.runs.watch import Watch

        return Watch()
    from sync_job.cli.progress import Bar

    return Bar()


def _print_json(found: object) -> None:
    typer.echo(json.dumps(found, ensure_ascii=False, indent=2))


def _tell(summary: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print a run's summary, and leave with its exit code; off a terminal a run that went well says nothing."""
    from sync_job.report import text

    if as_json:
        _print_json(summary)
    elif summary["exit"] or (sys.stdout.isatty() and not quiet):
        typer.echo(text.summary(summary))
    raise typer.Exit(summary["exit"])


@app.command()
def init(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="A full export: a file, a glob or a folder.")],
    config: ConfigOption,
    platform: Annotated[
        str,
        typer.Option(help="What the platform holds today: unknown, empty, equal (to the export), or a dump's path."),
    ],
    approve_grants: Annotated[
        int | None, typer.Option(help="The number of clients that the next run would send an *allowed*.")
    ] = None,
    no_withdrawals: Annotated[
        bool, typer.Option("--no-withdrawals", help="There is no list of withdrawals to begin with; must be said.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make the state of a new target. Sends nothing; the next run does.

    Example: consent-sync init export.csv --config nightly.toml --platform unknown --no-withdrawals
    """
    from sync_job.runs import init as runs

    if not no_withdrawals:
        raise ConfigError(
            "init: say --no-withdrawals if no list of withdrawals is to be honoured from the first run on."
        )
    if approve_grants is not None and approve_grants < 0:
        raise ConfigError("init: --approve-grants takes a number of clients.")

    def approve(grants: int) -> int | None:
        if approve_grants is not None or not sys.stdin.isatty():
            return approve_grants
        typer.echo(f"The next run would send an *allowed* to {grants:,} clients.", err=True)
        typed = typer.prompt("Type that number to approve it", err=True, default="", show_default=False)
        return int(typed) if typed.strip().isdigit() else None

    report = runs.init(_load(config, export), platform, approve, _watch(quiet))
    _tell(report.summary, as_json=as_json, quiet=quiet)


@app.command()
def run(
    config: ConfigOption,
    export: ExportArgument = None,
    restrict_only: RestrictOption = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Send so many rows at most; the rest is for the next run.")
    ] = None,
    until: UntilOption = "",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Send what changed, and write the report.

    Example: consent-sync run export.csv --config nightly.toml
    """
    from sync_job.runs import night
    from sync_job.runs.decide import Wish

    settings = _load(config, export)
    wish = Wish(restrict_only=restrict_only, limit=limit, until=_time_of_day(until))
    report = night.run(settings, wish, _watch(quiet))
    _tell(report.summary, as_json=as_json, quiet=quiet)


@app.command()
def plan(
    config: ConfigOption,
    export: ExportArgument = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the plan to this file, for `apply`.")] = None,
    restrict_only: RestrictOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a run would send. Sends nothing, and changes nothing but the plan file.

    Example: consent-sync plan export.csv --config nightly.toml -o tonight.plan
    """
    from sync_job.report import text
    from sync_job.runs import planning
    from sync_job.runs.decide import Wish

    found = planning.plan(_load(config, export), _watch(quiet), out, Wish(restrict_only=restrict_only))
    if as_json:
        _print_json(found)
    elif not quiet:
        typer.echo(text.plan(found))
    raise typer.Exit(found["exit"])


@app.command()
def apply(
    path: Annotated[Path, typer.Argument(metavar="PLAN", help="What `plan -o` wrote.")],
    config: ConfigOption,
    until: UntilOption = "",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Send a plan, if nothing was delivered since it was made and it is not older than a day.

    Example: consent-sync apply tonight.plan --config nightly.toml
    """
    from sync_job.runs import planning

    report = planning.apply(_load(config), path, _watch(quiet), _time_of_day(until))
    _tell(report.summary, as_json=as_json, quiet=quiet)


@app.command()
def check(
    export: ExportArgument = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The configuration (TOML).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read configuration and export, and say what was seen. No request, no state.

    Example: consent-sync check export.csv --config nightly.toml
    """
    from sync_job.config import ExportSettings, RunSettings
    from sync_job.report import text
    from sync_job.runs import look

    if config is None:
        settings, run_settings = ExportSettings(as_of="none"), RunSettings.model_validate({})
    else:
        loaded = _load(config)
        settings, run_settings = loaded.export, loaded.run
    where = export or settings.path
    if not where:
        raise ConfigError("check: name an export, or a configuration with [export] path.")
    found = look.check(settings, run_settings.zone, where, _watch(False))
    _print_json(found) if as_json else typer.echo(text.check(found))


@app.command(name="try")
def try_(
    client: Annotated[int, typer.Argument(help="The id of one client, 1 to 2147483647.", min=1, max=2**31 - 1)],
    deny: Annotated[str, typer.Option(help="The channels to deny: sms, email, push, emailonlinecheque.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Send one request that denies channels of one client, and show everything about it. Never grants.

    Example: consent-sync try 12345 --deny push --config nightly.toml
    """
    from sync_job.delivery.verdict import Kind
    from sync_job.report import text
    from sync_job.runs import trial

    try:
        found = trial.send(_load(config), client, [name for name in deny.split(",") if name.strip()])
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
    _print_json(shown) if as_json else typer.echo(text.trial(shown))
    ends = {Kind.DELIVERED: Exit.OK, Kind.REFUSED: Exit.ATTENTION}
    raise typer.Exit(ends.get(found.verdict.kind, Exit.ENDPOINT))


@snapshot_app.command()
def show(
    clients: Annotated[list[int], typer.Argument(metavar="CLIENT…", help="Ids of clients.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Show what is known and due of single clients.

    Example: consent-sync snapshot show 12345 12346 --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.show(_load(config), clients)
    _print_json({"clients": found}) if as_json else typer.echo(text.clients(found))


@snapshot_app.command(name="export")
def export_(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file ending in .csv or .parquet.")],
    config: ConfigOption,
) -> None:
    """Write the whole snapshot to a file: Client, the four flags, and what is due.

    Example: consent-sync snapshot export snapshot.csv --config nightly.toml
    """
    from sync_job.runs import look

    count = look.export(_load(config), out)
    typer.echo(f"{count:,} clients written to {out}")


@app.command()
def runs(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List the runs so far.

    Example: consent-sync runs --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.history(_load(config))
    _print_json({"runs": found}) if as_json else typer.echo(text.history(found))


@app.command()
def report(
    config: ConfigOption,
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's id or number; the last one if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the report of a run again.

    Example: consent-sync report --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.report(_load(config), name)
    _print_json(found) if as_json else typer.echo(text.summary(found))


@app.command()
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show what is running now.

    Example: consent-sync status --config nightly.toml
    """
    from sync_job.report import text
    from sync_job.runs import look

    found = look.status(_load(config))
    _print_json(found) if as_json else typer.echo(text.status(found))


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
