"""What the commands share: options, how settings are loaded, and how a result is told."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from weakref import WeakSet

import typer

from sync_job.cli import completing, ending
from sync_job.errors import BusyError, ConfigError, PausedError

if TYPE_CHECKING:
    from sync_job.config import Settings
    from sync_job.runs.decide import Wish
    from sync_job.runs.watch import Watch

T = TypeVar("T")
ExportArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="EXPORT",
        help="A file, a glob, a folder, an address, or - for standard input; instead of [export] path.",
    ),
]
ConfigsOption = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        help="The configuration (TOML); several, or a folder of them, for several brands.",
        exists=False,
        autocompletion=completing.configurations,
    ),
]
MapOption = Annotated[
    list[str] | None, typer.Option("--map", metavar="NAME=COLUMN", help="Which column of the list is which.")
]
SheetOption = Annotated[str, typer.Option("--sheet", metavar="NAME", help="The sheet of a workbook with several.")]
LookupOption = Annotated[
    str,
    typer.Option(
        "--lookup", metavar="FILE", help="Whose the list's addresses or numbers are: a table of them and Client."
    ),
]
AsOfOption = Annotated[
    str, typer.Option(metavar="TIME", help='When the export was made, where [export] as_of = "flag".')
]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A part, such as a repaired rejects file, in the place of the export."),
]
WaitForExportOption = Annotated[
    str,
    typer.Option(metavar="TIME", help="Wait so long for an export that is not there or not complete: 90s, 30m, 2h."),
]
ReasonOption = Annotated[str, typer.Option(help="Why; it is kept and reported.")]
ByOption = Annotated[str, typer.Option(help="Who says so; it is kept and reported.")]
IdMapOption = Annotated[
    Path | None,
    typer.Option(
        "--id-map",
        metavar="MAP",
        help="Which id became which: CSV or Parquet of old_id, new_id.",
        autocompletion=completing.files,
    ),
]
ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", help="The configuration (TOML).", autocompletion=completing.configurations),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, and no summary of a run that went well.")
]
UntilOption = Annotated[
    str, typer.Option(metavar="HH:MM", help="Have the last answer by then, in [run] timezone; the rest is deferred.")
]
RestrictOption = Annotated[bool, typer.Option("--restrict-only", help="Deny what has to be denied, and grant nothing.")]


def load_all(configs: list[Path], *, shows: bool = False) -> "list[Settings]":
    """Return the settings of every configuration that is named; a folder names all of its *.toml. *shows*: see `load`.

    Raises:
        ConfigError: when a folder has none, or two that have the same state do not read a list alike.
    """
    from sync_job.config import Settings, reading

    files: list[Path] = []
    for one in configs:
        found = sorted(one.glob("*.toml")) if one.is_dir() else [one]
        if not found:
            raise ConfigError(f"{one}: no configuration (*.toml) in this folder.")
        files += found
    targets: dict[Path, tuple[Path, Settings]] = {}
    for file in files:
        settings = load(file, shows=shows)
        first, before = targets.setdefault(settings.state.path.resolve(), (file, settings))
        # Several configurations of one brand, as for nights and for a backfill, are one target.
        if differs := reading.difference(before, settings):
            raise ConfigError(
                f"{first} and {file} have the same [state] path and differ in {differs}: a list would be read in two "
                "ways. Let them agree, or name one of them only."
            )
    return [settings for _, settings in targets.values()]


def moment(text: str, settings: "Settings", option: str) -> float | None:
    """Return a time that was written on the command line, in epoch seconds; none for "".

    Without an offset it is local to [run] timezone, and a date alone is that day's 00:00.
    """
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f"{option}: {text!r} is no time, as 2026-11-24 or 2026-11-24T10:00.") from exc
    return (when if when.tzinfo else when.replace(tzinfo=settings.run.zone)).timestamp()


def columns(pairs: list[str] | None) -> dict[str, str]:
    """Return what --map says.

    Raises:
        ConfigError: for what is no NAME=COLUMN.
    """
    found = {}
    for pair in pairs or []:
        name, mark, column = pair.partition("=")
        if not mark or not name.strip() or not column.strip():
            raise ConfigError(f"--map {pair}: not of the form NAME=COLUMN, as client=CustomerId.")
        found[name.strip()] = column.strip()
    return found


def load(config: Path, export: str | None = None, *, shows: bool = False) -> "Settings":
    """Return the settings of a configuration, with the export that the command line names.

    What is owed past its limit there decides how the command ends, but not if it only *shows* or copies something: a
    script has to be able to tell that this was done.
    """
    from sync_job import config as configuration

    if export and configuration.is_path(export):
        export = str(Path(export).absolute())
    flags: dict[str, Mapping[str, object]] = {"export": {"path": export}} if export else {}
    settings = configuration.load(config, **flags)
    if not shows:
        ending.concerns(settings)
    return settings


def await_export(settings: "Settings", wait: str, watching: "Watch", *, part: bool = False) -> None:
    """Wait for the export, if *wait* says how long; one that does not come is for whoever reads it to tell."""
    if not wait:
        return
    if part:
        raise ConfigError("--wait-for-export is for the export; a part is there, or not.")
    from sync_job.config import duration_s
    from sync_job.runs.awaiting import await_export

    try:
        wait_s = duration_s(wait)
    except ValueError as exc:
        raise ConfigError(f"--wait-for-export: {exc}.") from exc
    try:
        await_export(settings, wait_s, watching)
    except BaseException:
        watching.end()
        raise


def time_of_day(text: str) -> str:
    """Return a time of day as it was written, if it is one; "" for none."""
    from sync_job.config import clock_time

    try:
        return text and clock_time(text).isoformat()
    except ValueError as exc:
        raise ConfigError(f"--until: {exc}.") from exc


_watches: WeakSet["Watch"] = WeakSet()


def watch(quiet: bool, *, lines: bool = False) -> "Watch":
    """Return what shows progress: a bar on a terminal; elsewhere nothing, or *lines*, one a minute.

    A terminal that cannot move its cursor (TERM=dumb) is none.
    """
    terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if quiet or not (lines or terminal):
        from sync_job.runs.watch import Watch

        return Watch()
    from sync_job.cli.progress import Bar, Lines

    shown = Bar() if terminal else Lines()
    _watches.add(shown)
    return shown


def end_watches() -> None:
    """Take away what shows progress, so that the terminal is as it was, however a command ended."""
    for one in _watches:
        one.end()


@contextlib.contextmanager
def showing(quiet: bool, stage: str) -> Iterator["Watch"]:
    """Show on a terminal that *stage* is under way, while the block runs."""
    shown = watch(quiet)
    shown.stage(stage)
    try:
        yield shown
    finally:
        shown.end()


def print_json(found: object) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(found, ensure_ascii=False, indent=2))


def tell(summary: Mapping[str, Any], config: Path, *, as_json: bool, quiet: bool) -> None:
    """Print a run's summary, and leave with its exit code; off a terminal a run that went well says nothing."""
    from sync_job.report import text

    summary = ending.shown(dict(summary))
    if as_json:
        print_json(summary)
    elif summary["exit"] or (sys.stdout.isatty() and not quiet):
        typer.echo(text.summary(summary, str(config)))
    raise typer.Exit(summary["exit"])


def typed(said: str, to: str) -> int | None:
    """Return the number that a person typed at the terminal; none for anything else."""
    end_watches()  # a bar would be drawn over what is typed
    typer.echo(said, err=True)
    try:
        answer = typer.prompt(f"Type that number to {to}", err=True, default="", show_default=False)
    except typer.Abort as exc:
        raise KeyboardInterrupt from exc  # Ctrl-C at a question ends a command as it does anywhere
    return int(answer) if answer.strip().isdigit() else None


def approved(wish: "Wish", grants: int) -> "Wish":
    """Return the wish with the number of clients that a person typed, where *grants* are to be sent an *allowed*."""
    if not grants or not sys.stdin.isatty():
        return wish
    return replace(wish, approved=typed(f"It would send an *allowed* to {grants:,} clients.", "approve it"))


def one_of(export: str | None, part: str | None) -> str | None:
    """Return the export or the part that was named.

    Raises:
        ConfigError: when both were.
    """
    if export and part:
        raise ConfigError("EXPORT and --part are both named: a part is read in the place of the export.")
    return part or export


def waiting(
    wait_s: float, watching: "Watch", act: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Return what *act* returns, waiting so long for a run that holds the lock.

    Raises:
        BusyError: when it still holds it then.
    """
    ends = time.monotonic() + wait_s
    while True:
        try:
            return act()
        except BusyError as exc:
            left_s = ends - time.monotonic()
            # A pause ends when a person ends it: nobody knows when, and cron comes again.
            if isinstance(exc, PausedError) or left_s <= 0:
                watching.end()
                raise
            watching.stage("waiting for the run that holds the lock")
            sleep(min(1.0, left_s))
