"""What lies on the disk of one target, and what each thing is worth: whole, an orphan, too open, damaged.

It only looks. What a run that is under way is changing is not judged. SQLite itself takes back what a dead process
had half written to the ledger, as at every opening of it.
"""

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sync_job.errors import StateError
from sync_job.ledger import accounting, anchor, deltas, files, inbox, keyed, lock, pause, rebinding, references, tables
from sync_job.ledger.anchor import Anchor, Standing
from sync_job.ledger.journal import Reading
from sync_job.ledger.ledger import Ledger, Place
from sync_job.ledger.state import SNAPSHOTS_KEPT, Leg
from sync_job.ledger.tombstones import Tombstones
from sync_job.ledger.withdrawn import Withdrawn


class Verdict(StrEnum):
    """What a thing is worth."""

    OK = "ok"
    BUSY = "in use"  # by a run that is under way, or by somebody who is just writing: not judged
    ORPHAN = "orphan"  # nothing needs it, and nothing ever will
    MODE = "mode"  # ours and whole, and others may read it, or this user may not
    STRANGE = "strange"  # nobody here wrote it
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Finding:
    """One thing: its path as people read it, what it is worth, and why in words; *path* is where it lies."""

    what: str
    verdict: Verdict
    words: str
    path: Path


@dataclass
class _Facts:
    """What a ledger names; nothing where it cannot be read."""

    place: Place | None = None
    anchored: bool = False
    missing: int = 0
    withdrawals: int = 0
    buried: int = 0
    names: list[str] = field(default_factory=list)
    current: int = 0
    snapshots: dict[int, tuple[str, int]] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    backfill: str = ""
    given_up: str = ""


_LEFT_S = 3600.0  # after which nobody is still writing what needs no lock


def inspect(
    folder: Path,
    target: str,
    *,
    busy: bool,
    keys: Path | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Finding]:
    """Return what is in the state *folder* of *target*, thing by thing, and beside it in *keys*.

    *busy*: a run is under way, and what it may be writing is in use. *progress* is told how many bytes were looked at,
    of how many.
    """
    looking = _Looking(folder, target, busy, progress)
    if keys is not None:
        looking.anchor_first(keys)
    looking.state()
    if keys is not None:
        looking.keys(keys)
    return looking.found


class _Looking:
    """One look at one state."""

    def __init__(self, folder: Path, target: str, busy: bool, progress: Callable[[int, int], object]) -> None:
        self._progress = progress
        self._done, self._total = 0, sum(_size(path) for path in folder.rglob("*"))
        self._folder, self._target, self._busy = folder, target, busy
        self._root = folder
        self._prefix = ""
        self._facts = _Facts()
        self._anchored: Anchor | StateError | None = None
        self._codes: Withdrawn | StateError | None = None
        self._sound = False  # the ledger can be read: what it does not name is an orphan
        self.found: list[Finding] = []

    def anchor_first(self, keys: Path) -> None:
        """Read anchor and codes before the ledger: a run that goes on meanwhile may put the ledger ahead, not them."""
        try:
            found = self._anchored = anchor.read(keys, self._target)
        except StateError as exc:
            found, self._anchored = None, exc
        try:
            self._codes = Withdrawn.open(keys, self._target, found)
        except StateError as exc:
            self._codes = exc

    def _say(self, path: Path, verdict: Verdict, words: str = "") -> None:
        what = self._prefix + (path.relative_to(self._root).as_posix() if path != self._root else "")
        self.found.append(Finding(what.rstrip("/") or ".", verdict, words, path))

    def _try(self, path: Path, look: Callable[[], str]) -> None:
        """Say that a thing is whole, in the words that *look* returns, or damaged, in the words of what it raises."""
        try:
            self._say(path, Verdict.OK, look())
        except StateError as exc:
            self._say(path, Verdict.DAMAGED, str(exc))
        if path.is_relative_to(self._folder):
            self._done += _size(path)
            self._progress(self._done, self._total)

    def _orphan(self, path: Path, words: str, *, age_s: float = 0.0) -> None:
        """Say that nothing needs a thing, unless somebody may be writing it right now."""
        young = age_s and not path.lstat().st_mtime < time.time() - age_s
        if self._busy or young or not self._sound:
            self._say(path, Verdict.BUSY, "not judged" if self._busy or young else "the ledger cannot say")
        else:
            self._say(path, Verdict.ORPHAN, words)

    def _entries(self, folder: Path) -> Iterator[Path]:
        """Yield what lies in a folder, each with the mode and the owner that it must have, in the order of names."""
        owner = self._root.stat().st_uid
        try:
            entries = sorted(folder.iterdir())
        except OSError as exc:
            self._say(folder, Verdict.DAMAGED, f"{exc.strerror}: look at its owner and mode")
            return
        for path in entries:
            try:
                if self._ours(path, owner):
                    yield path
            except FileNotFoundError:
                continue  # whoever wrote it has taken it away

    def _ours(self, path: Path, owner: int, modes: tuple[int, ...] = ()) -> bool:
        """Return whether it is a file or a folder, and say what is wrong with its owner or mode."""
        said = path.lstat()
        if not (stat.S_ISREG(said.st_mode) or stat.S_ISDIR(said.st_mode)):
            self._say(path, Verdict.STRANGE, "no file and no folder: move it away")
            return False
        if said.st_uid != owner:
            self._say(path, Verdict.DAMAGED, f"it belongs to user {said.st_uid}, its folder to {owner}: chown it")
        mode = stat.S_IMODE(said.st_mode)
        wanted = modes or ((files.FOLDER_MODE,) if path.is_dir() else (files.FILE_MODE,))
        if mode not in wanted:
            self._say(path, Verdict.MODE, f"{mode:04o} instead of {wanted[0]:04o}")
        return True

    # The state folder

    def state(self) -> None:
        """Look at everything in the state folder."""
        self._ours(self._folder, self._folder.stat().st_uid)
        if os.geteuid() not in (0, self._folder.stat().st_uid):
            self._say(self._folder, Verdict.DAMAGED, "it belongs to another user: run as that one, or chown it")
        self._ledger(self._folder / "ledger.db")
        rooms = {
            "snapshots": self._snapshots,
            "runs": self._runs,
            "inbox": self._inbox,
            "held": self._held,
            "backfills": self._backfills,
        }
        there = set()
        for path in self._entries(self._folder):
            there.add(path.name)
            if path.name in rooms and path.is_dir():
                rooms[path.name](path)
            elif path.name == "paused.json":
                self._try(path, lambda: _paused(self._folder))
            elif path.name == "running.json":
                self._running(path)
            elif path.name.startswith(".") and path.name.endswith(".new"):
                self._orphan(path, "a write that died", age_s=_LEFT_S if path.name.startswith(".paused") else 0)
            elif path.name not in ("ledger.db", "ledger.db-journal", *lock.NAMES):
                self._say(path, Verdict.STRANGE, "nothing of ours: move it away")
        for name in ("snapshots", "runs", "inbox"):
            if name not in there:
                self._say(self._folder / name, Verdict.DAMAGED, "missing: restore the state from a backup")

    def _ledger(self, path: Path) -> None:
        def look() -> str:
            with Ledger.open(path, self._target, write=False) as ledger:
                references.check(path)
                self._facts = _facts(path, ledger, self._codes if isinstance(self._codes, Withdrawn) else None)
            self._sound = True
            place = self._facts.place
            assert place is not None  # noqa: S101 - just read
            return f"run {place['run']}, snapshot {place['snapshot']}, {self._facts.withdrawals:,} withdrawals"

        self._try(path, look)

    def _snapshots(self, folder: Path) -> None:
        facts = self._facts
        seen = set()
        for path in self._entries(folder):
            number = int(path.stem) if path.suffix == ".parquet" and path.stem.isdecimal() else None
            seen.add(number)
            if number is None:
                self._other(path)
            elif number not in facts.snapshots:
                self._orphan(path, "a snapshot that the ledger does not name: a run died before its commit")
            elif number <= facts.current - SNAPSHOTS_KEPT:
                self._orphan(path, "older than the snapshots that are kept")
            else:
                self._try(path, lambda path=path, number=number: self._snapshot(path, number))  # type: ignore[misc]
        if self._sound and facts.current not in seen:
            words = "the snapshot that counts is missing: restore the state from a backup"
            self._say(folder / f"{facts.current}.parquet", Verdict.DAMAGED, words)

    def _snapshot(self, path: Path, number: int) -> str:
        digest, clients = self._facts.snapshots[number]
        held = tables.read_snapshot(path, digest)
        if len(held) != clients:
            raise files.damaged(path, f"{len(held)} clients, and the ledger says {clients}")
        return f"{clients:,} clients" + (": the one that counts" if number == self._facts.current else "")

    def _runs(self, folder: Path) -> None:
        for run in self._entries(folder):
            if run.name not in self._facts.unfinished:
                self._orphan(run, "plan and journal of a run that was reported, or that the ledger does not know")
                continue
            for path in self._entries(run):
                if path.name.isdecimal() and path.is_dir():
                    self._leg(Leg(path))
                else:
                    self._other(path)

    def _leg(self, leg: Leg) -> None:
        known = {"plan.parquet", "journal.db", "journal.db-wal", "journal.db-shm", "journal.db-journal"}
        for path in self._entries(leg.folder):
            if path.name not in known:
                self._other(path)
        if self._busy:
            self._say(leg.folder, Verdict.BUSY, "a run is sending it")
        elif leg.plan.exists():
            rows: list[int] = []
            self._try(leg.plan, lambda: f"{_plan(leg, rows):,} rows")
            if rows:
                self._try(leg.journal, lambda: _journal(leg, rows[0]))
        else:
            self._say(leg.folder, Verdict.OK, "a leg that never began")

    def _held(self, folder: Path) -> None:
        self._named(folder, self._facts.held, lambda path: f"{len(tables.read_held(path)):,} rows that were held")

    def _backfills(self, folder: Path) -> None:
        named = {self._facts.backfill} - {""}
        self._named(
            folder, named, lambda path: f"{len(tables.read_mark(path, path.stem).client):,} clients of a backfill"
        )

    def _named(self, folder: Path, named: set[str], look: Callable[[Path], str]) -> None:
        """Look at files that are named by a run: those that the ledger names must be there, others are orphans."""
        left = set(named)
        for path in self._entries(folder):
            if path.suffix != ".parquet" or path.name.startswith("."):
                self._other(path)
            elif path.stem in named:
                left.discard(path.stem)
                self._try(path, lambda path=path: look(path))  # type: ignore[misc]
            else:
                self._orphan(path, "no run needs it any more")
        for run in sorted(left):
            self._say(folder / f"{run}.parquet", Verdict.DAMAGED, "missing: restore the state from a backup")

    def _inbox(self, folder: Path) -> None:
        aside = set(inbox.set_aside_files(self._folder))
        for path in self._entries(folder):
            if path in aside:
                words = "a list that could not be read: take it in again from its source, then remove this file"
                self._say(path, Verdict.DAMAGED, words)
            elif path.name.startswith(deltas.PREFIX) and path.suffix == ".json":
                self._say(path, Verdict.OK, "a delta that was asked for and not decided by yet")
            elif path.name.startswith("."):
                self._orphan(path, "left by a process that died", age_s=_LEFT_S)
            else:
                self._try(path, lambda path=path: f"{inbox.read(path)[1]['rows']:,} rows to be taken in")  # type: ignore[misc]

    def _running(self, path: Path) -> None:
        try:
            json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            self._orphan(path, "it cannot be read, and nothing depends on it")
        else:
            self._say(path, Verdict.OK, "what the last run said of itself")

    def _other(self, path: Path) -> None:
        if path.name.startswith(".") and path.name.endswith(".new"):
            self._orphan(path, "a write that died")
        else:
            self._say(path, Verdict.STRANGE, "nothing of ours: move it away")

    # The keys

    def keys(self, keys: Path) -> None:
        """Look at what the folder of keys has of this target, and hold the state against it."""
        if not keys.exists():
            words = "missing: restore the folder of keys from its backup; without it runs grant nothing"
            self._root, self._prefix = keys, "keys/"
            self._say(keys, Verdict.DAMAGED if self._facts.anchored or self._facts.buried else Verdict.OK, words)
            return
        self._root, self._prefix = keys, "keys/"
        before = len(self.found)
        owner = keys.stat().st_uid
        self._ours(keys, owner)
        tag = anchor.tag(self._target)
        for path in sorted(keys.iterdir()):
            name = path.name
            if name.startswith(f"{tag}."):
                self._ours(path, owner)
            elif name == "tombstones.key":
                self._ours(path, owner, (0o400, files.FILE_MODE))
            elif name.startswith((f".{tag}.", ".tombstones.key.", "..tombstones.key.")):
                self._orphan(path, "a write that died", age_s=_LEFT_S)
        if any(one.verdict is Verdict.MODE for one in self.found[before:]):
            self._say(keys, Verdict.BUSY, "nothing is read of it before its modes are mended: `state repair`")
            return
        self._try(keys / f"{tag}.{keyed.WITHDRAWN}", self._withdrawn)
        self._try(keys / f"{tag}.anchor.json", self._anchor)
        self._try(keys / f"{tag}.tombstones", self._tombstones)

    def _anchor(self) -> str:
        place, found = self._facts.place, self._anchored
        if isinstance(found, StateError):
            raise found
        if place is None:
            return "not held against the ledger, which cannot be read"
        if self._facts.given_up:
            return f"of the state that its people went to, {self._facts.given_up}"
        if former := self._former():
            return f"an older copy, under the former name {former}: the next command brings it under today's"
        missing = self._facts.missing
        standing = anchor.compare(found, missing=missing, anchored=self._facts.anchored, **place)
        if standing is Standing.FOREIGN:
            raise StateError("the anchor of another state of this target: if that one was lost, move the anchor away")
        if found is None and standing is Standing.RESTORED:
            raise StateError(
                "missing: restore it from the backup of the keys. Without it the state is taken for a backup, and "
                "runs grant nothing until `consent-sync state restored`"
            )
        if standing is Standing.MOVED:
            raise StateError(
                f"the state has moved to {anchor.moved(self._root, self._target)}: a backup from before. `consent-sync "
                "state retarget` binds it to that address as well"
            )
        if standing is not Standing.GOOD:
            raise StateError(
                f"the state had come to run {found.run if found else 0}, and this one is at run {place['run']} and "
                f"lacks {missing:,} of the people who withdrew: a restored backup. `consent-sync state restored` says "
                "what it lacks"
            )
        return "the state has come as far" if found else "none yet"

    def _former(self) -> str:
        place = self._facts.place
        return rebinding.left_under(self._root, place["state"], self._facts.names, self._target) if place else ""

    def _withdrawn(self) -> str:
        if isinstance(self._codes, StateError):
            raise self._codes
        return f"{len(self._codes) if self._codes else 0:,} people who withdrew"

    def _tombstones(self) -> str:
        there = len(Tombstones.open(self._root, self._former() or self._target))
        found, place = self._anchored, self._facts.place
        known, ours = found if isinstance(found, Anchor) else None, place["state"] if place else ""
        before = anchor.codes_before(known, state=ours, buried=self._facts.buried)
        if there < before and not self._facts.given_up:
            raise StateError(
                f"{there:,} codes of erased clients, and there were {before:,}: restore the folder of keys; or, if it "
                f"has no newer backup, `consent-sync state restored --none --erased-missing {before - there}`, after "
                "who can be named was forgotten once more"
            )
        return f"{there:,} erased clients"


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 for a folder, and for what is gone by now."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _facts(path: Path, ledger: Ledger, codes: Withdrawn | None) -> _Facts:
    """Return what the ledger names, as of one moment, and how many people of *codes* it lacks."""
    with ledger.frozen(), files.loading(path), closing(files.connect_reading(path)) as db:
        backfill = ledger.backfills.open()
        snapshots = {number: (digest, clients) for number, digest, clients, _ in db.execute("SELECT * FROM snapshots")}
        return _Facts(
            place=ledger.place(),
            anchored=ledger.about.is_anchored(),
            missing=accounting.missing(ledger, codes) if codes else 0,
            withdrawals=ledger.withdrawals.counts()["withdrawals"],
            buried=ledger.about.buried(),
            names=ledger.about.targets(),
            current=ledger.current()[0],
            snapshots=snapshots,
            unfinished={run.run for run in ledger.unfinished()},
            held={one.run for one in ledger.applied.held_runs()},
            backfill=backfill.run if backfill else "",
            given_up=ledger.about.given_up().get("to", ""),
        )


def _plan(leg: Leg, rows: list[int]) -> int:
    rows.append(len(tables.read_plan(leg.plan)[0]))
    return rows[0]


def _journal(leg: Leg, rows: int) -> str:
    """Return what the journal of a dead run knows; it is read as a copy, because reading may change it."""
    if not leg.journal.exists():
        return "none: no row was sent"
    with tempfile.TemporaryDirectory() as scratch:
        for path in leg.folder.glob("journal.db*"):
            shutil.copy(path, scratch)
        with Reading(Path(scratch) / leg.journal.name, rows, time.time()) as journal:
            if not 0 <= journal.mark <= rows:
                raise files.damaged(leg.journal, f"it is at row {journal.mark} of {rows}")
            journal.endings()
            return f"sent as far as row {journal.mark:,}"


def _paused(folder: Path) -> str:
    found = pause.paused(folder)
    if found and not found["at"]:
        raise StateError("it cannot be read, and pauses all the same: `consent-sync resume` ends it")
    return f"by {found['by']}: {found['reason']}" if found else "resumed meanwhile"
