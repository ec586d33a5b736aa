"""`compare`: what is known of the platform against what it says it holds, and what is owed from then on."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.consent.channels import CHANNELS
from sync_job.errors import BusyError, ConfigError, Exit, ExportError
from sync_job.ledger import lock
from sync_job.report import people_text
from sync_job.report.counts import Summary
from sync_job.runs import compare, drain, dump
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.shop import FIELDS, Consent, Shop, holds

YES, NO = (True, True, True, True), (False, False, False, False)
_WORDS = {None: "nothing", False: "denied", True: "allowed"}


def dumped(folder: Path, people: Mapping[int, Consent], header: str = ",".join(("Client", *FIELDS))) -> str:
    """Write a dump of a platform, and return its path."""
    path = folder / "dump.csv"
    text = {True: "true", False: "false", None: ""}
    rows = [f"{client},{','.join(text[flag] for flag in flags)}\n" for client, flags in people.items()]
    path.write_text(f"{header}\n{''.join(rows)}")
    return str(path)


def compared(shop: Shop, people: Mapping[int, Consent]) -> Summary:
    """Hold a shop's state against a dump."""
    return compare.compare(shop.settings, dumped(shop.folder, people), Watch())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Shop, Standin]]:
    """Return a shop of three hundred, and its platform."""
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url)
        made.write({client: YES if client % 2 else NO for client in range(1, 301)})
        made.init("equal")
        yield made, platform


def test_who_withdrew_and_is_allowed_is_listed_and_owed_a_denial(shop: tuple[Shop, Standin]) -> None:
    """Only the channels that contradict; nothing is sent by it, and the next drain does."""
    made, platform = shop
    made.withdraw({1: "all", 2: "sms", 3: "email", 999: "push"})
    drain.drain(made.settings, "drain", Watch())
    before = platform.requests
    drifted = {1: (True, False, None, True), 2: YES, 3: (True, False, True, True), 4: YES, 999: YES}
    found = compared(made, drifted)
    assert platform.requests == before, "it sends nothing"
    assert (found["withdrawn_but_allowed"], found["owed_now"], found["exit"]) == (3, 3, Exit.ATTENTION)
    assert made.owed() == {1: 0b01000001, 2: 0b00000001, 999: 0b00010000}
    listed = Path(found["listed_in"])
    assert listed.parent.parent == made.settings.report.path
    assert listed.read_text().splitlines()[1:] == ["1,true,,,true", "2,true,,,", "999,,,true,"]
    assert listed.stat().st_mode & 0o077 == 0
    kept = json.loads((listed.parent / "summary.json").read_text())
    assert kept == found
    drain.drain(made.settings, "drain", Watch())
    assert made.owed() == {}
    assert {entry.client for entry in platform.platform.log[before:]} == {1, 2, 999}
    assert not any(flag for entry in platform.platform.log[before:] for flag in entry.flags)


def test_the_same_dump_again_owes_nothing_new(shop: tuple[Shop, Standin]) -> None:
    """What is owed already is owed once; the list is still made, for those who look."""
    made, _ = shop
    made.withdraw({1: "all"})
    drain.drain(made.settings, "drain", Watch())
    assert compared(made, {1: YES})["owed_now"] == 1
    again = compared(made, {1: YES})
    assert (again["withdrawn_but_allowed"], again["owed_now"], again["exit"]) == (1, 0, Exit.ATTENTION)


def test_a_platform_as_it_is_known_ends_well(shop: tuple[Shop, Standin]) -> None:
    """All alike, nothing listed, nothing owed, and State stays what was acknowledged."""
    made, _ = shop
    everybody = {client: YES if client % 2 else NO for client in range(1, 301)}
    found = compared(made, everybody)
    assert (found["exit"], found["listed_in"], found["only_known"], found["only_in_the_dump"]) == (0, None, 0, 0)
    for matrix in found["channels"].values():
        assert (matrix["allowed"]["allowed"], matrix["denied"]["denied"]) == (150, 150)
    drifted = compared(made, dict.fromkeys(range(1, 301), NO))
    assert drifted["exit"] == 0, "nobody withdrew: what differs is shown, and the next export decides"
    with made.state() as state:
        assert state.holdings().state.tolist() == [0b10101010, 0b01010101] * 150


def test_the_matrix_counts_every_client_once_a_channel(tmp_path: Path) -> None:
    """Every pair of known and dumped values, channel by channel, and who is in one alone."""
    pairs = list(itertools.product((None, False, True), repeat=2))
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url)
        known: dict[int, Consent] = {}
        says: dict[int, Consent] = {}
        for client, chosen in enumerate(itertools.product(pairs, repeat=2), 10):
            known[client] = (chosen[0][0], chosen[1][0], chosen[0][0], False)
            says[client] = (chosen[0][1], chosen[1][1], chosen[0][1], None)
        known |= {1: YES, 2: NO}
        says |= {3: YES, 4: (None, None, None, None)}
        made.write(known)
        made.init("equal")
        found = compared(made, says)
    assert (found["clients"], found["clients_of_the_dump"]) == (len(known), len(says))
    assert (found["only_known"], found["only_in_the_dump"]) == (2, 2)
    for place, channel in enumerate(CHANNELS):
        wanted = {was: dict.fromkeys(_WORDS.values(), 0) for was in _WORDS.values()}
        for client in known.keys() | says.keys():
            was, is_ = (_WORDS[people.get(client, (None,) * 4)[place]] for people in (known, says))
            wanted[was][is_] += 1
        assert found["channels"][channel] == wanted


def test_a_dump_is_read_by_the_platforms_names_whatever_exports_are_like(tmp_path: Path) -> None:
    """How old exports are, what they call their columns and what their blanks mean says nothing of a dump."""
    keys = 'as_of = "filename:%Y-%m-%d"\nabsent = "deny"'
    more = '[export.columns]\nClient = "Id"\nAllowSms = "sms"\n[export.blank]\nAllowSms = "denied"'
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url, more=more)
        made.config.write_text(made.config.read_text().replace('as_of = "none"', keys))
        export = tmp_path / "2026-01-02.csv"
        export.write_text("Id,sms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n5,,true,true,true\n")
        made.config.write_text(made.config.read_text().replace('"export.csv"', '"2026-01-02.csv"'))
        made.init("equal")
        where = dumped(tmp_path, {5: (None, True, True, True)} | dict.fromkeys(range(6, 100), (None, True, None, True)))
        found = compare.compare(made.settings, where, Watch())
        assert found["channels"]["Sms"]["denied"] == {"nothing": 1, "denied": 0, "allowed": 0}
        assert found["channels"]["Sms"]["nothing"]["nothing"] == 94
        own = tmp_path / "own.csv"
        own.write_text("Id,sms,AllowEmail\n5,0,1\n")
        assert dump.read(made.settings, str(own), Watch()).items()[1].tolist() == [0b11111001], "or by those of exports"


def test_a_column_of_the_platforms_own_name_is_never_inverted(tmp_path: Path) -> None:
    """What exports call DoNotCall is AllowSms in a dump; in a dump that has the export's columns it is as there."""
    keys = 'as_of = "none"\ninverted = ["AllowSms"]\nwhere = { Operator = 3 }'
    with running(Options()) as platform:
        made = Shop(tmp_path, platform.url, more='[export.columns]\nClient = "Id"\nAllowSms = "DoNotCall"')
        made.config.write_text(made.config.read_text().replace('as_of = "none"', keys))
        path = tmp_path / "dump.csv"
        path.write_text("Client,AllowSms\n5,1\n")
        assert dump.read(made.settings, str(path), Watch()).items()[1].tolist() == [0b11111110]
        path.write_text("Id,DoNotCall,Operator\n5,1,3\n6,0,4\n")
        found = dump.read(made.settings, str(path), Watch())
        assert [one.tolist() for one in found.items()] == [[5], [0b11111101]]


def test_a_dump_may_be_parquet(shop: tuple[Shop, Standin]) -> None:
    """In any format that exports have."""
    made, _ = shop
    table = pa.csv.read_csv(dumped(made.folder, {1: NO, 2: YES}))
    pq.write_table(table, made.folder / "dump.parquet")
    found = compare.compare(made.settings, str(made.folder / "dump.parquet"), Watch())
    assert found["channels"]["Push"]["allowed"] == {"nothing": 149, "denied": 1, "allowed": 0}


def test_a_dump_that_is_not_sure_is_refused(shop: tuple[Shop, Standin]) -> None:
    """One row that cannot be read, or no dump at all: nothing is said and nothing is owed."""
    made, _ = shop
    made.withdraw({1: "all"})
    where = dumped(made.folder, {1: YES})
    with Path(where).open("a") as file:
        file.write("2,perhaps,,,\n")
    with pytest.raises(ConfigError, match="1 rows of the dump cannot be read"):
        compare.compare(made.settings, where, Watch())
    with pytest.raises(ExportError):
        compare.compare(made.settings, str(made.folder / "none.csv"), Watch())
    with lock.held(made.settings.state.path), pytest.raises(BusyError):
        compared(made, {1: YES})
    assert made.owed() == {}


def test_the_words_name_what_differs(shop: tuple[Shop, Standin]) -> None:
    """Channel by channel, and what is owed with the file that lists it."""
    made, _ = shop
    made.withdraw({1: "sms"})
    said = people_text.compared(compared(made, {1: YES, 2: YES, 777: YES}))
    assert "300 clients known, 3 in the dump; 298 only known, 1 only in the dump" in said
    assert "known denied, is allowed" in said
    assert "! 1 clients withdrew and are allowed on the platform" in said
    assert "withdrawn_but_allowed.csv" in said


def test_a_night_after_a_comparison_denies_and_grants_nothing(shop: tuple[Shop, Standin]) -> None:
    """The run that follows sends what is owed, though the export says allowed."""
    made, platform = shop
    made.withdraw({1: "all"})
    sync_job.run(made.settings)
    compared(made, {1: YES})
    os.utime(made.export)
    report = sync_job.run(made.settings)
    assert report.summary["planned"] == 1
    assert holds(platform.platform)[1] == NO
