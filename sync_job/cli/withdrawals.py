"""Commands for people who withdrew: lists taken in and sent, what is owed, evidence that lifts, mistakes."""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sync_job.cli import completing, ending, helping, options
from sync_job.errors import ConfigError, ConsentSyncError, Exit, gravest

if TYPE_CHECKING:
    from sync_job.config import Settings
    from sync_job.runs.drain import Drained
    from sync_job.runs.intake import Listing

T = TypeVar("T")
_WaitOption = Annotated[
    float, typer.Option("--wait-s", min=0, help="Seconds to wait for a run that holds the lock to send it.")
]
_commands = typer.Typer(
    help="What is owed to people who withdrew, and what became of it.",
    epilog=helping.epilog("consent-sync withdrawals status --config nightly.toml"),
    no_args_is_help=True,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command(name="opt-out")(opt_out)
    app.command()(drain)
    app.command()(reconsent)
    app.add_typer(_commands, name="withdrawals")


def opt_out(
    path: Annotated[str, typer.Argument(metavar="LIST", help="Who withdrew: a file, a glob or a folder.")],
    config: options.ConfigsOption,
    check: Annotated[bool, typer.Option("--check", help="Say what the list would do; take nothing in.")] = False,
    received_at: Annotated[
        str, typer.Option(metavar="TIME", help="When the list was received, for rows that do not say it.")
    ] = "",
    scope: Annotated[
        str, typer.Option(help="What rows cover that do not say it: all, marketing, or channels with commas.")
    ] = "",
    basis: Annotated[
        str, typer.Option(help="On what ground: consent-withdrawn, objection, erasure or complaint.")
    ] = "",
    request_ref: Annotated[str, typer.Option(help="The reference of rows that have none.")] = "",
    columns: options.MapOption = None,
    sheet: options.SheetOption = "",
    lookup: options.LookupOption = "",
    id_map: options.IdMapOption = None,
    expect: Annotated[int | None, typer.Option(min=0, help="The number of clients of a large list.")] = None,
    no_send: Annotated[
        bool, typer.Option("--no-send", help="Take the list in; the next run or drain sends it.")
    ] = False,
    wait_s: _WaitOption = 120,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Take a list of withdrawals in, durably, and send it at once, also while a run is under way.

    Example: consent-sync opt-out opt-outs.csv --received-at 2026-11-24 --scope marketing --config nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import drain, intake, measuring, notifying

    targets = options.load_all(config)
    watch = options.watch(quiet)

    def listing(settings: "Settings") -> "Listing":
        said = options.moment(received_at, settings, "--received-at")
        return intake.Listing(path, said, scope, basis, request_ref, options.columns(columns), sheet, lookup, id_map)

    if check:
        found = _each(targets, lambda settings: intake.check(settings, listing(settings), watch))
        _show(found, text.checked, as_json=as_json)
        raise typer.Exit(_ends(found, Exit.ATTENTION, lambda one: one["rejected"]))

    def confirm(clients: int, most: int) -> int | None:
        if expect is not None or not sys.stdin.isatty():
            return expect
        return options.typed(f"The list has {clients:,} clients, more than {most:,}.", "take it in")

    errors: list[tuple[Settings, ConsentSyncError]] = []

    def failed(settings: "Settings", error: ConsentSyncError) -> None:
        errors.append((settings, error))

    with measuring.ending("opt-out", *targets):
        taken = intake.take_in(targets, listing, confirm, watch, failed if len(targets) > 1 else None)
    done: list[dict[str, Any]] = [_UNSENT for _ in taken]
    if not no_send:
        # The list is taken in: whatever the sending ends in is said beside that, and not in its place.
        done = _sent_apart(taken, lambda one, for_s: drain.deliver([one], for_s, watch)[0], wait_s, raises=False)
    watch.end()
    shown: list[dict[str, Any]] = []
    for settings, error in errors:
        measuring.ended(settings, "opt-out", error.exit_code)
        shown.append(_failed(settings, error))
    for one, outcome in zip(taken, done, strict=True):
        codes = {Exit(outcome["exit"]), Exit.ATTENTION if one.found.rejected else Exit.OK}
        code = ending.code(gravest(codes), one.settings)
        measuring.ended(one.settings, "opt-out", code)
        if outcome["elsewhere"]:
            notifying.elsewhere(one.settings, "opt-out", outcome["busy"])
        shown.append(
            {
                "target": one.settings.endpoint.target,
                "list": one.found.digest,
                "rows": one.found.rows,
                "clients": intake.count(one.found),
                "rejected": one.found.rejected,
                "reasons": dict(one.found.reasons),
                "erased": one.found.erased,
                "rejects": [vars(reject) for reject in one.found.rejects],
                **{name: value for name, value in outcome.items() if name != "elsewhere"},
                "exit": int(code),
            }
        )
    code = gravest({Exit(one["exit"]) for one in shown})
    if as_json or code or not quiet:
        _show(shown, text.taken, as_json=as_json)
    raise typer.Exit(code)


def _sent_apart(
    ones: Sequence[T], send: "Callable[[T, float], Drained]", wait_s: float, *, raises: bool
) -> list[dict[str, Any]]:
    """Return how the sending went for each of *ones*: an error at one keeps no other from being sent to.

    *send* is given the seconds that it may wait for a run that holds the lock. All are tried without waiting first,
    so that a busy target delays none that is free.

    Raises:
        ConsentSyncError: with *raises*, what the sending ended in.
    """
    ends = time.monotonic() + wait_s
    found = [_sending(send, one, 0, raises=raises) for one in ones]
    for place, one in enumerate(ones):
        left_s = ends - time.monotonic()
        if found[place]["exit"] == Exit.BUSY and left_s > 0:
            found[place] = _sending(send, one, left_s, raises=raises)
    return found


def _sending(send: "Callable[[T, float], Drained]", one: T, for_s: float, *, raises: bool) -> dict[str, Any]:
    try:
        return _outcome(send(one, for_s))
    except ConsentSyncError as exc:
        if raises:
            raise
        if exc.exit_code is Exit.BUG:
            traceback.print_exc()
        return _UNSENT | {"error": str(exc), "exit": int(exc.exit_code)}


_UNSENT: dict[str, Any] = {"sent": None, "busy": "", "run": None, "reasons_of_run": [], "outcomes": None}
_UNSENT |= {"elsewhere": False, "exit": 0}


def _outcome(one: "Drained") -> dict[str, Any]:
    """Return how the sending of a list went, or of what was owed."""
    return {
        "sent": one.list_state,
        "busy": one.busy,
        "run": one.report.summary["run"] if one.report else None,
        "reasons_of_run": one.report.summary["reasons"] if one.report else [],
        "outcomes": one.report.summary["outcomes"] if one.report else None,
        "elsewhere": one.elsewhere,
        "exit": int(one.exit_code),
    }


def drain(
    config: options.ConfigsOption,
    wait_s: _WaitOption = 120,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Send what is owed to people who withdrew, now; leaves no trace where nothing is.

    Example: consent-sync drain --config nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import drain as runs
    from sync_job.runs import measuring, notifying

    targets, watch = options.load_all(config), options.watch(quiet)
    with measuring.ending("drain", *targets):
        done = _sent_apart(
            targets, lambda one, for_s: runs.drain_all([one], for_s, watch)[0], wait_s, raises=len(targets) == 1
        )
    shown = []
    for one, found in zip(targets, done, strict=True):
        ends = ending.code(found["exit"], one)
        measuring.ended(one, "drain", ends)
        if found["elsewhere"]:
            notifying.elsewhere(one, "drain", found["busy"])
        said = {name: value for name, value in found.items() if name != "elsewhere"}
        shown.append({"target": one.endpoint.target, **said, "exit": int(ends)})
    code = gravest({Exit(one["exit"]) for one in shown})
    if as_json:
        _show(shown, text.drained, as_json=True)
    elif code or (sys.stdout.isatty() and not quiet):
        _show(shown, text.drained, as_json=False)
    raise typer.Exit(code)


def reconsent(
    path: Annotated[
        str,
        typer.Argument(metavar="LEDGER", help="Evidence that people consented again.", autocompletion=completing.files),
    ],
    config: options.ConfigsOption,
    columns: options.MapOption = None,
    sheet: options.SheetOption = "",
    lookup: options.LookupOption = "",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Lift withdrawals of people who consented again, where the evidence is later than the withdrawal.

    Example: consent-sync reconsent returners.csv --config nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import withdrawing

    names = options.columns(columns)
    targets = options.load_all(config)
    with options.showing(quiet, "reading the evidence"):
        found = _each(targets, lambda one: withdrawing.reconsent(one, path, names, sheet=sheet, contacts=lookup))
    _show(found, text.reconsented, as_json=as_json)
    raise typer.Exit(_ends(found, Exit.ATTENTION, lambda one: one["refused"] or one["rejected"]))


@_commands.command()
def status(config: options.ConfigsOption, as_json: options.JsonOption = False) -> None:
    """Show what is owed, by age, the earliest limit first; ends in 7 if a limit has passed.

    Example: consent-sync withdrawals status --config nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import withdrawing

    found = _each(options.load_all(config), withdrawing.status)
    _show(found, text.status, as_json=as_json)
    raise typer.Exit(_ends(found, Exit.OBLIGATION, lambda one: one["past_limit"]))


@_commands.command()
def report(
    config: options.ConfigsOption,
    since: Annotated[str, typer.Option("--from", metavar="DATE", help="From this time on.")],
    until: Annotated[
        str,
        typer.Option(
            "--to", metavar="DATE", help="Up to this time, and without it: a day alone is its 00:00; now by default."
        ),
    ] = "",
    as_json: options.JsonOption = False,
) -> None:
    """Show what came in and what was acknowledged between two times, and how fast.

    Example: consent-sync withdrawals report --from 2026-10-01 --to 2026-11-01 --config nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import withdrawing

    def between(one: "Settings") -> dict[str, Any]:
        begin, end = options.moment(since, one, "--from"), options.moment(until, one, "--to")
        return withdrawing.report(one, begin or 0.0, time.time() if end is None else end)

    found = _each(options.load_all(config), between)
    _show(found, text.report, as_json=as_json)
    raise typer.Exit(_ends(found, Exit.ATTENTION, lambda one: one["withdrawn_and_allowed"]))


@_commands.command()
def close(
    config: options.ConfigsOption,
    client: Annotated[int, typer.Option(min=1, help="To whom nothing is to be owed any more.")],
    reason: options.ReasonOption,
    by: options.ByOption,
    as_json: options.JsonOption = False,
) -> None:
    """End by hand what is owed to a client, as where the platform does not know it. A withdrawal stays.

    Example: consent-sync withdrawals close --client 12345 --reason "no such member" --by DPO --config nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import withdrawing

    def closed(one: "Settings") -> dict[str, Any]:
        done = withdrawing.close(one, client, reason=reason, by=by)
        return {**done, "withdrawn": withdrawing.is_withdrawn(one, client)}

    found = _each(options.load_all(config), closed)
    _show(found, text.closed, as_json=as_json)
    raise typer.Exit(_ends(found))


@_commands.command()
def void(
    config: options.ConfigsOption,
    digest: Annotated[str, typer.Option("--list", metavar="DIGEST", help="The list, as `opt-out` named it.")],
    reason: options.ReasonOption,
    by: options.ByOption,
    approved_by: Annotated[str, typer.Option(help="Who approved it: a second person.")],
    as_json: options.JsonOption = False,
) -> None:
    """Take a wrong list back. Its record stays; the grants that follow are guarded like any.

    Example: consent-sync withdrawals void --list 3fa9c0 --reason "wrong file" --by A --approved-by B -c nightly.toml
    """
    from sync_job.report import withdrawals_text as text
    from sync_job.runs import withdrawing

    found = _each(
        options.load_all(config),
        lambda one: withdrawing.void(one, digest, reason=reason, by=by, approved_by=approved_by),
    )
    _show(found, text.voided, as_json=as_json)
    raise typer.Exit(_ends(found))


@_commands.command()
def export(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A file ending in .csv or .parquet.", autocompletion=completing.files)
    ],
    config: options.ConfigsOption,
    quiet: options.QuietOption = False,
) -> None:
    """Write every withdrawal to a file, in the columns of a list.

    Example: consent-sync withdrawals export withdrawals.csv --config nightly.toml
    """
    from sync_job.runs import withdrawing

    targets = options.load_all(config, shows=True)
    if len(targets) > 1:
        raise ConfigError("withdrawals export: one configuration at a time; each has a file of its own.")
    with options.showing(quiet, "writing withdrawals"):
        count = withdrawing.export(targets[0], out)
    if not quiet:
        typer.echo(f"{count:,} withdrawals written to {out}")


def _show(found: list[dict[str, Any]], words: Any, *, as_json: bool) -> None:
    """Print what was found of each target: one object, or words; errors at all of them are no result."""
    if as_json:
        options.print_json(found[0] if len(found) == 1 else {"targets": found})
    elif all(one.keys() == _ERROR for one in found):
        for one in found:
            typer.echo(f"consent-sync: {one['target']}: {one['error']}", err=True)
    else:
        said = [f"{one['target']}: {one['error']}" if one.keys() == _ERROR else words(one) for one in found]
        typer.echo("\n\n".join(said))


_ERROR = {"target", "error", "exit"}


def _failed(settings: "Settings", error: ConsentSyncError) -> dict[str, Any]:
    """Return what is shown of a target at which a command ended in an error."""
    code = ending.code(error.exit_code, settings)
    return {"target": settings.endpoint.target, "error": str(error), "exit": int(code)}


def _each(targets: "list[Settings]", act: "Callable[[Settings], dict[str, Any]]") -> list[dict[str, Any]]:
    """Return what *act* says of each target; with several, an error at one is said in its place and ends no other.

    Raises:
        ConsentSyncError: the error at the target, if there is only one.
    """
    found: list[dict[str, Any]] = []
    for one in targets:
        try:
            found.append({"target": one.endpoint.target} | act(one))
        except ConsentSyncError as exc:
            if len(targets) == 1:
                raise
            found.append(_failed(one, exc))
    return found


def _ends(
    found: list[dict[str, Any]], code: Exit = Exit.OK, holds: "Callable[[dict[str, Any]], object]" = lambda one: False
) -> Exit:
    """Return the exit code: *code* where it *holds* for a target, with the errors of others."""
    codes = {code for one in found if one.keys() != _ERROR and holds(one)}
    said = [Exit(one["exit"]) for one in found if one.keys() == _ERROR]
    if len(said) == len(found) and set(said) == {Exit.CONFIG}:
        return Exit.CONFIG
    # One that has no such list or owes this client nothing is a thing to read, if that does not hold for all: others
    # did what was asked, or nobody can tell what they have.
    return gravest(codes | {Exit.ATTENTION if one is Exit.CONFIG else one for one in said})
