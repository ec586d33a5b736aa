"""Erasure in sequences: every channel is denied first, and no old file brings an erased client back."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sync_job import load_settings
from sync_job.ledger.tombstones import Tombstones
from sync_job.standin.background import Standin, running
from sync_job.standin.contract import Flags
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests import dying
from tests.commands import Cli, Said
from tests.shop import FIELDS, Consent, holds

CONFIGS = Path(__file__).parent.parent / "configs"
YES, NO, NOTHING = (True,) * 4, (False,) * 4, (None,) * 4
ALLOWED = Flags(True, True, True, True)
SIGNED = ("--reason", "asked by letter", "--by", "Ann")
GONE, STAYS = 1_987_654_321, 1_876_543_219  # ids that turn up in no count, time or digest by chance
STRANGER = 1_765_432_198


class Desk:
    """A folder with the shipped configuration for nights, its state and its export, and the command line for it."""

    def __init__(self, folder: Path, url: str, cli: Cli) -> None:
        self.folder, self.cli = folder, cli
        self.config, self.export = folder / "nightly.toml", folder / "latest.csv"
        text = (CONFIGS / "nightly.toml").read_text()
        for old, new in (
            ("https://loyalty.example.com/partner", url),
            ("/var/lib/consent-sync/loyalty", str(folder)),
            ("/var/spool/crm/consent/latest.csv", str(self.export)),
            ('kind = "bearer"', 'kind = "none"'),
            ('as_of = "mtime"', 'as_of = "none"'),
        ):
            assert old in text
            text = text.replace(old, new)
        self.config.write_text(f"{text}\n[delivery]\nlinger_s = 0.2\nattempts = 1\nmax_outage_s = 0.2\n")

    def __call__(self, *arguments: object) -> Said:
        """Run a command."""
        return self.cli(*arguments, "--config", self.config)

    def configure(self, old: str, new: str) -> None:
        """Put *new* in the place of *old* in the configuration."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def write(self, people: Mapping[int, Consent], path: Path | None = None) -> Path:
        """Export *people*."""
        text = {True: "true", False: "false", None: ""}
        rows = (f"{client},{','.join(text[flag] for flag in flags)}\n" for client, flags in people.items())
        path = path or self.export
        path.write_text(f"Client,{','.join(FIELDS)}\n{''.join(rows)}")
        return path

    def init(self, people: Mapping[int, Consent], platform: str = "equal") -> None:
        """Make the state from an export of *people*."""
        self.write(people)
        said = self("init", self.export, "--platform", platform, "--no-withdrawals")
        assert said.code == 0, said

    def listed(self, name: str, *rows: tuple[int, str]) -> Path:
        """Write a list of clients, each with when its withdrawal was received."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("Client,received_at,scope\n" + "".join(f"{client},{at},all\n" for client, at in rows))
        return path

    def forget(self, *clients: int, code: int = 0) -> dict[str, Any]:
        """Erase clients, and return what the command says."""
        named = [word for client in clients for word in ("--client", str(client))]
        said = self("forget", *named, *SIGNED, "--json")
        assert said.code == code, said
        found: dict[str, Any] = json.loads(said.out)
        return found

    def known(self, client: int) -> dict[str, Any]:
        """Return everything that is known of a client."""
        found: dict[str, Any] = json.loads(self("explain", client, "--json").out)
        return found

    def files(self) -> dict[str, bytes]:
        """Return the content of every file below state, keys and reports."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for name in ("state", "keys", "reports")
            for path in sorted((self.folder / name).rglob("*"))
            if path.is_file()
        }

    def traces(self, client: int) -> list[str]:
        """Return the files of state, keys and reports that name a client, in their name or in any form of its id."""
        forms = (str(client).encode(), client.to_bytes(4, "little"), client.to_bytes(4, "big"))
        found = []
        for name, content in self.files().items():
            packed = name.endswith(".parquet") and any(
                client in column.to_pylist() for column in pq.read_table(self.folder / name).columns
            )
            if packed or str(client) in name or any(form in content for form in forms):
                found.append(name)
        return found

    def erased_at(self, client: int) -> float:
        """Return when a client was erased, in epoch seconds."""
        settings = load_settings(self.config)
        buried = Tombstones.open(settings.state.keys, settings.endpoint.target)
        return float(buried.since(np.array([client], np.int32))[0])

    def drained(self, done: Callable[[], bool]) -> None:
        """Drain as cron does until something is done."""
        ends = time.monotonic() + 20
        while not done():
            assert time.monotonic() < ends
            self("drain")
            time.sleep(0.05)


def at(when: float) -> str:
    """Return a time as a list has it: in whole microseconds, rounded down."""
    whole = timedelta(microseconds=floor(Fraction(when) * 1_000_000))
    return (datetime.fromtimestamp(0, UTC) + whole).isoformat(timespec="microseconds")


def ago(seconds: float = 3600.0) -> str:
    """Return a time that was so many seconds ago, as a list has it."""
    return at(time.time() - seconds)


@pytest.fixture
def platform() -> Iterator[Standin]:
    """Run a platform that knows everybody and allows everything."""
    people = (GONE, STAYS, STRANGER, *range(1, 41))
    with running(Options(state=dict.fromkeys(people, ALLOWED))) as started:
        yield started


@pytest.fixture
def desk(tmp_path: Path, cli: Cli, platform: Standin) -> Desk:
    """Return a desk without state."""
    return Desk(tmp_path, platform.url, cli)


def sent(platform: Standin, client: int) -> list[Consent]:
    """Return what was sent of a client."""
    return [tuple(entry.flags) for entry in platform.platform.log if entry.client == client]


# What is denied first


@pytest.mark.parametrize("known", [YES, NO, NOTHING, (True, False, None, None), None], ids=str)
@pytest.mark.parametrize("withdrew", ["", "sms", "all"])
def test_every_channel_is_denied_before_an_erasure(
    desk: Desk, platform: Standin, known: Consent | None, withdrew: str
) -> None:
    """Whatever the snapshot knows of the person, and whether or not a list named them."""
    desk.init({STAYS: YES} | ({} if known is None else {GONE: known}))
    if withdrew:
        path = desk.folder / "list.csv"
        path.write_text(f"{GONE}\n")
        assert desk("opt-out", path, "--scope", withdrew, "--received-at", ago()).code == 0
    found = desk.forget(GONE)
    unknown = not withdrew and known in (None, NOTHING)
    assert (found["forgotten"], found["denied"], found["unknown"]) == (1, 1, int(unknown))
    assert sent(platform, GONE)[-1] == NO
    assert holds(platform.platform)[GONE] == NO
    assert desk.traces(GONE) == []
    desk.write({GONE: YES, STAYS: YES})
    assert desk("run").code == 0
    assert holds(platform.platform)[GONE] == NO


def test_the_request_has_every_flag_when_a_column_is_not_mapped(desk: Desk, platform: Standin) -> None:
    """What the export has no column for is denied as well."""
    desk.configure('AllowEmailOnlineCheque = "AllowEmailOnlineCheque"', 'AllowEmailOnlineCheque = ""')
    desk.init({GONE: YES, STAYS: YES})
    desk.forget(GONE)
    assert sent(platform, GONE) == [NO]


def test_a_client_whom_the_platform_does_not_know_is_erased_at_once(tmp_path: Path, cli: Cli) -> None:
    """A configured *not found* counts as done, also after other lists were owed to the client."""
    with running(Options(known=[STAYS])) as platform:
        desk = Desk(tmp_path, platform.url, cli)
        desk.configure("not_found_codes = []", "not_found_codes = [8]")
        desk.init({STAYS: YES})
        assert desk("opt-out", desk.listed("list.csv", (GONE, ago()))).code == 1
        found = desk.forget(GONE, STRANGER, code=1)
        assert (found["forgotten"], found["waiting"]) == (2, 0)
        assert [desk.traces(client) for client in (GONE, STRANGER)] == [[], []]
        assert json.loads(desk("withdrawals", "status", "--json").out)["parked"] == 0


def test_a_client_whom_the_platform_refuses_waits_until_a_person_closes_it(tmp_path: Path, cli: Cli) -> None:
    """Without a configured *not found* nobody can tell that it is one: the denial stays owed."""
    with running(Options(known=[STAYS])) as platform:
        desk = Desk(tmp_path, platform.url, cli)
        desk.init({STAYS: YES})
        assert desk.forget(GONE, code=1)["waiting"] == 1
        assert desk.traces(GONE)
        closed = desk("withdrawals", "close", "--client", GONE, *SIGNED)
        assert closed.code == 0, closed
        desk("drain")
        assert desk.traces(GONE) == []


def test_an_erasure_waits_for_a_platform_that_is_down(tmp_path: Path, cli: Cli) -> None:
    """Exports meanwhile grant nothing; the drain that delivers the denial erases the client."""
    down = [True]
    with running(Options(state={GONE: ALLOWED}, script=lambda *_: Fault.ERROR_BEFORE if down else None)) as platform:
        desk = Desk(tmp_path, platform.url, cli)
        desk.init({GONE: NO, STAYS: NO})
        assert desk.forget(GONE, code=5)["waiting"] == 1
        desk.write({GONE: YES, STAYS: NO})
        desk("run")
        assert desk.forget(GONE, code=5)["waiting"] == 1, "asked again"
        assert desk("state", "check").code == 0
        down.clear()
        desk.drained(lambda: not desk.traces(GONE))
        assert {True for flags in sent(platform, GONE) if any(flags)} == set()
        assert holds(platform.platform)[GONE] == NO


def test_an_erasure_outlasts_a_request_that_is_in_doubt(tmp_path: Path, cli: Cli) -> None:
    """The grant may be applied late: the client is erased after a denial that nothing can overtake."""
    lost = [True]
    with running(Options(script=lambda *_: Fault.RESET_AFTER if lost else None)) as platform:
        desk = Desk(tmp_path, platform.url, cli)
        desk.configure("linger_s = 0.2", "linger_s = 3")
        desk.write({GONE: YES})
        assert desk("init", desk.export, "--platform", "empty", "--no-withdrawals", "--approve-grants", 1).code == 0
        assert desk("run").code != 0
        assert holds(platform.platform)[GONE] == YES
        lost.clear()
        desk.forget(GONE, code=1)
        assert desk.traces(GONE), "the linger has not ended"
        desk.drained(lambda: not desk.traces(GONE))
        assert sent(platform, GONE)[-2:] == [NO, NO]


def test_whoever_was_erased_is_sent_nothing_again_unless_they_are_known_again(desk: Desk, platform: Standin) -> None:
    """It is said, and the later erasure counts."""
    desk.init({GONE: YES, STAYS: YES})
    desk.forget(GONE)
    first, before = desk.erased_at(GONE), platform.requests
    said = desk("forget", "--client", GONE, *SIGNED)
    assert said.code == 0
    assert "1 were erased before and are not known since: nothing was sent for them" in said.out
    assert platform.requests == before
    assert desk.erased_at(GONE) > first
    between = at((first + desk.erased_at(GONE)) / 2)
    found = json.loads(desk("opt-out", desk.listed("list.csv", (GONE, between)), "--json").out)
    assert found["erased"] == 1
    assert desk.traces(GONE) == []


# What it asks first


def test_an_export_is_not_taken_for_a_list(desk: Desk, platform: Standin) -> None:
    """Off a terminal its number of clients has to be given; without it nothing happens."""
    people = dict.fromkeys(range(1, 41), YES)
    desk.init(people)
    before = desk.files()
    for said in ((), ("--expect", 39), ("--expect", 0)):
        found = desk("forget", desk.export, *SIGNED, *said)
        assert (found.code, "--expect 40" in found.err) == (2, True), found
    found = desk("forget", desk.export, "--expect", 40)
    assert (found.code, "--reason" in found.err) == (2, True), "nobody says why"
    assert (desk.files(), platform.requests) == (before, 0)
    found = desk("forget", desk.export, *SIGNED, "--expect", 40)
    assert (found.code, platform.requests) == (0, 40), found


def test_two_clients_of_a_list_are_confirmed_and_one_is_not(desk: Desk) -> None:
    """Clients who are named one by one were typed already."""
    desk.init(dict.fromkeys((1, 2, 3, 4), YES))
    path = desk.folder / "list.csv"
    path.write_text("1\n2\n")
    assert desk("forget", path, *SIGNED).code == 2
    path.write_text("1\n1\n")
    assert desk("forget", path, *SIGNED).code == 0
    assert desk("forget", "--client", 2, "--client", 3, *SIGNED).code == 0
    assert desk("forget", "--client", 4, *SIGNED, "--expect", 2).code == 2


def test_the_number_is_asked_for_on_a_terminal(desk: Desk, platform: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would do is shown first; another number erases nobody."""
    desk.init({1: YES, 2: YES})
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for typed, code in (("", 2), ("1", 2), ("2", 0)):
        monkeypatch.setattr("typer.prompt", lambda *_, typed=typed, **__: typed)
        said = desk("forget", desk.export, *SIGNED)
        assert (said.code, "2 clients to be erased" in said.err) == (code, True), said
        assert bool(platform.requests) is not bool(code)


def test_a_check_says_what_an_erasure_would_do_and_changes_nothing(desk: Desk, platform: Standin) -> None:
    """How many are known, withdrew, are owed a denial, were erased before, and what is out of reach."""
    desk.init(dict.fromkeys((1, 2, 3, 4), YES))
    assert desk("opt-out", desk.listed("list.csv", (1, ago()))).code == 0
    desk.forget(4)
    assert desk("opt-out", desk.listed("more.csv", (2, ago())), "--no-send").code == 0
    assert desk("backfill", "--cancel").code == 2, "it only takes the list in"
    before, requests = desk.files(), platform.requests
    path = desk.folder / "erase.csv"
    path.write_text("".join(f"{client}\n" for client in (1, 2, 3, 4, STRANGER)))
    found = json.loads(desk("forget", path, "--check", "--json").out)
    del found["target"]
    assert len(found.pop("out_of_reach")) == 5
    assert found == {
        "clients": 5,
        "known": 3,
        "withdrawn": 2,
        "owed": 1,
        "asked_before": 0,
        "erased_before": 1,
        "unknown": 1,
        "to_deny": 4,
        "must_be_confirmed": True,
    }
    said = desk("forget", path, "--check")
    assert (said.code, "--expect 5" in said.out, "the CRM" in said.out) == (0, True, True)
    assert (desk.files(), platform.requests) == (before, requests)


def test_who_asked_and_why_stays_on_record_without_ids(desk: Desk) -> None:
    """Also if somebody typed the id into the words, or gave a list the id as its name."""
    desk.init({GONE: YES, STAYS: YES})
    assert desk("opt-out", desk.listed(f"{GONE}.csv", (GONE, ago()))).code == 0
    words = ("--reason", f"letter of client {GONE}", "--by", "Ann", "--request-ref", f"R-{GONE}/7")
    assert desk("forget", "--client", GONE, *words).code == 0
    assert desk.traces(GONE) == []
    found = json.loads(desk("withdrawals", "report", "--from", "2020-01-01", "--json").out)["erasures"]
    assert [one | {"at": 0} for one in found] == [
        {"at": 0, "clients": 1, "by": "Ann", "reason": "letter of client …", "request_ref": "R-…/7"}
    ]
    assert "1 client in 1 request" in desk("withdrawals", "report", "--from", "2020-01-01").out


# What would bring an erased client back


def test_a_folder_of_lists_brings_nobody_back(desk: Desk, platform: Standin) -> None:
    """Cron reads all of it again when one more file appears: old rows are counted, and new ones honoured."""
    desk.init(dict.fromkeys((GONE, STAYS, STRANGER), YES))
    folder = desk.listed("lists/1.csv", (GONE, ago())).parent
    assert desk("opt-out", folder).code == 0
    desk.forget(GONE)
    before = platform.requests
    desk.listed("lists/2.csv", (STAYS, ago(60)))
    said = desk("opt-out", folder)
    assert (said.code, "1 row names a person who was erased since; not taken in" in said.out) == (0, True), said
    assert platform.requests == before + 1
    assert desk.traces(GONE) == []
    desk.listed("lists/3.csv", (STRANGER, ago(30)), (GONE, at(time.time())))
    found = json.loads(desk("opt-out", folder, "--json").out)
    assert (found["erased"], found["sent"]["fresh"], found["exit"]) == (1, 2, 0)
    assert [one["channels"] for one in desk.known(GONE)["withdrawals"]] == ["Sms Email Push EmailOnlineCheque"]
    desk.forget(GONE)
    desk.listed("lists/4.csv", (STAYS, ago(10)))
    assert json.loads(desk("opt-out", folder, "--json").out)["erased"] == 2
    assert desk.traces(GONE) == []


@pytest.mark.parametrize(("after_s", "taken_in"), [(-1e-3, False), (0.0, False), (1e-3, True)])
def test_the_receipt_is_held_against_the_moment_of_the_erasure(desk: Desk, after_s: float, taken_in: bool) -> None:
    """The same moment is not later."""
    desk.init({GONE: YES, STAYS: YES})
    desk.forget(GONE)
    path = desk.listed("list.csv", (GONE, at(desk.erased_at(GONE) + after_s)))
    found = json.loads(desk("opt-out", path, "--json").out)
    fresh = found["sent"]["fresh"] if found["sent"] else 0  # a list of which nothing is taken in is none
    assert (found["erased"], fresh) == (int(not taken_in), int(taken_in))
    assert bool(desk.traces(GONE)) is taken_in
    assert desk("run").code == 0
    assert bool(desk.traces(GONE)) is taken_in


def test_a_list_whose_clock_is_ahead_brings_nobody_back(desk: Desk) -> None:
    """Its rows were known when the client was erased, though they say a later time."""
    desk.init({GONE: YES, STAYS: YES})
    ahead = time.time() + 600
    assert desk("opt-out", desk.listed("lists/1.csv", (GONE, at(ahead)))).code == 0
    desk.forget(GONE)
    desk.listed("lists/2.csv", (STAYS, ago()))
    assert json.loads(desk("opt-out", desk.folder / "lists", "--json").out)["erased"] == 1
    assert desk.traces(GONE) == []
    assert json.loads(desk("opt-out", desk.listed("list.csv", (GONE, at(ahead + 1))), "--json").out)["erased"] == 0


def test_a_list_that_waits_in_the_inbox_brings_nobody_back(desk: Desk, platform: Standin) -> None:
    """Taken in before the erasure and absorbed after it, by a backup of the inbox."""
    desk.init({GONE: YES, STAYS: YES})
    path = desk.listed("list.csv", (GONE, ago()), (STAYS, ago()))
    assert desk("opt-out", path, "--no-send").code == 0
    backup = desk.folder / "backup.tar"
    assert desk("state", "backup", backup).code == 0
    desk.forget(GONE)
    shutil.rmtree(desk.folder / "state")
    assert desk("state", "restore", backup).code == 0
    before = platform.requests
    desk("drain")
    time.sleep(0.25)
    desk("drain")
    assert desk.traces(GONE) == []
    assert {entry.client for entry in platform.platform.log[before:]} <= {STAYS}
    lists = json.loads(desk("withdrawals", "status", "--json").out)["lists"]
    assert [one["erased"] for one in lists] == [1]


def test_the_withdrawals_since_a_backup_bring_nobody_back(desk: Desk) -> None:
    """The list names a client who was erased after it was received."""
    desk.init({GONE: YES, STAYS: YES})
    backup = desk.folder / "backup.tar"
    assert desk("state", "backup", backup).code == 0
    path = desk.listed("list.csv", (GONE, ago()), (STAYS, ago()))
    assert desk("opt-out", path).code == 0
    desk.forget(GONE)
    shutil.rmtree(desk.folder / "state")
    assert desk("state", "restore", backup).code == 0
    since = ("state", "restored", "--withdrawals-since", path, "--by", "Ann")
    said = desk(*since)
    if said.code == 2:  # as long as withdrawals are counted, that of the erased client is one that is missing
        said = desk(*since, "--missing", 1)
    assert said.code == 0, said
    assert "1 rows name people who were erased since" in said.out
    assert desk("run").code == 0
    assert desk.traces(GONE) == []
    assert desk.known(STAYS)["withdrawals"]


def test_an_opt_out_from_after_an_erasure_comes_back_to_a_restored_backup(desk: Desk) -> None:
    """The restore erases once more, and the erasure keeps its time: what is later is honoured still."""
    desk.init({GONE: YES, STAYS: YES})
    backup = desk.folder / "backup.tar"
    assert desk("state", "backup", backup).code == 0
    desk.forget(GONE)
    erased = desk.erased_at(GONE)
    path = desk.listed("list.csv", (GONE, at(time.time())))
    assert desk("opt-out", path).code == 0
    shutil.rmtree(desk.folder / "state")
    assert desk("state", "restore", backup).code == 0
    assert desk("run").code == 4, "a withdrawal is missing"
    assert desk.traces(GONE) == []
    assert desk.erased_at(GONE) == erased
    assert desk("state", "restored", "--withdrawals-since", path, "--by", "Ann").code == 0
    assert desk.known(GONE)["withdrawals"]


def test_new_state_and_its_lists_bring_nobody_back(desk: Desk) -> None:
    """Export, dump and list all name the client."""
    desk.init({GONE: YES, STAYS: YES})
    path = desk.listed("list.csv", (GONE, ago()), (STAYS, ago()))
    assert desk("opt-out", path).code == 0
    desk.forget(GONE)
    dump = desk.write({GONE: YES, STAYS: NO}, desk.folder / "dump.csv")
    for platform in ("unknown", "equal", dump):
        shutil.rmtree(desk.folder / "state")
        next((desk.folder / "keys").glob("*.anchor.json")).unlink()
        said = desk("init", desk.export, "--platform", platform, "--withdrawals", path, "--approve-grants", 0)
        assert said.code == 0, said
        assert desk.traces(GONE) == []


def test_a_lookup_brings_nobody_back(desk: Desk) -> None:
    """The list has an address, and the lookup says whose it is."""
    desk.init({GONE: YES, STAYS: YES})
    desk.forget(GONE)
    path, table = desk.folder / "list.csv", desk.folder / "lookup.csv"
    path.write_text("E-mail\nann@example.com\n")
    table.write_text(f"Client,E-mail\n{GONE},ann@example.com\n")
    found = json.loads(desk("opt-out", path, "--lookup", table, "--received-at", ago(), "--json").out)
    assert (found["erased"], found["exit"]) == (1, 0)
    assert desk.traces(GONE) == []


def test_lists_with_the_ids_of_the_crm_bring_nobody_back(desk: Desk, platform: Standin) -> None:
    """The codes are of the platform's ids."""
    desk.configure('kind = "full"', f'kind = "full"\nid_map = "{desk.folder / "ids.csv"}"')
    (desk.folder / "ids.csv").write_text(f"crm_id,platform_id\n7,{GONE}\n8,{STAYS}\n")
    desk.init({7: YES, 8: YES})
    path = desk.folder / "erase.csv"
    path.write_text("7\n")
    assert desk("forget", path, *SIGNED).code == 0
    assert sent(platform, GONE) == [NO]
    path = desk.listed("list.csv", (7, ago()), (8, ago()))
    found = json.loads(desk("opt-out", path, "--json").out)
    assert (found["erased"], found["sent"]["fresh"]) == (1, 1)
    assert desk.traces(GONE) == []


def test_who_is_erased_at_one_brand_is_withdrawn_at_the_other(tmp_path: Path, cli: Cli) -> None:
    """The same number is another person there, also if both have one folder of keys."""
    with running(Options()) as one, running(Options()) as other:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        desks = Desk(tmp_path / "one", one.url, cli), Desk(tmp_path / "other", other.url, cli)
        desks[1].configure(str(tmp_path / "other" / "keys"), str(tmp_path / "one" / "keys"))
        for desk in desks:
            desk.init({GONE: YES, STAYS: YES})
        desks[0].forget(GONE)
        path = desks[0].listed("list.csv", (GONE, ago()), (STAYS, ago()))
        said = cli("opt-out", path, "--config", desks[0].config, "--config", desks[1].config, "--json")
        assert [one["erased"] for one in json.loads(said.out)["targets"]] == [1, 0]
        assert desks[0].traces(GONE) == []
        assert holds(other.platform)[GONE] == NO


def test_evidence_from_before_an_erasure_is_not_taken_in(desk: Desk, platform: Standin) -> None:
    """Later evidence lifts a later withdrawal, and grants nothing by any export."""
    desk.init({GONE: YES, STAYS: YES})
    desk.forget(GONE)
    erased = desk.erased_at(GONE)
    assert desk("opt-out", desk.listed("list.csv", (GONE, at(erased + 1e-3)))).code == 0
    path = desk.folder / "evidence.csv"
    head = "Client,channels,granted_at,method,evidence_ref\n"
    path.write_text(f"{head}{GONE},sms,{at(erased)},form,F-1\n{GONE},sms,{ago()},form,F-2\n")
    said = desk("reconsent", path)
    assert "2 rows name people who were erased since; not taken in" in said.out
    assert desk.known(GONE)["reconsents"] == []
    path.write_text(f"{head}{GONE},sms,{at(erased + 2e-3)},form,F-3\n")
    assert json.loads(desk("reconsent", path, "--json").out)["lifted"] == 1
    desk("run")
    assert holds(platform.platform)[GONE] == NO


def test_a_dump_brings_nobody_back(desk: Desk) -> None:
    """`compare` finds the client allowed on the platform, and keeps nothing of that."""
    desk.init({GONE: YES, STAYS: YES})
    assert desk("opt-out", desk.listed("list.csv", (GONE, ago()))).code == 0
    desk.forget(GONE)
    desk.write({GONE: YES, STAYS: YES})
    assert desk("compare", desk.export).code == 0
    assert desk.traces(GONE) == []


def test_a_plan_from_before_an_erasure_sends_nothing_of_the_client(desk: Desk, platform: Standin) -> None:
    """Whether or not it may still be applied."""
    desk.init({GONE: NO, STAYS: NO})
    desk.write({GONE: YES, STAYS: YES})
    plan = desk.folder / "plan.parquet"
    assert desk("plan", "-o", plan).code == 0
    desk.forget(GONE)
    desk("apply", plan)
    assert sent(platform, GONE) == [NO]
    assert desk.traces(GONE) == []


def test_what_was_held_and_approved_before_an_erasure_sends_nothing_of_the_client(
    desk: Desk, platform: Standin
) -> None:
    """Before the approval, and between that and the next night."""
    people = dict.fromkeys((GONE, STAYS, STRANGER, *range(1, 21)), NO)
    desk.init(people)
    desk.write(dict.fromkeys(people, YES))
    found = json.loads(desk("run", "--json").out)
    assert found["exit"] == 6
    desk.forget(STRANGER)
    assert desk.traces(STRANGER) == []
    said = desk("approve", found["run"], "--grants", 23, *SIGNED)
    if said.code == 2:  # the number is that of those who are left
        said = desk("approve", found["run"], "--grants", 22, *SIGNED)
    assert said.code == 0, said
    desk.forget(GONE)
    desk("run")
    assert [sent(platform, client) for client in (GONE, STRANGER)] == [[NO], [NO]]
    assert [desk.traces(client) for client in (GONE, STRANGER)] == [[], []]
    assert holds(platform.platform)[STAYS] == YES


def test_an_undo_and_its_report_have_nothing_of_the_client(desk: Desk, platform: Standin) -> None:
    """Also `not_undone.csv`, which lists what cannot be said to the platform."""
    desk.init({1: NO})
    desk.write({1: NO, GONE: NO, STAYS: NO})
    found = json.loads(desk("run", "--json").out)
    desk("undo", found["run"])
    (listed,) = (desk.folder / "reports").rglob("not_undone.csv")
    assert str(GONE) in listed.read_text()
    desk.forget(GONE)
    assert desk.traces(GONE) == []
    assert str(STAYS) in listed.read_text()
    before = len(sent(platform, GONE))
    desk("undo", found["run"])
    assert len(sent(platform, GONE)) == before
    assert desk.traces(GONE) == []


def test_a_backfill_that_is_open_has_nothing_of_the_client(desk: Desk, platform: Standin) -> None:
    """Nor has one that was open in a restored backup."""
    desk.init(dict.fromkeys((GONE, STAYS, *range(1, 21)), NO))
    assert desk("backfill", "--denials", "--limit", 1).code == 1
    backup = desk.folder / "backup.tar"
    assert desk("state", "backup", backup).code == 0
    desk.forget(GONE)
    assert desk.traces(GONE) == []
    before = len(sent(platform, GONE))
    desk("run")
    shutil.rmtree(desk.folder / "state")
    assert desk("state", "restore", backup).code == 0
    desk("run")
    assert len(sent(platform, GONE)) == before
    assert desk.traces(GONE) == []


def test_an_opt_out_that_comes_while_the_erasure_waits_is_erased_with_it(tmp_path: Path, cli: Cli) -> None:
    """It is denied with the rest, and the same list brings nothing back afterwards."""
    down = [True]
    with running(Options(script=lambda *_: Fault.ERROR_BEFORE if down else None)) as platform:
        desk = Desk(tmp_path, platform.url, cli)
        desk.init({GONE: YES, STAYS: YES})
        desk.forget(GONE, code=5)
        path = desk.listed("list.csv", (GONE, at(time.time())))
        desk("opt-out", path)
        down.clear()
        desk.drained(lambda: not desk.traces(GONE))
        desk.listed("list.csv", (GONE, ago()), (STAYS, ago()))
        found = json.loads(desk("opt-out", path, "--json").out)
        assert (found["erased"], found["sent"]["fresh"]) == (1, 1)
        assert desk.traces(GONE) == []
        assert holds(platform.platform)[GONE] == NO


# Deaths


def test_an_erasure_that_dies_and_is_given_again_is_whole(desk: Desk, platform: Standin) -> None:
    """At steps all along the way: every channel is denied, nothing is left, and lists bring nobody back."""
    desk.init({GONE: (True, False, None, None), STAYS: YES})
    path = desk.listed("list.csv", (GONE, ago()), (STAYS, ago()))
    assert desk("opt-out", path).code == 0
    first = desk.folder / "first"
    first.mkdir()
    for name in ("state", "keys", "reports"):
        shutil.copytree(desk.folder / name, first / name)
    words = ("forget", "--client", str(GONE), *SIGNED, "--config", str(desk.config))
    with dying.commands() as commands:
        for number in range(4, 1000, 13):
            platform.platform.state[GONE] = ALLOWED
            died = commands.run(desk.folder, *words, at=number)
            ended = commands.run(desk.folder, *words)
            assert ended.code in (0, 1), ended.said
            desk.drained(lambda: not desk.traces(GONE))
            assert holds(platform.platform)[GONE] == NO, died.last
            assert desk("state", "check").code == 0
            desk.listed("list.csv", (GONE, ago()), (STAYS, ago(10)))
            assert desk("opt-out", path).code == 0
            assert desk.traces(GONE) == [], died.last
            for name in ("state", "keys", "reports"):
                shutil.rmtree(desk.folder / name)
                shutil.copytree(first / name, desk.folder / name)
            if died.code is not None:
                break
    assert number > 60
