"""A shop, its platform and its accidents, step by step, and what must hold after each: the world of `test_histories`.

Everything is the product's own, through its command line; `machine.py` is what it runs on, `simulated.py` the shop,
`expected.py` what is expected of it, and `upheld.py` holds it to that. A step is a kind and a seed: dropping one
changes nothing of the others, so a history can be shrunk.

The laws:

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

import json
import math
import shutil
from dataclasses import replace
from random import Random
from typing import NamedTuple

from sync_job.standin.contract import Flags, Update
from sync_job.standin.platform import Platform
from tests.expected import CHANNELS, DAY_S, SCOPES, Consent, LawError, Reading
from tests.exported import Export, iso
from tests.machine import Fate, Scene
from tests.simulated import FLAGS, Backup, Plan
from tests.upheld import Upheld


class Step(NamedTuple):
    """One thing that happens, and the seed of everything about it."""

    kind: str
    seed: int


class World(Upheld):
    """One history: a shop, and all that can happen to it."""

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
        old = rng.choice(self.published)
        if self.kind == "delta" and old.as_of > self.machine.now:
            return  # it is refused, and so is each delta after it, until a person mends its time
        self._run(old, rng, fresh=False)

    def _part(self, rng: Random) -> None:
        """Run a part: of today, or one that was made when an old export was."""
        old = rng.choice(self.published) if rng.random() < 0.5 else None
        source = old.says if old else self.says
        some = rng.sample(sorted(source), min(len(source), rng.randint(1, 3)))
        says = {person: source[person] for person in some}
        self._run(Export(says, old.as_of if old else self._stamp(), "part"), rng, fresh=False)

    def _relapse(self, rng: Random) -> None:
        """Let somebody say yes and then no, and what said yes come in again by some door."""
        person = rng.choice(sorted(self.ids))
        self._change(person, (True, True, True, True))
        export = self._fresh()
        self._run(export, rng)
        if rng.random() < 0.3:
            self._plan(rng)
        self.machine.let_pass(rng.choice((60.0, 3600.0)))
        self._change(person, (False, False, False, False))
        self._run(self._fresh(), rng, scene=self._scene(rng, faults=rng.random() < 0.3))
        if self.open_plan is not None:
            self._apply(rng)
        elif rng.random() < 0.7:
            self._run(Export({person: export.says[person]}, export.as_of, "part"), rng, fresh=False)
        else:
            self._run(export, rng, fresh=False)

    def _wobble(self, rng: Random) -> None:
        """Let a few people say no, and within a day, night after night, one after the other yes."""
        people = rng.sample(sorted(set(self.ids) - self.strangers), min(4, len(self.ids) - len(self.strangers)))
        for person in people:
            self._change(person, (False, False, False, False))
        self._run(self._fresh(), rng, scene=self._scene(rng, faults=rng.random() < 0.5))
        together = rng.random() < 0.3
        for person in people:
            self._change(person, (True, True, True, True))
            if not together or person == people[-1]:
                self.machine.let_pass(3600.0)
                self._run(self._fresh(), rng)

    def _reapply(self, rng: Random) -> None:
        """Let somebody say no twice, the second time by a plan, and then a yes of between come in."""
        person = rng.choice(sorted(self.ids))
        self._change(person, (False, False, False, False))
        self._run(self._fresh(), rng)
        self.machine.let_pass(3600.0)
        between = Export({person: (True, True, True, True)}, self._stamp(), "part")
        self.machine.let_pass(3600.0)
        self._change(person, (False, False, False, False))
        self._plan(rng)
        self._apply(rng)
        self._run(between, rng, fresh=False)

    def _lost_grant(self, rng: Random) -> None:
        """Let the answers to what somebody allows be lost, and then what they deny be refused or lost."""
        person = rng.choice(sorted(set(self.ids) - self.strangers))
        for flag, fate in ((False, None), (True, Fate.LOST), (False, rng.choice((Fate.REFUSED, Fate.ERROR)))):
            self._change(person, (flag, flag, flag, flag))
            if fate is not None:
                self.sick[self.ids[person]] = fate
            self._run(self._fresh(), rng)
            self.machine.let_pass(3600.0)
        self.sick.clear()

    def _enroll(self, rng: Random) -> None:
        """Let the platform know a few people later, who denied all, withdrew a channel, and then allow the others."""
        people = rng.sample(sorted(self.ids), 4)
        clients = {self.ids[person] for person in people}
        self.strangers |= set(people)
        self.machine.members -= clients
        for person in people:  # one a day, so that no guard holds it
            self._change(person, (False, False, False, False))
            self._run(self._fresh(), rng)
            self._opt_out(rng, rows=[self._row(person, "sms")])
            self.machine.let_pass(DAY_S)
        for person in people:
            self._change(person, (True, True, True, True))
        self.machine.members |= clients
        began = self.machine.elapsed
        self._run(self._fresh(), rng)
        self.strangers -= {person for person in people if self.book.denied.get((person, 0), -1.0) >= began}

    def _neglect(self, rng: Random) -> None:
        """Let a list be stuck for days, at the platform or because of a pause, and then a command fail or do little."""
        if rng.random() < 0.5 and not self.paused:
            self._pause(rng)
            self._opt_out(rng)
        else:
            self._opt_out(rng, sick=rng.choice((Fate.ERROR, Fate.REFUSED, Fate.LOST)))
        self.machine.let_pass(rng.choice((1, 3, 3)) * DAY_S)
        after = rng.choice((self._no_export, self._status, self._drain, self._stale, self._night))
        after(rng)

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
        """Hand in a list with a row of before and a new one, or as it was, though a row may have been refused."""
        if rng.random() < 0.5:
            self._opt_out(rng, sick=rng.choice((Fate.ERROR, Fate.REFUSED)))
            self._opt_out(rng, rows=self.last_list)
        elif self.book.withdrawals:
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
        row = f"{self._shown_id(one.person)},{one.scope},{iso(at)},form,f-{self.counter}\n"
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
        if wrong and ended.done:
            raise LawError("L5", f"{count} {what} were approved, and {count - 1} are held")

    def _close(self, rng: Random) -> None:
        owed = sorted({self._owner(client) for client in self._owed()} & set(self.ids))
        if not owed:
            return
        person = rng.choice(owed)
        said = ("--client", str(self.ids[person]), "--reason", "r", "--by", "b")
        if self.command("withdrawals", "close", *said).done:
            self.book.closed[person] = self.machine.elapsed

    def _void(self, rng: Random) -> None:
        """Take a list back, as two people may."""
        if not self.book.withdrawals:
            return
        digest = rng.choice(self.book.withdrawals).digest
        said = ("--list", digest, "--reason", "r", "--by", "a", "--approved-by", "b")
        if self.command("withdrawals", "void", *said).done:
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
            self.open_plan = Plan(plan, export, path, said)

    def _apply(self, rng: Random) -> None:
        if self.open_plan is None:
            return
        plan, self.open_plan = self.open_plan, None
        self.book.reading = self._reading(plan.export)
        ended = self.command("apply", str(plan.path), scene=self._scene(rng, lists=True), sending=True)
        if ended.code is not None and self._summary() is not None:
            self._note_read(self._reading(plan.export))
        elif self.kind == "delta":
            self.unread.append((plan.export, plan.source, plan.said))

    def _backup(self, rng: Random) -> None:
        if self.restored:
            return
        path = self._file("backup.tar")
        if self.command("state", "backup", str(path)).done:
            known = frozenset(one.reference for one in self.book.withdrawals)
            self.backups.append(Backup(path, known, self.machine.elapsed))

    def _restore(self, rng: Random) -> None:
        """Lose the state, put a backup back, and say what came in since: rightly, or wrongly first."""
        if self.restored:
            return
        if not self.backups:
            self._backup(rng)
            self._opt_out(rng)
        self.command("drain", "--wait-s", "0")  # what lies in the inbox no anchor knows
        if self._inbox() or not self.backups:
            return
        backup = rng.choice(self.backups)
        shutil.rmtree(self.state)
        self.restored = True
        ended = self.command("state", "restore", str(backup.path))
        assert ended.done, ended
        self._put_back(backup.taken)
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
        for held in (self.book.asked_for, self.book.refrained):
            for key in [key for key, at in held.items() if at > taken]:
                del held[key]

    def _say_restored(self, rng: Random, backup: Backup) -> None:
        missing = [one for one in self.book.withdrawals + self.book.voided if one.reference not in backup.withdrawals]
        missing = [one for one in missing if one.person not in self.book.erased]
        said = ("state", "restored", "--by", "b")
        if missing and rng.random() < 0.5:
            wrong = self.command(*said, "--none")
            if wrong.done:
                raise LawError("L1", f"{len(missing)} withdrawals are missing, and --none was taken")
        if missing:
            path = self._listing([(one.person, one.scope, one.at, one.reference) for one in missing])
            ended = self.command(*said, "--withdrawals-since", str(path))
        else:
            ended = self.command(*said, "--none")
        self.told.append(f"  said to be whole: {ended.code}")
        if ended.done:
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
        if self.command("state", "retarget", new, *said).done:
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
        if ended.code not in (0, 1, 5, 7) or "paused by" in ended.err:  # 7 may be about others
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
        """Let the disk be full from some moment of a night on, or before it begins."""
        self._run(self._fresh(), rng, scene=Scene(self._dispatched, full_at=rng.choice((0, rng.randint(1, 40)))))

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
        people = sorted(set(self.ids) - self.book.erased - self.book.asked)  # an erased number stays that
        if not people:
            return
        person = rng.choice(people)
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
        gone = people[-1] if rng.random() < 0.6 and len(people) > 2 else None
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
        if not ended.done:
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
            self.book.join(gone, stays, self.machine.elapsed)
            self.drifted |= {(stays, k) for person, k in self.drifted if person == gone}
            for number in (old_ids[stays], old_ids[gone]):  # the platform keeps what either allowed
                flags = Flags(*(flag or None for flag in before.get(number, Flags())))
                self.machine.platform.apply(Update(self.ids[stays], flags))
            for lost in (self.ids, self.says, self.crm):
                del lost[gone]
            self.pending.discard(gone)
            self.joined = self.joined | {gone, stays}
            self.strangers -= {gone, stays}
        self._hold_forgotten()
        if not self.mapped:
            self.crm = dict(self.ids)
        self.published = [Export(dict(self.says), self._stamp(), "full")]
        self.listed = []
        self._write_map()

    def _jump(self, rng: Random) -> None:
        """Set the clock forward or back."""
        seconds = rng.choice((-7200.0, -90_000.0, 3600.0, 3 * DAY_S, 400 * DAY_S, 400 * DAY_S))
        self.machine.jump(seconds)
        self.jumped = True
        self.told.append(f"  the clock jumps by {seconds / 3600:+,.0f} h")
        if abs(seconds) > 100 * DAY_S:
            self._night(rng)
            self.machine.jump(-seconds)
            self._change(rng.choice(sorted(self.ids)), (True, True, True, True))
        if seconds < 0 or abs(seconds) > 100 * DAY_S:
            self.book.set_right()

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
