"""What a reviewer with a fresh eye tried to get past the rules with: old plans, several targets, bad moments."""

import contextlib
import shutil
import threading
import time
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import ConfigError, Exit, RestoredStateError, StateError
from sync_job.ledger import files
from sync_job.runs import approving, drain, forgetting, night, planning, restoring, withdrawing
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.contract import Answer
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.forked import Forked
from tests.shop import FIELDS, Shop, holds

YES, NO = (True, True, True, True), (False, False, False, False)


def granted(platform: Standin) -> set[int]:
    """Return who was sent an *allowed*."""
    return {entry.client for entry in platform.platform.log if any(entry.flags)}


def planned(shop: Shop) -> Path:
    """Return a plan of the export as it is."""
    out = shop.folder / "tonight.plan"
    planning.plan(shop.settings, Watch(), out, Wish())
    return out


def test_a_plan_is_not_sent_after_another_export_was_applied(tmp_path: Path, platform: Standin) -> None:
    """The newer export says no, which sends nothing: the plan of the older one must not say yes after it."""
    shop = Shop(tmp_path, platform.url)
    shop.write({5: NO, 6: YES})
    shop.init("equal")
    shop.write({5: YES, 6: YES})
    plan = planned(shop)
    shop.write({5: NO, 6: YES})
    assert sync_job.run(shop.settings).summary["planned"] == 0
    with pytest.raises(ConfigError):
        planning.apply(shop.settings, plan, Watch())
    assert granted(platform) == set()


def test_a_plan_grants_nothing_to_who_was_forgotten_since(tmp_path: Path, platform: Standin) -> None:
    """An erased client that the snapshot never had leaves no trace there: the plan must not bring it back."""
    shop = Shop(tmp_path, platform.url)
    shop.write({6: YES})
    shop.init("equal")
    shop.write({5: YES, 6: YES})
    plan = planned(shop)
    forgetting.forget(shop.settings, forgetting.clients(shop.settings, [5], None), "R-1", Watch())
    with contextlib.suppress(ConfigError):
        planning.apply(shop.settings, plan, Watch())
    assert granted(platform) == set()
    with shop.state() as state:
        assert 5 not in state.holdings().client


def test_a_plan_does_not_undo_what_was_acknowledged_since(tmp_path: Path, platform: Standin) -> None:
    """A withdrawal that is sent before a plan's rows stays acknowledged in the snapshot."""
    shop = Shop(tmp_path, platform.url)
    shop.write({5: (True, None, None, None), 6: YES})
    shop.init("equal")
    shop.write({5: (True, True, None, None), 6: YES})
    plan = planned(shop)
    shop.withdraw({5: "sms"})
    planning.apply(shop.settings, plan, Watch())
    found = withdrawing.report(shop.settings, 0, time.time() + 1)
    assert found["withdrawn_and_allowed"] == 0
    assert holds(platform.platform)[5][0] is False


def test_a_plan_grants_nothing_on_a_restored_state(tmp_path: Path, platform: Standin) -> None:
    """A plan that was made before the backup came back is not proof of anything."""
    shop = Shop(tmp_path, platform.url)
    shop.write({6: YES})
    shop.init("equal")
    shop.write({5: YES, 6: YES})
    shutil.copytree(shop.settings.state.path, tmp_path / "backup")
    plan = planned(shop)
    sync_job.run(shop.settings, restrict_only=True)
    shutil.rmtree(shop.settings.state.path)
    shutil.copytree(tmp_path / "backup", shop.settings.state.path)
    with contextlib.suppress(ConfigError):
        planning.apply(shop.settings, plan, Watch())
    assert granted(platform) == set()


def test_one_broken_target_does_not_keep_the_others_waiting(tmp_path: Path, platform: Standin, cli: Cli) -> None:
    """`drain` of several brands sends what is owed at each that can be sent, and ends in the gravest code."""
    shops = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shop = Shop(tmp_path / name, platform.url)
        shop.write({5: YES})
        shop.init("equal")
        shops.append(shop)
    shops[1].withdraw({5: "all"})
    shutil.rmtree(shops[0].settings.state.path)
    said = cli("drain", "-c", shops[0].config, "-c", shops[1].config)
    assert said.code == Exit.STATE, said.err
    assert shops[1].owed() == {}
    assert platform.requests == 1


def test_some_rows_that_always_end_badly_do_not_stop_the_export(tmp_path: Path) -> None:
    """Opt-outs of clients on whom the platform stumbles are tried for ever; everybody else's denials go out."""

    def script(number: int, client: int) -> Fault | None:
        return Fault.ERROR_BEFORE if client <= 6 else None

    with running(Options(script=script)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.config.write_text(shop.config.read_text().replace("attempts = 6", "attempts = 1"))
        people = dict.fromkeys(range(1, 301), YES)
        shop.write(people)
        shop.init("equal")
        shop.withdraw(dict.fromkeys(range(1, 7), "all"))
        shop.write(people | dict.fromkeys(range(100, 120), NO))
        for _ in range(3):
            sync_job.run(shop.settings)
        assert {client for client, flags in holds(platform.platform).items() if flags == NO} >= set(range(100, 120))


@pytest.mark.parametrize(("option", "word"), [("--scope", "smss"), ("--basis", "because"), ("--scope", ",")])
def test_a_word_that_means_nothing_is_an_error_of_use(
    tmp_path: Path, platform: Standin, cli: Cli, option: str, word: str
) -> None:
    """A wrong --scope or --basis ends in 2 with the words there are, not in a traceback."""
    shop = Shop(tmp_path, platform.url)
    shop.write({5: YES})
    shop.init("equal")
    (tmp_path / "list.csv").write_text("5\n")
    said = cli("opt-out", tmp_path / "list.csv", "--received-at", "2026-11-24", "-c", shop.config, option, word)
    assert said.code == Exit.CONFIG, said.err
    assert "Traceback" not in said.err


def test_who_is_to_be_erased_is_granted_nothing_meanwhile(tmp_path: Path) -> None:
    """A denial is still owed to a client who asked to be erased; the CRM's *allowed* does not overtake it."""
    refusing = True

    def script(number: int, client: int) -> Fault | None:
        return Fault.REFUSE if refusing and client == 5 else None

    with running(Options(script=script)) as platform:
        shop = Shop(tmp_path, platform.url)
        people = dict.fromkeys(range(1, 31), YES)
        shop.write(people)
        shop.init("equal")
        shop.write(people | {5: NO})
        sync_job.run(shop.settings)
        assert shop.owed() == {5: 0b1010101}
        forgetting.forget(shop.settings, forgetting.clients(shop.settings, [5], None), "R-1", Watch())
        refusing = False
        shop.write(people | {6: NO})
        sync_job.run(shop.settings)
        assert granted(platform) == set()


def test_a_state_that_lost_withdrawals_does_not_pass_for_a_merely_older_one(tmp_path: Path, platform: Standin) -> None:
    """Other lists that come in meanwhile bring the count up again, and not the withdrawals that are missing."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 31), YES))
    shop.init("equal")
    shutil.copytree(shop.settings.state.path, tmp_path / "backup")
    for client in range(5, 10):
        shop.withdraw({client: "all"})
        sync_job.run(shop.settings)
    shutil.rmtree(shop.settings.state.path)
    shutil.copytree(tmp_path / "backup", shop.settings.state.path)
    with pytest.raises(RestoredStateError):
        sync_job.run(shop.settings)
    shop.withdraw(dict.fromkeys(range(20, 28), "all"))
    assert drain.drain(shop.settings, "drain", Watch()) is not None
    with pytest.raises(RestoredStateError):
        sync_job.run(shop.settings)
    with pytest.raises(ConfigError, match="5 people who withdrew are missing"):
        restoring.restored(shop.settings, None, "operations", Watch())
    restoring.restored(shop.settings, shop.listing(dict.fromkeys(range(5, 10), "all")), "operations", Watch())
    sync_job.run(shop.settings)
    assert granted(platform) == set()


def test_a_file_that_nobody_took_in_does_not_keep_lists_waiting(tmp_path: Path, platform: Standin) -> None:
    """What cannot be read in the inbox is said (exit 4); the good lists beside it are sent all the same."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 31), YES))
    shop.init("equal")
    (shop.settings.state.path / "inbox" / "0.parquet").write_bytes(b"not a list")
    shop.withdraw({5: "all"})
    with contextlib.suppress(StateError):
        drain.drain(shop.settings, "drain", Watch())
    assert shop.owed() == {}
    assert platform.requests == 1


def test_a_report_that_cannot_be_written_does_not_keep_opt_outs_waiting(tmp_path: Path, platform: Standin) -> None:
    """The folder of reports is gone or full: what is owed is sent all the same, and it is said."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 31), YES))
    shop.init("equal")
    reports = shop.settings.report.path
    shutil.rmtree(reports)
    reports.write_text("")
    for client in (5, 6):
        shop.withdraw({client: "all"})
        with contextlib.suppress(StateError):
            drain.drain(shop.settings, "drain", Watch())
    assert holds(platform.platform) == {5: NO, 6: NO}


def test_a_reader_of_the_ledger_does_not_end_a_run(tmp_path: Path, platform: Standin) -> None:
    """Somebody exports the withdrawals for a while: a run that commits meanwhile waits, and does not die."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 31), YES))
    shop.init("equal")
    ledger = files.connect_reading(shop.settings.state.path / "ledger.db")
    rows = ledger.execute("SELECT * FROM about, sqlite_master")
    rows.fetchone()
    shop.write(dict.fromkeys(range(1, 31), NO))
    ended: list[StateError] = []

    def act() -> None:
        try:
            sync_job.run(shop.settings)
        except StateError as exc:
            ended.append(exc)

    thread = threading.Thread(target=act)
    thread.start()
    time.sleep(6)
    rows.close()
    ledger.close()
    thread.join()
    assert ended == []


def test_what_was_closed_by_hand_stays_closed(tmp_path: Path) -> None:
    """The platform does not know the client, and a person has closed it: the next night does not open it again."""
    with running(Options(unknown_every=5, unknown=Answer(8, "no such member"))) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(dict.fromkeys(range(1, 31), YES))
        shop.init("equal")
        shop.withdraw({5: "all"})
        sync_job.run(shop.settings)
        assert set(shop.owed()) == {5}
        withdrawing.close(shop.settings, 5, reason="no such member", by="DPO")
        report = night.run(shop.settings, Wish(retry=True), Watch())
        assert report.summary["outcomes"]["refused"] == 1
        assert shop.owed() == {}


def test_a_held_grant_takes_back_no_denial_that_is_owed(tmp_path: Path) -> None:
    """The export says allowed again of more people than a guard lets through: what is owed to them stays owed."""

    def script(number: int, client: int) -> Fault | None:
        return Fault.REFUSE if client <= 20 else None

    with running(Options(script=script)) as platform:
        shop = Shop(tmp_path, platform.url, guards="re_grants = 2")
        people = dict.fromkeys(range(1, 101), YES)
        shop.write(people)
        shop.init("equal")
        shop.write(people | dict.fromkeys(range(1, 21), NO))
        sync_job.run(shop.settings)
        owed = shop.owed()
        assert set(owed) == set(range(1, 21))
        shop.write(people | {99: NO})
        report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.HELD
        assert report.summary["approvable"]["grants"] == 20
        assert shop.owed() == owed
        approving.approve(shop.settings, report.summary["run"], "grants", 20, reason="they came back", by="A")
        sync_job.run(shop.settings)
        assert shop.owed() == {}


def test_a_sent_plan_offers_nothing_for_approval_that_cannot_be_approved(tmp_path: Path, platform: Standin) -> None:
    """What a plan left out is approved of a run that held it."""
    shop = Shop(tmp_path, platform.url, guards="re_grants = 2")
    people = dict.fromkeys(range(1, 31), NO) | {50: YES}
    shop.write(people)
    shop.init("equal")
    shop.write(people | dict.fromkeys(range(1, 11), YES))
    report = planning.apply(shop.settings, planned(shop), Watch())
    assert report.exit_code is Exit.HELD
    assert report.summary["approvable"] == {}


def test_a_withdrawal_on_the_day_of_a_consent_is_not_lost(tmp_path: Path, platform: Standin) -> None:
    """Consent at ten, withdrawal at noon, in a list that says the day alone: in doubt the withdrawal binds."""
    shop = Shop(tmp_path, platform.url)
    shop.write(dict.fromkeys(range(1, 31), YES))
    shop.init("equal")
    day = (time.time() - 86400) // 86400 * 86400
    shop.withdraw({5: "all"}, received_at=day - 86400)
    sync_job.run(shop.settings)
    at = time.strftime("%Y-%m-%dT10:00:00Z", time.gmtime(day))
    (tmp_path / "back.csv").write_text(f"Client,channels,granted_at,method,evidence_ref\n5,all,{at},form,E-1\n")
    assert withdrawing.reconsent(shop.settings, str(tmp_path / "back.csv"), {})["lifted"] == 1
    digest = shop.withdraw({5: "all"}, received_at=day)
    drain.drain(shop.settings, "drain", Watch())
    sync_job.run(shop.settings)
    assert holds(platform.platform)[5] == NO
    assert digest


def test_a_dead_run_of_a_backup_does_not_settle_what_is_to_be_denied_again(tmp_path: Path) -> None:
    """A backup made in the middle of a run: folding that run does not take back that every denial is due again."""
    with running(Options(workers=2, service_ms=30)) as platform:
        blanks = "".join(f'{name} = "nothing"\n' for name in FIELDS)
        shop = Shop(tmp_path, platform.url, concurrency=2, more=f"[export.blank]\n{blanks}")
        clients = range(1, 121)
        shop.write(dict.fromkeys(clients, (False, None, None, None)))
        shop.init("equal")
        shop.write(dict.fromkeys(clients, (None, False, None, None)))
        run = Forked("run", "--config", shop.config)
        while platform.requests < 20 and run.poll() is None:
            time.sleep(0.005)
        run.kill()
        run.wait()
        shutil.copytree(shop.settings.state.path, tmp_path / "backup")
        platform.capacity(workers=0)  # what follows need not take its time
        sync_job.run(shop.settings)
        shutil.rmtree(shop.settings.state.path)
        shutil.copytree(tmp_path / "backup", shop.settings.state.path)
        before = len(platform.platform.log)
        sync_job.run(shop.settings)
        assert {entry.client for entry in platform.platform.log[before:] if entry.flags[0] is False} == set(clients)


def test_a_second_folder_of_keys_does_not_bring_back_who_was_forgotten(tmp_path: Path, platform: Standin) -> None:
    """Another configuration of the same state without its tombstones is refused, or grants those clients nothing."""
    shop = Shop(tmp_path, platform.url)
    shop.write({5: YES, 6: YES})
    shop.init("equal")
    forgetting.forget(shop.settings, forgetting.clients(shop.settings, [5], None), "R-1", Watch())
    shop.config.write_text(shop.config.read_text() + '\n[state]\nkeys = "other_keys"\n')
    with contextlib.suppress(StateError):
        sync_job.run(shop.settings)
        restoring.restored(shop.settings, None, "operations", Watch())
        shop.write({5: YES, 6: YES, 7: NO})
        sync_job.run(shop.settings)
    assert granted(platform) == set()


def test_a_part_of_no_age_takes_back_no_denial_that_is_owed(tmp_path: Path) -> None:
    """Last night's rows fed as a part are no fresh *allowed*: the revocation that is owed since stays owed."""
    refusing = True

    def script(number: int, client: int) -> Fault | None:
        return Fault.REFUSE if refusing and client == 5 else None

    with running(Options(script=script)) as platform:
        shop = Shop(tmp_path, platform.url)
        people = dict.fromkeys(range(1, 31), YES)
        shop.write(people)
        shop.init("equal")
        shop.write(people | {5: NO})
        sync_job.run(shop.settings)
        assert set(shop.owed()) == {5}
        refusing = False
        shop.write({5: YES})
        night.run(shop.settings, Wish(part=True), Watch())
        assert granted(platform) == set()
