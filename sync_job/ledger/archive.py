"""Backups of a state folder: one tar file with a manifest, taken at any time, and checked whole before it is put back.

A backup is of one moment, the ledger's: while the ledger is read no run can commit, so the snapshot that it names,
the lists that it lacks and the plans of its unfinished legs stay where they are. How far such a leg was sent goes on
meanwhile; that a state is a backup is therefore noted in it when it is put back, for it believes too little. The keys
are never in a backup: with them nobody could tell that it is old, and everybody who was erased.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sync_job.errors import BusyError, ConfigError, ForeignStateError, StateDamagedError, StateError
from sync_job.ledger import files, inbox, inspection, journal, lock
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.state import State

VERSION = 1
_MANIFEST = "manifest.json"
_PACKED = "packed.tar"
_CHUNK = 1 << 20
_RELISTINGS = 10
_AS_IT_IS = ("inbox/", "paused.json")  # a list that cannot be read keeps runs waiting, and no backup
# What a state holds; whatever else an archive has is not put into place.
_LAYOUT = re.compile(
    r"ledger\.db|paused\.json|snapshots/\d+\.parquet|(held|backfills)/[\w-]+\.parquet|"
    r"inbox/(\.unreadable-)?\w[\w.-]*|runs/[\w-]+/\d+/(plan\.parquet|journal\.db)"
)


# Told how many bytes were read, of how many.
Progress = Callable[[int, int], object]


def _untold(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass
class _Counter:
    """Tells how many bytes of *total* were read so far."""

    progress: Progress
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        """Count some more."""
        self.done += count
        self.progress(self.done, self.total)


class _Counted:
    """A file that is counted as it is read."""

    def __init__(self, file: BinaryIO, counter: _Counter) -> None:
        self._file, self._counter = file, counter

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self._file.read(size)
        self._counter.add(len(piece))
        return piece


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself: whose state, how far it had come, when it was made (epoch seconds), its members.

    *members* has, for each file, its size in bytes and the SHA-256 of its content.
    """

    target: str
    state: str
    run: int
    snapshot: int
    made: float
    members: dict[str, tuple[int, str]]


def write(state: State, path: Path, *, target: str, now: float, progress: Progress = _untold) -> Manifest:
    """Make a backup of *state* durable in *path*, beside a run that is under way; what it would not read is refused.

    Raises:
        ConfigError: when there is something at *path* already.
        StateError: when the state is damaged, or the disk does not take the backup.
    """
    with files.storing(path):
        if path.exists():
            raise ConfigError(f"{path}: there already; a backup is never written over. Name another file.")
    _sweep(path.parent)
    with staging(path.with_name(f".{path.name}.parts")) as parts:
        _gather(state, parts)
        _check(parts, target, state.folder)
        with State.open(parts, target, write=False) as copy:
            place = copy.ledger.place()
        names = _names(parts)
        counter = _Counter(progress, 2 * sum((parts / name).stat().st_size for name in names))
        members = {name: digest(parts / name, counter) for name in names}
        manifest = Manifest(target, place["state"], place["run"], place["snapshot"], now, members)
        packed = parts / _PACKED
        files.replace(packed, lambda temporary: _pack(temporary, parts, manifest, counter))
        files.move(packed, path)
    return manifest


def _sweep(folder: Path) -> None:
    """Remove what backups into *folder* have left that died: each is a copy of a state."""
    for left in folder.glob(".*.parts"):
        if all((left / name).is_file() for name in lock.NAMES):
            with contextlib.suppress(BusyError, StateError), staging(left):  # busy: it is being made
                pass


@contextmanager
def unpacked(path: Path, folder: Path, target: str, progress: Progress = _untold) -> Iterator[tuple[Path, Manifest]]:
    """Yield a folder beside *folder* with what the backup in *path* holds, and its manifest; everything is checked.

    The folder may be moved away, locked as it is; otherwise it is removed when the block ends.

    Raises:
        StateDamagedError: when a member is not what was written, or the state in it is not whole.
        ForeignStateError: when it is another target's.
    """
    with staging(folder.with_name(f".{folder.name}.new")) as parts:
        manifest = _unpack(path, parts, target, progress)
        with contextlib.suppress(StateError):  # what is wrong with it is said below
            Ledger.open(parts / "ledger.db", target, write=True).close()  # of an older version, perhaps
        try:
            _check(parts, target, folder)
        except StateDamagedError as exc:
            raise _damaged(path, str(exc)) from exc
        yield parts, manifest


@contextmanager
def staging(place: Path) -> Iterator[Path]:
    """Yield *place* as an empty folder for this process alone, and remove it in the end if it is still there."""
    files.make_folder(place)
    files.check_private(place)
    with lock.held(place):
        for left in place.iterdir():  # by one that died
            if left.name not in lock.NAMES:
                files.remove(left)
        try:
            yield place
        finally:
            if place.exists():
                files.remove(place)


def _gather(state: State, parts: Path) -> None:
    """Copy what belongs to one moment of the ledger.

    Under its read transaction files are only opened, and what is open is read at leisure: runs do not wait for that,
    and what they remove meanwhile stays readable.
    """
    with ExitStack() as opened:
        with state.ledger.frozen():
            state.ledger.copy(parts / "ledger.db")
            kept, journals = _members(state)
            found = _open(opened, state.folder, kept) | _open_inbox(opened, state.folder)
            # After the plans: what a plan's rows came to is known no later than that.
            running = {path: opened.enter_context(closing(journal.beside(path))) for path in journals if path.exists()}
        for name, file in found.items():
            files.make_folder((parts / name).parent)
            with files.storing(parts / name), _created(parts / name) as out:
                shutil.copyfileobj(file, out, _CHUNK)
        for path, connection in running.items():
            place = parts / path.relative_to(state.folder)
            files.make_folder(place.parent)
            with files.loading(path), closing(files.connect(place)) as out_db:
                connection.backup(out_db)


def _members(state: State) -> tuple[list[Path], list[Path]]:
    """Return the files that the ledger names, which nobody changes while it is frozen, and the journals, which grow."""
    folder, backfill = state.folder, state.ledger.backfills.open()
    kept = [folder / "snapshots" / f"{state.ledger.current()[0]}.parquet"]
    kept += [folder / "held" / f"{one.run}.parquet" for one in state.ledger.applied.held_runs()]
    kept += [folder / "backfills" / f"{backfill.run}.parquet"] if backfill else []
    kept += [path for path in (folder / "paused.json",) if path.exists()]
    legs = [leg for run in state.ledger.unfinished() for leg in state.legs(run.run)]
    return kept + [leg.plan for leg in legs], [leg.journal for leg in legs]


def _open(opened: ExitStack, folder: Path, paths: list[Path]) -> dict[str, BinaryIO]:
    found: dict[str, BinaryIO] = {}
    for path in paths:
        with files.loading(path):
            found[path.relative_to(folder).as_posix()] = opened.enter_context(path.open("rb"))
    return found


def _open_inbox(opened: ExitStack, folder: Path) -> dict[str, BinaryIO]:
    """Open every list of the inbox. One that is gone since is in the ledger's copy, or was set aside: look again."""
    for _ in range(_RELISTINGS):
        with contextlib.suppress(FileNotFoundError):
            paths = inbox.waiting(folder) + inbox.set_aside_files(folder)
            return {path.relative_to(folder).as_posix(): opened.enter_context(path.open("rb")) for path in paths}
    raise StateError(f"{folder / 'inbox'}: it changes all the time. Make the backup again.")


def _check(parts: Path, target: str, folder: Path) -> None:
    """Hold that a state in *folder* may go on from these files.

    Raises:
        StateError: when it may not.
    """
    for name in ("snapshots", "runs", "inbox"):
        files.make_folder(parts / name)
    for finding in inspection.inspect(parts, target, busy=False):
        if finding.what.startswith(_AS_IT_IS):
            continue
        if finding.verdict is inspection.Verdict.DAMAGED:
            raise StateDamagedError(f"{folder / finding.what}: {finding.words.replace(str(parts), str(folder))}")


def _names(parts: Path) -> list[str]:
    found = (path.relative_to(parts).as_posix() for path in sorted(parts.rglob("*")) if path.is_file())
    return [name for name in found if _LAYOUT.fullmatch(name)]


def digest(path: Path, counter: _Counter | None = None) -> tuple[int, str]:
    """Return the size of a file in bytes, and the SHA-256 of its content, counted as it is read."""
    hasher = hashlib.sha256()
    with files.loading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            if counter:
                counter.add(len(chunk))
        return path.stat().st_size, hasher.hexdigest()


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.FILE_MODE), "wb")


# The archive


def _pack(path: Path, parts: Path, manifest: Manifest, counter: _Counter) -> None:
    said: dict[str, Any] = {"kind": "backup", "version": VERSION, **vars(manifest)}
    text = json.dumps(said | {"seal": seal(said)}, ensure_ascii=False, indent=1).encode()
    with tarfile.open(path, "w") as tar:
        # First, so that whoever looks at it sees at once whose it is.
        tar.addfile(_member(_MANIFEST, len(text), manifest.made), io.BytesIO(text))
        for name, (size, _) in manifest.members.items():
            with (parts / name).open("rb") as file:
                tar.addfile(_member(name, size, manifest.made), _Counted(file, counter))


def _member(name: str, size: int, made: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(made), files.FILE_MODE
    return info


def _unpack(path: Path, parts: Path, target: str, progress: Progress) -> Manifest:
    """Write the members of a backup into *parts*, durably, each held against manifest and layout."""
    try:
        with tarfile.open(path, "r:") as tar:
            manifest = _manifest(tar, path, target)
            left = dict(manifest.members)
            counter = _Counter(progress, sum(size for size, _ in left.values()))
            for member in tar:
                if member.name == _MANIFEST:
                    continue
                size, digest = left.pop(member.name)
                if not member.isreg() or member.size != size or not _LAYOUT.fullmatch(member.name):
                    raise ValueError(f"{member.name} is not what the manifest says")
                if _extract(tar, member, parts / member.name, counter) != digest:
                    raise ValueError(f"{member.name} does not match its digest")
            if left:
                raise ValueError(f"{next(iter(left))} is missing")
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as exc:
        why = f"{exc.args[0]} is not in its manifest" if isinstance(exc, KeyError) else str(exc)
        raise _damaged(path, why) from exc
    except OSError as exc:
        with files.storing(path):
            raise exc
    return manifest


def _manifest(tar: tarfile.TarFile, path: Path, target: str) -> Manifest:
    first = tar.next()
    if first is None or first.name != _MANIFEST or not first.isreg():
        raise ValueError("no backup of consent-sync")
    file = tar.extractfile(first)
    said = json.loads(file.read() if file else b"")
    if not isinstance(said, dict) or said.get("kind") != "backup":
        raise ValueError("no backup of consent-sync")
    if said["version"] != VERSION:
        raise ValueError(f"version {said['version']} of the format; this program knows {VERSION}")
    if said.pop("seal") != seal(said):
        raise ValueError("its manifest does not match its digest")
    if said["target"] != target:
        raise ForeignStateError(
            f"{path}: a backup of {said['target']}, and the configuration says {target}. Restore it with that one's; "
            "if the platform moved since, say so with `consent-sync state retarget` afterwards. Nothing was put into "
            "place."
        )
    del said["kind"], said["version"]
    return Manifest(**said | {"members": {name: (size, digest) for name, (size, digest) in said["members"].items()}})


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path, counter: _Counter) -> str:
    """Write a member durably to *place*, and return the digest of its content."""
    file, hasher = tar.extractfile(member), hashlib.sha256()
    files.make_folder(place.parent)
    with files.storing(place), _created(place) as out:
        while chunk := file.read(_CHUNK) if file else b"":
            hasher.update(chunk)
            out.write(chunk)
            counter.add(len(chunk))
        out.flush()
        os.fsync(out.fileno())
    files.sync_folder(place.parent)
    return hasher.hexdigest()


def seal(said: dict[str, Any]) -> str:
    """Return the digest of what a manifest says."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, why: str) -> StateDamagedError:
    return StateDamagedError(f"{path}: damaged ({why}). Nothing was put into place. Use another backup.")
