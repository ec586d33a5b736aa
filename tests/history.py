"""A shop, its platform and its accidents, step by step, and what must hold after each: the world of `test_histories`.

Everything is the product's own, through its command line; `machine.py` is what it runs on, `expected.py` what is
expected of it. A step is a kind and a seed: dropping one changes nothing of the others, so a history can be shrunk.

The laws that are held here and there:

L1  nothing is allowed that no fresh export states, that a no at least as new forbids, or that was withdrawn
L2  a no that was read is acknowledged, owed, overtaken by a newer allowed, or closed by a person
L3  when all is well again, the platform holds what the newest rightful statement says
L4  a command ends in 7 when something owed is past its limit, unless something graver is the matter
L5  grants that nobody approved stay within the guards, over 24 hours
L6  a report counts what was sent; what was received is accounted for
L7  `state check` finds nothing after a command that ended, and a backup can be made
L8  who is erased is nowhere any more, and was denied everything first
L9  who withdrew is allowed nothing under any number that means them today
"""

import csv
import gzip
import io
import json
import math
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sync_job.standin.contract import Flags, Update
from sync_job.standin.platform import Platform
from tests.expected import CHANNELS, DAY_S, KNOWN_FAILING, SCOPES, Book, Channel, Consent, LawError, Reading, Withdrawal
from tests.machine import Ended, Fate, Machine, Request, Scene

FIELDS = tuple(f"Allow{name}" for name in CHANNELS)
BEGIN = 1_700_000_000.0  # when every history begins, in epoch seconds: before any file of it was written
MAX_AGE_H, LIMIT_H = 36.0, 48.0
FLAGS: tuple[Consent, ...] = (
    (True, True, True, True),
    (True, True, True, True),
    (False, False, False, False),
    (True, False, None, True),
    (None, True, False, None),
    (False, True, True, False),
)
UNSURE = (Fate.LOST, Fate.DROPPED, Fate.LATE, Fate.LATE, Fate.ERROR, Fate.ERROR_APPLIED, Fate.REFUSED, Fate.BUSY)
_LOWER = frozenset((0, 1, 3, 4, 5, 6, 75, 130, 143))  # exit codes that 7 goes before
_GUARDS = ("re_grants", "new_grants", "revocations", "changed", "unknown", "shrinkage", "rejects")
_UNGUARDED = dict.fromkeys((*_GUARDS, "lost", "list"), 999_999)

_CONFIG = """
[export]
kind = "{kind}"
as_of = "{as_of}"
max_age_h = {max_age_h}
{id_map}
[endpoint]
base_url = "{url}"
operator = 7
not_found_codes = [8]
[delivery]
max_concurrency = {concurrency}
max_rps = {max_rps}
attempts = {attempts}
timeout_s = 1
linger_s = 20
max_outage_s = 30
canary = {canary}
[withdrawals]
scope = "all"
basis = "consent-withdrawn"
limit_h = {limit_h}
[guards]
{guards}
[state]
path = "{state}"
[report]
page = false
"""


class Step(NamedTuple):
    """One thing that happens, and the seed of everything about it."""

    kind: str
    seed: int


@dataclass(frozen=True)
class Export:
    """What the CRM exported: of whom, as of when, of which kind, and what is wrong with it."""

    says: dict[int, Consent]
    as_of: float
    kind: str
    missing: int | None = None  # the channel whose column is not there
    unreadable: dict[int, int] = field(default_factory=dict)  # a person, and the channel whose cell is not readable
    shrunken: bool = False

    def stated(self) -> dict[int, Consent]:
        """Return what can be read of it."""
        return {
            person: tuple(
                None if k == self.missing or self.unreadable.get(person) == k else flag for k, flag in enumerate(flags)
            )
            for person, flags in self.says.items()
        }


class Backup(NamedTuple):
    """A backup, and what the state knew when it was made."""

    path: Path
    withdrawals: frozenset[str]
    taken: float


class World:
    """One history: its shop, its machine, and what is expected of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng = Random(seed)
        self.folder, self.machine = folder, Machine(BEGIN)
        self.state = folder / "state"
        self.machine.timeout_s, self.machine.linger_s = 1.0, 20.0
        self.machine.acknowledged = self._acknowledged
        self.book = Book(lambda: self.machine.now, 3600 * MAX_AGE_H)
        self.told: list[str] = []
        people = rng.randint(5, 10)
        first = rng.randrange(1_000_000, 2_000_000)
        self.ids = {person: first + 7 * person for person in range(people)}  # of the platform, today
        self.mapped = rng.random() < 0.2
        self.crm = {person: 5_000_000 + first + person if self.mapped else self.ids[person] for person in self.ids}
        self.strangers = {person for person in self.ids if rng.random() < 0.08}
        if rng.random() < 0.1:
            self.strangers = {0, 1}
        self.machine.members = {self.ids[person] for person in self.ids if person not in self.strangers}
        self.kind = rng.choice(("full", "full", "full", "delta"))
        self.as_of = rng.choice(("mtime", "mtime", "flag", "filename", "column", "none"))
        self.guarded = self.guarded_once = rng.random() < 0.6
        most = {
            "re_grants": rng.randint(1, 2),
            "new_grants": 3,
            "revocations": rng.randint(1, 2),
            "changed": rng.choice((4, 99)),
            "unknown": rng.choice((3, 99)),
            "shrinkage": 1,
            "rejects": 1,
            "list": 2,
        }
        self.guards = _UNGUARDED | (most if self.guarded else {})
        self.delivery = {
            "concurrency": rng.choice((1, 4, 16)),
            "max_rps": rng.choice((0, 0, 2)),
            "attempts": rng.choice((1, 2, 3)),
            "canary": rng.choice((0, 2, 20)),
        }
        self.address = "http://127.0.0.1:9/a"
        self.says: dict[int, Consent] = {person: rng.choice(FLAGS) for person in self.ids}
        self.pending = set(self.ids)  # what the next delta has to say
        self.published: list[Export] = []
        self.unread: list[tuple[Export, str, list[str]]] = []  # deltas, with their paths, that no run has read
        self.contents: dict[str, float] = {}  # of exports without an age: when each was read first
        self.counter = 0
        self.open_plan: tuple[Path, Export] | None = None
        self.backups: list[Backup] = []
        self.restored = False  # and nobody has said yet what is missing
        self.forgot_states = False  # the state was lost or put back once: not all that was read is known to it
        self.approved_at: float | None = None
        self.jumped = False
        self.paused = False
        self.regrants: list[tuple[float, int]] = []
        self.sent: list[Request] = []
        self.fates: list[Fate] = []
        self.sick: dict[int, Fate] = {}
        self.listed: list[list[tuple[int, str, float, str]]] = []
        self.erased_at: dict[int, float] = {}
        self.drifted: set[Channel] = set()  # what somebody allowed on the platform itself
        self.moved: set[int] = set()  # whose number the map corrected
        self._rng = rng

    # How a shop begins

    def begin(self) -> None:
        """Make the state, with what the platform holds or with nobody's knowledge of it."""
        self._configure()
        self._begin(self._rng)

    def _configure(self) -> None:
        """Write the configurations as they are now."""
        guards = "".join(f"{name} = {most}\n{name}_share = 0\n" for name, most in self.guards.items())
        how = {"filename": "filename:%Y%m%dT%H%M%S", "column": "column:Exported"}.get(self.as_of, self.as_of)
        said: dict[str, Any] = {
            "kind": self.kind,
            "as_of": how,
            "max_age_h": MAX_AGE_H,
            "limit_h": LIMIT_H,
            "url": self.address,
            "state": self.state,
            "id_map": f'id_map = "{self.folder}/map.csv"' if self.mapped else "",
            "guards": guards + "new_grants_nights = 0\n",
        } | self.delivery
        (self.folder / "nightly.toml").write_text(_CONFIG.format(**said))
        said |= {"kind": "delta", "as_of": "none", "guards": 'grants = "never"'}
        (self.folder / "desk.toml").write_text(_CONFIG.format(**said))
        self._write_map()

    def _write_map(self) -> None:
        if self.mapped:
            rows = "".join(f"{self.crm[person]},{self.ids[person]}\n" for person in self.ids)
            (self.folder / "map.csv").write_text(f"crm_id,platform_id\n{rows}")

    def _begin(self, rng: Random) -> None:
        how = self.beginning = rng.choice(("empty", "equal", "unknown", "dump"))
        self.told.append(
            f"{len(self.ids)} people, {len(self.strangers)} of them strangers; {self.kind} exports by {self.as_of}, "
            f"{'mapped, ' if self.mapped else ''}{'guarded, ' if self.guarded else ''}{how}"
        )
        for person, flags in self.says.items():
            there = flags if how == "equal" else rng.choice(FLAGS)
            if how != "empty" and person not in self.strangers and any(flag is not None for flag in there):
                self.machine.platform.apply(Update(self.ids[person], Flags(*there)))
        self._init(how, rng)

    def _init(self, how: str, rng: Random, *more: str) -> None:
        export = Export(dict(self.says), self._stamp(), "full")
        self.published.append(export)
        platform = how
        if how == "dump":
            platform = str(self.folder / "dump.csv")
            self._dump(Path(platform))
        path, said = self._write(export, rng)
        arguments = ["init", path, "--platform", platform, *(more or ("--no-withdrawals",)), *said]
        ended = self.command(*arguments)
        if ended.code == 2 and "--approve-grants" in ended.err:
            count = ended.err.split("--approve-grants ")[1].split(";")[0].split(",")[0].strip().rstrip(".")
            ended = self.command(*arguments, "--approve-grants", count)
        assert ended.code in (0, 1, 6, 7), f"init ended in {ended}"
        self.approved_at = self.machine.elapsed
        reading = self._reading(export)
        if platform != how and "init owes nothing that a dump allows" in KNOWN_FAILING:
            reading.says = {}
        self._note_read(reading)
        # The first run sends it, whenever that is: until then it is overdue for nobody.
        self.book.no = {key: said._replace(since=math.inf) for key, said in self.book.no.items()}
        self.pending = set(self.ids)

    def _dump(self, path: Path) -> None:
        path.write_text(self.machine.platform.csv())

    # Steps

    def step(self, step: Step) -> None:
        """Let it happen, and hold the laws."""
        self.told.append(f"{step.kind} ({step.seed})")
        rng = Random(step.seed)
        self.machine.let_pass(rng.choice((60.0, 600.0, 3600.0, 6 * 3600.0)))
        getattr(self, f"_{step.kind}")(rng)

    def _crm(self, rng: Random) -> None:
        """Let the CRM say something else of a few."""
        for person in rng.sample(sorted(self.ids), rng.choice((1, 1, 2, 3))):
            self._change(person, rng.choice(FLAGS))

    def _crm_many(self, rng: Random) -> None:
        """Let the CRM say the same of most, as after an accident."""
        flags = rng.choice(FLAGS)
        for person in rng.sample(sorted(self.ids), min(len(self.ids), rng.randint(3, 6))):
            self._change(person, flags)

    def _change(self, person: int, flags: Consent) -> None:
        self.says[person] = flags
        self.pending.add(person)

    def _night(self, rng: Random) -> None:
        self._run(self._fresh(), rng)

    def _bad_night(self, rng: Random) -> None:
        """Let a night meet faults, lists, and its death."""
        self._run(self._fresh(), rng, scene=self._scene(rng, faults=True, lists=True, death=rng.random() < 0.3))

    def _doubtful(self, rng: Random) -> None:
        """Export something that has a column less, cells that cannot be read, or fewer people."""
        export = self._fresh()
        people = sorted(export.says)
        wrong = rng.randrange(3)
        if wrong == 0 or not people:
            export = replace(export, missing=rng.randrange(4))
        elif wrong == 1:
            some = rng.sample(people, min(len(people), 2))
            export = replace(export, unreadable={person: rng.randrange(4) for person in some})
        else:
            keep = {person: export.says[person] for person in people[: max(1, len(people) - 2)]}
            export = replace(export, says=keep, shrunken=self.kind == "full")
        self._run(export, rng)

    def _stale(self, rng: Random) -> None:
        """Let an old export come in again as it was, in another order, format or compression perhaps."""
        self._run(rng.choice(self.published), rng, fresh=False)

    def _part(self, rng: Random) -> None:
        """Run a part: of today, or one that was made when an old export was."""
        old = rng.choice(self.published) if rng.random() < 0.5 else None
        source = old.says if old else self.says
        some = rng.sample(sorted(source), min(len(source), rng.randint(1, 3)))
        says = {person: source[person] for person in some}
        self._run(Export(says, old.as_of if old else self._stamp(), "part"), rng, fresh=False)

    def _desk(self, rng: Random) -> None:
        """Let the desk send opt-outs in the shape of an export."""
        some = rng.sample(sorted(self.ids), rng.randint(1, 2))
        says: dict[int, Consent] = dict.fromkeys(some, (False, False, False, False))
        self._run(Export(says, self._stamp(), "desk"), rng, fresh=False)

    def _withdraw(self, rng: Random) -> None:
        self._opt_out(rng)

    def _withdraw_badly(self, rng: Random) -> None:
        """Take a list in that the platform refuses or does not answer, or whose command dies."""
        scene = self._scene(rng, faults=True, death=rng.random() < 0.3)
        if self._opt_out(rng, scene=scene).code is None:
            self.told.append("  it died; the list is handed in again")
            self._opt_out(Random(0), rows=self.last_list)

    def _repeat(self, rng: Random) -> None:
        """Hand in a list with a row of before and a new one."""
        if self.book.withdrawals:
            self._opt_out(rng, again=rng.choice(self.book.withdrawals))

    def _drain(self, rng: Random) -> None:
        scene = self._scene(rng, faults=rng.random() < 0.3, death=rng.random() < 0.1)
        self.command("drain", "--wait-s", "0", scene=scene)

    def _reconsent(self, rng: Random) -> None:
        if not self.book.withdrawals:
            return
        one = rng.choice(self.book.withdrawals)
        at = math.floor(self.machine.now) - rng.choice((0, 0, 90_000))
        path = self._file("evidence.csv")
        row = f"{self._shown_id(one.person)},{one.scope},{_iso(at)},form,f-{self.counter}\n"
        path.write_text(f"Client,channels,granted_at,method,evidence_ref\n{row}")
        ended = self.command("reconsent", str(path), "--json")
        if ended.out.startswith("{") and json.loads(ended.out)["lifted"]:
            for k in SCOPES[one.scope]:
                self.book.lifted[one.person, k] = max(float(at), self.book.lifted.get((one.person, k), 0.0))
            self.told.append("  lifted")

    def _approve(self, rng: Random) -> None:
        """Approve what is held, or a wrong number of it; perhaps late."""
        self.machine.let_pass(rng.choice((0.0, 0.0, 80 * 3600.0)))
        held = self._held()
        if not held:
            return
        one = rng.choice(held)
        what = rng.choice([name for name in ("grants", "revocations", "clients") if one.get(name)] or ["grants"])
        wrong = rng.random() < 0.25
        count = int(one.get(what) or 0) + wrong
        if not count:
            return
        ended = self._approving(one["run"], what, count)
        if wrong and ended.code == 0:
            raise LawError("L5", f"{count} {what} were approved, and {count - 1} are held")

    def _approving(self, run: str, what: str, count: int) -> Ended:
        ended = self.command("approve", run, f"--{what}", str(count), "--reason", "r", "--by", "b")
        if ended.code == 0:
            self.approved_at = self.machine.elapsed
        return ended

    def _close(self, rng: Random) -> None:
        owed = sorted({self._owner(client) for client in self._owed()} & set(self.ids))
        if not owed:
            return
        person = rng.choice(owed)
        said = ("--client", str(self.ids[person]), "--reason", "r", "--by", "b")
        if self.command("withdrawals", "close", *said).code == 0:
            self.book.closed[person] = self.machine.elapsed

    def _void(self, rng: Random) -> None:
        """Take a list back, as two people may."""
        if not self.book.withdrawals:
            return
        digest = rng.choice(self.book.withdrawals).digest
        said = ("--list", digest, "--reason", "r", "--by", "a", "--approved-by", "b")
        if self.command("withdrawals", "void", *said).code == 0:
            gone = [one for one in self.book.withdrawals if one.digest == digest]
            self.book.voided += gone
            self.book.withdrawals = [one for one in self.book.withdrawals if one.digest != digest]

    def _compare(self, rng: Random) -> None:
        """Let somebody allow a channel on the platform itself, perhaps, and compare."""
        person = rng.choice(sorted(self.ids))
        if person not in self.strangers and rng.random() < 0.7:
            channels = [rng.random() < 0.5 or None for _ in CHANNELS]
            self.machine.platform.apply(Update(self.ids[person], Flags(*channels)))
            for k in (k for k, flag in enumerate(channels) if flag):
                self.drifted.add((person, k))
        path = self._file("dump.csv")
        self._dump(path)
        self.command("compare", str(path))
        self.compared = True

    def _backfill(self, rng: Random) -> None:
        """Send every denial again."""
        self._run(self._fresh(), rng, verb=("backfill",), scene=self._scene(rng, faults=True, death=rng.random() < 0.3))

    def _cancel_backfill(self, rng: Random) -> None:
        self.command("backfill", "--cancel")

    def _undo(self, rng: Random) -> None:
        """Undo one of the last runs; what it would allow again is held until a person approves it."""
        runs = sorted(self._folders())[-4:]
        if not runs:
            return
        self.book.reading = Reading(approved=self._recently_approved())
        sent = self.command("undo", rng.choice(runs), sending=True)
        if sent.code is not None:
            self._undone()

    def _undone(self) -> None:
        """Note that a person said that these are allowed again: what was said before is overtaken."""
        for request in self.sent:
            for k in (k for k, flag in enumerate(request.flags) if flag):
                for person in self._owners(request.client):
                    self.book.no.pop((person, k), None)

    def _plan(self, rng: Random) -> None:
        """Make a plan, to be applied later."""
        export = self._fresh()
        path, said = self._write(export, rng)
        plan = self._file("night.plan")
        verb = ["plan", "--part", path] if export.kind == "part" else ["plan", path]
        if self.command(*verb, *said, "-o", str(plan)).code in (0, 6):
            self.open_plan = plan, export

    def _apply(self, rng: Random) -> None:
        if self.open_plan is None:
            return
        plan, export = self.open_plan
        self.open_plan = None
        self.book.reading = self._reading(export)
        ended = self.command("apply", str(plan), scene=self._scene(rng, lists=True), sending=True)
        if ended.code is not None and self._summary() is not None:
            self._note_read(self._reading(export))

    def _backup(self, rng: Random) -> None:
        if self.restored:
            return
        path = self._file("backup.tar")
        if self.command("state", "backup", str(path)).code == 0:
            known = frozenset(one.reference for one in self.book.withdrawals)
            self.backups.append(Backup(path, known, self.machine.elapsed))

    def _restore(self, rng: Random) -> None:
        """Lose the state, put a backup back, and say what came in since: rightly, or wrongly first."""
        if not self.backups or self.restored:
            return
        self.command("drain", "--wait-s", "0")  # what lies in the inbox no anchor knows
        if self._inbox():
            return
        backup = rng.choice(self.backups)
        shutil.rmtree(self.state)
        ended = self.command("state", "restore", str(backup.path))
        assert ended.code == 0, ended
        self._put_back(backup.taken)
        self.restored = True
        if rng.random() < 0.7:
            self._say_restored(rng, backup)

    def _put_back(self, taken: float) -> None:
        """Note that the state knows nothing of what was read since, but for lists: those are handed in again."""
        self.forgot_states = True
        self.open_plan = None
        for said in (self.book.no, self.book.yes):
            for key in [key for key, one in said.items() if one.read - self.machine.offset > taken]:
                del said[key]
        self.lost_since = taken

    def _say_restored(self, rng: Random, backup: Backup) -> None:
        missing = [one for one in self.book.withdrawals + self.book.voided if one.reference not in backup.withdrawals]
        missing = [one for one in missing if one.person not in self.book.erased]
        said = ("state", "restored", "--by", "b")
        if missing and rng.random() < 0.5:
            wrong = self.command(*said, "--none")
            if wrong.code == 0:
                raise LawError("L1", f"{len(missing)} withdrawals are missing, and --none was taken")
        if missing:
            path = self._listing([(one.person, one.scope, one.at, one.reference) for one in missing])
            ended = self.command(*said, "--withdrawals-since", str(path))
        else:
            ended = self.command(*said, "--none")
        self.told.append(f"  said to be whole: {ended.code}")
        if ended.code == 0:
            self.restored = False

    def _lose(self, rng: Random) -> None:
        """Lose the state for good, and begin anew, with every withdrawal or, wrongly, with too few of them."""
        self.command("drain", "--wait-s", "0")
        if self._inbox() or self.restored or self.book.asked:
            return
        shutil.rmtree(self.state)
        listed = [one for one in self.book.withdrawals + self.book.voided if one.person not in self.book.erased]
        self.book.withdrawals, self.book.voided = listed, []
        self._put_back(0.0)
        self.book.no.clear()
        self.book.yes.clear()
        if not listed:
            self._init("unknown", rng)
            return
        rows = [(one.person, one.scope, one.at, one.reference) for one in listed]
        if len({one.person for one in listed}) > 1 and rng.random() < 0.5:
            export = Export(dict(self.says), self._stamp(), "full")
            path, said = self._write(export, rng)
            short = self._listing([row for row in rows if row[0] == rows[0][0]])
            arguments = ("--platform", "unknown", "--withdrawals", str(short))
            if self.command("init", path, *arguments, *said).code in (0, 1, 6, 7):
                raise LawError("L1", f"a new state was made with {len(rows)} withdrawals lacking some")
        self._init("unknown", rng, "--withdrawals", str(self._listing(rows)))

    def _retarget(self, rng: Random) -> None:
        """Let the platform have another address."""
        new = self.address[:-1] + rng.choice([letter for letter in "abc" if not self.address.endswith(letter)])
        said = ("--same-platform", "--reason", "r", "--by", "b")
        if self.command("state", "retarget", new, *said).code == 0:
            self.address = new
            self._configure()

    def _forget(self, rng: Random) -> None:
        person = rng.choice(sorted(self.ids))
        scene = self._scene(rng, faults=rng.random() < 0.4, death=rng.random() < 0.2)
        path = self._file("erase.csv")
        path.write_text(f"Client\n{self._shown_id(person)}\n")
        known = person in self.book.asked
        self.book.asked.add(person)
        self.asking = person
        said = ("forget", str(path), "--json", "--reason", "r", "--by", "b")
        ended = self.command(*said, scene=scene)
        if ended.code is None:
            self.told.append("  it died; it is asked again")
            ended = self.command(*said)
        self.asking = None
        if ended.code not in (0, 1, 5, 7):
            self.book.asked -= set() if known else {person}
        self._note_erased()

    def _forget_many(self, rng: Random) -> None:
        """Let somebody erase so many that their number has to be typed, without it or with a wrong one."""
        some = rng.sample(sorted(self.ids), 4)
        path = self._file("erase.csv")
        path.write_text("Client\n" + "".join(f"{self._shown_id(person)}\n" for person in some))
        if not self.guarded:
            return
        ended = self.command("forget", str(path), "--json", "--reason", "r", "--by", "b")
        if ended.code not in (2, 4, 75, 7):
            raise LawError("L8", f"{len(some)} people were erased, and nobody was asked: {ended.code}")

    def _old_list(self, rng: Random) -> None:
        """Hand an old list in again, with another row: an erased person in it is not a new withdrawal."""
        if not self.listed:
            return
        old = rng.choice(self.listed)
        erased = {one[0] for one in old} & self.book.erased - self.book.named
        known = {one.reference for one in self.book.withdrawals}
        rows = [row for row in old if row[0] in erased or row[3] in known]
        if not rows:
            return
        self._opt_out(rng, rows=rows)
        for person in erased:
            self._hold_gone(person)

    def _full_disk(self, rng: Random) -> None:
        """Let the disk be full from some moment of a night on."""
        self._run(self._fresh(), rng, scene=Scene(self._dispatched, full_at=rng.randint(1, 40)))

    def _brands(self, rng: Random) -> None:
        """Hand a list in for two brands, of which the state of one is damaged."""
        broken = self.folder / "brand"
        (broken / "state").mkdir(parents=True, exist_ok=True, mode=0o700)
        (broken / "state" / "ledger.db").write_bytes(b"no database")
        text = (self.folder / "nightly.toml").read_text().replace("operator = 7", "operator = 8")
        text = text.replace(f'"{self.state}"', f'"{broken}/state"')
        (broken / "brand.toml").write_text(text)
        self._opt_out(rng, more=("--config", str(broken / "brand.toml")))

    def _status(self, rng: Random) -> None:
        self.command("withdrawals", "status")
        found = self.command("withdrawals", "report", "--from", "2023-01-01", "--json")
        if found.code in (0, 1, 7):
            said = json.loads(found.out)
            parts = [said[name] for name in ("acknowledged", "open", "parked") if isinstance(said.get(name), int)]
            ended = sum(said["ended_otherwise"].values())
            if said["received"] != sum(parts) + ended:
                raise LawError("L6", f"{said['received']} received, and {parts} and {said['ended_otherwise']} of them")

    def _remap(self, rng: Random) -> None:
        """Correct the map: a person of the CRM has another number on the platform than was thought."""
        if not self.mapped:
            return
        person = rng.choice(sorted(self.ids))
        self.ids[person] = max(self.ids.values()) + 7
        if person not in self.strangers:
            self.machine.members.add(self.ids[person])
        self.moved.add(person)
        self._write_map()

    def _carry(self, rng: Random) -> None:
        """Let the platform give everybody another number, to some that of another, and make two people one perhaps."""
        if self.restored or self.paused or self.book.asked or self._inbox():
            return
        self.command("drain", "--wait-s", "0")
        old, old_ids, old_address = self.state, dict(self.ids), self.address
        people = sorted(self.ids)
        numbers = [self.ids[person] for person in people]
        step = rng.choice((1, 2)) if rng.random() < 0.5 else 0  # numbers go round: each was somebody else's
        fresh = numbers[step:] + numbers[:step] if step else [number + 700_001 for number in numbers]
        self.ids = dict(zip(people, fresh, strict=True))
        gone = people[-1] if rng.random() < 0.3 and len(people) > 2 else None
        if gone is not None:
            self.ids[gone] = self.ids[people[0]]
        path = self._file("ids.csv")
        rows = "".join(f"{old_ids[person]},{self.ids[person]}\n" for person in people)
        path.write_text(f"old_id,new_id\n{rows}")
        self.counter += 1
        self.state, self.address = self.folder / f"state-{self.counter}", f"http://127.0.0.1:9/{self.counter}"
        self._configure()
        said = ("init", "--from", str(old), "--id-map", str(path))
        ended = self.command(*said)
        if "say --expect " in ended.err:
            count = ended.err.split("say --expect ")[1].split(".")[0].replace(",", "").strip()
            ended = self.command(*said, "--expect", count)
        if ended.code != 0:
            self.state, self.ids, self.address = old, old_ids, old_address
            self._configure()
            return
        self._carried(old_ids, gone, people[0])

    def _carried(self, old_ids: dict[int, int], gone: int | None, stays: int) -> None:
        """Note that everybody has another number; *gone* and *stays* are one person from now on."""
        before, self.machine.platform = self.machine.platform.state, Platform(clock=lambda: self.machine.now)
        members, self.machine.members = self.machine.members, set()
        for person, number in old_ids.items():
            if number in members:
                self.machine.members.add(self.ids[person])
            if number in before:
                self.machine.platform.apply(Update(self.ids[person], before[number]))
        self.open_plan, self.backups, self.unread = None, [], []
        self.sick.clear()
        if gone is not None:
            self.told.append(f"  {gone} and {stays} are one person now")
            self.book.join(gone, stays)
            for lost in (self.ids, self.says, self.crm):
                del lost[gone]
            self.pending.discard(gone)
            self.joined = self.joined | {gone, stays}
            self.strangers -= {gone, stays}
        if not self.mapped:
            self.crm = dict(self.ids)
        self.published = [Export(dict(self.says), self._stamp(), "full")]
        self.listed = []
        self._write_map()

    def _jump(self, rng: Random) -> None:
        """Set the clock forward or back."""
        seconds = rng.choice((-7200.0, -90_000.0, 3600.0, 3 * DAY_S, 400 * DAY_S))
        self.machine.jump(seconds)
        self.jumped = True
        self.told.append(f"  the clock jumps by {seconds / 3600:+,.0f} h")
        if abs(seconds) > 100 * DAY_S:
            self._night(rng)
            self.machine.jump(-seconds)

    def _pass_days(self, rng: Random) -> None:
        self.machine.let_pass(rng.choice((1, 2, 3)) * DAY_S)

    def _pause(self, rng: Random) -> None:
        if self.paused:
            self.command("resume")
        else:
            self.command("pause", "--reason", "r", "--by", "b")
        self.paused = not self.paused

    def _sicken(self, rng: Random) -> None:
        """Let every request to one client meet the same from now on, or no more."""
        if self.sick and rng.random() < 0.5:
            self.sick.clear()
        else:
            fate = rng.choice((Fate.ERROR, Fate.ERROR, Fate.REFUSED, Fate.LOST))
            self.sick[self.ids[rng.choice(sorted(self.ids))]] = fate

    def _no_export(self, rng: Random) -> None:
        """Let a night find no export."""
        self.command("run", str(self.folder / "missing.csv"), *self._flagged(self._stamp()))

    # How it happens

    def _scene(self, rng: Random, *, faults: bool = False, lists: bool = False, death: bool = False) -> Scene:
        """Return what a command meets."""
        scene = Scene(self._dispatched)
        self.fates = []
        if faults:
            chance = rng.choice((0.2, 0.5, 0.9))
            self.fates = [rng.choice(UNSURE) if rng.random() < chance else Fate.DELIVERED for _ in range(8)]
        if lists and rng.random() < 0.7:
            place, inner = rng.randint(1, 6), Random(rng.random())
            where = scene.while_sending if rng.random() < 0.7 else scene.happens
            where[place] = lambda: self._opt_out(inner, within=True)
        if lists and rng.random() < 0.15:
            scene.while_sending.setdefault(rng.randint(1, 6), lambda: self.machine.jump(90 * 3600.0))
        if death:
            if rng.random() < 0.5:
                scene.dies_sending = rng.randint(1, 6)
            else:
                scene.dies_at = rng.randint(1, 45)
        return scene

    def _dispatched(self, request: Request) -> Fate:
        """Hold a request to the book, and return its fate."""
        owners = list(self._owners(request.client))
        self.sent.append(request)
        self.told.append(f"    {self._shown(request)}")
        fate = self.sick.get(request.client) or (self.fates.pop(0) if self.fates else Fate.DELIVERED)
        if fate is not Fate.DELIVERED:
            self.told[-1] += f" ({fate.value})"
        for person in owners:
            for k in (k for k, flag in enumerate(request.flags) if flag):
                denied = self.book.denied.get((person, k), -1.0)
                if denied > self.book.allowed.get((person, k), -1.0):
                    self.regrants.append((self.machine.elapsed, person))
        try:
            self.book.rightful(request, owners, self._name)
        except LawError as error:
            self.broken = self.broken or error
        return fate

    broken: LawError | None = None

    def _acknowledged(self, request: Request) -> None:
        for person in self._owners(request.client):
            self.book.acknowledged(person, request, self.machine.elapsed)
            for k, flag in enumerate(request.flags):
                if flag is False:
                    self.drifted.discard((person, k))

    def command(
        self, *arguments: str, scene: Scene | None = None, within: bool = False, sending: bool = False
    ) -> Ended:
        """Run a command, hold the laws that are about any, and return how it ended.

        One that is *sending* works by `book.reading`; any other may allow nothing.
        """
        if not sending and not within:
            self.book.reading = Reading(grants=False)
        outer, self.sent = self.sent, []
        config = "desk.toml" if self.at_the_desk else "nightly.toml"
        before = self._folders()
        began = self.machine.now, self.machine.elapsed
        scene = None if within else scene or Scene(self._dispatched)
        shown = " ".join(one.removeprefix(f"{self.folder}/") for one in arguments)
        self.told.append(f"  {shown}")
        place = len(self.told)
        ended = self.machine.run([*arguments, "--config", str(self.folder / config)], scene)
        self.told.insert(place, f"    ends in {ended.code}: {ended.err.strip()[:300]}")
        if not within:
            reading, self.book.reading = self.book.reading, Reading(grants=False)
            self.fates = []
            self.made = self._folders() - before
        else:
            self.sent = outer
        if self.broken and not within:
            error, self.broken = self.broken, None
            raise error
        self.died |= ended.code is None or (scene is not None and scene.full_at > 0)
        if (ended.code == 70 or "Traceback" in ended.err) and not within:
            raise LawError("bug", ended.err[-3000:])
        if ended.code is not None and not within:
            self._hold(arguments, ended, *began, reading)
        return ended

    at_the_desk = False

    def _run(
        self,
        export: Export,
        rng: Random,
        *,
        fresh: bool = True,
        scene: Scene | None = None,
        verb: tuple[str, ...] = ("run",),
        may_restrict: bool = True,
    ) -> None:
        """Run an export."""
        path, said = self._write(export, rng)
        if fresh:
            self.published.append(export)
        self.at_the_desk = export.kind == "desk"
        reading = self._reading(export)
        part = ["--part"] if export.kind == "part" else []
        if may_restrict and rng.random() < 0.1 and verb == ("run",):
            said = [*said, "--restrict-only"]
            reading.grants = False
        self.book.reading = reading
        try:
            ended = self.command(*verb, *part, path, *said, scene=scene, sending=True)
            if ended.code in (3, 7) and "not applied" in ended.err and self.unread:
                self._catch_up()
                self.book.reading = reading = self._reading(export)
                ended = self.command(*verb, *part, path, *said, sending=True)
        finally:
            self.at_the_desk = False
        full = scene is not None and scene.full_at > 0 and ended.code == 4
        if full and "damaged" in ended.err:
            raise LawError("L7", f"a full disk is called damage: {ended.err}")
        if (
            self.kind == "delta"
            and export.kind not in ("part", "desk")
            and verb == ("run",)
            and self._summary() is None
        ):
            self.unread.append((export, path, said))
        if ended.code is None or full:
            for request in self.sent:
                self._note_sent(request, export)
        elif (summary := self._summary()) is not None and summary["export"] is not None:
            self._note_read(reading)
            if fresh:
                self.pending -= set(export.says)
            self._hold_counts(summary)
        self._hold_forgotten()

    def _catch_up(self) -> None:
        """Run the deltas that were not read, in their order, as the product asks for it."""
        for export, path, said in self.unread:
            self.book.reading = reading = self._reading(export)
            self.command("run", path, *said, sending=True)
            if (summary := self._summary()) is not None and summary["export"] is not None:
                self._note_read(reading)
        self.unread = []

    def _note_sent(self, request: Request, export: Export) -> None:
        """Note what a command sent that did not come to its end: that much of the export it surely read."""
        seen = {
            (person, k)
            for person in self._owners(request.client)
            for k, flag in enumerate(request.flags)
            if flag is not None and export.says.get(person, (None,) * 4)[k] is flag
        }
        self.book.read(self._reading(export), seen)

    def _note_read(self, reading: Reading) -> None:
        self.last_content = _content(reading.says)
        self.contents[self.last_content] = self.machine.now
        self.book.read(reading)

    def _opt_out(
        self,
        rng: Random,
        *,
        rows: list[tuple[int, str, float, str]] | None = None,
        again: Withdrawal | None = None,
        scene: Scene | None = None,
        within: bool = False,
        more: tuple[str, ...] = (),
    ) -> Ended:
        """Hand a list in; it binds from the moment that the command returns."""
        if rows is None:
            rows = []
            at = float(math.floor(self.machine.now) - 1)
            for person in rng.sample(sorted(self.ids), rng.choice((1, 1, 2))):
                self.counter += 1
                rows.append((person, rng.choice(sorted(SCOPES)), at, f"r{self.counter}"))
            if again is not None:
                rows.append((again.person, again.scope, again.at, again.reference))
        self.last_list = rows
        path = self._listing(rows)
        ended = self.command("opt-out", str(path), "--wait-s", "0", "--json", *more, scene=scene, within=within)
        found = _first(ended.out)
        if more and not found.get("list"):
            raise LawError("L1", f"a healthy brand did not get the list: {ended.code}, {ended.err}")
        if found.get("list"):
            self.listed.append(rows)
            known = {one.reference for one in self.book.withdrawals}
            for person, scope, received, reference in rows:
                if person in self.book.erased and received <= self.erased_at[person]:
                    continue
                self.book.named.add(person)
                if reference not in known:
                    self.book.withdrawals.append(
                        Withdrawal(person, scope, received, found["list"], self.machine.elapsed, reference)
                    )
            if ended.code == 0 and not within:
                self._hold_acknowledged(rows)
        if not within and ended.code is not None:
            self._hold_forgotten()
        return ended

    def _listing(self, rows: Iterable[tuple[int, str, float, str]]) -> Path:
        path = self._file("list.csv")
        lines = [f"{self._shown_id(person)},{scope},{_iso(at)},{reference}" for person, scope, at, reference in rows]
        path.write_text("\n".join(["Client,scope,received_at,request_ref", *lines, ""]))
        return path

    # Exports

    def _stamp(self) -> float:
        return float(math.floor(self.machine.now) - 30)

    def _fresh(self) -> Export:
        """Return what the CRM exports tonight."""
        people = self.pending if self.kind == "delta" else self.ids
        return Export({person: self.says[person] for person in sorted(people)}, self._stamp(), self.kind)

    def _reading(self, export: Export) -> Reading:
        """Return what the command that reads it goes by."""
        as_of = export.as_of
        if export.kind == "desk":
            as_of = self.machine.now
        elif self.as_of == "none":
            as_of = self._first_read(export)
        whole = export.missing is None and not (self.guards["rejects"] < len(export.unreadable))
        shrunken = export.shrunken and self.guarded
        grants = export.kind != "desk" and whole and not (shrunken and not self._recently_approved())
        return Reading(
            export.stated(),
            as_of,
            grants and not self.restored,
            frozenset(export.unreadable),
            dated=self.as_of != "none",
        )

    def _first_read(self, export: Export) -> float:
        """Return as of when an export without an age counts: if another was read since, as of when it was."""
        content = _content(export.stated())
        return self.machine.now if content == self.last_content else self.contents.get(content, self.machine.now)

    def _write(self, export: Export, rng: Random) -> tuple[str, list[str]]:
        """Write an export in some format, order and number of files; return its path, and what else is to be said."""
        people = list(export.says)
        rng.shuffle(people)
        self.counter += 1
        files = rng.choice((1, 1, 1, 2)) if len(people) > 1 and export.kind not in ("desk", "part") else 1
        how = rng.choice(("csv", "csv", "semicolon", "gzip", "parquet", "jsonl")) if people else "csv"
        folder = self.folder / f"export-{self.counter}"
        folder.mkdir()
        for number in range(files):
            # The oldest of several files tells how old the export is.
            age = 0.0 if number == 0 else rng.choice((0.0, 25.0))
            made = export.as_of + age
            stamp = datetime.fromtimestamp(made, UTC).strftime("%Y%m%dT%H%M%S")
            columns: dict[str, list[Any]] = {"Client": [self._shown_id(person) for person in people[number::files]]}
            for k, name in enumerate(FIELDS):
                if k != export.missing:
                    columns[name] = [
                        "maybe" if export.unreadable.get(person) == k else _CELLS[export.says[person][k]]
                        for person in people[number::files]
                    ]
            if self.as_of == "column":
                columns["Exported"] = [_iso(made)] * len(columns["Client"])
            path = folder / f"{number}-{stamp}{_ENDINGS[how]}"
            _written(path, columns, how)
            os.utime(path, (made, made))
        return str(folder if files > 1 else path), self._flagged(export.as_of, desk=export.kind == "desk")

    def _flagged(self, as_of: float, *, desk: bool = False) -> list[str]:
        return ["--as-of", _iso(as_of)] if self.as_of == "flag" and not desk else []

    def _file(self, name: str) -> Path:
        self.counter += 1
        return self.folder / f"{self.counter}-{name}"

    # Who is who

    def _owners(self, client: int) -> Iterator[int]:
        """Yield everybody whom a number of the platform means today."""
        return (person for person, number in self.ids.items() if number == client)

    def _owner(self, client: int) -> int:
        return next(self._owners(client), -1)

    def _shown_id(self, person: int) -> int:
        return self.crm[person] if self.mapped else self.ids[person]

    def _name(self, person: int) -> str:
        return f"person {person}"

    def _shown(self, request: Request) -> str:
        who = ",".join(map(str, self._owners(request.client))) or f"nobody ({request.client})"
        return f"{who}: {''.join('-' if flag is None else 'FT'[flag] for flag in request.flags)}"

    # What the product knows

    def _query(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.state / "ledger.db")) as db:
            return db.execute(query).fetchall()

    def _owed(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for client, owed in self._query("SELECT client, owed FROM obligations WHERE owed != 0"):
            found[client] = found.get(client, 0) | owed
        return found

    def _due(self) -> dict[int, int]:
        ((number,),) = self._query("SELECT max(number) FROM snapshots")
        table = pq.read_table(self.state / "snapshots" / f"{number}.parquet")
        return dict(zip(table["Client"].to_pylist(), table["Due"].to_pylist(), strict=True))

    def _inbox(self) -> list[str]:
        inbox = self.state / "inbox"
        return [path.stem for path in inbox.iterdir()] if inbox.is_dir() else []

    def _folders(self) -> set[str]:
        reports = self.folder / "reports"
        return {path.name for path in reports.iterdir()} if reports.is_dir() else set()

    def _summary(self) -> dict[str, Any] | None:
        """Return what the report of the last command says, None if it made none."""
        for name in sorted(self.made, reverse=True):
            path = self.folder / "reports" / name / "summary.json"
            if path.exists():
                found: dict[str, Any] = json.loads(path.read_text())
                return found if "outcomes" in found else None
        return None

    def _held(self) -> list[dict[str, Any]]:
        ended = self.command("approve", "--json")
        found: list[dict[str, Any]] = json.loads(ended.out)["held"] if ended.code == 0 else []
        return found

    def _recently_approved(self) -> bool:
        return self.approved_at is not None and self.machine.elapsed - self.approved_at <= 4 * DAY_S

    # What must hold

    def _hold(self, arguments: tuple[str, ...], ended: Ended, now: float, elapsed: float, reading: Reading) -> None:
        """Hold the laws about any command that ended."""
        if not (self.state / "ledger.db").exists():
            return
        self._note_erased()
        if arguments[0] in ("run", "drain", "opt-out", "backfill", "apply") or arguments[1:2] == ("status",):
            self._hold_limit(arguments[0], ended, now, reading)
        if self.guarded and not self.jumped and not self._recently_approved():
            lately = {person for at, person in self.regrants if at > self.machine.elapsed - DAY_S}
            if len(lately) > self.guards["re_grants"]:
                raise LawError("L5", f"{len(lately)} people were allowed again within a day, and nobody approved it")
        if self.counter % 8 == 0 and arguments[:2] != ("state", "check"):
            checked = self.machine.run(["state", "check", "--config", str(self.folder / "nightly.toml")])
            self._hold_whole(checked)

    def _hold_whole(self, checked: Ended) -> None:
        """Hold that a state is whole; what a command that died was writing may lie beside it."""
        if checked.code and self.jumped and "A clock was wrong" in checked.out:
            self.command("state", "repair")
            checked = self.machine.run(["state", "check", "--config", str(self.folder / "nightly.toml")])
        known = "inbox/.delta-" in checked.out and "a missed delta is an orphan" in KNOWN_FAILING
        if checked.code and not (checked.code == 1 and (self.died or known)):
            raise LawError("L7", f"state check ended in {checked.code}: {checked.out}{checked.err}")

    def _past_limit(self, now: float, reading: Reading) -> list[str]:
        """Return what is owed and past its limit at a time, and not overtaken by what was just read."""
        found = []
        state = self.machine.platform.state
        for one in self.book.withdrawals:
            if one.at + 3600 * LIMIT_H >= now or one.person in self.strangers | self.book.erased | self.moved:
                continue
            if self.book.closed.get(one.person, -1.0) >= one.taken:
                continue
            for k in SCOPES[one.scope]:
                key = one.person, k
                allowed = state.get(self.ids[one.person], Flags())[k]
                if self.book.stands(one, k) and allowed and self.book.denied.get(key, -1.0) < one.taken:
                    found.append(f"{CHANNELS[k]} of {self._name(one.person)} ({one.reference})")
        for key, no in self.book.no.items():
            person, k = key
            if no.since + 3600 * LIMIT_H >= now or not self.book.says_no(key) or key in self.drifted:
                continue
            if person in self.strangers | self.book.erased | self.moved or person in self.book.closed:
                continue
            if reading.says.get(person, (None,) * 4)[k]:
                continue
            if state.get(self.ids[person], Flags())[k] and not self.forgot_states:
                found.append(f"{CHANNELS[k]} of {self._name(person)}, who said no in an export")
        return found

    def _hold_limit(self, command: str, ended: Ended, now: float, reading: Reading) -> None:
        full = ended.code == 4 and ("No space" in ended.err or "is full" in ended.err)
        if ended.code in _LOWER and not self.restored and not full and (late := self._past_limit(now, reading)):
            raise LawError("L4", f"{command} ended in {ended.code}, and past its limit is {', '.join(late)}")

    def _hold_acknowledged(self, rows: list[tuple[int, str, float, str]]) -> None:
        """Hold a list that ended in 0 to that: what it withdraws is denied."""
        state = self.machine.platform.state
        for person, scope, at, reference in rows:
            for k in SCOPES[scope]:
                lifted = at < self.book.lifted.get((person, k), 0.0)
                if person in self.strangers or lifted or self.book.closed.get(person) is not None:
                    continue
                if state.get(self.ids[person], Flags())[k] and (person, k) not in self.drifted:
                    raise LawError("L2", f"{CHANNELS[k]} of {self._name(person)} ({reference}) is allowed: exit 0")

    def _hold_forgotten(self) -> None:
        """Hold that no no was forgotten."""
        if self.restored or not (self.state / "ledger.db").exists():
            return
        if self._query("SELECT 1 FROM runs WHERE stage = 'open' LIMIT 1"):
            return  # one died, and nobody has folded it yet
        owed, due = self._owed(), self._due()
        inbox = set(self._inbox())
        state = self.machine.platform.state
        for person in self.ids:
            if person in self.strangers | self.book.erased | self.book.asked:
                continue
            client = self.ids[person]
            for k in range(4):
                key = person, k
                if key in self.drifted or state.get(client, Flags())[k] is not True:
                    continue
                listed = [one for one in self.book.withdrawals if one.person == person and self.book.stands(one, k)]
                no = self.book.no.get(key) if self.book.says_no(key) else None
                if not listed and no is None:
                    continue
                if owed.get(client, 0) >> 2 * k & 1 or due.get(client, 0) >> 2 * k & 3 == 1:
                    continue
                if any(one.digest in inbox for one in listed):
                    continue
                closed = self.book.closed.get(person, -1.0)
                if closed >= max([one.taken for one in listed] + [no.read - self.machine.offset if no else -1.0]):
                    continue
                why = f"withdrew ({listed[-1].reference})" if listed else "said no in an export"
                raise LawError("L2", f"{self._name(person)} {why}, {CHANNELS[k]} is allowed, and nothing is owed")

    def _hold_counts(self, summary: dict[str, Any]) -> None:
        """Hold a report to what was sent."""
        if summary["requests"] != len(self.sent):
            raise LawError("L6", f"the report has {summary['requests']} requests, and {len(self.sent)} were made")

    def _note_erased(self) -> None:
        """Note who was erased, and hold that nothing of them is allowed."""
        if not self.book.asked:
            return
        asked = {client for (client,) in self._query("SELECT client FROM forgetting")}
        for person in sorted(self.book.asked - {self.asking}):
            if self.ids[person] in asked:
                continue
            if self._query("SELECT 1 FROM runs WHERE stage = 'open' LIMIT 1"):
                continue
            self.book.asked.discard(person)
            self._erase(person)

    def _erase(self, person: int) -> None:
        self.told.append(f"  person {person} is erased")
        self.erased_at[person] = self.machine.now
        book = self.book
        book.erased.add(person)
        book.named.discard(person)
        book.withdrawals = [one for one in book.withdrawals if one.person != person]
        book.voided = [one for one in book.voided if one.person != person]
        for said in (book.no, book.yes):
            for key in [key for key in said if key[0] == person]:
                del said[key]
        flags = self.machine.platform.state.get(self.ids[person], Flags())
        drifted = any((person, k) in self.drifted for k in range(4))
        if True in flags and person not in self.strangers and person not in book.closed and not drifted:
            raise LawError("L8", f"person {person} is erased, and the platform still allows {flags}")

    def _hold_gone(self, person: int) -> None:
        """Hold that nothing in the ledger names a person."""
        for (table,) in self._query("SELECT name FROM sqlite_master WHERE type = 'table'"):
            columns = [column[1] for column in self._query(f"PRAGMA table_info({table})")]
            named = f"SELECT 1 FROM {table} WHERE client = {self.ids[person]}"  # noqa: S608 - names of our own
            if "client" in columns and self._query(named):
                raise LawError("L8", f"person {person} is erased, and in {table}")
        if self.ids[person] in self._due():
            raise LawError("L8", f"person {person} is erased, and in the snapshot")

    # The end

    def end(self) -> None:
        """Let all be well again, and hold that the platform is what the rules say."""
        self.told.append("all is well again")
        self.sick.clear()
        if self.paused:
            self._pause(Random(0))
        if self.restored:
            return  # nobody can say what it lacks
        self.machine.let_pass(8 * DAY_S)
        self.guards, self.guarded = _UNGUARDED, False
        self._configure()
        rng = Random(0)
        for _ in range(2):
            self.pending = set(self.ids)
            self._run(self._fresh(), rng, may_restrict=False)
            owed, due = self._owed(), self._due()
            if not owed and not any(due.values()):
                break
            for one in self._held() if self.guarded_once else []:
                for what in ("revocations", "clients"):
                    if one.get(what):
                        self._approving(one["run"], what, int(one[what]))
            self.command("drain", "--wait-s", "0")
            self.machine.let_pass(2 * DAY_S)
        self.owed_at_end = bool(self._owed())
        self._hold_all()
        self._hold_whole(self.command("state", "check"))
        if self.counter % 3 == 0:
            saved = self.command("state", "backup", str(self._file("last.tar")))
            if saved.code:
                raise LawError("L7", f"no backup can be made: {saved.err}")

    def _hold_all(self) -> None:
        state = self.machine.platform.state
        for person in sorted(set(self.ids) - self.strangers):
            flags = state.get(self.ids[person], Flags())
            for k, says in enumerate(self.says[person]):
                who = f"{CHANNELS[k]} of {self._name(person)} is {flags[k]}"
                if (person, k) in self.drifted or (person in self.book.closed):
                    continue
                if person in self.book.erased:
                    if flags[k] is True:
                        raise LawError("L3", f"{who}, and is erased")
                elif self.book.withdrawn(person, k):
                    if flags[k] is True:
                        raise LawError("L3", f"{who}, and withdrew")
                elif says is False and flags[k] is not False:
                    raise LawError("L3", f"{who}, and the CRM says no")
                elif says and not flags[k] and self._may_be_allowed(person, k):
                    raise LawError("L3", f"{who}, and the CRM says yes")
                elif says is None and self.book.says_no((person, k)) and flags[k] is True:
                    raise LawError("L3", f"{who}, and the last that the CRM said was no")

    def _may_be_allowed(self, person: int, k: int) -> bool:
        """Return whether the platform should have been told that a channel is allowed, when all is well again."""
        no = self.book.no.get((person, k))
        unknown = (
            self.beginning == "unknown" or self.forgot_states or self.as_of == "none"
        )  # taken for allowed, and perhaps it is not
        ahead = no is not None and no.as_of > self.machine.now
        return not unknown and not ahead and not self.owed_at_end and person not in self.moved | self.joined

    # Set by what happens

    asking: int | None = None
    died = False
    joined: frozenset[int] | set[int] = frozenset()
    owed_at_end = False
    beginning = ""
    made: set[str] = set()  # noqa: RUF012 - replaced, never changed
    last_content = ""
    compared = False
    lost_since = 0.0
    last_list: list[tuple[int, str, float, str]] = []  # noqa: RUF012 - replaced, never changed


_ENDINGS = {"csv": ".csv", "semicolon": ".csv", "gzip": ".csv.gz", "parquet": ".parquet", "jsonl": ".jsonl"}
_CELLS = {True: "true", False: "false", None: ""}


def _first(out: str) -> dict[str, Any]:
    """Return what a command said of the target that got a list."""
    found: dict[str, Any] = json.loads(out) if out.startswith("{") else {}
    targets: list[dict[str, Any]] = found.get("targets") or [found]
    return next((one for one in targets if one.get("list")), found)


def _content(says: Mapping[int, Consent]) -> str:
    return repr(sorted(says.items()))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _written(path: Path, columns: dict[str, list[Any]], how: str) -> None:
    """Write a table in a format; what format it is, its content tells."""
    if how == "parquet":
        pq.write_table(pa.table({name: [str(cell) for cell in cells] for name, cells in columns.items()}), path)
        return
    rows = list(zip(*columns.values(), strict=True))
    if how == "jsonl":
        text = "".join(json.dumps(dict(zip(columns, map(str, row), strict=True))) + "\n" for row in rows)
    else:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=";" if how == "semicolon" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        text = out.getvalue()
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if how == "gzip" else text.encode())
