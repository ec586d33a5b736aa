"""Whose number is it today: maps that change, platforms that renumber, lists in other numbers, configurations at odds.

Through the real command line, from the shipped nightly configuration, with its guards at their defaults.
"""

import csv
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sync_job import load_settings
from sync_job.ledger import lock
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli, Said
from tests.dying import commands
from tests.shop import FIELDS, Consent, holds

CONFIGS = Path(__file__).parents[1] / "configs"
YES, NO, SILENT = (True,) * 4, (False,) * 4, (None,) * 4
TEXT = {True: "true", False: "false", None: ""}


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the endpoint its secret, as the shipped configuration says."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER", "secret")


def write_map(path: Path, pairs: Mapping[int, int], columns: str = "crm_id,platform_id") -> Path:
    """Write a map of ids, and return its path."""
    path.write_text(f"{columns}\n" + "".join(f"{old},{new}\n" for old, new in pairs.items()))
    return path


class Brand:
    """One brand by the shipped nightly configuration: its files in a folder, commands by the command line."""

    def __init__(
        self, folder: Path, url: str, cli: Cli, *, name: str = "", operator: int = 1, export: str = ""
    ) -> None:
        self.folder, self.cli, self.name = folder, cli, name
        folder.mkdir(exist_ok=True)
        self.config = folder / f"nightly{name}.toml"
        text = (CONFIGS / "nightly.toml").read_text("utf-8")
        text = text.replace("https://loyalty.example.com/partner", url).replace(
            "operator = 1", f"operator = {operator}"
        )
        text = text.replace("/var/lib/consent-sync/loyalty/state", str(folder / f"state{name}"))
        text = text.replace("/var/lib/consent-sync/loyalty", str(folder))
        text = text.replace("/var/spool/crm/consent/latest.csv", str(self.export))
        text = text.replace('as_of = "mtime"', 'as_of = "none"').replace('scope = "marketing"', 'scope = "all"')
        self.config.write_text(text.replace("[export.columns]", f"{export}\n[export.columns]"))

    @property
    def export(self) -> Path:
        """The export of the CRM."""
        return self.folder / f"export{self.name}.csv"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / f"state{self.name}"

    def write(self, people: Mapping[int, Consent]) -> None:
        """Export *people*."""
        with self.export.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Client", *FIELDS])
            writer.writerows([client, *(TEXT[flag] for flag in flags)] for client, flags in people.items())

    def run(self, *arguments: str | int | Path) -> Said:
        """Run a command with this configuration."""
        return self.cli(*arguments, "--config", self.config)

    def init(self, people: Mapping[int, Consent], platform: str = "equal") -> None:
        """Make the state from an export."""
        self.write(people)
        said = self.run("init", self.export, "--platform", platform, "--no-withdrawals")
        assert said.code == 0, said.err

    def listed(self, *clients: int, name: str = "list.csv", rows: str = "") -> Path:
        """Write a list of clients."""
        path = self.folder / name
        path.write_text(rows or "Client\n" + "".join(f"{one}\n" for one in clients))
        return path

    def opt_out(self, *clients: int, more: tuple[str | int | Path, ...] = ()) -> Said:
        """Take a list of clients in, and send it."""
        return self.run("opt-out", self.listed(*clients), "--received-at", today(), *more)

    def json(self, *arguments: str | int | Path) -> dict[str, Any]:
        """Return what a command prints as JSON."""
        found: dict[str, Any] = json.loads(self.run(*arguments, "--json").out)
        return found

    def opened(self) -> State:
        """Open the state to read."""
        settings = load_settings(self.config)
        return State.open(settings.state.path, settings.endpoint.target, write=False)

    def withdrawn(self) -> list[int]:
        """Return who is withdrawn, ascending."""
        with self.opened() as state:
            return list(state.ledger.withdrawals.in_force().items()[0].tolist())

    def owed(self) -> dict[int, int]:
        """Return the channels of which each client is owed a denial, a low bit each."""
        with self.opened() as state:
            found = state.ledger.obligations.owed(time.time())
            return dict(zip(found.client.tolist(), found.channels.tolist(), strict=True))


def today() -> str:
    """Return the date, as the command line takes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60)).replace("Z", "+00:00")


@pytest.fixture
def mapped(tmp_path: Path, platform: Standin, cli: Cli) -> Brand:
    """Return a brand whose CRM has other numbers than the platform, and its map."""
    made = Brand(tmp_path, platform.url, cli, export=f'id_map = "{tmp_path / "ids.csv"}"')
    write_map(tmp_path / "ids.csv", {7: 70, 8: 80})
    return made


# A map that changes


def test_a_corrected_map_grants_nobody_who_withdrew(mapped: Brand, platform: Standin) -> None:
    """Client 7 of the CRM withdrew as 70. When the map says 71, both are denied, and that is said."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    mapped.write({7: YES, 8: YES})
    said = mapped.run("run", "--json")
    assert holds(platform.platform) == {70: NO, 71: NO}
    summary = json.loads(said.out)
    assert (summary["withdrawals"]["ambiguous"], summary["decided"]["blocked"]) == (1, 1)
    assert mapped.withdrawn() == [70, 71]
    text = mapped.run("withdrawals", "status").out
    assert "1 withdrawal's CRM number means another client than when it was received; both are denied" in text
    assert "given as the CRM's 7" in mapped.run("explain", "71").out
    assert "given as the CRM's 7" in mapped.run("history", "70").out


def test_a_drain_resolves_too_and_once(mapped: Brand, platform: Standin) -> None:
    """Whatever command takes the lock does; the same map again does nothing, and the map of before neither."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    for target, wanted in ((71, [70, 71]), (71, [70, 71]), (70, [70, 71]), (72, [70, 71, 72])):
        write_map(mapped.folder / "ids.csv", {7: target, 8: 80})
        assert mapped.run("drain").code == 0
        assert mapped.withdrawn() == wanted
        assert holds(platform.platform) == dict.fromkeys(wanted, NO)
    assert mapped.run("state", "check").code == 0


def test_swapped_numbers_deny_both(mapped: Brand, platform: Standin) -> None:
    """Two clients of a map changed places between two nights: nobody can tell which map was right."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    write_map(mapped.folder / "ids.csv", {7: 80, 8: 70})
    mapped.write({7: YES, 8: YES})
    assert mapped.run("run").code in (0, 1)
    assert holds(platform.platform) == {70: NO, 80: NO}


def test_a_map_that_is_edited_while_a_list_waits(mapped: Brand, platform: Standin) -> None:
    """The list was read by the old map and is taken into the ledger under the new one."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7, more=("--no-send",)).code == 0
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    mapped.write({7: YES, 8: YES})
    mapped.run("run")
    assert mapped.withdrawn() == [70, 71]
    assert holds(platform.platform) == {70: NO, 71: NO}


def test_a_map_without_the_client_keeps_what_is_known(mapped: Brand, platform: Standin) -> None:
    """A number that the map lists no more still means who it meant; so does one whose map cannot be read."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    for text in ("crm_id,platform_id\n8,80\n", "crm_id,platform_id\n8,80\n8,81\n", "nothing\n"):
        (mapped.folder / "ids.csv").write_text(text)
        assert mapped.run("drain").code == 0
        assert mapped.withdrawn() == [70]
    (mapped.folder / "ids.csv").unlink()
    assert mapped.run("drain").code == 0
    assert mapped.withdrawn() == [70]


def test_what_was_lifted_or_void_is_not_carried_to_another_number(mapped: Brand) -> None:
    """Only what is in force means somebody else as well."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    digest = mapped.json("withdrawals", "status")["lists"][0]["digest"]
    void = ("withdrawals", "void", "--list", digest, "--reason", "r", "--by", "a", "--approved-by", "b")
    assert mapped.run(*void).code == 0
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    assert mapped.run("drain").code == 0
    assert mapped.withdrawn() == []


def test_a_void_list_takes_back_what_it_meant_by_another_map(mapped: Brand) -> None:
    """The withdrawal of the new number is of the same list."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    assert mapped.run("drain").code == 0
    digest = mapped.json("withdrawals", "status")["lists"][0]["digest"]
    void = ("withdrawals", "void", "--list", digest, "--reason", "r", "--by", "a", "--approved-by", "b")
    assert mapped.run(*void).code == 0
    assert mapped.withdrawn() == []
    assert mapped.run("state", "check").code == 0


def test_two_numbers_of_one_client_part(mapped: Brand, platform: Standin) -> None:
    """Two records of the CRM were one client, withdrew alike, and are two clients by the new map."""
    write_map(mapped.folder / "ids.csv", {7: 70, 17: 70, 8: 80})
    mapped.init({7: YES, 17: YES, 8: YES})
    assert mapped.opt_out(7, 17).code == 0
    write_map(mapped.folder / "ids.csv", {7: 70, 17: 71, 8: 80})
    mapped.write({7: YES, 17: YES, 8: YES})
    mapped.run("run")
    assert holds(platform.platform) == {70: NO, 71: NO}


def test_an_erased_client_does_not_come_back_by_a_map(mapped: Brand, platform: Standin) -> None:
    """Who was erased under the new number is not named again because a number of the CRM means it."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    assert mapped.run("forget", "--client", "71").code in (0, 1)
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    assert mapped.run("drain").code == 0
    assert mapped.withdrawn() == [70]


def test_exported_withdrawals_keep_the_numbers_they_were_given_by(mapped: Brand, platform: Standin) -> None:
    """They are read again in the platform's numbers, and still follow the CRM's when the map changes."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    out = mapped.folder / "out.csv"
    assert mapped.run("withdrawals", "export", out).code == 0
    for path in (mapped.state, mapped.folder / "keys"):
        path.rename(path.with_name(f"old-{path.name}"))
    mapped.write({7: YES, 8: YES})
    assert mapped.run("init", mapped.export, "--platform", "equal", "--withdrawals", out).code == 0
    assert mapped.withdrawn() == [70]
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    mapped.run("run")
    assert mapped.withdrawn() == [70, 71]


def test_blocked_csv_lifts_by_the_platforms_number(mapped: Brand, platform: Standin) -> None:
    """After the map changed, evidence made of `blocked.csv` lifts what it names, and nobody else's withdrawal."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    write_map(mapped.folder / "ids.csv", {7: 71, 8: 80})
    mapped.write({7: YES, 8: YES})
    mapped.run("run")
    (blocked,) = mapped.folder.glob("reports/**/blocked.csv")
    with blocked.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["platform_id"] for row in rows] == ["71"]
    evidence = mapped.folder / "evidence.csv"
    evidence.write_text(f"platform_id,channels,granted_at,method,evidence_ref\n71,all,{now()},form,E-1\n")
    assert mapped.run("reconsent", evidence).code == 0
    assert mapped.withdrawn() == [70]


def now() -> str:
    """Return this second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def test_a_list_in_the_platforms_numbers_stays_with_them(mapped: Brand) -> None:
    """A list with a column platform_id is not resolved by any map."""
    mapped.init({7: YES, 8: YES})
    path = mapped.listed(rows="platform_id\n70\n")
    assert mapped.run("opt-out", path, "--received-at", today()).code == 0
    write_map(mapped.folder / "ids.csv", {70: 99, 7: 71, 8: 80})
    assert mapped.run("drain").code == 0
    assert mapped.withdrawn() == [70]


# Configurations that share a state


@pytest.mark.parametrize(
    ("was", "becomes", "key"),
    [
        ("id_map", "# id_map", "[export] id_map"),
        ('Client = "Client"', 'Client = "CustomerId"', "[export.columns] Client"),
        ("[export.columns]", "thousands = ','\n[export.columns]", "[export] thousands"),
        ('timezone = "Europe/Moscow"', 'timezone = "UTC"', "[run] timezone"),
        ('scope = "all"', 'scope = "sms"', "[withdrawals] scope"),
        ("operator = 1", "operator = 2", "the target"),
    ],
)
def test_configurations_of_one_state_must_read_a_list_alike(mapped: Brand, was: str, becomes: str, key: str) -> None:
    """Exit 2 with the key and both files; the list is taken in by neither."""
    mapped.init({7: YES, 8: YES})
    folder = mapped.folder / "configs"
    folder.mkdir()
    (folder / "nightly.toml").write_text(mapped.config.read_text())
    (folder / "backfill.toml").write_text(mapped.config.read_text().replace(was, becomes, 1))
    for command in (("opt-out", mapped.listed(7), "--received-at", today()), ("drain",), ("withdrawals", "status")):
        said = mapped.cli(*command, "--config", folder)
        assert said.code == 2
        assert key in said.err
        assert "nightly.toml" in said.err
        assert "backfill.toml" in said.err
    assert mapped.withdrawn() == []


def test_a_configuration_without_the_map_is_refused(mapped: Brand, platform: Standin) -> None:
    """Lists, evidence and exports would be read in the platform's numbers; what is owed is sent all the same."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7, more=("--no-send",)).code == 0
    other = mapped.folder / "other.toml"
    other.write_text(mapped.config.read_text().replace("id_map", "# id_map", 1))
    assert mapped.cli("drain", "--config", other).code == 0
    assert holds(platform.platform) == {70: NO}
    evidence = mapped.folder / "evidence.csv"
    evidence.write_text(f"Client,channels,granted_at,method,evidence_ref\n70,all,{now()},form,E-1\n")
    for command in (("opt-out", mapped.listed(8), "--received-at", today()), ("reconsent", evidence), ("run",)):
        said = mapped.cli(*command, "--config", other)
        assert (said.code, "[export] id_map" in said.err) == (2, True), command
    assert mapped.withdrawn() == [70]
    assert holds(platform.platform) == {70: NO}


def test_configurations_that_differ_in_guards_alone_share_a_state(mapped: Brand) -> None:
    """A backfill's configuration beside the night's is one target."""
    mapped.init({7: YES, 8: YES})
    folder = mapped.folder / "configs"
    folder.mkdir()
    (folder / "nightly.toml").write_text(mapped.config.read_text())
    (folder / "backfill.toml").write_text(mapped.config.read_text() + "\n[guards]\nchanged = 5\n")
    said = mapped.cli("opt-out", mapped.listed(7), "--received-at", today(), "--config", folder)
    assert said.code == 0
    assert mapped.withdrawn() == [70]


# A platform whose ids change


def renumbered(brand: Brand, pairs: Mapping[int, int], *, name: str = "-new", operator: int = 1) -> tuple[Brand, Path]:
    """Return the brand as it is configured for the platform's new ids, and the map to them."""
    url = load_settings(brand.config).endpoint.base_url
    new = Brand(brand.folder, url, brand.cli, name=name, operator=operator)
    return new, write_map(brand.folder / "old-to-new.csv", pairs, "old_id,new_id")


def carry(new: Brand, old: Brand, path: Path, *more: str | int) -> Said:
    """Make the new state from the old one."""
    return new.run("init", "--from", old.state, "--id-map", path, *more)


@pytest.fixture
def plain(tmp_path: Path, platform: Standin, cli: Cli) -> Brand:
    """Return a brand whose CRM has the platform's numbers."""
    return Brand(tmp_path, platform.url, cli)


@pytest.mark.parametrize("operator", [1, 2], ids=["same target", "another target"])
def test_an_old_number_means_nothing_in_the_new_state(plain: Brand, platform: Standin, operator: int) -> None:
    """Client 100 becomes 1 and 200 becomes 2; a new member gets number 100, and opts out."""
    plain.init({100: YES, 200: YES})
    new, path = renumbered(plain, {100: 1, 200: 2}, operator=operator)
    assert carry(new, plain, path, "--expect", 2).code == 0
    new.write({1: YES, 2: YES, 100: YES})
    assert new.run("run").code == 0
    assert holds(platform.platform) == {100: YES}
    assert new.opt_out(100).code == 0
    assert new.withdrawn() == [100]
    assert holds(platform.platform) == {100: NO}
    assert new.run("state", "check").code == 0
    assert new.run("doctor", "--offline").code == 0


def test_withdrawals_owed_denials_and_evidence_are_carried(plain: Brand, platform: Standin) -> None:
    """Who withdrew stays out under the new number; what was refused is owed there with its receipt."""
    plain.init({100: YES, 200: YES, 300: YES})
    assert plain.opt_out(100).code == 0
    assert plain.run("opt-out", plain.listed(200, name="b.csv"), "--received-at", "2026-11-01", "--no-send").code == 7
    assert plain.run("withdrawals", "status").code in (0, 7)
    new, path = renumbered(plain, {100: 1, 200: 2, 300: 3})
    said = carry(new, plain, path, "--expect", 3)
    assert (said.code, "lists lie in its inbox" in said.err) == (4, True)
    assert plain.run("drain").code == 0
    assert carry(new, plain, path, "--expect", 3).code == 0
    assert new.withdrawn() == [1, 2]
    new.write({1: YES, 2: YES, 3: YES})
    found = new.json("run")
    assert (found["exit"], found["decided"]["blocked"], found["grants"]) == (0, 2, found["grants"])
    assert holds(platform.platform) == {100: NO, 200: NO}
    before, after = plain.json("explain", "100"), new.json("explain", "1")
    assert [one["received_at"] for one in before["withdrawals"]] == [one["received_at"] for one in after["withdrawals"]]
    assert [one["ended"] for one in after["obligations"]] == ["acknowledged"]
    assert new.json("history", "100")["sent"] == []


def test_the_number_is_asked_for_and_check_changes_nothing(plain: Brand) -> None:
    """Off a terminal it must be --expect, and the right one."""
    plain.init({100: YES, 200: YES})
    new, path = renumbered(plain, {100: 1, 200: 2, 900: 9})
    for more, code in ((("--check",), 0), ((), 2), (("--expect", "3"), 2)):
        said = carry(new, plain, path, *more)
        assert said.code == code, said.err
        assert not new.state.exists()
        assert plain.run("drain").code == 0
    assert "2 clients" in carry(new, plain, path, "--check").out
    assert carry(new, plain, path, "--expect", 2).code == 0


def test_a_state_that_was_given_up_says_where_its_people_went(plain: Brand) -> None:
    """What sends or takes in ends in 4 with that; what only looks goes on."""
    plain.init({100: YES, 200: YES})
    assert plain.opt_out(100).code == 0
    new, path = renumbered(plain, {100: 1, 200: 2})
    assert carry(new, plain, path, "--expect", 2).code == 0
    listed = plain.listed(200)
    for command in (
        ("run",),
        ("drain",),
        ("plan",),
        ("opt-out", listed, "--received-at", today()),
        ("opt-out", listed, "--received-at", today(), "--no-send"),
        ("reconsent", listed),
        ("forget", "--client", "200"),
        ("pause", "--reason", "r", "--by", "b"),
        ("withdrawals", "close", "--client", "100", "--reason", "r", "--by", "b"),
        ("state", "restored", "--none", "--by", "b"),
        ("backfill", "--denials"),
        ("init", "--from", plain.state, "--id-map", path, "--expect", "2"),
    ):
        said = plain.run(*command) if command[0] != "init" else new.run(*command)
        assert said.code in (3, 4) if command[0] == "reconsent" else said.code == 4, (command, said)
        if said.code == 4:
            assert f"its people went to {new.state}" in said.err + said.out, command
    for looking in (
        ("status",),
        ("explain", "100"),
        ("history", "100"),
        ("report",),
        ("withdrawals", "status"),
        ("withdrawals", "report", "--from", "2026-01-01"),
        ("withdrawals", "export", plain.folder / "out.csv"),
        ("state", "check"),
    ):
        said = plain.run(*looking)
        assert said.code == 0, (looking, said)


def test_clients_that_become_one_are_denied_and_owed(plain: Brand, platform: Standin) -> None:
    """One is allowed, one withdrew: the one they become is owed a denial, which counts against the limit."""
    plain.init({100: YES, 200: YES, 300: YES, 400: NO})
    assert plain.opt_out(200).code == 0
    new, path = renumbered(plain, {100: 5, 200: 5, 300: 6, 400: 6})
    assert carry(new, plain, path, "--expect", 2).code == 0
    assert new.owed() == {5: 85, 6: 85}
    assert new.withdrawn() == [5]
    assert new.run("state", "check").code == 0
    assert new.run("drain").code == 0
    assert {client: holds(platform.platform)[client] for client in (5, 6)} == {5: NO, 6: NO}
    new.write({5: YES, 6: YES})
    found = new.json("run")
    assert found["decided"]["blocked"] == 1
    assert holds(platform.platform)[5] == NO


def test_a_refused_denial_of_a_merged_client_stays_owed(tmp_path: Path, cli: Cli) -> None:
    """It is an obligation like any, with a limit."""
    with running(Options(unknown_every=5)) as platform:
        plain = Brand(tmp_path, platform.url, cli)
        plain.init({101: YES, 202: YES})
        assert plain.opt_out(202).code == 0
        new, path = renumbered(plain, {101: 5, 202: 5})
        assert carry(new, plain, path, "--expect", 1).code == 0
        assert new.run("drain").code == 1
        found = new.json("withdrawals", "status")
        assert (found["open"], found["by_source"], found["first_limit"] > time.time()) == (1, {"merge": 1}, True)


@pytest.mark.parametrize(
    ("pairs", "more", "code", "words"),
    [
        ("100,1\n100,2\n200,3\n", (), 2, "more than one 'new_id'"),
        ("100,200\n", (), 2, "two people would be taken for one"),
        ("100,1\n", (), 2, "does not list 1 people who withdrew, are owed a denial or are to be erased (200)"),
        ("100,1\n", ("--drop-unlisted", "2"), 2, "--drop-unlisted 1"),
        ("100,1\n200,2\n", ("--drop-unlisted", "1"), 2, "does not list 0 people"),
        ("100,1\nx,2\n", (), 2, "1 rows are not two ids"),
    ],
)
def test_maps_that_are_refused(plain: Brand, pairs: str, more: tuple[str, ...], code: int, words: str) -> None:
    """No state is made, and the old one goes on."""
    plain.init({100: YES, 200: YES})
    assert plain.opt_out(200).code == 0
    new, path = renumbered(plain, {})
    path.write_text(f"old_id,new_id\n{pairs}")
    said = carry(new, plain, path, "--expect", 1, *more)
    assert (said.code, words in said.err) == (code, True), said.err
    assert not new.state.exists()
    assert plain.run("drain").code == 0


def test_who_is_left_behind_is_said_with_their_number(plain: Brand) -> None:
    """Their withdrawals are not in the new state; clients of whom nothing binds are left out without a word."""
    plain.init({100: YES, 200: YES, 300: YES})
    assert plain.opt_out(200).code == 0
    new, path = renumbered(plain, {100: 1})
    assert carry(new, plain, path, "--expect", 1, "--drop-unlisted", 1).code == 0
    assert new.withdrawn() == []
    assert new.run("state", "check").code == 0


def test_an_old_state_that_is_not_at_rest_is_refused(plain: Brand) -> None:
    """Its own folder, one that is busy, a restored backup, a damaged one, and a new state that is there already."""
    plain.init({100: YES, 200: YES})
    new, path = renumbered(plain, {100: 1, 200: 2})
    assert plain.run("state", "backup", plain.folder / "b.tar").code == 0
    assert plain.run("init", "--from", plain.state, "--id-map", path, "--expect", "2").code == 2
    with lock.held(plain.state):
        assert carry(new, plain, path, "--expect", 2).code == 75
        assert carry(new, plain, path, "--check").code == 75
    assert plain.opt_out(100).code == 0
    plain.state.rename(plain.folder / "kept")
    assert plain.run("state", "restore", plain.folder / "b.tar").code == 0
    assert carry(new, plain, path, "--expect", 2).code == 4
    shutil.rmtree(plain.state)
    (plain.folder / "kept").rename(plain.state)
    snapshot = sorted(plain.state.glob("snapshots/*.parquet"), key=lambda one: int(one.stem))[-1]
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[:-40])
    assert carry(new, plain, path, "--expect", 2).code == 4
    snapshot.write_bytes(whole)
    assert carry(new, plain, path, "--expect", 2).code == 0
    third = renumbered(plain, {1: 11, 2: 12}, name="-third")[0]
    third.config.write_text(third.config.read_text().replace("state-third", "state-new"))
    assert third.run("init", "--from", new.state, "--id-map", path, "--expect", "2").code == 2
    assert new.withdrawn() == [1]


def test_a_backup_of_the_given_up_state_does_not_go_on(plain: Brand) -> None:
    """Its ids mean other people: the keys know the new state, whichever its target is."""
    for operator in (1, 2):
        folder = plain.folder / str(operator)
        old = Brand(folder, load_settings(plain.config).endpoint.base_url, plain.cli)
        old.init({100: YES, 200: YES})
        assert old.run("state", "backup", folder / "b.tar").code == 0
        new, path = renumbered(old, {100: 1, 200: 2}, operator=operator)
        assert carry(new, old, path, "--expect", 2).code == 0
        shutil.rmtree(old.state)
        assert old.run("state", "restore", folder / "b.tar").code in (0, 4)
        assert old.run("drain").code == 4
        assert old.run("run").code == 4


def test_who_was_erased_stays_erased_under_the_new_number(plain: Brand, platform: Standin) -> None:
    """The codes are made anew, also in the folder of the same target; who has the old number now is somebody else."""
    plain.init({100: YES, 200: YES, 300: YES})
    assert plain.run("forget", "--client", "100", "--client", "200").code == 0
    new, path = renumbered(plain, {100: 1, 300: 3})
    assert carry(new, plain, path, "--expect", 1).code == 0
    new.write({1: YES, 3: YES, 100: YES})
    found = new.json("run")
    assert found["exit"] == 0
    assert 1 not in holds(platform.platform)
    assert holds(platform.platform)[100] == YES


def test_who_becomes_one_with_an_erased_client_is_erased(plain: Brand, platform: Standin) -> None:
    """After a denial of all channels."""
    plain.init({100: YES, 200: YES, 300: YES})
    assert plain.run("forget", "--client", "100").code == 0
    new, path = renumbered(plain, {100: 5, 200: 5, 300: 3})
    assert carry(new, plain, path, "--expect", 2).code == 0
    assert new.owed() == {5: 85}
    assert new.run("drain").code == 0
    assert holds(platform.platform)[5] == NO
    new.write({5: YES, 3: YES})
    assert new.run("run").code == 0
    assert holds(platform.platform)[5] == NO


def test_a_list_in_old_numbers_is_given_with_its_map(plain: Brand, platform: Standin) -> None:
    """The map is for that list alone; numbers that it does not list are rejected rows."""
    plain.init({100: YES, 200: YES})
    new, path = renumbered(plain, {100: 1, 200: 2})
    assert carry(new, plain, path, "--expect", 2).code == 0
    said = new.run("opt-out", new.listed(100, 1, 777), "--received-at", today(), "--id-map", path, "--json")
    found = json.loads(said.out)
    assert (said.code, found["clients"], found["rejected"]) == (1, 1, 2)
    assert new.withdrawn() == [1]
    assert holds(platform.platform) == {1: NO}


def test_the_crms_numbers_follow_the_platforms_new_ones(mapped: Brand, platform: Standin) -> None:
    """A brand with an id map goes on with one to the new ids; its withdrawals keep the CRM's numbers."""
    mapped.init({7: YES, 8: YES})
    assert mapped.opt_out(7).code == 0
    new, path = renumbered(mapped, {70: 700, 80: 800})
    ids = write_map(mapped.folder / "new-ids.csv", {7: 700, 8: 800})
    new.config.write_text(new.config.read_text().replace("[export.columns]", f'id_map = "{ids}"\n[export.columns]'))
    assert carry(new, mapped, path, "--expect", 2).code == 0
    new.write({7: YES, 8: YES})
    assert new.run("run").code == 0
    assert new.withdrawn() == [700]
    write_map(ids, {7: 701, 8: 800})
    assert new.run("drain").code == 0
    assert new.withdrawn() == [700, 701]


def test_an_export_that_still_has_old_numbers_is_held(plain: Brand, platform: Standin) -> None:
    """The first night of a carried state is guarded: nearly all ids are unknown."""
    plain.init(dict.fromkeys(range(1000, 1600), YES))
    assert plain.opt_out(1000).code == 0
    new, path = renumbered(plain, {client: client + 5000 for client in range(1000, 1600)})
    assert carry(new, plain, path, "--expect", 600).code == 0
    new.write(dict.fromkeys(range(1000, 1600), YES))
    found = new.json("run")
    assert found["exit"] == 6
    assert holds(platform.platform) == {1000: NO}


def test_the_guards_count_what_was_sent_under_the_old_numbers(plain: Brand, platform: Standin) -> None:
    """Eight re-grants before and eight after are more than ten within a day."""
    people = range(1000, 1600)
    plain.init(dict.fromkeys(people, NO))
    plain.write(dict.fromkeys(people, NO) | dict.fromkeys(people[:8], YES))
    assert plain.run("run").code == 0
    new, path = renumbered(plain, {client: client + 5000 for client in people})
    assert carry(new, plain, path, "--expect", 600).code == 0
    fresh = {client + 5000: YES if client < people[16] else NO for client in people}
    new.write(fresh)
    found = new.json("run")
    assert (found["exit"], [one["guard"] for one in found["guards"]]) == (6, ["re-grants"])
    assert new.run("state", "check").code == 0


def test_nobody_is_granted_anything_under_a_number_that_was_given_up(plain: Brand, platform: Standin) -> None:
    """The CRM still says 100, who is 500 now; a new member who has number 200 is in an export with 200's new number."""
    plain.init({100: YES, 200: YES, 300: YES})
    assert plain.opt_out(100).code == 0
    new, path = renumbered(plain, {100: 500, 200: 600, 300: 300})
    assert carry(new, plain, path, "--expect", 3).code == 0
    new.write({100: YES, 600: YES, 200: YES, 300: YES})
    found = new.json("run")
    assert found["exit"] == 1
    assert "1 clients are named by ids from before" in " ".join(found["reasons"])
    assert holds(platform.platform) == {100: NO, 200: YES}


@pytest.mark.parametrize("operator", [1, 2], ids=["same target", "another target"])
def test_every_death_is_made_good_by_the_same_command(
    tmp_path: Path, platform: Standin, cli: Cli, operator: int
) -> None:
    """Wherever it dies, one of the two states goes on at most, and giving the command again makes the new one."""
    folder, kept = tmp_path / "shop", tmp_path / "kept"
    plain = Brand(folder, platform.url, cli)
    plain.init({100: YES, 200: YES, 300: YES})
    assert plain.opt_out(100).code == 0
    assert plain.run("forget", "--client", "300").code == 0
    new, path = renumbered(plain, {100: 1, 200: 2, 300: 3}, operator=operator)
    shutil.copytree(folder, kept)
    command = ("init", "--from", str(plain.state), "--id-map", str(path), "--expect", "2", "--config", str(new.config))
    with commands() as process:
        for at in range(1, 400, 3):
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
            ended = process.run(folder, *command, at=at)
            if ended.code == 0:
                break
            assert ended.code is None, ended
            usable = [one for one in (plain, new) if one.run("drain").code == 0]
            assert len(usable) <= 1, (at, ended.last)
            again = cli(*command)
            whole = again.code == 4 and "its people went to" in again.err  # it died after its last word
            assert again.code == 0 or whole, (at, ended.last, again.err)
            assert new.withdrawn() == [1]
            assert plain.run("drain").code == 4
            assert new.run("drain").code == 0
            assert new.run("state", "check").code == 0, (at, ended.last)
            settings = load_settings(new.config)
            gone = Tombstones.open(settings.state.keys, settings.endpoint.target).of(np.array([1, 2, 3, 300], np.int32))
            assert gone.tolist() == [False, False, True, False]
    assert at > 30
