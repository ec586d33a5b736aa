"""The accidents that tools of this kind are known for: what is sent, what is not, and what is said of it."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import ConfigError, Exit, ExportError, NoStateError, RestoredStateError, StateError
from sync_job.runs import approving, drain, forgetting, init, night, restoring, withdrawing
from sync_job.runs.decide import Wish
from sync_job.runs.report import Report
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.shop import Consent, Shop, holds

YES, NO = (True, True, True, True), (False, False, False, False)
SOME = (True, False, True, False)
HOUR = 3600.0


def made(folder: Path, platform: Standin, first: Mapping[int, Consent], *, as_of: str = "mtime") -> Shop:
    """Return a shop whose platform holds what its export says, with all guards at their defaults."""
    shop = Shop(folder, platform.url, guards="")
    shop.config.write_text(shop.config.read_text().replace('as_of = "none"', f'as_of = "{as_of}"'))
    shop.write(first)
    shop.init("equal")
    return shop


def crowd(**others: Consent) -> dict[int, Consent]:
    """Return two thousand clients, some of whom allow something; *others* are named c1, c2 and so on."""
    people = {client: SOME if client % 2 else NO for client in range(1, 2001)}
    return people | {int(name[1:]): flags for name, flags in others.items()}


def granted(platform: Standin) -> set[int]:
    """Return who was sent an *allowed*."""
    return {entry.client for entry in platform.platform.log if any(entry.flags)}


def tripped(report: Report) -> set[str]:
    """Return the guards that tripped, and the doubts about the export's freshness."""
    summary = report.summary
    return {one["guard"] for one in summary["guards"]} | {one["doubt"] for one in summary["doubts"]}


def test_a_resync_resubscribes_leavers(tmp_path: Path, platform: Standin) -> None:
    """Whoever withdrew stays out, whatever the CRM exports; and is told to the CRM in blocked.csv."""
    shop = made(tmp_path, platform, crowd(c5=YES, c7=YES))
    shop.withdraw({5: "all", 7: "sms"})
    assert drain.drain(shop.settings, "drain", Watch()) is not None
    for _ in range(2):
        report = sync_job.run(shop.settings)
        assert report.summary["decided"]["blocked"] == 2
    assert granted(platform) == set()
    assert holds(platform.platform)[5] == NO
    assert holds(platform.platform)[7] == (False, None, None, None)


def test_an_old_file_applied_again(tmp_path: Path, platform: Standin) -> None:
    """Last night's file, by its time or by its content: what was denied since stays denied."""
    for as_of in ("mtime", "none"):
        folder = tmp_path / as_of
        folder.mkdir()
        shop = made(folder, platform, crowd(c5=YES), as_of=as_of)
        old = shop.export.read_bytes()
        before = shop.export.stat().st_mtime
        shop.write(crowd(c5=NO))
        assert sync_job.run(shop.settings).exit_code is Exit.OK
        shop.export.write_bytes(old)
        os.utime(shop.export, (before - HOUR, before - HOUR))
        report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.HELD
        assert tripped(report) == ({"older than the last one", "seen before"} if as_of == "mtime" else {"seen before"})
        assert report.summary["decided"]["held"] == 1
    assert granted(platform) == set()


def test_a_blank_cell_clears_no_consent(tmp_path: Path, platform: Standin) -> None:
    """Nothing stated is neither yes nor no; when many fall silent, somebody is told."""
    shop = made(tmp_path, platform, crowd(), as_of="none")
    people = crowd()
    for client in range(1, 200, 2):
        people[client] = (None, False, None, False)
    shop.write(people)
    report = sync_job.run(shop.settings)
    assert platform.requests == 0
    assert report.exit_code is Exit.HELD
    assert tripped(report) == {"lost consents"}
    assert report.summary["grants"]["lost"] == 100


def test_a_checkbox_exported_as_one_or_blank(tmp_path: Path, platform: Standin) -> None:
    """A column that never says no is refused until somebody says what its blanks mean."""
    shop = Shop(tmp_path, platform.url, guards="")
    ticks = {client: (True if client % 2 else None, True, False, False) for client in range(1, 301)}
    shop.write(ticks)
    with pytest.raises(ExportError, match=r"'AllowSms' is blank in 150 of 300 rows and never says no"):
        shop.init("equal")
    for said, denied in (("denied", 150), ("nothing", 0)):
        folder = tmp_path / said
        folder.mkdir()
        again = Shop(folder, platform.url, guards="", more=f'[export.blank]\nAllowSms = "{said}"')
        again.write(ticks)
        again.init("unknown")
        before = len(platform.platform.log)
        sync_job.run(again.settings)
        sent = [entry.flags[0] for entry in platform.platform.log[before:]]
        assert sent.count(False) == denied
        assert not any(sent)


def test_a_boolean_column_inverted_by_a_mapping_error(tmp_path: Path, platform: Standin) -> None:
    """DoNotSms mapped to AllowSms: half would be granted, half revoked, and neither is."""
    shop = made(tmp_path, platform, crowd())
    sync_job.run(shop.settings)
    shop.write({client: (not flags[0], *flags[1:]) for client, flags in crowd().items()})
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.HELD
    assert {"re-grants", "revocations", "changed clients"} <= tripped(report)
    assert platform.requests == 0


def test_an_export_without_the_opt_out_column(tmp_path: Path, platform: Standin) -> None:
    """On a first look it is an error; on a later night it grants nothing, and says why."""
    shop = made(tmp_path, platform, crowd(c5=NO, c6=YES))
    rows = [f"{c},{int(bool(f[1]))},{int(bool(f[2]))},{int(bool(f[3]))}" for c, f in crowd(c5=YES, c6=NO).items()]
    shop.export.write_text("\n".join(["Client,AllowEmail,AllowPush,AllowEmailOnlineCheque", *rows]) + "\n")
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.HELD
    assert tripped(report) == {"missing column"}
    assert granted(platform) == set()
    assert holds(platform.platform) == {6: (None, False, False, False)}


def test_an_erased_person_comes_back(tmp_path: Path, platform: Standin) -> None:
    """The CRM exports a forgotten client again: nothing is sent, nothing is kept; a list still may."""
    shop = made(tmp_path, platform, crowd(c5=YES))
    forgetting.forget(shop.settings, forgetting.clients(shop.settings, [5], None), "R-1", Watch())
    before = platform.requests
    report = sync_job.run(shop.settings)
    assert report.summary["decided"]["forgotten"] == 1
    assert platform.requests == before
    with shop.state() as state:
        assert 5 not in state.holdings().client
    shop.withdraw({5: "all"})
    sync_job.run(shop.settings)
    assert platform.platform.log[-1].client == 5
    assert granted(platform) == set()


def test_a_retry_limit_strands_no_opt_out(tmp_path: Path) -> None:
    """Whatever the platform answers, and however often, an opt-out is sent until it is acknowledged."""
    with running(Options(script=lambda number, client: Fault.ERROR_BEFORE if number <= 6 else None)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.config.write_text(shop.config.read_text().replace("attempts = 6", "attempts = 1"))
        shop.write({5: YES})
        shop.init("equal")
        shop.withdraw({5: "all"})
        for _ in range(8):
            sync_job.run(shop.settings)
            if not shop.owed():
                break
        assert shop.owed() == {}
        assert holds(platform.platform)[5] == NO


def test_a_mass_opt_out_by_a_truncated_file(tmp_path: Path, platform: Standin) -> None:
    """Half a file is no statement of those whom it lacks; also where absence is said to mean a denial."""
    for absent in ("report", "deny"):
        folder = tmp_path / absent
        folder.mkdir()
        shop = made(folder, platform, crowd())
        shop.config.write_text(shop.config.read_text().replace("[export]", f'[export]\nabsent = "{absent}"'))
        text = shop.export.read_text().splitlines(keepends=True)
        shop.export.write_text("".join(text[:1000]))
        report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.HELD
        assert tripped(report) == {"shrunken", "shrinkage"}
    assert platform.requests == 0
    shop.export.write_text("".join(text[:1990]))
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.OK, "ten fewer are no shrinkage, and absence is a denial here"
    assert platform.requests == 5, "those of the eleven who allowed something"


def test_a_lost_state_folder_is_not_taken_for_a_first_run(tmp_path: Path, platform: Standin) -> None:
    """Nothing is sent without state; and a new one is not made without the withdrawals of the old one."""
    shop = made(tmp_path, platform, crowd(c5=YES))
    shop.withdraw({5: "all"})
    sync_job.run(shop.settings)
    shutil.rmtree(shop.settings.state.path)
    before = platform.requests
    with pytest.raises(NoStateError, match="no state"):
        sync_job.run(shop.settings)
    with pytest.raises(StateError, match="1 person who withdrew"):
        init.init(shop.settings, "unknown", lambda grants: grants, Watch())
    init.init(shop.settings, "unknown", lambda grants: grants, Watch(), withdrawals=shop.listing({5: "all"}))
    sync_job.run(shop.settings)
    assert platform.requests > before
    assert granted(platform) == set()


def test_a_month_old_copy_of_the_crm(tmp_path: Path, platform: Standin) -> None:
    """A restored CRM exports consents that were taken back since, with today's date: the re-grants are held."""
    first = crowd(**{f"c{client}": YES for client in range(1, 60)})
    shop = made(tmp_path, platform, first)
    since = first | dict.fromkeys(range(1, 31), NO)
    shop.write(since)
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    shop.write(first)
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.HELD
    assert {"re-grants", "seen before"} & tripped(report)
    assert granted(platform) == set()
    os.utime(shop.export, (time.time() - 31 * 24 * HOUR,) * 2)
    assert "too old" in tripped(sync_job.run(shop.settings))


def test_a_wrong_list_taken_in(tmp_path: Path, platform: Standin) -> None:
    """Void by two people it binds no more; who comes back does so by approval, by number."""
    shop = made(tmp_path, platform, crowd(**{f"c{client}": YES for client in range(1, 40)}))
    digest = shop.withdraw(dict.fromkeys(range(1, 31), "all"))
    drain.drain(shop.settings, "drain", Watch())
    withdrawing.void(shop.settings, digest[:12], reason="another brand's list", by="A", approved_by="B")
    report = sync_job.run(shop.settings)
    assert tripped(report) == {"re-grants"}
    assert granted(platform) == set()
    with pytest.raises(ConfigError, match="held 30 clients' grants, not 29"):
        approving.approve(shop.settings, report.summary["run"], "grants", 29, reason="void", by="A")
    approving.approve(shop.settings, report.summary["run"], "grants", 30, reason="the list was void", by="A")
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.OK
    assert report.summary["approvals"][0]["reason"] == "the list was void"
    assert granted(platform) == set(range(1, 31))
    assert holds(platform.platform)[5] == YES


def test_an_approval_is_spent_once(tmp_path: Path, platform: Standin) -> None:
    """Who was granted by it and said no since is a new case: the old approval cannot be given again."""
    no, yes = dict.fromkeys(range(1, 31), NO), dict.fromkeys(range(1, 31), YES)
    shop = made(tmp_path, platform, crowd() | no)
    shop.write(crowd() | yes)
    first = sync_job.run(shop.settings).summary["run"]
    given = approving.approve(shop.settings, first, "grants", 30, reason="a form", by="A")
    assert approving.approve(shop.settings, first, "grants", 30, reason="again", by="A") == given, "it is one approval"
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert granted(platform) == set(range(1, 31))
    shop.write(crowd() | no)
    sync_job.run(shop.settings)
    before = len(platform.platform.log)
    shop.write(crowd() | yes)
    assert sync_job.run(shop.settings).exit_code is Exit.HELD
    with pytest.raises(ConfigError, match=f"Run {first} held nothing"):
        approving.approve(shop.settings, first, "grants", 30, reason="again", by="A")
    assert not any(any(entry.flags) for entry in platform.platform.log[before:])


def test_a_backup_from_before_a_withdrawal(tmp_path: Path, platform: Standin) -> None:
    """It sends nothing but lists until somebody says what came in since; then every denial again, before any grant."""
    shop = made(tmp_path, platform, crowd(c5=YES, c6=YES))
    shutil.copytree(shop.settings.state.path, tmp_path / "backup")
    shop.withdraw({5: "all"})
    sync_job.run(shop.settings)
    shutil.rmtree(shop.settings.state.path)
    shutil.copytree(tmp_path / "backup", shop.settings.state.path)
    with pytest.raises(RestoredStateError, match="lacks 1 person of the 1 who withdrew"):
        sync_job.run(shop.settings)
    shop.withdraw({6: "sms"})
    assert drain.drain(shop.settings, "drain", Watch()) is not None, "a list is sent all the same"
    with pytest.raises(RestoredStateError):
        sync_job.run(shop.settings)
    found = restoring.restored(shop.settings, shop.listing({5: "all"}), "operations", Watch())
    assert found["withdrawals"] == 2
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.OK
    assert granted(platform) == set()


def test_a_backup_from_before_a_night(tmp_path: Path, platform: Standin) -> None:
    """Nothing withdrawn is missing: every denial is sent again, and nothing is granted until somebody says so."""
    shop = made(tmp_path, platform, crowd())
    shutil.copytree(shop.settings.state.path, tmp_path / "backup")
    shop.write(crowd(c4=YES))
    sync_job.run(shop.settings)
    assert granted(platform) == {4}
    shutil.rmtree(shop.settings.state.path)
    shutil.copytree(tmp_path / "backup", shop.settings.state.path)
    shop.write(crowd(c4=YES, c8=YES))
    before = platform.requests
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.HELD
    assert tripped(report) == {"restored state"}
    assert granted(platform) == {4}
    assert platform.requests - before == 2000
    restoring.restored(shop.settings, None, "operations", Watch())
    assert sync_job.run(shop.settings).exit_code is Exit.OK
    assert granted(platform) == {4, 8}


def test_the_same_file_as_last_night(tmp_path: Path, platform: Standin) -> None:
    """A green run that did nothing: said in words, and with --require-new an error."""
    shop = made(tmp_path, platform, crowd())
    report = sync_job.run(shop.settings)
    assert any("the same file as last time" in reason for reason in report.summary["reasons"])
    assert report.exit_code is Exit.OK
    report = night.run(shop.settings, Wish(require_new=True), Watch())
    assert report.exit_code is Exit.EXPORT


def test_ids_that_were_renumbered(tmp_path: Path, platform: Standin) -> None:
    """Everybody's consent would go to somebody else: nothing but obligations is sent."""
    people = {client: YES if client % 3 else NO for client in range(1, 5001)}
    shop = made(tmp_path, platform, people)
    sync_job.run(shop.settings)
    shop.withdraw({4000: "sms"})
    shop.write({client + 1: flags for client, flags in people.items()})
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.HELD
    assert "changed clients" in tripped(report)
    assert [(entry.client, entry.flags[0]) for entry in platform.platform.log] == [(4000, False)]
    assert report.summary["approvable"]["clients"] == 5000


def test_many_unreadable_rows(tmp_path: Path, platform: Standin) -> None:
    """When a column's spelling changed, what can be read may deny and may not grant."""
    shop = made(tmp_path, platform, crowd())
    text = shop.export.read_text().splitlines(keepends=True)
    text[2] = "2,true,true,true,true\n"
    shop.export.write_text("".join(text) + "".join(f"{9000 + row},maybe,true,true,true\n" for row in range(60)))
    report = sync_job.run(shop.settings)
    assert tripped(report) == {"rejects"}
    assert report.exit_code is Exit.HELD
    assert platform.requests == 0


def test_a_configuration_that_cannot_grant(tmp_path: Path, platform: Standin) -> None:
    """`grants = "never"` holds by construction, without an alarm."""
    shop = Shop(tmp_path, platform.url, guards='grants = "never"')
    shop.write(crowd(c5=NO))
    shop.init("equal")
    shop.write(crowd(c5=YES, c7=NO))
    report = sync_job.run(shop.settings)
    assert report.exit_code is Exit.OK
    assert granted(platform) == set()
    assert holds(platform.platform) == {7: NO}
