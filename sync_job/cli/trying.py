"""Commands to try things with: a single request that can only deny, and a platform of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from sync_job.cli import completing, options
from sync_job.errors import ConfigError, Exit


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command(name="try")(try_)
    app.command()(notify)
    app.command()(standin)


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
        found = trial.send(options.load(config, shows=True), client, [name for name in deny.split(",") if name.strip()])
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


def notify(config: options.ConfigOption, as_json: options.JsonOption = False) -> None:
    """Post a test to the webhook and the ping of [notify], and say what came back; a monitor takes it for a success.

    Example: consent-sync notify --config nightly.toml
    """
    from sync_job.report import notify as text
    from sync_job.runs import notifying

    found = notifying.try_(options.load(config, shows=True))
    options.print_json({"notices": found}) if as_json else typer.echo(text.answers(found))
    raise typer.Exit(Exit.ENDPOINT if any(one["why"] for one in found) else Exit.OK)


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
    record: Annotated[
        Path | None, typer.Option(help="Keep what is held in this CSV file.", autocompletion=completing.files)
    ] = None,
) -> None:
    """Run a stand-in of the platform on loopback, until it is interrupted.

    Example: consent-sync standin --port 8080 --record held.csv
    """
    import asyncio

    from sync_job.standin.faults import Fault
    from sync_job.standin.options import Options
    from sync_job.standin.server import serve

    every = {Fault.UNAVAILABLE: busy_every, Fault.RESET_AFTER: reset_every, Fault.STALL: stall_every}
    wanted = Options(
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
        asyncio.run(serve(wanted, port, record=record, ready=lambda url: typer.echo(f"listening on {url}")))
    except OSError as exc:
        raise ConfigError(f"standin: port {port}: {exc.strerror or exc}. Choose another with --port.") from exc
