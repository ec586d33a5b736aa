"""The laws that a simulated shop is held to: after each command that ended, and when all is well again."""

from random import Random
from typing import Any

from sync_job.standin.contract import Flags
from tests.expected import CHANNELS, DAY_S, SCOPES, LawError, Reading
from tests.machine import Ended
from tests.simulated import LIMIT_H, LOWER, UNGUARDED, Simulated

_GUARDED_S = 23 * 3600.0  # a night that begins a little earlier than the last one is a night later all the same


class Upheld(Simulated):
    """A shop that is held to the laws of `history.py`."""

    def _hold(self, arguments: tuple[str, ...], ended: Ended, began: float, reading: Reading) -> None:
        """Hold the laws about any command that ended."""
        if not (self.state / "ledger.db").exists():
            return
        self._note_erased()
        if arguments[0] in ("run", "drain", "opt-out", "backfill", "apply") or arguments[1:2] == ("status",):
            self._hold_limit(arguments[0], ended, began, reading)
        if self.guarded and not self.jumped and not self._recently_approved():
            lately = {person for at, person in self.regrants if at > self.machine.elapsed - _GUARDED_S}
            if len(lately) > self.guards["re_grants"]:
                raise LawError("L5", f"{len(lately)} people were allowed again within a day, and nobody approved it")
        if self.counter % 8 == 0 and arguments[:2] not in (("state", "check"), ("state", "retarget")):
            checked = self.machine.run(["state", "check", "--config", str(self.folder / "nightly.toml")])
            self._hold_whole(checked)

    def _hold_whole(self, checked: Ended) -> None:
        """Hold that a state is whole; what a command that died was writing may lie beside it."""
        if self.restored:
            return  # it says so until a person has said what is missing
        if checked.code and self.jumped and "A clock was wrong" in checked.out:
            config = ["--config", str(self.folder / "nightly.toml")]
            self.machine.run(["state", "repair", *config])
            checked = self.machine.run(["state", "check", *config])
        if checked.code and not (checked.code == 1 and self.died):
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
        if ended.code in LOWER and not self.restored and not full and (late := self._past_limit(now, reading)):
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
                if owed.get(client, 0) >> 2 * k & 1:
                    continue
                asked = self.book.asked_for.get(key, -1.0) > self.book.denied.get(key, -1.0)
                if not asked and due.get(client, 0) >> 2 * k & 3 == 1:
                    continue  # nobody here knows that it may be allowed: the next run sends it
                if any(one.digest in inbox for one in listed):
                    continue
                closed = self.book.closed.get(person, -1.0)
                if closed >= max([one.taken for one in listed] + [no.since - self.machine.offset if no else -1.0]):
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
            self.command("resume")
            self.paused = False
        if self.restored:
            return  # nobody can say what it lacks
        self.machine.let_pass(8 * DAY_S)
        self.guards, self.guarded = UNGUARDED, False
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
        unknown |= self.ids_unknown
        return not unknown and not ahead and not self.owed_at_end and person not in self.moved | self.joined
