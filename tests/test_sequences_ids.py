"""Whose number is it today: maps that change, platforms that renumber, lists in other numbers, configurations at odds.

Through the real command line, from the shipped nightly configuration, with its guards at their defaults.
"""

import csv
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sync_job import load_settings
from sync_job.ledger.state import State
from sync_job.standin.background import Standin, running
from tests.commands import Cli, Said
from tests.shop import FIELDS, Consent, holds

CONFIGS = Path(__file__).parents[1] / "configs"
YES, NO, SILENT = (True,) * 4, (False,) * 4, (None,) * 4
TEXT = {True: "true", False: "false", None: ""}


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the endpoint its secret, as the shipped configuration says."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER", "secret")


@pytest.fixture
def platform() -> Iterator[Standin]:
    """Run a stand-in of the platform."""
    with running() as started:
        yield started


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
