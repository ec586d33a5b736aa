"""A shop, its platform and its accidents, step by step, and what must hold after each: the world of `test_histories`.

Everything is the product's own: state folder, lists, exports, requests over loopback. What is expected is told by plain
dictionaries that know nothing of bytes, snapshots or folds.
"""

import json
import os
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sync_job.errors import ConfigError, ConsentSyncError, Exit, NoStateError, RestoredStateError
from sync_job.ledger.state import State
from sync_job.runs import approving, drain, forgetting, night, restoring, withdrawing
from sync_job.runs.decide import Wish
from sync_job.runs.report import Report
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin
from sync_job.standin.faults import Fault
from sync_job.standin.platform import Entry
from tests.shop import FIELDS, Consent, Shop

CLIENTS = 5
SCOPES = {"sms": (0,), "email": (1,), "marketing": (0, 1, 2), "all": (0, 1, 2, 3)}
FLAGS: tuple[Consent, ...] = (
    (True, True, True, True),
    (False, False, False, False),
    (True, False, None, True),
    (None, True, False, None),
    (None, None, None, None),
    (False, True, True, False),
)
SURE = (Fault.REFUSE, Fault.ERROR_BEFORE, Fault.UNAVAILABLE)
UNSURE = (Fault.RESET_AFTER, Fault.ERROR_AFTER, Fault.GARBAGE, Fault.LATE)
LINGER_S, LATE_S, TIMEOUT_S = 0.5, 0.3, 0.25
GUARDS = """re_grants = 1
re_grants_share = 0
new_grants = 3
new_grants_share = 0
new_grants_nights = 0
revocations = 2
revocations_share = 0
changed = 1000
unknown = 1000
shrinkage = 0
shrinkage_share = 0
"""
NO_GUARDS = GUARDS.replace("re_grants = 1", "re_grants = 999").replace("new_grants = 3", "new_grants = 999")
NO_GUARDS = NO_GUARDS.replace("revocations = 2", "revocations = 999").replace("shrinkage = 0", "shrinkage = 999")


class Died(BaseException):
    """Ends a run where it stands, as a kill does."""


class Deadly(Watch):
    """Dies when the run comes to a stage for the nth time."""

    def __init__(self, stage: str, times: int) -> None:
        super().__init__()
        self._fatal, self._left = stage, times

    def stage(self, name: str, total: int = 0) -> None:
        """Die, or go on."""
        if name == self._fatal:
            self._left -= 1
            if self._left <= 0:
                raise Died(name)
        super().stage(name, total)


@dataclass
class Faults:
    """What the next requests meet: a fault, something to do while they are in flight, or nothing."""

    waiting: deque[Fault | Callable[[], None] | None] = field(default_factory=deque)
    late: bool = False  # whether a request will be applied late

    def script(self, number: int, client: int) -> Fault | None:
        """Return what a request meets."""
        if not self.waiting:
            return None
        found = self.waiting.popleft()
        if callable(found):
            found()
            return None
        self.late |= found is Fault.LATE
        return found


class Step(NamedTuple):
    """One thing that happens: what, to whom, and two numbers that say how."""

    kind: str
    client: int = 0
    one: int = 0
    two: int = 0


class Withdrawal(NamedTuple):
    """Who withdrew what, and when (epoch seconds)."""

    client: int
    scope: str
    at: float


class World:
    """One history: its shop, and what a person would expect of it."""

    def __init__(self, folder: Path, platform: Standin, faults: Faults, first: int, beginning: str) -> None:
        self.platform, self.faults = platform, faults
        self.ids = list(range(first, first + CLIENTS))
        faults.waiting.clear()
        self.shop = Shop(folder, platform.url, guards=GUARDS, timeout_s=TIMEOUT_S, linger_s=LINGER_S, leg_s=0)
        text = self.shop.config.read_text().replace("attempts = 6", "attempts = 1")
        self.shop.config.write_text(text.replace('as_of = "none"', 'as_of = "mtime"'))
        self.settings = self.shop.settings
        self.clock = time.time() - 10_000.0  # of exports, in whole seconds before now
        self.began = self.clock
        self.says: dict[int, Consent] = {client: FLAGS[place % 3] for place, client in enumerate(self.ids)}
        self.published: list[dict[int, Consent]] = []
        self.withdrawn: list[Withdrawal] = []
        self.lifted: dict[tuple[int, int], float] = {}  # (client, channel) and when it was granted again
        self.pending: set[int] = set()  # withdrawn by a list that came in during the run that is under way
        self.forgotten: dict[int, int] = {}  # and the length of the log then
        self.held: Report | None = None
        self.approved = False
        self.backup: tuple[Path, int] | None = None
        self.as_saved: dict[str, object] = {}
        self.restored = False  # and nobody has said yet what the state lacks
        self.was_restored = False
        # Then what is taken as allowed may not be: an error under-contacts.
        self.under_contacts = beginning == "unknown"
        self.seen = len(platform.platform.log)
        self.open: dict[int, tuple[int, int]] = {}
        self.lists = 0
        self._publish(self.says)
        self.shop.init(beginning)

    # What happens

    def step(self, step: Step) -> None:
        """Let it happen, and hold the laws."""
        client = self.ids[step.client % CLIENTS]
        getattr(self, f"_{step.kind}")(client, step.one, step.two)
        self._check()

    def _crm(self, client: int, one: int, two: int) -> None:
        self.says = self.says | {client: FLAGS[one % len(FLAGS)]}
        if two % 3 == 0:
            self.says |= {self.ids[two % CLIENTS]: FLAGS[two % len(FLAGS)]}

    def _night(self, client: int, one: int, two: int) -> None:
        self._fault(one, two)
        self._publish(self.says)
        self._run(self.says, fresh=True)

    def _stale(self, client: int, one: int, two: int) -> None:
        old = self.published[one % len(self.published)]
        self._publish(old, age_s=self.clock - self.began + two + 1.0)  # older than all that was applied
        self._run(old, fresh=False)

    def _part(self, client: int, one: int, two: int) -> None:
        self._publish({client: self.says[client]}, count=False)
        self._run({client: self.says[client]}, fresh=True, wish=Wish(part=True))

    def _truncated(self, client: int, one: int, two: int) -> None:
        some = {c: f for c, f in self.says.items() if c != client}
        self._publish(some, count=False)
        self._run(some, fresh=False)

    def _killed(self, client: int, one: int, two: int) -> None:
        self._fault(one, two)
        self._publish(self.says)
        stage = ("deciding", "sending", "folding", "reporting")[two % 4]
        with suppress(Died):
            self._run(self.says, fresh=True, watch=Deadly(stage, 1 + one % 2))

    def _withdraw(self, client: int, one: int, two: int) -> None:
        self._list([client] if two % 2 else [client, self.ids[two % CLIENTS]], list(SCOPES)[one % len(SCOPES)])
        if two % 3 == 0:
            self._drain(client, one, two)

    def _withdraw_during(self, client: int, one: int, two: int) -> None:
        scope = list(SCOPES)[two % len(SCOPES)]
        self.faults.waiting.extend([None] * (one % 3))
        self.faults.waiting.append(lambda: self._list([client], scope, pending=True))
        self._publish(self.says)
        self._run(self.says, fresh=True)

    def _drain(self, client: int, one: int, two: int) -> None:
        self._fault(one, two)
        with self._sending(set()):
            drain.drain(self.settings, "drain", Watch())

    def _reconsent(self, client: int, one: int, two: int) -> None:
        scope = list(SCOPES)[one % len(SCOPES)]
        now = time.time()
        path = self.shop.folder / "evidence.csv"
        granted = now - 1 if two % 4 else now - 5000
        path.write_text(f"Client,channels,granted_at,method,evidence_ref\n{client},{scope},{_iso(granted)},form,f-1\n")
        with suppress(RestoredStateError):
            found = withdrawing.reconsent(self.settings, str(path), {})
            if found["lifted"]:
                for channel in SCOPES[scope]:
                    self.lifted[client, channel] = max(granted, self.lifted.get((client, channel), 0.0))

    def _forget(self, client: int, one: int, two: int) -> None:
        self._fault(one, two)
        with suppress(RestoredStateError), self._sending(set()):
            found = forgetting.forget(self.settings, forgetting.clients(self.settings, [client], None), "R", Watch())
            if found["forgotten"]:
                self._gone(client)

    def _approve(self, client: int, one: int, two: int) -> None:
        if self.held is None:
            return
        for what, count in self.held.summary["approvable"].items():
            if count:
                with suppress(ConfigError, RestoredStateError):
                    approving.approve(self.settings, self.held.summary["run"], what, count, reason="r", by="b")
                    self.approved = True
        self.held = None

    def _save(self, client: int, one: int, two: int) -> None:
        place = self.shop.folder / "backup"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.settings.state.path, place)
        self.backup = place, len(self.withdrawn)
        self.as_saved = self._come()

    def _restore(self, client: int, one: int, two: int) -> None:
        if self.backup is None:
            return
        shutil.rmtree(self.settings.state.path)
        shutil.copytree(self.backup[0], self.settings.state.path)
        if self._come() != self.as_saved:  # else it is no older than it was
            self.restored = self.was_restored = self.under_contacts = True
            self.open = {}

    def _say_restored(self, client: int, one: int, two: int) -> None:
        since = self.withdrawn[self.backup[1] :] if self.backup else []
        with suppress(ConfigError):
            listing = None
            if since:
                rows = "".join(f"{w.client},{w.scope},{_iso(w.at)}\n" for w in since)
                path = self.shop.folder / "since.csv"
                path.write_text(f"Client,scope,received_at\n{rows}")
                listing = self.shop.listing({}, received_at=None)
                listing = type(listing)(str(path), basis="objection")
            restoring.restored(self.settings, listing, "b", Watch())
        with State.open(self.settings.state.path, self.settings.endpoint.target, write=False) as state:
            self.restored = bool(state.ledger.restored())

    def _wait(self, client: int, one: int, two: int) -> None:
        time.sleep(LINGER_S + LATE_S)

    # How it happens

    def _fault(self, one: int, two: int) -> None:
        if two % 4 == 1:
            self.faults.waiting.extend([None] * (one % 3) + [SURE[one % len(SURE)]])
        elif two % 4 == 2:
            self.faults.waiting.extend([None] * (one % 2) + [UNSURE[one % len(UNSURE)]])

    def _publish(self, says: dict[int, Consent], *, age_s: float = 0.0, count: bool = True) -> None:
        self.shop.write(says)
        if not age_s and count:
            self.published.append(dict(says))
        self.clock += 1.0 if not age_s else 0.0
        os.utime(self.shop.export, (self.clock - age_s, self.clock - age_s))

    def _list(self, clients: list[int], scope: str, *, pending: bool = False) -> None:
        self.lists += 1
        at = time.time() - 60.0
        self.shop.withdraw(dict.fromkeys(clients, scope), received_at=at, request_ref=f"r{self.lists}")
        self.withdrawn += [Withdrawal(client, scope, at) for client in dict.fromkeys(clients)]
        if pending:
            self.pending.update(clients)

    def _run(
        self, says: dict[int, Consent], *, fresh: bool, wish: Wish | None = None, watch: Watch | None = None
    ) -> None:
        stated = {(c, k) for c, flags in says.items() for k, flag in enumerate(flags) if flag}
        allowed = stated if fresh and not self.restored else set()
        before = {c: tuple(flags) for c, flags in self.platform.platform.state.items()}
        approved, place = self.approved, len(self.platform.platform.log)
        with suppress(RestoredStateError), self._sending(allowed):
            report = night.run(self.settings, wish or Wish(), watch or Watch())
            if report.exit_code is Exit.HELD:
                self.held = report
            tripped = {one["guard"] for one in report.summary["guards"]}
            if "re-grants" in tripped and not approved:
                for entry in self._mine(place):
                    for k, flag in enumerate(entry.flags):
                        known = before.get(entry.client, (None,) * 4)[k]
                        assert not (flag and known is False and not self.was_restored), (
                            f"a held re-grant was sent: {entry}"
                        )
            self.approved = False if fresh else self.approved

    def _sending(self, allowed: set[tuple[int, int]]) -> "_Watching":
        return _Watching(self, allowed)

    def _come(self) -> dict[str, object]:
        """Return how far the state had come by its anchor, which lies outside of it."""
        (path,) = self.settings.state.keys.glob("*.anchor.json")
        found: dict[str, object] = json.loads(path.read_text())
        return {name: found[name] for name in ("run", "snapshot", "withdrawals", "reconsents")}

    def _gone(self, client: int) -> None:
        self.forgotten[client] = len(self.platform.platform.log)
        self.withdrawn = [one for one in self.withdrawn if one.client != client]
        if self.backup is not None:
            self.backup = self.backup[0], min(self.backup[1], len(self.withdrawn))
        self.lifted = {key: at for key, at in self.lifted.items() if key[0] != client}
        self.open = {key: value for key, value in self.open.items() if value[0] != client}

    def _mine(self, place: int) -> list[Entry]:
        return [entry for entry in self.platform.platform.log[place:] if entry.client in self.ids]

    # What must hold

    def covered(self, client: int, channel: int, *, but: set[int] | None = None) -> bool:
        """Return whether a withdrawal covers a channel, as a person would say."""
        return any(
            one.client == client and channel in SCOPES[one.scope] and one.at >= self.lifted.get((client, channel), 0.0)
            for one in self.withdrawn
            if not (but and one.client in but)
        )

    def rows(self) -> list[tuple[int, int, int, int, str | None]]:
        """Return id, client, channels, what is still owed and how it ended, of every obligation."""
        with closing(sqlite3.connect(self.settings.state.path / "ledger.db")) as db:
            return db.execute("SELECT id, client, channels, owed, ended FROM obligations").fetchall()

    def _check(self) -> None:
        rows = self.rows()
        there = {row[0]: row for row in rows}
        for number, (client, _) in self.open.items():
            assert number in there, f"an obligation of {client} vanished"
        state = self.platform.platform.state
        for number, client, channels, owed, ended in rows:
            if owed:
                assert ended is None, ended
                self.open[number] = client, channels
            else:
                assert ended in ("acknowledged", "lifted", "overtaken", "void"), ended
                if ended == "acknowledged" and number in self.open:
                    del self.open[number]
                    for k in range(4):
                        if channels >> 2 * k & 1 and self.covered(client, k) and client not in self.forgotten:
                            flags = state.get(client)
                            assert (flags or (None,) * 4)[k] is False, f"{client} {k} is not denied"
        folder = self.settings.state.path
        assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]

    def end(self) -> None:
        """Let everything be well again, and hold that the platform is what the rules say."""
        self.faults.waiting.clear()
        text = self.shop.config.read_text().replace(GUARDS, NO_GUARDS)
        self.shop.config.write_text(text)
        self.settings = self.shop.settings
        time.sleep(LATE_S if not self.was_restored else LINGER_S)
        for _ in range(6):  # what lingers is sent once more
            if self.restored:
                self._say_restored(0, 0, 0)
            place = len(self.platform.platform.log)
            self._publish(self.says)
            self._run(self.says, fresh=True, wish=Wish(retry=True))
            self._check()
            with self.shop.state() as found:
                lingering = found.ledger.lingering()
            lingers = bool((lingering.until > time.time()).any())
            if not self._mine(place) and not lingers:
                break
            time.sleep(LINGER_S if lingers else 0)
        else:
            raise AssertionError("it never comes to rest: each run of the same sends something")
        state = self.platform.platform.state
        for client in self.ids:
            if client in self.forgotten:
                continue
            flags = state.get(client) or (None,) * 4
            for k, says in enumerate(self.says[client]):
                if self.covered(client, k):
                    assert flags[k] is not True, f"{client} withdrew {FIELDS[k]} and is allowed"
                elif says is not None and not (says and self.under_contacts):
                    assert flags[k] is says, f"{client} {FIELDS[k]} is {flags[k]}, and the CRM says {says}"
        assert self.shop.owed() == {}, "something is still owed"


class _Watching:
    """Holds the requests of a block to what may be allowed in it."""

    def __init__(self, world: World, allowed: set[tuple[int, int]]) -> None:
        self._world, self._allowed = world, allowed

    def __enter__(self) -> None:
        self._place = len(self._world.platform.platform.log)
        self._forgotten = set(self._world.forgotten)

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        world = self._world
        if world.faults.late:
            time.sleep(LATE_S)  # what was sent here is applied here
            world.faults.late = False
        for entry in world._mine(self._place):
            for k, flag in enumerate(entry.flags):
                if flag:
                    assert (entry.client, k) in self._allowed, f"{entry} was not stated, or the run may not grant"
                    # What came in during this very leg is denied by the next one.
                    assert not world.covered(entry.client, k, but=world.pending), f"{entry} was withdrawn"
            if entry.client in self._forgotten:
                listed = any(one.client == entry.client for one in world.withdrawn)
                assert listed, f"{entry} was forgotten"
        world.pending.clear()
        world.faults.waiting.clear()
        with suppress(ConsentSyncError, NoStateError), world.shop.state() as state:
            asked = set(state.ledger.forgetting.asked().tolist())
            for client in getattr(world, "asked", set()) - asked:
                world._gone(client)
            world.asked = asked  # type: ignore[attr-defined]


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()
