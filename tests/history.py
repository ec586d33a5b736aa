"""A shop, its platform and its accidents, step by step, and what must hold after each: the world of `test_histories`.

Everything is the product's own: state folder, lists, exports, requests over loopback. What is expected is told by plain
dictionaries that know nothing of bytes, snapshots or folds. Clients are looked at by their place in the shop, so that a
history reads the same whatever ids it was given.
"""

import os
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sync_job.config import Settings
from sync_job.errors import ConfigError, RestoredStateError
from sync_job.ledger.state import State
from sync_job.runs import approving, drain, erasure, forgetting, intake, night, restoring, withdrawing
from sync_job.runs.decide import Wish
from sync_job.runs.intake import Listing
from sync_job.runs.report import Report
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin
from sync_job.standin.contract import Flags, Update
from sync_job.standin.faults import Fault
from sync_job.standin.platform import Entry, Platform
from tests.shop import FIELDS, Consent, Shop

CLIENTS = 5
STRANGER_EVERY = 17  # ids that are a multiple of it are no members of the platform
SCOPES = {"sms": (0,), "email": (1,), "marketing": (0, 1, 2), "all": (0, 1, 2, 3)}
FLAGS: tuple[Consent, ...] = (
    (True, True, True, True),
    (False, False, False, False),
    (True, False, None, True),
    (None, True, False, None),
    (None, None, None, None),
    (False, True, True, False),
)
SURE = (Fault.REFUSE, Fault.UNAUTHORISED, Fault.REFUSE)
UNSURE = (Fault.RESET_AFTER, Fault.ERROR_AFTER, Fault.GARBAGE, Fault.RESET_BEFORE, Fault.ERROR_BEFORE)
SLOW = (Fault.LATE, Fault.STALL, Fault.LATE)
_APPLIED = (None, Fault.RESET_AFTER, Fault.ERROR_AFTER, Fault.STALL)
# A late request comes after what the next run sends, and long before its linger ends, also on a busy machine.
LINGER_S, LATE_S, SLOW_TIMEOUT_S, TIMEOUT_S = 1.1, 0.5, 0.08, 10.0
_NAMES = ("re_grants", "new_grants", "revocations", "changed", "unknown", "shrinkage")


def _guards(**most: int) -> str:
    shares = "".join(f"{name}_share = 0\n" for name in _NAMES)
    return shares + "new_grants_nights = 0\n" + "".join(f"{name} = {most.get(name, 999)}\n" for name in _NAMES)


GUARDS = _guards(re_grants=1, new_grants=2, revocations=2, changed=3, shrinkage=0)
NO_GUARDS = _guards()

# Which channel of which client: both by number.
Channel = tuple[int, int]
Happening = Callable[[], Fault | None]


class Died(BaseException):
    """Ends a run where it stands, as a kill does."""


class Deadly(Watch):
    """Dies when the run comes to a stage for the nth time."""

    def __init__(self, stage: str, times: int) -> None:
        super().__init__()
        self._fatal, self._left = stage, times

    def stage(self, name: str, total: int = 0) -> None:
        """Die, or go on."""
        self._left -= name == self._fatal
        if self._left <= 0:
            raise Died(name)
        super().stage(name, total)


@dataclass
class Faults:
    """What the next requests meet, and the next one *to* a client: a fault, something that happens, or nothing.

    *granting* is what may be granted just now. Of requests that are applied late it is kept until they are; *timely*
    are the places in the log of all others. *doubted* are clients with a request that did not go well: what it said is
    due, and no guard asks again. When *dead*, whoever sends is dead, and nothing arrives any more.
    """

    platform: Platform | None = None
    waiting: deque[Fault | Happening | None] = field(default_factory=deque)
    to: dict[int, Fault] = field(default_factory=dict)
    granting: frozenset[Channel] = frozenset()
    late: dict[int, list[frozenset[Channel]]] = field(default_factory=dict)
    timely: set[int] = field(default_factory=set)
    doubted: set[int] = field(default_factory=set)
    dead: bool = False
    broken: Exception | None = None

    def script(self, number: int, client: int) -> Fault | None:
        """Return what a request meets."""
        assert self.platform is not None
        fault = self._next(client)
        if fault is not None:
            self.doubted.add(client)
        if fault is Fault.LATE:
            self.late.setdefault(client, []).append(self.granting)
        elif fault in _APPLIED:
            self.timely.add(self.platform.entries)
        return fault

    def _next(self, client: int) -> Fault | None:
        if self.dead:
            return Fault.ERROR_BEFORE
        if client in self.to:
            return self.to.pop(client)
        found = self.waiting.popleft() if self.waiting else None
        if not callable(found):
            return found
        try:
            return found()
        except Exception as exc:  # noqa: BLE001 - this is the platform's thread: it is raised again where the run is
            self.broken = exc
            return None


class Step(NamedTuple):
    """One thing that happens: what, to whom, and two numbers that say how."""

    kind: str
    client: int = 0
    one: int = 0
    two: int = 0


class Withdrawal(NamedTuple):
    """Who withdrew what, when (epoch seconds), in which lists, and how long the platform's log was then."""

    client: int
    scope: str
    at: float
    lists: frozenset[str]
    place: int


class Copied(NamedTuple):
    """Folders as they were at one moment."""

    folders: list[Path]
    files: list[tuple[Path, bytes, int]]

    def put_back(self) -> None:
        """Make the folders what they were."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, content, mode in self.files:
            path.write_bytes(content)
            path.chmod(mode)


def copied(*folders: Path) -> Copied:
    """Return folders as they are, at one moment, whoever writes to them meanwhile."""
    last = None
    while True:
        try:
            found = _read(folders)
        except FileNotFoundError:
            continue
        if found == last:  # nothing changed between the end of one look and the beginning of the next
            return found
        last = found


def _read(roots: Iterable[Path]) -> Copied:
    folders: list[Path] = []
    files = []
    for root in roots:
        there = sorted(root.rglob("*"))
        folders += [root, *(path for path in there if path.is_dir())]
        files += [
            (path, path.read_bytes(), path.stat().st_mode & 0o777)
            for path in there
            if path.is_file() and not path.name.endswith("-shm") and path.name != "lock"
        ]
    return Copied(folders, files)


class Backup(NamedTuple):
    """A state folder of before, and what was so then."""

    state: Copied
    withdrawn: dict[str, Withdrawal]
    lifted: dict[Channel, float]
    newest: float
    nights: int


class World:
    """One history: its shop, and what a person would expect of it."""

    def __init__(self, folder: Path, platform: Standin, faults: Faults, first: int, beginning: str) -> None:
        self.platform, self.faults, self.beginning = platform, faults, beginning
        self.ids = list(range(first, first + CLIENTS))
        self.strangers = {client for client in self.ids if client % STRANGER_EVERY == 0}
        faults.platform = platform.platform
        faults.waiting.clear()
        faults.to.clear()
        faults.late.clear()
        faults.doubted.clear()
        self.shop = Shop(folder, platform.url, guards=GUARDS, timeout_s=TIMEOUT_S, linger_s=LINGER_S)
        text = self.shop.config.read_text().replace("attempts = 6", "attempts = 1")
        self.shop.config.write_text(text.replace('as_of = "none"', 'as_of = "mtime"'))
        self.settings = self.shop.settings
        self.told: list[str] = [f"begins {beginning}, with {len(self.strangers)} whom the platform does not know"]
        self.clock = float(int(time.time()) - 10_000)  # of exports
        self.says: dict[int, Consent] = {client: FLAGS[place % 3] for place, client in enumerate(self.ids)}
        self.published: list[dict[int, Consent]] = []
        self.newest = 0.0  # as-of of the newest export that was surely applied
        self.small_ones_pass = False  # a person said once that an export with fewer clients is right
        self.withdrawn: dict[str, Withdrawal] = {}  # by the reference of the request
        self.lifted: dict[Channel, float] = {}  # and when it was granted again
        self.references = 0
        self.asked: set[int] = set()  # to be erased, and not yet
        self.forgotten: set[int] = set()
        self.closed: set[int] = set()  # by hand: what was owed to them was once given up
        self.named: set[int] = set()  # by a list, since they were erased
        self.held: Report | None = None
        self.backup: Backup | None = None
        self.voided: dict[str, Withdrawal] = {}
        self.had: set[str] = set()  # the withdrawals that a restored state knows
        self.nights = 0
        self.restored = self.was_restored = False
        self.suspect: set[Channel] = set()  # allowed on the platform by what a restored state does not know
        self.open: dict[int, int] = {}  # obligations that are not ended, and whose
        self.stated: set[Channel] = set()  # in some request
        self._on_the_platform(platform.platform)
        self.place = platform.platform.entries
        self._publish(self.says)
        self.assumed = (
            {(client, k) for client, flags in self.says.items() for k, flag in enumerate(flags) if flag}
            if beginning == "unknown"
            else set()
        )
        self.shop.init(beginning)

    def _on_the_platform(self, platform: Platform) -> None:
        """Let the platform hold what the beginning says that it does."""
        for place, (client, flags) in enumerate(self.says.items()):
            there = flags if self.beginning == "equal" else FLAGS[(place + 1) % len(FLAGS)]
            if self.beginning != "empty":
                platform.apply(Update(client, Flags(*there)))
                self.faults.timely.add(platform.entries - 1)

    # What happens

    def step(self, step: Step) -> None:
        """Let it happen, and hold the laws."""
        self.told.append(f"{step.kind} {step.client} {step.one} {step.two}")
        getattr(self, f"_{step.kind}")(self.ids[step.client % CLIENTS], step.one, step.two)
        self._check()

    def _crm(self, client: int, one: int, two: int) -> None:
        """Let the CRM say something else of one client, or of two."""
        self.says = self.says | {client: FLAGS[one % len(FLAGS)]}
        if two % 3 == 0:
            self.says |= {self.ids[two % CLIENTS]: FLAGS[two % len(FLAGS)]}

    def _crm_all(self, client: int, one: int, two: int) -> None:
        """Let the CRM say something else of most, as after an accident."""
        self.says = self.says | dict.fromkeys(self.ids[: 3 + two % 3], FLAGS[one % len(FLAGS)])

    def _night(self, client: int, one: int, two: int) -> None:
        settings = self._meeting(one, two)
        self._publish(self.says)
        self._run(self.says, settings=settings)

    def _stale(self, client: int, one: int, two: int) -> None:
        """Let an old export come in again, with its old time."""
        old = self.published[one % len(self.published)]
        self._publish(old, age_s=two * 40 + 1.0)
        self._run(old, as_of=self.clock - two * 40 - 1.0)

    def _part(self, client: int, one: int, two: int) -> None:
        self._publish({client: self.says[client]}, new=False)
        self._run({client: self.says[client]}, wish=Wish(part=True), settings=self._meeting(one, two))

    def _truncated(self, client: int, one: int, two: int) -> None:
        some = {c: f for c, f in self.says.items() if c != client}
        self._publish(some, new=False)
        self._run(some, truncated=True)

    def _blemished(self, client: int, one: int, two: int) -> None:
        """Export a cell that cannot be read: that client is granted nothing."""
        self._publish(self.says, new=False)
        lines = self.shop.export.read_text().splitlines()
        place = 1 + self.ids.index(client)
        cells = lines[place].split(",")
        cells[1 + one % 4] = "maybe"
        lines[place] = ",".join(cells)
        self.shop.export.write_text("\n".join([*lines, ""]))
        os.utime(self.shop.export, (self.clock, self.clock))
        flags = tuple(None if k == one % 4 else flag for k, flag in enumerate(self.says[client]))
        self._run(self.says | {client: flags}, ungranted={client})

    def _restrict_only(self, client: int, one: int, two: int) -> None:
        self._publish(self.says)
        self._run(self.says, wish=Wish(restrict_only=True), settings=self._meeting(one, two))

    def _killed(self, client: int, one: int, two: int) -> None:
        """Let the night die at a stage."""
        settings = self._meeting(one, two)
        self._publish(self.says)
        stage = ("deciding", "sending", "folding", "reporting")[two % 4]
        self._run(self.says, watch=Deadly(stage, 1 + one % 2), settings=settings)

    def _cut(self, client: int, one: int, two: int) -> None:
        """Let the night die while a request is in flight, perhaps after a list came in."""
        if two % 5 == 0:
            self.faults.waiting.append(lambda: self._list([(client, list(SCOPES)[one % len(SCOPES)])]))
        self.faults.waiting.extend([None] * (one % 4))
        kept: list[Copied] = []

        def dies() -> Fault:
            kept.append(copied(self.settings.state.path, self.settings.state.keys))
            self.faults.dead = True
            return Fault.RESET_AFTER if two % 2 else Fault.RESET_BEFORE

        self.faults.waiting.append(dies)
        reports = self.settings.report.path
        before = {path.name for path in reports.iterdir()}
        self._publish(self.says)
        self._run(self.says, survives=False)
        if kept:
            self.told.append("  and is dead")
            kept[0].put_back()
            for path in reports.iterdir():
                if path.name not in before:
                    shutil.rmtree(path)
            self.faults.doubted.update(self.ids)  # whatever was to be sent soon may have been

    def _withdraw(self, client: int, one: int, two: int) -> None:
        scope = list(SCOPES)[one % len(SCOPES)]
        clients = [client] if two % 2 else list(dict.fromkeys([client, self.ids[two % CLIENTS]]))
        # Now and then a list says again what another said before.
        again = [ref for ref, one_ in self.withdrawn.items() if one_.client not in clients][: 2 * (two % 4 == 3)]
        self._list([(one_, scope) for one_ in clients], again)
        if two % 3 == 0:
            self._drain(client, one, two)

    def _withdraw_during(self, client: int, one: int, two: int) -> None:
        """Let a list come in while a request is in flight, one in doubt perhaps."""
        scope = list(SCOPES)[two % len(SCOPES)]
        settings = self._meeting(one, two) if two % 3 else self.settings
        del list(self.faults.waiting)[one % 3 :]
        self.faults.waiting.appendleft(lambda: self._list([(client, scope)]))
        self.faults.waiting.extendleft([None] * (one % 3))
        self._publish(self.says)
        self._run(self.says, settings=settings)

    def _cross(self, client: int, one: int, two: int) -> None:
        """Let a grant be on its way, late or in doubt, when its client withdraws and is denied."""
        self.says = self.says | {client: FLAGS[0]}
        self._publish(self.says)
        self.faults.to[client] = (*SLOW, *UNSURE)[two % 8]
        self._run(self.says, settings=self._slowly(slow=two % 8 < len(SLOW)))
        self._list([(client, list(SCOPES)[one % len(SCOPES)])])
        self._drain(client, 0, 0)

    def _regret(self, client: int, one: int, two: int) -> None:
        """Let the CRM allow what it denied, take that back, and lose the state of both nights."""
        self.says = self.says | {client: FLAGS[1]}
        for flags in (FLAGS[1], FLAGS[0]):
            self.says = self.says | {client: flags}
            self._publish(self.says)
            self._run(self.says)
            if flags == FLAGS[1]:
                self._save(client, one, two)
        self._restore(client, one, two)
        self.says = self.says | {client: FLAGS[1]}

    def _drain(self, client: int, one: int, two: int) -> None:
        watch = Deadly(("sending", "folding", "reporting")[one % 3], 1) if two >= 10 else Watch()
        settings = self._meeting(one, two)
        with self._granting(frozenset()), suppress(Died):
            drain.drain(settings, "drain", watch)

    def _reconsent(self, client: int, one: int, two: int) -> None:
        scope = list(SCOPES)[one % len(SCOPES)]
        client = self._one_of({w.client for w in self.withdrawn.values()}, client)
        path = self.shop.folder / "evidence.csv"
        granted = time.time() if two % 4 else time.time() - 5000
        path.write_text(f"Client,channels,granted_at,method,evidence_ref\n{client},{scope},{_iso(granted)},form,f-1\n")
        with self._granting(frozenset()), suppress(RestoredStateError):
            found = withdrawing.reconsent(self.settings, str(path), {})
            if found["lifted"]:
                self.told.append(f"  lifted {scope}")
                for k in SCOPES[scope]:
                    self.lifted[client, k] = max(granted, self.lifted.get((client, k), 0.0))

    def _forget(self, client: int, one: int, two: int) -> None:
        settings = self._meeting(one, two)
        watch = Deadly(("sending", "folding", "reporting")[one % 3], 1) if two >= 10 else Watch()
        with self._granting(frozenset()), suppress(Died):
            ids = forgetting.clients(settings, [client], None)
            # That it was asked is durable before the first request; when it is done `_check` sees.
            asked, self.asked = self.asked, self.asked | {client}
            try:
                forgetting.forget(settings, ids, "R", watch)
            except RestoredStateError:
                self.asked = asked

    def _approve(self, client: int, one: int, two: int) -> None:
        """Approve what the last night held, or a wrong number of it."""
        if self.held is None:
            return
        for what, count in self.held.summary["approvable"].items():
            if count:
                with self._granting(frozenset()), suppress(ConfigError, RestoredStateError):
                    said = count + (two % 5 == 0)
                    approving.approve(self.settings, self.held.summary["run"], what, said, reason="r", by="b")
                    assert said == count, "a wrong number was approved"
                    self.told.append(f"  {what}: {count}")
                    self.small_ones_pass |= what == "clients"
        self.held = None

    def _close(self, client: int, one: int, two: int) -> None:
        client = self._one_of(set(self.open.values()), client)
        with self._granting(frozenset()), suppress(ConfigError):
            withdrawing.close(self.settings, client, reason="r", by="b")
            self.closed.add(client)

    def _void(self, client: int, one: int, two: int) -> None:
        """Take a list back, as two people may."""
        lists = sorted({digest for one_ in self.withdrawn.values() for digest in one_.lists})
        if not lists:
            return
        digest = lists[one % len(lists)]
        with self._granting(frozenset()), suppress(ConfigError):
            withdrawing.void(self.settings, digest, reason="r", by="a", approved_by="b")
            self.told.append(f"  {digest[:8]}")
            left = {ref: w._replace(lists=w.lists - {digest}) for ref, w in self.withdrawn.items()}
            self.voided |= {ref: self.withdrawn[ref] for ref, w in left.items() if not w.lists}
            self.withdrawn = {ref: w for ref, w in left.items() if w.lists}

    def _save(self, client: int, one: int, two: int) -> None:
        if self.restored:  # of what such a state lacks nobody could tell later
            return
        state = copied(self.settings.state.path)
        self.backup = Backup(state, dict(self.withdrawn), dict(self.lifted), self.newest, self.nights)

    def _restore(self, client: int, one: int, two: int) -> None:
        """Put the state of before back, and not the keys."""
        if self.backup is None:
            self._save(client, one, two)
        if self.backup is None or self.nights == self.backup.nights or self.restored:
            return
        if self._inbox():  # of a list that no holder of the lock has seen the anchor cannot know
            self._drain(0, 0, 0)
        if self._inbox():
            return
        self.backup.state.put_back()
        self.restored = self.was_restored = True
        self.had = set(self.backup.withdrawn)
        self.withdrawn |= {ref: w for ref, w in self.backup.withdrawn.items() if w.client not in self.forgotten}
        self.lifted, self.newest, self.held = dict(self.backup.lifted), self.backup.newest, None
        self.asked, self.open = self._asked() - self.forgotten, {}
        state = self.platform.platform.state
        self.suspect = {
            (client, k)
            for client, flags in state.items()
            for k, flag in enumerate(flags)
            if flag and client in self.ids and self.covered(client, k)
        }

    def _say_restored(self, client: int, one: int, two: int) -> None:
        """Say which withdrawals the restored state lacks; those of a list that is void are named, and voided again."""
        void = {ref: w for ref, w in self.voided.items() if ref not in self.had and w.client not in self.forgotten}
        since = {ref: w for ref, w in self.withdrawn.items() if ref not in self.had}
        listing = None
        if since:
            listing = self._listing("since.csv", [(w.client, w.scope, w.at, ref) for ref, w in since.items()])
        with self._granting(frozenset()), suppress(ConfigError):
            if void and self.restored:
                said = self._listing("void.csv", [(w.client, w.scope, w.at, ref) for ref, w in void.items()])
                (taken,) = intake.take_in([self.settings], lambda _: said, lambda count, _: count, Watch())
                withdrawing.void(self.settings, taken.found.digest, reason="r", by="a", approved_by="b")
            restoring.restored(self.settings, listing, "b", Watch())
            with State.open(self.settings.state.path, self.settings.endpoint.target, write=False) as state:
                self.restored = bool(state.ledger.about.restored())

    def _wait(self, client: int, one: int, two: int) -> None:
        """Time passes until nobody lingers."""
        self._let_land()
        with self.shop.state() as found:
            lingering = found.ledger.lingering()
        time.sleep(max(0.0, max([lingering.everyone, *lingering.until]) - time.time()) + 0.005)

    # How it happens

    def _meeting(self, one: int, two: int) -> Settings:
        """Let a request of the next run meet a fault, or none; return the settings of that run."""
        kind = {1: SURE, 2: UNSURE, 4: SLOW}.get(two % 6)
        if kind is None:
            return self.settings
        fault = kind[one % len(kind)]
        if two < 6:
            self.faults.waiting.extend([None] * (one % 3) + [fault])
        else:
            self.faults.to[self.ids[one % CLIENTS]] = fault
        return self._slowly(slow=kind is SLOW, attempts=1 + (one == 3))

    def _slowly(self, *, slow: bool, attempts: int = 1) -> Settings:
        """Return the settings of a run that does not wait long for an answer, or does."""
        timeout_s = SLOW_TIMEOUT_S if slow else TIMEOUT_S
        if slow:
            self.faults.doubted.update(self.ids)  # others may be too slow for it as well
        delivery = self.settings.delivery.model_copy(update={"timeout_s": timeout_s, "attempts": attempts})
        return self.settings.model_copy(update={"delivery": delivery})

    def _publish(self, says: dict[int, Consent], *, age_s: float = 0.0, new: bool = True) -> None:
        self.shop.write(says)
        if not age_s:
            self.clock += 1.0
            if new:
                self.published.append(dict(says))
        os.utime(self.shop.export, (self.clock - age_s, self.clock - age_s))

    def _list(self, rows: list[tuple[int, str]], again: Iterable[str] = ()) -> None:
        """Take a list in; it binds from the moment that this returns."""
        at = int(time.time() * 1000) / 1000
        new = {}
        for client, scope in rows:
            self.references += 1
            new[f"r{self.references}"] = client, scope
        said = [(client, scope, at, ref) for ref, (client, scope) in new.items()]
        said += [(self.withdrawn[ref].client, self.withdrawn[ref].scope, self.withdrawn[ref].at, ref) for ref in again]
        listing = self._listing(f"list-{self.references}.csv", said)
        (taken,) = intake.take_in([self.settings], lambda _: listing, lambda count, _: count, Watch())
        digest, place = taken.found.digest, self.platform.platform.entries
        for ref, (client, scope) in new.items():
            self.withdrawn[ref] = Withdrawal(client, scope, at, frozenset([digest]), place)
            self.named.add(client)
        for ref in again:
            self.withdrawn[ref] = self.withdrawn[ref]._replace(lists=self.withdrawn[ref].lists | {digest})

    def _listing(self, name: str, rows: list[tuple[int, str, float, str]]) -> Listing:
        path = self.shop.folder / name
        lines = [f"{client},{scope},{_iso(at)},{ref}" for client, scope, at, ref in rows]
        path.write_text("\n".join(["Client,scope,received_at,request_ref", *lines, ""]))
        return Listing(str(path), basis="objection")

    def _run(
        self,
        says: dict[int, Consent],
        *,
        as_of: float | None = None,
        truncated: bool = False,
        ungranted: Iterable[int] = (),
        wish: Wish | None = None,
        watch: Watch | None = None,
        settings: Settings | None = None,
        survives: bool = True,
    ) -> None:
        """Run a night, and hold it to what this export may grant."""
        wish, as_of = wish or Wish(), self.clock if as_of is None else as_of
        fresh = wish.part or (as_of >= self.newest and (not truncated or self.small_ones_pass))
        none = {*ungranted, *self.forgotten, *self.asked}
        may = {(c, k) for c, flags in says.items() for k, flag in enumerate(flags) if flag and c not in none}
        if not fresh or self.restored or wish.restrict_only:
            may.clear()
        # What the platform holds and the product cannot know, it is not held to.
        known = {(c, k) for c in self.ids for k in range(4)} if self.beginning != "unknown" else set(self.stated)
        before = {
            client: Flags(*(flag if (client, k) in known else None for k, flag in enumerate(flags)))
            for client, flags in self.platform.platform.state.items()
        }
        place = self.platform.platform.entries
        owing = set(self.open.values()) | {w.client for w in self.withdrawn.values()}
        report = None
        granted = frozenset(one for one in may if not self.covered(*one))
        with self._granting(granted), suppress(RestoredStateError, Died):
            report = night.run(settings or self.settings, wish, watch or Watch())
        if report is None or not survives:
            return
        self.nights += 1
        summary = report.summary
        self.told.append(f"  exit {summary['exit']}: {'; '.join(summary['reasons'])}")
        renumbered = "changed clients" in {one["guard"] for one in summary["guards"]}
        if summary["export"] is not None and not wish.part and not summary["doubts"] and not renumbered:
            self.newest = max(self.newest, as_of)
        self.held = report if any(summary["approvable"].values()) else self.held
        if not summary["approvals"] and not self.was_restored:
            self._hold_guards(summary["guards"], before, place, owing)

    def _hold_guards(
        self, trips: list[dict[str, object]], before: dict[int, Flags], place: int, owing: set[int]
    ) -> None:
        """Hold what guards held to not having been sent."""
        tripped = {one["guard"] for one in trips}
        held = {one["channel"] for one in trips if one["guard"] == "revocations"}
        for entry in self._since(place):
            for k, flag in enumerate(entry.flags):
                known = before.get(entry.client, Flags())[k]
                surely = entry.client not in self.faults.doubted
                if flag and entry.sequence - 1 in self.faults.timely:
                    assert "changed clients" not in tripped, f"{self._shown(entry)}: nothing but obligations is sent"
                    assert known is not False or not (surely and "re-grants" in tripped), (
                        f"{self._shown(entry)}: it was held"
                    )
                    new = "new grants" in tripped and self.beginning == "equal" and surely
                    assert known is not None or not new, f"{self._shown(entry)}: it was held"
                if flag is False and known and FIELDS[k].removeprefix("Allow") in held and surely:
                    assert entry.client in owing, f"{self._shown(entry)}: the revocation was held"

    def _one_of(self, clients: set[int], client: int) -> int:
        """Return one of these, chosen by *client*, or just that one where there are none."""
        return sorted(clients)[client % len(clients)] if clients else client

    def _granting(self, may: frozenset[Channel]) -> "_Granting":
        return _Granting(self, may)

    def _gone(self, client: int) -> None:
        """Note that a client was erased."""
        self.told.append(f"  {self.ids.index(client)} is erased")
        self.forgotten.add(client)
        self.named.discard(client)
        self.withdrawn = {ref: w for ref, w in self.withdrawn.items() if w.client != client}
        self.lifted = {key: at for key, at in self.lifted.items() if key[0] != client}
        self.open = {number: whose for number, whose in self.open.items() if whose != client}
        flags = self.platform.platform.state.get(client, Flags())
        if not self.was_restored and self.beginning != "unknown" and client not in self.closed:
            assert True not in flags, f"{self.ids.index(client)} was erased, and is allowed"

    def _since(self, place: int) -> list[Entry]:
        return [entry for entry in self.platform.platform.log[place:] if entry.client in self.ids]

    def _shown(self, entry: Entry) -> str:
        late = "" if entry.sequence - 1 in self.faults.timely else ", late"
        return f"{self.ids.index(entry.client)}: {''.join('-FT'[(f is not None) + bool(f)] for f in entry.flags)}{late}"

    def _inbox(self) -> set[str]:
        return {path.stem for path in (self.settings.state.path / "inbox").iterdir()}

    def _asked(self) -> set[int]:
        return {client for (client,) in self._query("SELECT client FROM forgetting")}

    def _buried(self) -> set[int]:
        ids = np.array(self.ids, np.int32)
        return set(ids[erasure.tombstones(self.settings).of(ids)].tolist())

    def _query(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.settings.state.path / "ledger.db")) as db:
            return db.execute(query).fetchall()

    def _let_land(self) -> None:
        """Let time pass until every late request was applied."""
        while self.faults.late:
            time.sleep(0.01)
            self.look(self.faults.granting)

    # What must hold

    def covered(self, client: int, channel: int) -> bool:
        """Return whether a withdrawal covers a channel, as a person would say."""
        return any(w.client == client and self._stands(w, channel) for w in self.withdrawn.values())

    def _stands(self, one: Withdrawal, channel: int) -> bool:
        return channel in SCOPES[one.scope] and one.at >= self.lifted.get((one.client, channel), 0.0)

    def look(self, may: frozenset[Channel]) -> None:
        """Hold every request since the last look to what was allowed when it was sent."""
        entries = self._since(self.place)
        self.place = self.platform.platform.entries
        denied: set[Channel] = set()  # since the list came in that withdrew it
        for entry in entries:
            shown, place = self._shown(entry), entry.sequence - 1
            self.told.append(f"  {shown}")
            timely = place in self.faults.timely
            if not timely:
                outstanding = self.faults.late[entry.client]
                of = next((one for one in outstanding if self._within(entry, one)), None)
                assert of is not None, f"{shown}: not stated by a fresh export, or withdrawn"
                outstanding.remove(of)
                if not outstanding:
                    del self.faults.late[entry.client]
            for k, flag in enumerate(entry.flags):
                if flag is None:
                    continue
                self.stated.add((entry.client, k))
                if flag and timely:
                    assert (entry.client, k) in may, f"{shown}: not stated by a fresh export, or withdrawn"
                    assert (entry.client, k) not in denied, f"{shown}: withdrawn, denied, and allowed again"
                withdrawn = [w for w in self.withdrawn.values() if w.client == entry.client and w.place <= place]
                if not flag and timely and any(self._stands(w, k) for w in withdrawn):
                    denied.add((entry.client, k))
            if entry.client in self.forgotten and timely:
                # Allowed, and not as it should be: a denial stays due though the list that asked for it is void.
                assert entry.client in self.named, f"{shown}: erased, and no list asks for it"

    @staticmethod
    def _within(entry: Entry, may: frozenset[Channel]) -> bool:
        return all((entry.client, k) in may for k, flag in enumerate(entry.flags) if flag)

    def _check(self) -> None:
        """Hold the laws that are about what is kept and what the platform holds."""
        asked = self._asked()
        for client in self.asked - asked:
            self._gone(client)
        self.asked = asked
        state = self.platform.platform.state
        self.suspect = {(c, k) for c, k in self.suspect if state[c][k] is not False}
        rows = self._query("SELECT id, client, owed, ended, source, request_ref FROM obligations")
        there = {row[0] for row in rows}
        vanished = {client for number, client in self.open.items() if number not in there}
        for client in vanished & self.asked & self._buried():
            self._gone(client)  # and asked for once more since
        for number, client in self.open.items():
            assert number in there, f"an obligation of {self.ids.index(client)} vanished"
        self.open = {}
        kept: dict[str, tuple[int, str | None]] = {}
        for number, client, owed, ended, source, reference in rows:
            if owed:
                assert ended is None
                if not (self.restored and client in self.forgotten):  # who is soon erased again
                    self.open[number] = client
            else:
                assert ended in ("acknowledged", "by hand", "lifted", "overtaken", "void"), (
                    f"an obligation ended by {ended}"
                )
            if source == "withdrawal":
                kept[reference] = owed, ended
        inbox = self._inbox()
        for reference, one in self.withdrawn.items():
            who = f"{self.ids.index(one.client)}, who withdrew {one.scope} ({reference})"
            stands = [k for k in SCOPES[one.scope] if self._stands(one, k)]
            if self.restored or not stands or one.lists & inbox:
                continue
            assert reference in kept, f"nothing was ever owed to {who}"
            owed, ended = kept[reference]
            assert owed or ended in ("acknowledged", "by hand"), f"what is owed to {who} ended by {ended}"
            for k in stands:
                if ended == "acknowledged" and (one.client, k) not in self.suspect:
                    assert state.get(one.client, Flags())[k] is False, f"{FIELDS[k]} of {who} is not denied"
        folder = self.settings.state.path
        assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]

    def end(self) -> None:
        """Let everything be well again, and hold that the platform is what the rules say."""
        self.told.append("all is well again")
        text = self.shop.config.read_text()
        assert GUARDS in text
        self.shop.config.write_text(text.replace(GUARDS, NO_GUARDS))
        self.settings = self.shop.settings
        for _ in range(2):
            if self.restored:
                self._say_restored(0, 0, 0)
            self._wait(0, 0, 0)
            self._publish(self.says)
            self._run(self.says, wish=Wish(retry=True))
            self._check()
        self._wait(0, 0, 0)
        state = self.platform.platform.state
        for client in set(self.ids) - self.strangers - self.forgotten:
            flags = state.get(client, Flags())
            for k, says in enumerate(self.says[client]):
                who = f"{FIELDS[k]} of {self.ids.index(client)} is {flags[k]}"
                if self.covered(client, k):
                    assert flags[k] is not True, f"{who} and withdrawn"
                elif says is False:
                    assert flags[k] is False, f"{who}, and the CRM says no"
                elif says and not self.was_restored and ((client, k) in self.stated or (client, k) not in self.assumed):
                    assert flags[k] is True, f"{who}, and the CRM says yes"
        assert not set(self.shop.owed()) - self.strangers, "something is still owed"
        place = self.platform.platform.entries
        self._publish(self.says)
        self._run(self.says)
        again = [self._shown(entry) for entry in self._since(place) if entry.client not in self.strangers]
        assert not again, f"a second night of the same sends {again}"


class _Granting:
    """Holds the requests of a block to what may be granted in it."""

    def __init__(self, world: World, may: frozenset[Channel]) -> None:
        self._world, self._may = world, may

    def __enter__(self) -> None:
        self._world.look(self._may)  # what was applied late since the last one
        self._world.faults.granting = self._may

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        world = self._world
        world.platform.capacity()  # what has arrived is served by now, whoever has given up on it
        world.faults.waiting.clear()
        world.faults.to.clear()
        world.faults.dead = False
        broken, world.faults.broken = world.faults.broken, None
        if kind is None or issubclass(kind, (Died, ConfigError, RestoredStateError)):
            world.look(self._may)
            if broken:
                raise broken


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
