"""Folders and files: who may read and write them, whether there is room for a run, and the export."""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from sync_job.config import Settings
from sync_job.errors import Exit, ExportError
from sync_job.exports import age, naming, sources
from sync_job.ledger import anchor
from sync_job.report import kept, text
from sync_job.runs.doctor.check import Area, Check, ago

_AREA = Area("disk", Exit.STATE)
_EXPORT = Area("export", Exit.EXPORT)
_NAMED = 3  # files whose mode is wrong
_LEAST_BYTES = 64 << 20
_NIGHTS = 3  # for which there should be room


def look(settings: Settings) -> Iterator[Check]:
    """Yield how the folders are, and how much room there is."""
    state, keys = settings.state.path, settings.state.keys
    yield from _private("state folder", state, f"consent-sync state repair, or chmod -R go= {state.absolute()}")
    if anchor.is_there(keys):
        yield from _private("keys folder", keys, f"chmod -R go= {keys.absolute()}")
    yield _writable("reports folder", settings.report.path, "[report] path")
    if settings.metrics.textfile:
        folder = settings.metrics.textfile.parent
        if folder.is_dir():
            yield _writable("metrics folder", folder, "[metrics] textfile")
        else:
            said, cure = f"{folder.absolute()}: not there, and no run makes it", "Make it, or mend [metrics] textfile."
            yield _AREA.problem("metrics folder", said, cure)
    yield from _rooms(settings)


def _private(what: str, folder: Path, cure: str) -> Iterator[Check]:
    """Yield whether a folder and all in it are for its owner alone, and that this user is its owner."""
    if not anchor.is_there(folder):
        return  # whether there should be one is for the look at the state
    owner = folder.stat().st_uid
    if os.geteuid() not in (0, owner):
        said = f"{folder.absolute()} belongs to user {owner}, and this is user {os.geteuid()}"
        yield _AREA.problem(what, said, "Run as that user, or chown the folder.")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        said = f"others may enter {folder.absolute()} (mode {mode:04o}), and it names clients"
        yield _AREA.problem(what, said, f"chmod 700 {folder.absolute()}")
        return
    wrong, strange = _too_open(folder, owner)
    if wrong:
        said = f"{len(wrong)} in {folder.absolute()} are open to others: {', '.join(wrong[:_NAMED])}"
        yield _AREA.warning(what, said, cure)
    if strange:
        said = f"{len(strange)} in {folder.absolute()} are another user's: {', '.join(strange[:_NAMED])}"
        yield _AREA.problem(what, said, f"chown -R {owner} {folder.absolute()}")
    rooms = (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()))
    if shut := [place for place in rooms if not os.access(place, os.W_OK | os.X_OK)]:
        yield _AREA.problem(what, f"{shut[0].absolute()} cannot be written to", "Mount it writable, or mend its mode.")
    elif not wrong and not strange:
        yield _AREA.ok(what, f"{folder.absolute()} (mode {mode:04o}), all in it for user {owner} alone")


def _too_open(folder: Path, owner: int) -> tuple[list[str], list[str]]:
    """Return what of a folder others may read, and what another user owns."""
    wrong, strange = [], []
    for path in sorted(folder.rglob("*")):
        try:
            said = path.lstat()
        except FileNotFoundError:
            continue  # a run goes on meanwhile
        name = path.relative_to(folder).as_posix()
        wrong += [name] if stat.S_IMODE(said.st_mode) & 0o077 and not stat.S_ISLNK(said.st_mode) else []
        strange += [name] if said.st_uid != owner else []
    return wrong, strange


def _writable(what: str, folder: Path, key: str) -> Check:
    place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return _AREA.problem(what, f"{place}: this user cannot write there", f"Mend its owner or mode, or {key}.")
    return _AREA.ok(what, f"{folder.absolute()}" + ("" if place == folder.absolute() else ", made by the first run"))


def _rooms(settings: Settings) -> Iterator[Check]:
    """Yield whether a run has room, once for each file system that it writes to."""
    seen = set()
    snapshot, report = _snapshot_bytes(settings.state.path), _report_bytes(settings)
    # A run writes a plan and a journal of about a snapshot's size at most, the next snapshot, and its report.
    for what, folder, needed in (
        ("room for state", settings.state.path, 3 * snapshot),
        ("room for reports", settings.report.path, report),
    ):
        place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        device = place.stat().st_dev
        if device not in seen:
            seen.add(device)
            other = report if what == "room for state" and _same(settings, device) else 0
            yield room(what, place, shutil.disk_usage(place).free, needed + other)


def _same(settings: Settings, device: int) -> bool:
    folder = settings.report.path.absolute()
    return next(one for one in (folder, *folder.parents) if one.exists()).stat().st_dev == device


def room(what: str, place: Path, free: int, needed: int) -> Check:
    """Return whether *free* bytes are enough where a run writes about *needed*."""
    said = f"{place}: {_bytes(free)} free, and a run like the last one writes about {_bytes(needed)}"
    cure = "Make room: old reports may go (consent-sync purge, [report] keep_days), files of the state never."
    if free < needed:
        return _AREA.problem(what, said, cure)
    return _AREA.warning(what, said, cure) if free < max(_NIGHTS * needed, _LEAST_BYTES) else _AREA.ok(what, said)


def _bytes(count: int) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _snapshot_bytes(folder: Path) -> int:
    found = [path.stat().st_size for path in (folder / "snapshots").glob("*.parquet")]
    return max(found, default=0)


def _report_bytes(settings: Settings) -> int:
    """Return the size of the largest of the last reports: not every night is quiet."""
    folders = kept.folders(settings.report.path, settings.endpoint.target)[-14:]
    return max((sum(one.stat().st_size for one in folder.iterdir() if one.is_file()) for folder in folders), default=0)


def export(settings: Settings) -> Iterator[Check]:
    """Yield whether the export is there, and how old its files are; one on another machine is not asked for."""
    where = settings.export.path
    if not where:
        yield _EXPORT.ok("path", "none in the configuration: it is named on the command line")
        return
    if where == naming.STANDARD_INPUT or naming.is_url(where):
        said = f"{naming.shown(where)}: not looked at; `consent-sync check` reads it"
        yield _EXPORT.skipped("path", said)
        return
    try:
        found = sources.places(where)
        if settings.export.pick == "newest":
            found, _ = age.newest(settings.export.as_of, found, settings.run.zone)
        changed = min(one.changed() for one in found)
        size = sum(one.size_bytes() for one in found)
    except ExportError as exc:
        yield _EXPORT.problem("path", str(exc), "If it is not due yet, there is nothing to be done.")
        return
    hours = (time.time() - changed) / 3600
    said = f"{where}: {text.counted(len(found), 'file')}, {_bytes(size)}, written {ago(3600 * hours)} ago"
    limit = settings.export.max_age_h
    if size == 0:
        yield _EXPORT.problem("path", f"{where}: it is empty", "Have the CRM write it again.")
    elif settings.export.as_of != "none" and hours > limit:
        cure = f"An export older than {limit:g} h grants nothing ([export] max_age_h): look at what writes it."
        yield _EXPORT.warning("path", said, cure)
    else:
        yield _EXPORT.ok("path", f"{said}; `consent-sync check` reads it")
