"""`explain`: one client, every rule that may decide it, what would be sent, and why nothing is."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.consent.channels import CHANNELS, LETTERS, letters
from sync_job.consent.known import Holdings
from sync_job.consent.lists import scope_text
from sync_job.errors import ConfigError, ExportError, NoStateError
from sync_job.ledger import lock, tables
from sync_job.report import people_text
from sync_job.report.counts import Summary
from sync_job.runs import approving, drain, explain, forgetting, planning, recover, withdrawing
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Consent, Shop, changed, people

YES, NO = (True, True, True, True), (False, False, False, False)
_LETTER = {"nothing": "-", "denied": "F", "allowed": "T"}


def explained(shop: Shop, client: int, *, with_export: bool = True) -> Summary:
    """Return what is explained of a client; what is said in words goes through as well, and so does JSON."""
    found = explain.explain(shop.settings, client, Watch(), with_export=with_export)
    json.dumps(found)
    assert people_text.explained(found).startswith(f"client {client} at ")
    return found


def rules(found: Summary) -> list[str]:
    """Return the rule of each channel."""
    return [found["channels"][channel]["rule"] for channel in CHANNELS]


def targets(found: Summary) -> str:
    """Return the target of each channel, as letters."""
    return "".join(_LETTER[found["channels"][channel]["target"]] for channel in CHANNELS)


def absorbed(shop: Shop, people: dict[int, str], **said: Any) -> None:
    """Have a list taken into the ledger, and nothing of it sent."""
    shop.withdraw(people, **said)
    with recover.holding(shop.settings):
        pass


Made = Callable[[dict[int, Consent]], Shop]


@pytest.fixture
def made(tmp_path: Path, platform: Standin) -> Made:
    """Return what makes a shop whose platform holds what its export says."""

    def make(first: dict[int, Consent]) -> Shop:
        shop = Shop(tmp_path, platform.url)
        shop.write(first)
        shop.init("equal")
        return shop

    return make


def test_a_client_is_shown_from_its_rows_to_its_request(made: Made) -> None:
    """Rows as they stand in the file, statement, State, rule and target of each channel, and the request."""
    shop = made({5: (True, True, False, None), 6: YES})
    shop.write({6: YES, 5: (True, False, True, None)})
    found = explained(shop, 5)
    assert found["rows"] == [{"file": str(shop.export), "line": 3, "text": "5,true,false,true,"}]
    assert [found["channels"][channel]["statement"] for channel in CHANNELS] == [
        "allowed",
        "denied",
        "allowed",
        "blank",
    ]
    assert (found["state"], found["due"]) == ("TTF-", "----")
    assert rules(found) == ["P3", "P2", "P3", "P6"]
    assert targets(found) == "TFT-"
    assert found["would_send"] == "-FT-", "a grant is not repeated"
    assert found["why_nothing"] == ""
    assert set(found["requests"]) == {"json", "xml", "form"}
    assert '"AllowEmail":false' in found["requests"]["json"].replace(" ", "")
    words = people_text.explained(found)
    assert f"{shop.export}:3: 5,true,false,true," in words
    assert "would be sent now: -FT-" in words


def test_no_secret_is_shown(tmp_path: Path, platform: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is masked in every format, as in a trial."""
    monkeypatch.setenv("CONSENT_SYNC_ENDPOINT__TOKEN", "918273645")
    shop = Shop(tmp_path, platform.url)
    shop.write({5: YES})
    shop.init("empty")
    found = explained(shop, 5)
    assert len(found["requests"]) == 3
    assert "918273645" not in json.dumps(found)
    assert "918273645" not in people_text.explained(found)


def test_a_withdrawal_is_told_with_its_list_its_obligation_and_its_evidence(made: Made, platform: Standin) -> None:
    """P1 and blocked; what was received and acknowledged when; and after evidence, what binds no more."""
    shop = made({5: YES, 6: NO})
    digest = shop.withdraw({5: "sms push"}, request_ref="T-9")
    coming = explained(shop, 5)
    assert [(one["list"], one["channels"]) for one in coming["coming"]] == [(digest, scope_text(0b00010001))]
    assert [one["list"] for one in coming["withdrawals"]] == [digest], "it binds already"
    assert "which no run has taken in yet" in people_text.explained(coming)
    assert explained(shop, 6)["coming"] == []
    drain.drain(shop.settings, "drain", Watch())
    found = explained(shop, 5)
    assert found["coming"] == []
    assert rules(found) == ["P1", "P3", "P1", "P3"]
    assert [found["channels"][channel]["blocked"] for channel in CHANNELS] == [True, False, True, False]
    (withdrawal,), (obligation,) = found["withdrawals"], found["obligations"]
    assert (withdrawal["request_ref"], withdrawal["list"], withdrawal["basis"]) == ("T-9", digest, "consent-withdrawn")
    assert (obligation["source"], obligation["ended"]) == ("withdrawal", "acknowledged")
    assert found["would_send"] == "----"
    assert found["why_nothing"] == "the platform acknowledged all of it before"
    words = people_text.explained(found)
    assert f"list {digest[:12]}, reference T-9" in words
    assert "ended: acknowledged" in words
    ledger = shop.folder / "evidence.csv"
    later = datetime.now(UTC).isoformat()
    ledger.write_text(f"Client,channels,granted_at,method,evidence_ref\n5,sms,{later},form,E-1\n")
    withdrawing.reconsent(shop.settings, str(ledger), {})
    found = explained(shop, 5)
    assert rules(found) == ["P3", "P3", "P1", "P3"]
    assert found["would_send"] == "T-F-"
    assert "consented again to Sms" in people_text.explained(found)


def test_what_is_owed_is_sent_without_any_export(made: Made) -> None:
    """Without an export it is what a drain would send; the statements are not looked at, and it says so."""
    shop = made({5: YES, 6: YES})
    assert explained(shop, 5, with_export=False)["why_nothing"] == "no denial is owed now, and no export was looked at"
    absorbed(shop, {5: "sms"})
    found = explained(shop, 5, with_export=False)
    assert (found["would_send"], rules(found)[0], found["channels"]["Sms"]["owed"]) == ("F---", "P1", True)
    assert found["channels"]["Email"]["statement"] == "no export looked at"
    assert "no row of the export" not in people_text.explained(found)
    assert explained(shop, 5)["would_send"] == "F---", "and the run sends no grant along with it"


def test_a_client_that_nobody_knows(made: Made) -> None:
    """Neither in the export nor in the snapshot: P6 throughout, nothing sent."""
    found = explained(made({5: YES}), 77)
    assert rules(found) == ["P6"] * 4
    assert (found["known"], found["rows"], found["why_nothing"]) == (False, [], "nothing is asked for")
    assert "no row of the export names it" in people_text.explained(found)


def test_a_rejected_row_bars_a_client_from_grants(made: Made) -> None:
    """P4: its denials count, its grants are held, and the reason is there with the row."""
    shop = made({5: NO, 6: YES})
    shop.export.write_text("Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n5,true,perhaps,,\n6,1,1,1,1\n")
    found = explained(shop, 5)
    assert found["would_send"] == "----"
    assert "a row of this client was rejected" in found["why_not"]
    assert found["rows"][0]["text"] == "5,true,perhaps,,"


@pytest.mark.parametrize(
    ("guards", "first", "then", "guard"),
    [
        ("re_grants = 1", NO, YES, "re-grants"),
        ("new_grants = 1\nnew_grants_share = 0\nnew_grants_nights = 0", (None, None, None, None), YES, "new grants"),
        ("revocations = 1\nrevocations_share = 0", YES, NO, "revocations of Push"),
        ("changed = 1\nchanged_share = 0", YES, NO, "changed clients"),
    ],
)
def test_what_a_guard_holds_is_told_with_its_numbers(
    tmp_path: Path, platform: Standin, guards: str, first: Consent, then: Consent, guard: str
) -> None:
    """By this export, before it is run; afterwards also as the last run held it; and no more once it is approved."""
    shop = Shop(tmp_path, platform.url, guards=guards)
    crowd = dict.fromkeys(range(100, 300), (True, False, True, False))
    shop.write(crowd | dict.fromkeys(range(1, 9), first))
    shop.init("equal")
    assert sync_job.run(shop.settings).summary["planned"] == 0, "the first run after init is not judged by its ids"
    shop.write(crowd | dict.fromkeys(range(1, 9), then))
    found = explained(shop, 5)
    assert found["would_send"] == "----"
    push = found["channels"]["Push"]
    assert push["held"]
    assert f"8 {guard}, more than 1" in push["why"]
    assert found["why_nothing"] == "what would change is held"
    assert found["held"] == []
    report = sync_job.run(shop.settings)
    (held,) = explained(shop, 5)["held"]
    assert (held["run"], held["stated"][2]) == (report.summary["run"], "T" if then == YES else "F")
    assert f"held by run {report.summary['run']}" in people_text.explained(explained(shop, 5))
    what, count = next((what, count) for what, count in report.summary["approvable"].items() if count)
    approving.approve(shop.settings, report.summary["run"], what, count, reason="right", by="A")
    found = explained(shop, 5)
    assert found["would_send"] == ("TTTT" if then == YES else "FFFF")
    assert not found["channels"]["Push"]["held"]


def test_a_denial_that_is_due_waits_too_where_ids_look_renumbered(tmp_path: Path, platform: Standin) -> None:
    """Nothing but obligations goes then, not even what is merely to be sent once more; and that is the reason."""
    shop = Shop(tmp_path, platform.url, guards="changed = 1\nchanged_share = 0")
    shop.write(dict.fromkeys(range(1, 50), NO))
    shop.init("equal")
    sync_job.run(shop.settings)
    with shop.state(write=True) as state:
        held = state.holdings()
        due = np.where(held.client == 5, held.state, 0).astype(np.uint8)
        state.replace_holdings(Holdings(held.client, held.state, due), time.time())
    shop.write(dict.fromkeys(range(1, 40), NO) | dict.fromkeys(range(40, 50), YES))
    found = explained(shop, 5)
    assert (found["state"], found["due"], found["would_send"]) == ("FFFF", "FFFF", "----")
    assert "10 changed clients" in found["channels"]["Push"]["why"]
    assert found["why_nothing"] == "what would change is held"
    assert not explained(shop, 6)["channels"]["Push"]["held"]


def test_a_run_that_may_not_grant_says_why(tmp_path: Path, platform: Standin) -> None:
    """The doubt is named, and the rule is P4."""
    shop = Shop(tmp_path, platform.url)
    shop.config.write_text(shop.config.read_text().replace("[guards]", '[guards]\ngrants = "never"'))
    shop.write({5: NO})
    shop.init("equal")
    shop.write({5: YES})
    found = explained(shop, 5)
    assert rules(found) == ["P4"] * 4
    assert found["channels"]["Sms"]["why"] == "what the export says is held: the run may not grant"
    assert 'grants = "never"' in found["why_not"]


def test_a_refused_row_waits(tmp_path: Path) -> None:
    """What was sent, how often, when it is tried again; and that this is why nothing is sent now."""
    with running(Options(script=lambda number, client: Fault.REFUSE)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({5: (True, False, None, None)})
        shop.init("empty")
        sync_job.run(shop.settings)
        found = explained(shop, 5)
        assert (found["waiting"]["tries"], found["waiting"]["sent"]) == (1, "TF--")
        assert found["would_send"] == "----"
        assert found["why_nothing"] == "it was refused before, and waits for its next try"
        assert "refused 1 times" in people_text.explained(found)


def test_what_the_export_takes_back_is_owed_no_more(tmp_path: Path) -> None:
    """A revocation that was refused is owed, until a fresh export says allowed: then it is that which is sent."""
    with running(Options(script=lambda number, client: Fault.REFUSE)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({5: YES, 6: YES})
        shop.init("equal")
        shop.write({5: NO, 6: YES})
        sync_job.run(shop.settings)
        assert shop.owed() == {5: 0b01010101}
        shop.write({5: YES, 6: NO})
        found = explained(shop, 5)
        assert (rules(found), found["would_send"]) == (["P3"] * 4, "TTTT")
        assert not found["channels"]["Sms"]["owed"]
        assert found["may_be_granted"]


def test_an_absent_client_that_is_taken_as_denied(tmp_path: Path, platform: Standin) -> None:
    """Where the configuration says so, absence is the reason, and no row."""
    shop = Shop(tmp_path, platform.url)
    shop.config.write_text(shop.config.read_text().replace("[export]", '[export]\nabsent = "deny"'))
    shop.write(dict.fromkeys(range(1, 50), YES))
    shop.init("equal")
    shop.write(dict.fromkeys(range(2, 50), YES))
    found = explained(shop, 1)
    assert (rules(found), found["would_send"]) == (["P2"] * 4, "FFFF")
    assert "the export has the client no more" in found["channels"]["Sms"]["why"]
    assert found["channels"]["Sms"]["statement"] == "not in the export"


def test_an_erased_client(made: Made) -> None:
    """P0, though the export has it; a list that names it goes all the same."""
    shop = made({5: YES, 6: YES})
    forgetting.forget(shop.settings, forgetting.clients(shop.settings, [5], None), "", Watch())
    found = explained(shop, 5)
    assert found["forgotten"]
    assert rules(found) == ["P0"] * 4
    assert found["channels"]["Sms"]["statement"] == "allowed", "that is what the file says"
    assert (found["would_send"], found["why_nothing"]) == ("----", "the client was erased")
    assert "erased" in people_text.explained(found)
    absorbed(shop, {5: "sms"}, received_at=time.time())
    found = explained(shop, 5)
    assert (rules(found), found["would_send"]) == (["P1", "P0", "P0", "P0"], "F---")


def test_it_answers_during_a_run_and_changes_nothing(made: Made) -> None:
    """Without the lock, and without a trace in the state."""
    shop = made({5: YES})
    before = {path: path.read_bytes() for path in shop.settings.state.path.rglob("*") if path.is_file()}
    with lock.held(shop.settings.state.path):
        assert explained(shop, 5)["known"]
    assert explained(shop, 5)["known"]
    after = {path: path.read_bytes() for path in shop.settings.state.path.rglob("*") if path.is_file()}
    assert {path.name: text for path, text in after.items() if path.name != "lock"} == {
        path.name: text for path, text in before.items() if path.name != "lock"
    }


def test_a_parquet_export_shows_its_rows(made: Made) -> None:
    """Their mapped cells, with the row's number."""
    shop = made({5: YES, 6: NO})
    path = shop.folder / "export.parquet"
    pq.write_table(pa.csv.read_csv(shop.export), path)
    shop.config.write_text(shop.config.read_text().replace("export.csv", "export.parquet"))
    (row,) = explained(shop, 6)["rows"]
    assert (row["file"], row["text"]) == (str(path), "6,false,false,false,false")


def test_an_export_whose_age_the_command_line_tells(tmp_path: Path, platform: Standin) -> None:
    """As in a run, --as-of says it where the configuration leaves it to that."""
    shop = Shop(tmp_path, platform.url)
    shop.write({5: YES})
    shop.init("equal")
    shop.config.write_text(shop.config.read_text().replace('as_of = "none"', 'as_of = "flag"'))
    with pytest.raises(ConfigError, match="--as-of"):
        explained(shop, 5)
    found = explain.explain(shop.settings, 5, Watch(), with_export=True, as_of=time.time() - 40 * 3600)
    assert not found["may_be_granted"]
    assert "36" in found["why_not"]


def test_what_is_missing_is_an_error(tmp_path: Path, platform: Standin) -> None:
    """No state, or no export where one is named: exit 4 and 3, as everywhere."""
    shop = Shop(tmp_path, platform.url)
    with pytest.raises(NoStateError):
        explained(shop, 5)
    shop.write({5: YES})
    shop.init("equal")
    shop.export.unlink()
    with pytest.raises(ExportError):
        explained(shop, 5)


@pytest.mark.parametrize("guards", ["", "changed = 10\nchanged_share = 0"], ids=["guards", "renumbered"])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_explained_is_what_is_planned(tmp_path: Path, seed: int, guards: str) -> None:
    """Of clients in every situation: what would be sent is the plan's row, and each channel of it is its target."""
    faults = {Fault.REFUSE: 0.2, Fault.RESET_AFTER: 0.1}
    with running(Options(rates=faults, seed=seed, unknown_every=11)) as platform:
        loose = "re_grants = 8\nnew_grants = 5\nnew_grants_share = 0\nnew_grants_nights = 0\nrevocations = 6"
        shop = Shop(tmp_path, platform.url, guards=guards or f"{loose}\nrevocations_share = 0", linger_s=60)
        shop.config.write_text(shop.config.read_text().replace("attempts = 6", "attempts = 1"))
        first = people(90, seed)
        shop.write(first)
        shop.init("unknown")
        shop.withdraw({client: ("sms", "marketing", "all")[client % 3] for client in range(1000, 1090, 7)})
        sync_job.run(shop.settings)
        second = changed(first, 0.6, seed)
        shop.write(second | {5000 + client: YES for client in range(7)})
        with shop.export.open("a") as file:
            file.write("1003,perhaps,,,\n1004,true,true,true,true\n")
        sync_job.run(shop.settings)
        forgetting.forget(shop.settings, forgetting.clients(shop.settings, range(1010, 1022), None), "", Watch())
        absorbed(shop, {1030: "push", 1012: "sms"})
        out = tmp_path / "plan.parquet"
        planning.plan(shop.settings, Watch(), out, Wish())
        rows, _, _ = tables.read_saved_plan(out)
        planned = dict(zip(rows.client.tolist(), rows.sent.tolist(), strict=True))
        assert len(planned) > 0
        seen: set[str] = set()
        for client in [*range(1000, 1040), *range(1040, 1090, 3), 5000, 5006, 9999]:
            found = explain.explain(shop.settings, client, Watch(), with_export=True)
            assert found["would_send"] == letters(planned.get(client, 0)), client
            for letter, target in zip(found["would_send"], targets(found), strict=True):
                assert letter in ("-", target), (client, found["would_send"], targets(found))
            assert bool(found["why_nothing"]) == (client not in planned)
            assert set(found["would_send"]) <= set(LETTERS)
            seen |= {*rules(found), found["why_nothing"]}
        assert "it waits" not in seen, "there is a better word for it"
        assert seen >= {"P0", "P1", "P2", "P3", "P6", "the platform acknowledged all of it before"}


# The commands about single clients


SIGNED = ("--reason", "asked by letter", "--by", "Ann")


def test_the_commands_print_words_or_one_object(made: Made, cli: Cli) -> None:
    """`explain`, `history`, `compare` and `forget`, each with its exit code."""
    shop = made({5: YES, 6: NO})
    shop.withdraw({5: "sms"})
    drain.drain(shop.settings, "drain", Watch())
    at = ("--config", shop.config)
    dump = shop.folder / "dump.csv"
    for name, arguments, code, words in (
        ("explain", ("5",), 0, "a withdrawal covers it"),
        ("explain", ("6", shop.export), 0, "the platform acknowledged all of it before"),
        ("history", ("5",), 0, "1 requests in the reports that are kept"),
        ("compare", (dump,), 1, "1 clients withdrew and are allowed on the platform"),
        ("forget", ("--client", "5", "--request-ref", "R-77", *SIGNED), 0, "1 client erased"),
        ("forget", ("--client", "6", "--client", "7", *SIGNED), 0, "2 clients erased"),
    ):
        dump.write_text("Client,AllowSms\n5,true\n")
        found = cli(name, *arguments, *at, "--json")
        assert (found.code, found.err) == (code, "")
        assert isinstance(json.loads(found.out), dict)
        found = cli(name, *arguments, *at)
        assert (found.code, found.err) == (code, "")
        assert words in found.out


def test_the_commands_refuse_what_makes_no_sense(made: Made, cli: Cli) -> None:
    """Exit 2: no client, an id that no platform has, an age that nobody asked for."""
    shop = made({5: YES})
    for arguments in (("explain", "0"), ("history", "abc"), ("forget",), ("explain", "5", "--as-of", "2026-01-01")):
        code, out, err = cli(*arguments, "--config", shop.config)
        assert (code, out) == (2, "")
        assert err
