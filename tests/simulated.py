"""A simulated shop with its machine and its book: how commands run in it, what they meet, and what the product knows.

Which steps there are is left to `history.py`, what must hold to `upheld.py`.
"""

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from sync_job.standin.contract import Flags, Update
from tests.expected import (
    DAY_S,
    SCOPES,
    Book,
    Channel,
    Consent,
    LawError,
    Reading,
    Withdrawal,
)
from tests.exported import CELLS, ENDINGS, FIELDS, Export, content, iso, written
from tests.machine import Ended, Fate, Machine, Request, Scene

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
LOWER = frozenset((0, 1, 3, 4, 5, 6, 75, 130, 143))  # exit codes that 7 goes before
_GUARDS = ("re_grants", "new_grants", "revocations", "changed", "unknown", "shrinkage", "rejects")
UNGUARDED = dict.fromkeys((*_GUARDS, "lost", "list"), 999_999)

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


class Backup(NamedTuple):
    """A backup, and what the state knew when it was made."""

    path: Path
    withdrawals: frozenset[str]
    taken: float


class Plan(NamedTuple):
    """A plan that was made, of which export, where that lies, and what else was said of it."""

    path: Path
    export: Export
    source: str
    said: list[str]


class Simulated:
    """A shop with its machine, and what is expected of it."""

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
        self.guards = UNGUARDED | (most if self.guarded else {})
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
        self.contents: dict[str, float] = {}  # of exports without an age: when each was read last before another
        self.overtaken: set[str] = set()  # contents after which another was read
        self.counter = 0
        self.open_plan: Plan | None = None
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
        reading = self._reading(export)
        self._note_read(reading)
        # The first run sends it, whenever that is: until then it is overdue for nobody.
        self.book.no = {key: said._replace(since=math.inf) for key, said in self.book.no.items()}
        self.pending = set(self.ids)

    def _dump(self, path: Path) -> None:
        path.write_text(self.machine.platform.csv())

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
        for key in ((person, k) for person in owners for k, flag in enumerate(request.flags) if flag):
            denied = max(self.book.denied.get(key, -1.0), self.book.refrained.get(key, -1.0))
            if denied > self.book.allowed.get(key, -1.0):
                self.regrants.append((self.machine.elapsed, key[0]))
        if fate not in (Fate.DOWN, Fate.BUSY, Fate.REFUSED):
            for k, flag in enumerate(request.flags):
                for person in owners if flag is not None else ():
                    (self.book.asked_for if flag else self.book.refrained)[person, k] = self.machine.elapsed
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
        began = self.machine.now
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
        self.died |= ended.code is None or (scene is not None and scene.full_at < math.inf)
        if (ended.code == 70 or "Traceback" in ended.err) and not within:
            raise LawError("bug", ended.err[-3000:])
        if ended.code is not None and not within:
            self._hold(arguments, ended, began, reading)
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
        self.ids_unknown = ended.code == 2
        full = scene is not None and scene.full_at < math.inf and ended.code in (4, 7)
        if full and "damaged" in ended.err:
            raise LawError("L7", f"a full disk is called damage: {ended.err}")
        if self.kind == "delta" and export.kind not in ("part", "desk") and self._summary() is None:
            self.unread.append((export, path, said))
        if ended.code is None or full:
            for request in self.sent:
                self._note_sent(request, export)
        elif (summary := self._summary()) is not None:
            self._note_read(reading)
            if fresh:
                self.pending -= set(export.says)
            self._hold_counts(summary)
        if self.lost_list is not None:
            self.told.append("  the list whose command died is handed in again")
            rows, self.lost_list = self.lost_list, None
            self._opt_out(Random(0), rows=rows)
        self._hold_forgotten()

    def _catch_up(self) -> None:
        """Run the deltas that were not read, in their order, as the product asks for it."""
        for export, path, said in self.unread:
            self.book.reading = reading = self._reading(export)
            self.command("run", path, *said, sending=True)
            if self._summary() is not None:
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
        said = content(reading.says)
        self.overtaken |= self.contents.keys() - {said}
        if said not in self.overtaken:
            self.contents[said] = self.machine.now
        self.book.read(reading)

    def _opt_out(
        self,
        rng: Random,
        *,
        rows: list[tuple[int, str, float, str]] | None = None,
        again: Withdrawal | None = None,
        sick: Fate | None = None,
        scene: Scene | None = None,
        within: bool = False,
        more: tuple[str, ...] = (),
    ) -> Ended:
        """Hand a list in; it binds from the moment that the command returns."""
        if rows is None:
            some = rng.sample(sorted(self.ids), rng.choice((1, 1, 2)))
            rows = [self._row(person, rng.choice(sorted(SCOPES))) for person in some]
            if sick is not None:
                self.sick[self.ids[rows[0][0]]] = sick
            if again is not None:
                rows.append((again.person, again.scope, again.at, again.reference))
        self.last_list = rows
        path = self._listing(rows)
        ended = self.command("opt-out", str(path), "--wait-s", "0", "--json", *more, scene=scene, within=within)
        if within and ended.code is None:
            self.lost_list = rows
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

    def _row(self, person: int, scope: str) -> tuple[int, str, float, str]:
        """Return the row of a list by which somebody withdraws now."""
        self.counter += 1
        return person, scope, float(math.floor(self.machine.now) - 1), f"r{self.counter}"

    def _listing(self, rows: Iterable[tuple[int, str, float, str]]) -> Path:
        path = self._file("list.csv")
        lines = [f"{self._shown_id(person)},{scope},{iso(at)},{reference}" for person, scope, at, reference in rows]
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
        said = content(export.stated())
        return self.contents[said] if said in self.overtaken else self.machine.now

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
                        "maybe" if export.unreadable.get(person) == k else CELLS[export.says[person][k]]
                        for person in people[number::files]
                    ]
            if self.as_of == "column":
                columns["Exported"] = [iso(made)] * len(columns["Client"])
            path = folder / f"{number}-{stamp}{ENDINGS[how]}"
            written(path, columns, how)
            os.utime(path, (made, made))
        return str(folder if files > 1 else path), self._flagged(export.as_of, desk=export.kind == "desk")

    def _flagged(self, as_of: float, *, desk: bool = False) -> list[str]:
        return ["--as-of", iso(as_of)] if self.as_of == "flag" and not desk else []

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
        """Return what the report of the last command says, None if it made none, or is not the export's."""
        for name in sorted(self.made, reverse=True):
            path = self.folder / "reports" / name / "summary.json"
            if path.exists():
                found: dict[str, Any] = json.loads(path.read_text())
                if found.get("outcomes") is not None and found["export"] is not None:
                    return found  # any other is of a list that came in meanwhile
        return None

    def _held(self) -> list[dict[str, Any]]:
        ended = self.command("approve", "--json")
        found: list[dict[str, Any]] = json.loads(ended.out)["held"] if ended.done else []
        return found

    def _recently_approved(self) -> bool:
        return self.approved_at is not None and self.machine.elapsed - self.approved_at <= 4 * DAY_S

    def _approving(self, run: str, what: str, count: int) -> Ended:
        ended = self.command("approve", run, f"--{what}", str(count), "--reason", "r", "--by", "b")
        if ended.done:
            self.approved_at = self.machine.elapsed
        return ended

    # What must hold

    def _hold(self, arguments: tuple[str, ...], ended: Ended, began: float, reading: Reading) -> None:
        """Hold the laws about any command that ended."""
        raise NotImplementedError

    def _hold_forgotten(self) -> None:
        """Hold that no no was forgotten."""
        raise NotImplementedError

    def _hold_acknowledged(self, rows: list[tuple[int, str, float, str]]) -> None:
        """Hold a list that ended in 0 to that."""
        raise NotImplementedError

    def _hold_counts(self, summary: dict[str, Any]) -> None:
        """Hold a report to what was sent."""
        raise NotImplementedError

    # Set by what happens

    asking: int | None = None
    lost_list: list[tuple[int, str, float, str]] | None = None
    died = False
    joined: frozenset[int] | set[int] = frozenset()
    owed_at_end = False
    ids_unknown = False  # the platform knew none of the first rows of the last run, which then grants nothing
    beginning = ""
    made: set[str] = set()  # noqa: RUF012 - replaced, never changed
    compared = False
    lost_since = 0.0
    last_list: list[tuple[int, str, float, str]] = []  # noqa: RUF012 - replaced, never changed


def _first(out: str) -> dict[str, Any]:
    """Return what a command said of the target that got a list."""
    found: dict[str, Any] = json.loads(out) if out.startswith("{") else {}
    targets: list[dict[str, Any]] = found.get("targets") or [found]
    return next((one for one in targets if one.get("list")), found)
