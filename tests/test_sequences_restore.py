"""States that were lost, restored, moved or begun anew: who withdrew stays denied, whatever the counts say."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from sync_job import load_settings
from sync_job.ledger import anchor
from sync_job.ledger.withdrawn import Withdrawn
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli, Said
from tests.dying import Commands, commands

CONFIGS = Path(__file__).parent.parent / "configs"
EVERYBODY = range(1, 41)
LATER = range(41, 44)  # who is in no export before the backup
LINGER_S = 0.1
_WHY = ("--reason", "asked", "--by", "me")
YES, NO = (True,) * 4, (False,) * 4


class Desk:
    """A shop that is worked with by commands alone."""

    def __init__(self, folder: Path, cli: Cli, platform: Standin, name: str = "shop") -> None:
        self.folder, self.cli, self.platform, self.name = folder, cli, platform, name
        self.state, self.keys = folder / name / "state", folder / "keys"
        self.export, self.config = folder / name / "export.csv", folder / name / "nightly.toml"
        self.config.parent.mkdir(parents=True)
        self.lists = 0
        self.configure(platform.url)

    def configure(self, url: str, operator: int = 1) -> None:
        """Take the shipped configuration, with this address."""
        text = (CONFIGS / "nightly.toml").read_text("utf-8")
        for was, is_ in {
            "/var/spool/crm/consent/latest.csv": str(self.export),
            "https://loyalty.example.com/partner": url,
            "operator = 1": f"operator = {operator}",
            'kind = "bearer"': 'kind = "none"',
            "/var/lib/consent-sync/loyalty/state": str(self.state),
            "/var/lib/consent-sync/loyalty/keys": str(self.keys),
            "/var/lib/consent-sync/loyalty/reports": str(self.folder / self.name / "reports"),
        }.items():
            assert was in text
            text = text.replace(was, is_)
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("textfile", "url_file")))
        self.config.write_text(f"{text}\n[delivery]\nlinger_s = {LINGER_S}\n", "utf-8")

    def __call__(self, *arguments: str | Path | int) -> Said:
        """Run a command with this configuration."""
        return self.cli(*arguments, "--config", self.config)

    def write(self, *clients: int) -> None:
        """Export these clients, all of them allowed everything."""
        rows = "".join(f"{client},true,true,true,true\n" for client in clients or EVERYBODY)
        self.export.write_text(f"Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n{rows}", "utf-8")

    def begin(self, *more: str | Path | int) -> Said:
        """Make the state of a platform that is as the export says."""
        return self("init", self.export, "--platform", "equal", *more)

    def listed(self, *clients: int, scope: str = "all", withdrawn_at: float | None = None) -> Path:
        """Return a list of opt-outs that no other was."""
        self.lists += 1
        path = self.folder / f"list-{self.lists}.csv"
        at = datetime.fromtimestamp(withdrawn_at or time.time() - 60 + self.lists, UTC).isoformat()
        rows = "".join(f"{client},{scope},{at},R{self.lists}\n" for client in clients)
        path.write_text(f"Client,scope,withdrawn_at,request_ref\n{rows}", "utf-8")
        return path

    def opt_out(self, *clients: int, scope: str = "all", withdrawn_at: float | None = None) -> Said:
        """Take a list in and send it."""
        path = self.listed(*clients, scope=scope, withdrawn_at=withdrawn_at)
        return self("opt-out", path, "--received-at", _now())

    def restored(self, *clients: int, missing: int = 0, withdrawn_at: float | None = None) -> Said:
        """Say who withdrew since a backup."""
        given: tuple[str | Path, ...] = ("--none",)
        if clients:
            path = self.listed(*clients, withdrawn_at=withdrawn_at)
            given = ("--withdrawals-since", path, "--received-at", _now())
        return self("state", "restored", *given, "--missing", missing, "--by", "operations")

    def reconsent(self, *clients: int) -> Said:
        """Hand in evidence that these have consented again, now."""
        self.lists += 1
        path = self.folder / f"evidence-{self.lists}.csv"
        at = datetime.now(UTC).isoformat()
        rows = "".join(f"{client},all,{at},web-form,E{client}\n" for client in clients)
        path.write_text(f"Client,channels,granted_at,method,evidence_ref\n{rows}", "utf-8")
        return self("reconsent", path)

    def backup(self, name: str = "b.tar") -> Path:
        """Make a backup of the state."""
        assert self("state", "backup", self.folder / name).code == 0
        return self.folder / name

    def put_back(self, backup: Path) -> Said:
        """Lose the state, and restore a backup."""
        shutil.rmtree(self.state)
        return self("state", "restore", backup)

    def night(self) -> Said:
        """Run with an export that is newer than the last, and above which no clock resolution stands."""
        time.sleep(0.02)
        self.write(*EVERYBODY, *LATER)
        return self("run", "--quiet")

    def deaths(self, dying: Commands, folder: Path, *arguments: str | Path, every: int = 1) -> Iterator[int]:
        """Let a command die at each durable operation below *folder*, each time from the same state."""
        kept = (self.folder / "kept-state", self.folder / "kept-keys")
        for place, copy in zip((self.state, self.keys), kept, strict=True):
            shutil.copytree(place, copy)
        for moment in count(1, every):
            ended = dying.run(folder, *map(str, arguments), "--config", str(self.config), at=moment)
            if ended.code is not None:
                break
            yield moment
            for place, copy in zip((self.state, self.keys), kept, strict=True):
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(copy, place)

    def holds(self, client: int) -> tuple[bool | None, ...] | None:
        """Return what the platform holds of a client."""
        return self.platform.platform.state.get(client)

    def allowed(self, since: int = 0) -> set[int]:
        """Return who was sent an allowed, in requests after the first so many."""
        return {entry.client for entry in self.platform.platform.log[since:] if any(entry.flags)}

    def sent(self) -> int:
        """Return how many requests there were."""
        return len(self.platform.platform.log)

    def codes(self) -> Withdrawn:
        """Return who withdrew, by the keys."""
        target = load_settings(self.config).endpoint.target
        return Withdrawn.open(self.keys, target, anchor.read(self.keys, target))

    def withdrawn(self) -> int:
        """Return of how many people the state knows that a channel is withdrawn."""
        out = self.folder / f"export-{self.lists}.csv"
        out.unlink(missing_ok=True)
        assert self("withdrawals", "export", out).code == 0
        return len({line.split(",")[0] for line in out.read_text("utf-8").splitlines()[1:]})


def _now() -> str:
    return datetime.now(UTC).isoformat()


@pytest.fixture
def dying() -> Iterator[Commands]:
    """Start what runs commands that die."""
    with commands() as found:
        yield found


@pytest.fixture
def desk(tmp_path: Path, cli: Cli, platform: Standin) -> Desk:
    """Return a shop of forty people who allow everything, after its first night."""
    desk = Desk(tmp_path, cli, platform)
    desk.write()
    assert desk.begin("--no-withdrawals").code == 0
    assert desk("run", "--quiet").code == 0
    return desk


def test_other_peoples_opt_outs_make_no_backup_whole(desk: Desk) -> None:
    """As many withdrawals as there were, and by others: it stays shrunken until the right people are named."""
    backup = desk.backup()
    assert desk.opt_out(1, 2, 3).code == 0
    assert "lacks 3 of the people" in desk.put_back(backup).out
    assert desk.night().code == 4
    time.sleep(LINGER_S)  # until nothing that the lost state had sent may still be on its way
    assert desk.opt_out(11, 12, 13).code == 0, "a list is sent all the same"
    refused = desk.restored()
    assert refused.code == 2
    assert "3 people who withdrew are missing;" in refused.err
    of_the_wrong_day = desk.restored(21, 22, 23)
    assert of_the_wrong_day.code == 2
    assert "named 0 of the 3 who were missing. 3 people who withdrew are missing still" in of_the_wrong_day.err
    assert desk.withdrawn() == 6, "the list of the wrong day was taken in"
    assert "named 1 of the 3" in desk.restored(3).err
    assert desk.night().code == 4
    before = desk.sent()
    assert desk.restored(1, 2, withdrawn_at=1_600_000_000).code == 0, "with whatever time and reference"
    assert desk.night().code == 0
    withdrew = {1, 2, 3, 11, 12, 13, 21, 22, 23}
    assert not desk.allowed(before) & withdrew
    assert {desk.holds(client) for client in withdrew} == {NO}
    assert desk("state", "check").code == 0


def test_whom_nobody_can_name_is_denied_all_the_same(desk: Desk) -> None:
    """Those of the snapshot are recognised at once, others when an export has them; never is one of them allowed."""
    backup = desk.backup()
    desk.write(*EVERYBODY, *LATER)
    assert desk("run", "--quiet").code == 0
    assert desk.opt_out(1, LATER[0]).code == 0
    desk.put_back(backup)
    assert desk.restored(missing=1).code == 2
    assert desk.restored(missing=3).code == 2
    assert desk.restored(missing=2).code == 0
    assert desk.codes().unnamed() == 1
    assert desk.withdrawn() == 1
    before = desk.sent()
    plan = desk("plan", desk.export, "--quiet", "-o", desk.folder / "p.parquet")
    assert plan.code == 0
    applied = desk("apply", desk.folder / "p.parquet", "--quiet")
    assert applied.code == 0, applied.out
    assert desk.night().code == 0
    assert not desk.allowed(before) & {1, LATER[0]}
    assert desk.codes().unnamed() == 0
    assert desk.withdrawn() == 2
    assert (desk.holds(1), desk.holds(LATER[0])) == (NO, NO)
    assert desk.opt_out(LATER[0]).code == 0
    assert desk("state", "check").code == 0


def test_a_channel_that_is_missing_is_a_person_who_is(desk: Desk) -> None:
    """Who withdrew one channel before the backup and another since is known for the first alone."""
    assert desk.opt_out(1, scope="sms").code == 0
    backup = desk.backup()
    assert desk.opt_out(1, scope="email").code == 0
    desk.put_back(backup)
    assert desk.restored().code == 2
    assert desk.restored(missing=1).code == 0
    assert desk.night().code == 0
    assert (desk.holds(1) or YES)[:2] == (False, False)
    assert False not in (desk.holds(1) or NO)[2:]


def test_who_consented_again_and_withdrew_once_more_is_missing(desk: Desk) -> None:
    """That the backup knows of an earlier withdrawal, which was lifted, does not account for the later one."""
    assert desk.opt_out(1, 2).code == 0
    assert desk.reconsent(1, 2).code == 0
    backup = desk.backup()
    assert desk.opt_out(1, withdrawn_at=time.time() + 1).code == 0
    desk.put_back(backup)
    refused = desk.restored()
    assert (refused.code, "1 person who withdrew is missing" in refused.err) == (2, True)
    assert desk.restored(missing=1).code == 0
    assert desk.night().code == 0
    assert (desk.holds(1), desk.holds(2)) == (NO, YES)


def test_evidence_that_is_handed_in_again_lifts_no_later_withdrawal(desk: Desk) -> None:
    """The backup has the first withdrawal, the keys the time of the one after the evidence."""
    assert desk.opt_out(1).code == 0
    backup = desk.backup()
    assert desk.reconsent(1).code == 0
    evidence = desk.folder / f"evidence-{desk.lists}.csv"
    assert desk.opt_out(1, withdrawn_at=time.time() + 1).code == 0
    desk.put_back(backup)
    assert desk.restored().code == 0, "it is denied by the first one"
    assert "not later than the withdrawal" in desk("reconsent", evidence).out
    assert desk.night().code == 0
    assert desk.holds(1) == NO


def test_a_backup_without_the_last_re_consents_is_an_older_one(desk: Desk) -> None:
    """Those people stay denied until the evidence is handed in again: no more than that is lost."""
    assert desk.opt_out(1, 2).code == 0
    backup = desk.backup()
    assert desk.reconsent(1).code == 0
    desk.put_back(backup)
    assert desk.night().code == 6
    assert desk.restored().code == 0
    assert desk.night().code == 0
    assert (desk.holds(1), desk.holds(2)) == (NO, NO)


def test_a_void_list_was_one(desk: Desk) -> None:
    """Its people are known to have withdrawn, so a backup from before lacks them; it can be named and voided again."""
    backup = desk.backup()
    path = desk.listed(1, 2)
    assert desk("opt-out", path, "--received-at", _now()).code == 0
    digest = desk("withdrawals", "status").out
    desk.put_back(backup)
    assert desk.restored().code == 2, digest
    again = ("--withdrawals-since", path, "--received-at", _now(), "--by", "operations")
    assert desk("state", "restored", *again).code == 0


def test_a_backup_that_is_put_back_twice_lacks_what_came_in_between(desk: Desk) -> None:
    """What a shrunken state takes in is known beside the keys, too."""
    backup = desk.backup()
    assert desk.opt_out(1).code == 0
    desk.put_back(backup)
    assert desk.opt_out(2).code in (0, 1), "it may be sent once more, when nothing older can arrive"
    desk.put_back(backup)
    refused = desk.restored(1)
    assert (refused.code, "1 person who withdrew is missing still" in refused.err) == (2, True)
    assert desk.restored(2).code == 0
    assert desk.opt_out(3).code == 0
    desk.put_back(backup)
    assert "lacks 3 of the people" in desk.put_back(backup).out
    assert desk.restored(3, 2, 1).code == 0
    assert desk.night().code == 0
    assert {desk.holds(client) for client in (1, 2, 3)} == {NO}


def test_the_inbox_of_a_backup_names_who_is_in_it(desk: Desk) -> None:
    """A list that a backup has in its inbox counts when it is taken in, by a drain or by `state restored` itself."""
    assert desk("pause", "--reason", "so that it waits", "--by", "me").code == 0
    assert desk.opt_out(1, 2).code == 75
    backup = desk.backup()
    assert desk("resume").code == 0
    assert desk("drain", "--quiet").code == 0
    said = desk.put_back(backup).out
    assert "lacks 2 of the people" in said
    assert "The lists of its inbox may be some of them" in said
    assert desk("resume").code == 0
    assert desk.night().code == 4
    assert desk("drain", "--quiet").code == 0
    assert "All of them are known again" in desk.night().err
    assert desk.restored().code == 0
    assert desk.night().code == 0
    assert (desk.holds(1), desk.holds(2)) == (NO, NO)


def test_an_erased_person_is_not_missing(desk: Desk) -> None:
    """Their code leaves the file with them; who opted out again afterwards is known anew, and missed."""
    assert desk.opt_out(1, 2, withdrawn_at=1_700_000_000).code == 0
    backup = desk.backup()
    assert len(desk.codes()) == 2
    assert desk("forget", "--client", 1, "--client", 2, *_WHY).code == 0
    assert len(desk.codes()) == 0
    desk.put_back(backup)
    assert desk.restored().code == 0
    again = desk.backup("again.tar")
    path = desk.listed(2, withdrawn_at=1_700_000_000)
    assert desk("opt-out", path, "--received-at", _now()).code == 0
    for one in (again, backup):
        assert len(desk.codes()) == 1
        desk.put_back(one)
        assert desk.restored().code == 2
    assert desk.restored(missing=1).code == 0
    assert desk.night().code == 0
    assert desk.holds(2) != YES


def test_a_new_state_is_not_made_without_everybody_who_withdrew(desk: Desk) -> None:
    """A list of one is not the list of five; whom nobody can name is denied by the new state, too."""
    assert desk.opt_out(*range(1, 5), LATER[0]).code == 0
    shutil.rmtree(desk.state)
    assert desk.begin("--no-withdrawals").code == 4
    before = desk.sent()
    of_one = desk.begin("--withdrawals", desk.listed(1), "--received-at", _now())
    assert of_one.code == 4
    assert "has 1 of them" in of_one.err
    assert "--missing 4" in of_one.err
    others = desk.begin("--withdrawals", desk.listed(11, 12, 13, 14, 15), "--received-at", _now())
    assert others.code == 4
    assert not desk.state.exists() or not (desk.state / "ledger.db").exists()
    missing = ("--withdrawals", desk.listed(1, 2), "--received-at", _now(), "--missing", 3)
    assert desk.begin(*missing[:-1], 2).code == 4
    assert desk.begin(*missing).code == 0
    assert desk.codes().unnamed() == 1, "two are in the export"
    assert desk.night().code == 0
    assert not desk.allowed(before) & {1, 2, 3, 4, LATER[0]}
    assert {desk.holds(client) for client in (1, 2, 3, 4, LATER[0])} == {NO}
    backup = desk.backup()
    assert desk.opt_out(5).code == 0
    desk.put_back(backup)
    assert desk.restored().code == 2, "the new state is held against the codes as the old one was"


def test_all_who_withdrew_make_a_new_state(desk: Desk) -> None:
    """Named by another list, with other times: nobody is missing."""
    assert desk.opt_out(1, 2).code == 0
    shutil.rmtree(desk.state)
    assert desk.begin("--no-withdrawals", "--missing", 1).code == 4
    assert desk.begin("--withdrawals", desk.listed(1, 2, 9), "--received-at", _now(), "--missing", 1).code == 2
    given = ("--withdrawals", desk.listed(1, 2, 9, withdrawn_at=1_600_000_000), "--received-at", _now())
    assert desk.begin(*given).code == 0
    assert desk.night().code == 0
    assert {desk.holds(client) for client in (1, 2, 9)} == {NO}


def test_a_backup_from_before_a_move_is_refused_at_the_old_address(desk: Desk, tmp_path: Path) -> None:
    """It says where the state went; bound to that, too, it lacks whom it lacks."""
    old = desk.platform.url
    backup = desk.backup()
    assert desk.opt_out(1, 2, 3).code == 0
    with running(Options()) as new:
        move = ("state", "retarget", new.url, "--same-platform", "--reason", "new name", "--by", "me")
        assert desk(*move).code == 0
        said = desk.put_back(backup)
        assert new.url in said.out
        before = desk.sent()
        for command in (("run", "--quiet"), ("drain", "--quiet"), ("opt-out", desk.listed(4), "--received-at", _now())):
            refused = desk(*command)
            assert refused.code == 4, command
            assert f"has moved to {new.url}" in refused.out + refused.err
        assert desk.restored().code == 4
        assert desk("state", "check").code == 4
        assert "has moved to" in desk("doctor").out
        assert desk.sent() == before, "the old address still answers, and is asked nothing"
        shutil.rmtree(desk.state)
        assert "has moved to" in desk.begin("--no-withdrawals").err
        assert desk("state", "restore", backup).code == 0
        assert desk(*move).code == 0
        desk.configure(new.url)
        assert desk.night().code == 4
        assert desk.restored().code == 2
        assert desk.restored(1, 2, 3).code == 0
        assert desk.night().code == 0
        assert {new.platform.state[client] for client in (1, 2, 3)} == {NO}
        assert desk("state", "check").code == 0
        back = ("state", "retarget", old, "--same-platform", "--reason", "back", "--by", "me")
        assert desk(*back).code == 0
        desk.configure(old)
        assert desk.night().code == 0
        assert desk("state", "check").code == 0
        desk.configure(new.url)
        assert desk("run", "--quiet").code == 4
        desk.configure(old)
        assert desk(*move).code == 0
        desk.configure(new.url)
        assert desk.night().code == 0


def test_a_move_that_died_leaves_no_way_back(desk: Desk, dying: Commands) -> None:
    """Whichever step was its last, the old name goes on with the newest state or not at all."""
    backup = desk.backup()
    assert desk.opt_out(1).code == 0
    with running(Options()) as new:
        move = ("state", "retarget", new.url, "--same-platform", "--reason", "new name", "--by", "me")
        tried = 0
        for moment in desk.deaths(dying, desk.folder, *move, every=3):
            desk.put_back(backup)
            before = desk.sent()
            desk.night()
            assert desk.restored().code != 0, moment
            assert not desk.allowed(before), moment
            tried += 1
        assert tried > 5


def test_keys_that_are_older_than_the_state_are_fine(desk: Desk) -> None:
    """The state goes on, and the codes are made up to date by it; lost keys make a restored backup of it."""
    assert desk.opt_out(1).code == 0
    shutil.copytree(desk.keys, desk.folder / "old")
    assert desk.opt_out(2).code == 0
    assert desk.reconsent(1).code == 0
    backup = desk.backup()
    assert desk.opt_out(3).code == 0
    shutil.rmtree(desk.keys)
    shutil.copytree(desk.folder / "old", desk.keys)
    assert desk.night().code == 0
    assert len(desk.codes()) == 3
    desk.put_back(backup)
    assert desk.restored().code == 2
    assert desk.restored(3).code == 0
    shutil.rmtree(desk.keys)
    assert desk.night().code == 6
    assert desk.restored().code == 0
    assert len(desk.codes()) == 3
    assert desk.night().code == 0


@pytest.mark.parametrize("harm", ["gone", "a byte", "cut", "older", "open", "key gone", "key another"])
def test_codes_that_are_not_whole_are_damage(desk: Desk, harm: str) -> None:
    """Nothing goes on without them, and the message has the file and the cure."""
    assert desk.opt_out(1).code == 0
    (path,) = desk.keys.glob("*.withdrawn")
    older = path.read_bytes()
    assert desk.opt_out(2).code == 0
    if harm == "gone":
        path.unlink()
    elif harm == "a byte":
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "older":
        path.write_bytes(older)
    elif harm == "open":
        path.chmod(0o644)
    else:
        key = desk.keys / "tombstones.key"
        key.chmod(0o600)
        key.write_bytes(bytes(32)) if "another" in harm else key.unlink()
        if "another" in harm:
            key.chmod(0o400)
    before = desk.sent()
    for command in ("run", "drain"):
        refused = desk(command, "--quiet")
        assert refused.code == 4
        assert path.name in refused.err
    assert desk.sent() == before
    assert desk("state", "check").code == (4 if harm != "open" else 1)
    assert desk("doctor").code == 4
    if harm == "open":
        assert desk("state", "repair").code == 0
        assert desk("run", "--quiet").code == 0
        return
    assert "Restore" in refused.err
    shutil.move(desk.keys, desk.folder / "away")
    assert desk.night().code == 6, "without the folder it is a restored backup"
    assert desk.restored().code == 0
    assert desk.night().code == 0


def test_brands_share_the_key_and_not_the_codes(desk: Desk, cli: Cli) -> None:
    """Who withdrew from one brand is not missing at another, and each is held against its own."""
    with running(Options()) as second:
        other = Desk(desk.folder, cli, second, "second")
        other.write()
        assert desk.opt_out(1).code == 0
        assert other.begin("--no-withdrawals").code == 0
        backup = other.backup("other.tar")
        assert other.opt_out(2).code == 0
        assert (len(desk.codes()), len(other.codes())) == (1, 1)
        other.put_back(backup)
        assert other.restored(1).code == 2
        assert other.restored(2).code == 0
        assert desk.night().code == 0
        assert other.night().code == 0
        assert desk.holds(1) == NO
        assert other.holds(2) == NO


def test_nothing_that_is_kept_beside_the_keys_names_anybody(desk: Desk) -> None:
    """Not by an id and not by a code that the erased have in their list."""
    assert desk.opt_out(1, 2).code == 0
    (path,) = desk.keys.glob("*.withdrawn")
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_bytes()
    assert desk("forget", "--client", 1, *_WHY).code == 0
    (tombstones,) = desk.keys.glob("*.tombstones")
    for line in tombstones.read_text("ascii").splitlines()[1:]:
        assert bytes.fromhex(line.split()[0])[:8] not in first
    assert len(path.read_bytes()) == len(first) - 25


def test_dying_while_a_list_is_noted_misses_nobody(desk: Desk, dying: Commands) -> None:
    """Whichever step of it was the last, the state goes on, and a backup from before lacks who was on the list."""
    backup = desk.backup()
    path, tried = desk.listed(1, 2), 0
    for moment in desk.deaths(dying, desk.keys, "opt-out", path, "--received-at", _now()):
        assert desk.night().code in (0, 1), moment
        assert (desk.holds(1), desk.holds(2)) == (NO, NO)
        assert len(desk.codes()) == 2
        desk.put_back(backup)
        assert desk.restored().code == 2, moment
        assert desk.restored(1, 2).code == 0
        tried += 1
    assert tried > 5


def test_dying_while_somebody_is_erased_leaves_no_code_of_theirs(desk: Desk, dying: Commands) -> None:
    """The next command completes the erasure; neither a code stays, nor is anybody taken for missing."""
    assert desk.opt_out(1, 2).code == 0
    tried = 0
    for moment in desk.deaths(dying, desk.keys, "forget", "--client", "1", *_WHY):
        assert desk("drain", "--quiet").code == 0, moment
        assert desk.night().code in (0, 1), moment
        assert desk("forget", "--client", 1, *_WHY).code in (0, 1)
        assert len(desk.codes()) == 1
        assert desk("state", "check").code == 0
        tried += 1
    assert tried > 5


def test_dying_while_a_backup_is_made_whole_lets_nobody_through(desk: Desk, dying: Commands) -> None:
    """Said again it is as said once, with whatever number is missing by then."""
    desk.write(*EVERYBODY, *LATER)
    assert desk("run", "--quiet").code == 0
    backup = desk.backup()
    assert desk.opt_out(1, LATER[0]).code == 0
    desk.put_back(backup)
    said, tried = ("state", "restored", "--none", "--missing", "2", "--by", "me"), 0
    for moment in desk.deaths(dying, desk.folder, *said, every=4):
        before = desk.sent()
        again = [desk.restored(missing=missing).code for missing in (2, 1, 0)]
        assert 0 in again or not (desk.state / "ledger.db").exists(), moment
        assert desk.night().code in (0, 1)
        assert not desk.allowed(before) & {1, LATER[0]}, moment
        assert (desk.holds(1), desk.holds(LATER[0])) == (NO, NO)
        tried += 1
    assert tried > 3


def test_whoever_has_the_number_of_a_withdrawal_today_is_known_to_the_keys(desk: Desk) -> None:
    """A changed id map makes a withdrawal hold for another client, too: a backup from before lacks that one."""
    mapping = desk.folder / "map.csv"
    mapping.write_text("crm_id,platform_id\n" + "".join(f"{n},{n}\n" for n in EVERYBODY), "utf-8")
    text = desk.config.read_text("utf-8").replace("[export]\n", f'[export]\nid_map = "{mapping}"\n', 1)
    desk.config.write_text(text, "utf-8")
    assert desk.opt_out(1).code == 0
    backup = desk.backup()
    assert len(desk.codes()) == 1
    mapping.write_text("crm_id,platform_id\n1,2\n2,1\n" + "".join(f"{n},{n}\n" for n in EVERYBODY[2:]), "utf-8")
    assert desk("drain", "--quiet").code in (0, 1)
    assert (desk.holds(1), desk.holds(2)) == (NO, NO)
    assert len(desk.codes()) == 2
    mapping.write_text("crm_id,platform_id\n" + "".join(f"{n},{n}\n" for n in EVERYBODY), "utf-8")
    desk.put_back(backup)
    assert desk.restored().code == 2
    assert desk.restored(missing=1).code == 0
    desk.write()
    assert desk("run", "--quiet").code in (0, 1)
    assert (desk.holds(1), desk.holds(2)) == (NO, NO)


@pytest.mark.parametrize("operator", [1, 2], ids=["the same target", "another target"])
def test_a_state_with_new_ids_is_held_against_new_codes(desk: Desk, operator: int) -> None:
    """After `init --from` the codes are those of the new ids, unnamed ones too; a backup of it lacks whom it lacks."""
    desk.write(*EVERYBODY, *LATER)
    backup = desk.backup()
    assert desk.opt_out(1, LATER[0]).code == 0
    desk.put_back(backup)
    assert desk.restored(missing=2).code == 0
    assert desk("drain", "--quiet").code in (0, 1)
    assert (len(desk.codes()), desk.codes().unnamed()) == (2, 1)
    mapping = desk.folder / "ids.csv"
    both = [*EVERYBODY, *LATER]
    mapping.write_text("old_id,new_id\n" + "".join(f"{n},{n + 100}\n" for n in both), "utf-8")
    old, desk.state = desk.state, desk.folder / "shop" / "new-state"
    desk.configure(desk.platform.url, operator)
    carried = desk("init", "--from", old, "--id-map", mapping, "--expect", len(EVERYBODY))
    assert carried.code == 0, carried.err
    assert (len(desk.codes()), desk.codes().unnamed()) == (2, 1)
    assert desk("state", "check").code == 0
    backup = desk.backup("new.tar")
    assert desk.opt_out(102).code == 0
    before = desk.sent()
    desk.put_back(backup)
    refused = desk.restored()
    assert (refused.code, "1 person who withdrew is missing" in refused.err) == (2, True)
    assert desk.restored(102).code == 0
    time.sleep(0.02)
    desk.write(*(n + 100 for n in both))
    assert desk("run", "--quiet").code == 0
    assert not desk.allowed(before) & {101, 102, LATER[0] + 100}
    assert {desk.holds(n) for n in (101, 102, LATER[0] + 100)} == {NO}


def test_times_of_a_wrong_clock_are_brought_to_now_in_the_codes(desk: Desk) -> None:
    """`state repair` does so, and the next restore misses nobody for them."""
    target = load_settings(desk.config).endpoint.target
    assert desk.opt_out(1).code == 0
    desk.codes().bring_back(0, time.time() + 400 * 86400).write()  # as if the clock had been ahead
    assert "people who withdrew" in desk("state", "repair").out
    found = Withdrawn.open(desk.keys, target, anchor.read(desk.keys, target))
    assert found.later_than(time.time() + 2 * 86400) == 0
    assert desk("state", "check").code == 0
    assert desk.night().code == 0


# Codes of erased people


def _erase(desk: Desk, *clients: int) -> None:
    for client in clients:
        assert desk("forget", "--client", client, *_WHY).code == 0


def _move(desk: Desk, url: str) -> Said:
    return desk("state", "retarget", url, "--same-platform", "--reason", "new name", "--by", "me")


def _put_back_keys(desk: Desk, copy: Path) -> None:
    shutil.rmtree(desk.keys)
    shutil.copytree(copy, desk.keys)


def _copy_keys(desk: Desk) -> Path:
    return Path(shutil.copytree(desk.keys, desk.folder / f"keys-{desk.lists}-{time.time_ns()}"))


def test_who_was_erased_stays_so_when_the_new_ids_move_to_the_old_address(desk: Desk, cli: Cli) -> None:
    """The old address has codes of the old ids: after `init --from` and a move back there, the new ones count."""
    _erase(desk, 1, 2)
    old = desk.platform
    with running(Options()) as elsewhere:
        new = Desk(desk.folder, cli, elsewhere, "renumbered")
        numbers = desk.folder / "map.csv"
        numbers.write_text("old_id,new_id\n" + "".join(f"{one},{one + 100}\n" for one in EVERYBODY))
        assert new("init", "--from", desk.state, "--id-map", numbers, "--expect", 38).code == 0
        assert _move(new, old.url).code == 0
        new.configure(old.url)
        new.platform = old
        assert new("state", "check").code == 0
        before = new.sent()
        for _ in range(2):
            time.sleep(0.02)
            new.write(*(one + 100 for one in EVERYBODY), 1)
            assert new("run", "--quiet").code == 0
        assert new.allowed(before) == {1}, "who has the old number today is somebody else"
        assert new("doctor", "--offline").code == 0


def test_a_given_up_brand_leaves_no_codes_to_who_moves_to_its_address(desk: Desk, cli: Cli) -> None:
    """Its people are others: neither are they erased or withdrawn here, nor are this state's erased let in."""
    with running(Options()) as elsewhere:
        other = Desk(desk.folder, cli, elsewhere, "other")
        other.write()
        assert other.begin("--no-withdrawals").code == 0
        _erase(other, 31, 32, 33)
        assert other.opt_out(34).code == 0
        _erase(desk, 1, 2)
        refused = _move(desk, elsewhere.url)
        assert refused.code == 4
        target = load_settings(other.config).endpoint.target
        moved = desk.keys / f"{anchor.tag(target)}.anchor.json"
        assert moved.name in refused.err
        moved.rename(desk.folder / "given-up.json")
        assert _move(desk, elsewhere.url).code == 0
        desk.configure(elsewhere.url)
        desk.platform = elsewhere
        before = desk.sent()
        assert desk("state", "check").code == 0
        assert desk.night().code == 0
        assert desk.allowed(before) == set(LATER)
        assert len(desk.codes()) == 0
        desk.write(*(one for one in EVERYBODY if one != 31))
        assert desk.opt_out(31).code == 0
        assert desk.holds(31) == NO


def test_an_older_copy_of_the_keys_from_before_a_move_is_followed(desk: Desk) -> None:
    """The codes lie under the former name: they are found, and only who was erased since is asked for."""
    _erase(desk, 1)
    assert desk.opt_out(3).code == 0
    copy = _copy_keys(desk)
    with running(Options()) as new:
        assert _move(desk, new.url).code == 0
        desk.configure(new.url)
        desk.platform = new
        _put_back_keys(desk, copy)
        assert desk("doctor", "--offline").code == 0
        assert desk("state", "check").code == 0
        before = desk.sent()
        assert desk.night().code == 0
        assert not desk.allowed(before) & {1, 3}
        assert desk("state", "check").code == 0
        _erase(desk, 2)
        _put_back_keys(desk, copy)
        assert desk.night().code == 4
        assert desk("doctor", "--offline").code == 4
        assert "--erased-missing 1" in desk("state", "restored", "--none", "--by", "me").err
        assert not desk.allowed(before) & {1, 2, 3}


@pytest.mark.parametrize("harm", ["older", "gone", "cut", "no anchor"])
def test_lost_codes_of_the_erased_are_given_up_by_their_number(desk: Desk, harm: str) -> None:
    """Nothing is granted until then, `forget` names people again meanwhile, and doctor ends as a run does."""
    _erase(desk, 1)
    copy = _copy_keys(desk)
    _erase(desk, 2)
    (codes,) = desk.keys.glob("*.tombstones")
    lost = 1
    if harm == "older":
        _put_back_keys(desk, copy)
    elif harm == "gone":
        codes.unlink()
        lost = 2
    elif harm == "cut":
        codes.write_bytes(codes.read_bytes()[:-3])
        for command in (("run", "--quiet"), ("doctor", "--offline"), ("state", "check")):
            assert desk(*command).code == 4, command
        assert "--erased-missing" in desk("run", "--quiet").err
        codes.unlink()
        lost = 2
    else:
        _put_back_keys(desk, copy)
        next(desk.keys.glob("*.anchor.json")).unlink()
    before = desk.sent()
    assert desk.night().code == 4
    assert desk("doctor", "--offline").code == 4
    assert desk("state", "check").code == 4
    assert desk.opt_out(5).code in (0, 1), "a list is sent all the same"
    assert desk.holds(5) == NO
    assert desk.night().code == 4, "and makes up for nothing"
    for client in (2, 39):
        assert desk("forget", "--client", client, *_WHY).code in (0, 1)
    assert desk.night().code == 4, "who is erased now is not known to be one of those"
    for number in (0, lost + 1):
        refused = desk("state", "restored", "--none", "--erased-missing", number, "--by", "me")
        assert (refused.code, f"--erased-missing {lost}" in refused.err) == (2, True)
    assert not desk.allowed(before)
    said = desk("state", "restored", "--none", "--erased-missing", lost, "--by", "me")
    assert said.code == 0, said.err
    assert f"{lost:,} codes of erased people are given up" in said.out
    assert desk.night().code in (0, 6)
    assert desk("doctor", "--offline").code in (0, 1)
    assert desk("state", "check").code == 0
    named = {2, 39, 5} | (set() if lost == 2 else {1})
    assert not desk.allowed(before) & named
    assert desk("state", "restored", "--none", "--by", "me").code == 2


def test_nobody_says_that_codes_are_lost_which_are_there(desk: Desk) -> None:
    """The number is checked when none is lost, too."""
    _erase(desk, 1)
    backup = desk.backup()
    desk.put_back(backup)
    assert desk("state", "restored", "--none", "--erased-missing", 1, "--by", "me").code == 2
    assert desk.restored().code == 0


def test_a_restored_backup_without_codes_says_both_numbers(desk: Desk) -> None:
    """Who withdrew and cannot be named, and whose codes are lost, are two questions."""
    _erase(desk, 1)
    backup = desk.backup()
    assert desk.opt_out(3).code == 0
    next(desk.keys.glob("*.tombstones")).unlink()
    desk.put_back(backup)
    before = desk.sent()
    for more in ((), ("--missing", 1), ("--erased-missing", 1)):
        assert desk("state", "restored", "--none", *more, "--by", "me").code == 2, more
        assert desk.night().code == 4
    assert desk("state", "restored", "--none", "--missing", 1, "--erased-missing", 1, "--by", "me").code == 0
    assert desk.night().code == 0
    assert 3 not in desk.allowed(before)
