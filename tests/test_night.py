"""A night from export to platform, over real sockets."""

import csv
import json
import time
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sync_job
from sync_job.config import Settings
from sync_job.errors import Exit, ExportError
from sync_job.runs import init
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.shop import Consent, People, Shop, changed, expected, holds, people

SAMPLE = Path(__file__).parent.parent / "sample_data"
_TOKENS = {
    **dict.fromkeys(("true", "1", "да", "y"), True),
    **dict.fromkeys(("false", "0", "нет", "n"), False),
    "": None,
}


def _merged(rows: list[dict[str, str]]) -> tuple[People, set[int]]:
    """Return what a sample export says by the rules, told row by row, and who may not be granted anything."""
    names = ("SmsConsent", "EmailConsent", "PushConsent", "ReceiptByEmail")
    said: dict[int, list[tuple[str, list[bool | None]]]] = defaultdict(list)
    barred = set()
    for row in rows:
        cell = row["CustomerId"].strip()
        if not (cell.isdigit() and 1 <= int(cell) < 2**31):
            continue
        client = int(cell)
        if None in row or None in row.values():
            barred.add(client)
            said[client].append(("", [None] * 4))
            continue
        tokens = [row[name].strip().lower() for name in names]
        flags = [_TOKENS.get(token) for token in tokens]
        if any(token not in _TOKENS for token in tokens):
            barred.add(client)
            flags = [False if flag is False else None for flag in flags]
        said[client].append((row["ConsentChangedAt"], flags))
    found: People = {}
    for client, statements in said.items():
        merged: list[bool | None] = []
        for channel in range(4):
            stated = [(when, flags[channel]) for when, flags in statements if flags[channel] is not None]
            if all(when for when, _ in stated):
                newest = max((when for when, _ in stated), default="")
                stated = [one for one in stated if one[0] == newest]
            flags_left = {flag for _, flag in stated}
            merged.append(False if False in flags_left else True if True in flags_left else None)
        found[client] = tuple(merged)
    return found, barred


def _sample_nights() -> tuple[tuple[People, set[int]], tuple[People, set[int]]]:
    with (SAMPLE / "2026-11-21.csv").open(newline="") as file:
        first = _merged(list(csv.DictReader(file)))
    table = pq.read_table(SAMPLE / "2026-11-22.parquet")
    rows = [{name: value or "" for name, value in row.items()} for row in table.to_pylist()]
    return first, _merged(rows)


def test_night_two_of_the_sample_sends_exactly_the_changed_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests of night 2 are of the clients whose consent changed, and the platform holds what the rules say."""
    config = tmp_path / "demo.toml"
    text = (SAMPLE.parent / "configs" / "demo.toml").read_text()
    config.write_text(text.replace("../demo/", f"{tmp_path}/"))
    (first, _), (second, barred) = _sample_nights()
    with running(Options()) as platform:
        monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__BASE_URL", platform.url)
        settings = sync_job.load_settings(config)

        def night(name: str) -> Settings:
            path = str(SAMPLE / name)
            return settings.model_copy(update={"export": settings.export.model_copy(update={"path": path})})

        init.init(night("2026-11-21.csv"), "unknown", lambda _: None, Watch())
        sync_job.run(night("2026-11-21.csv"))
        held: dict[int, list[bool | None]] = {}
        for client, flags in first.items():
            if False in flags:
                held[client] = [False if flag is False else None for flag in flags]
        assert holds(platform.platform) == {client: tuple(flags) for client, flags in held.items()}
        before = len(platform.platform.log)
        report = sync_job.run(night("2026-11-22.parquet"))
        due = {}
        for client, flags in second.items():
            was: Consent = first.get(client, (None,) * 4)
            wanted = [flag if flag is False or client not in barred else None for flag in flags]
            if any(flag is not None and flag is not old for flag, old in zip(wanted, was, strict=True)):
                due[client] = tuple(
                    flag if flag is False or (flag and not old) else None for flag, old in zip(wanted, was, strict=True)
                )
        sent = {entry.client: tuple(entry.flags) for entry in platform.platform.log[before:]}
        assert sent == due
        assert len(platform.platform.log) - before == len(due) == report.summary["planned"] > 30
        for client, flags in due.items():
            mine = held.setdefault(client, [None] * 4)
            for channel, flag in enumerate(flags):
                mine[channel] = mine[channel] if flag is None else flag
        assert holds(platform.platform) == {client: tuple(flags) for client, flags in held.items()}


@pytest.mark.parametrize("format_", ["json", "xml", "form"])
def test_a_bad_endpoint_ends_with_every_client_right(tmp_path: Path, format_: str) -> None:
    """Slow answers, resets, late time-outs and 503 with Retry-After cost no client, in any format."""
    faults = {
        Fault.RESET_BEFORE: 0.02,
        Fault.RESET_AFTER: 0.02,
        Fault.STALL: 0.01,
        Fault.ERROR_AFTER: 0.02,
        Fault.GARBAGE: 0.01,
    }
    options = Options(
        latency_ms=2,
        jitter_ms=5,
        rates=faults,
        every={Fault.UNAVAILABLE_RETRY_AFTER: 211},  # each of them costs a second
        retry_after_s=1,
        seed=5,
        requests_per_connection=50,
    )
    first = people(300)
    second = changed(first, 0.3)
    with running(options) as platform:
        shop = Shop(tmp_path, platform.url, format_=format_, concurrency=32, timeout_s=1.0)
        shop.write(first)
        shop.init()
        for night in (first, second):
            shop.write(night)
            for _ in range(8):
                report = sync_job.run(shop.settings)
                summary = report.summary
                assert summary["planned"] == sum(summary["outcomes"].values())
                assert set(summary["outcomes"]) == {"delivered", "refused", "exhausted", "deferred"}
                time.sleep(0.25)
                if not summary["planned"]:
                    break
            assert summary["planned"] == 0
        assert holds(platform.platform) == expected(first, second)
        allowed = {
            (client, place)
            for night in (first, second)
            for client, flags in night.items()
            for place, flag in enumerate(flags)
            if flag
        }
        for entry in platform.platform.log:
            for place, flag in enumerate(entry.flags):
                assert not flag or (entry.client, place) in allowed


def test_an_unchanged_export_sends_nothing(tmp_path: Path) -> None:
    """The second run of the same export makes no request."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(100))
        shop.init()
        sync_job.run(shop.settings)
        before = platform.requests
        report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.OK
        assert report.summary["planned"] == 0
        assert platform.requests == before > 0


def test_init_of_an_unknown_platform_sends_every_denial_and_nothing_else(tmp_path: Path) -> None:
    """An unknown platform is sent what is denied, and an error under-contacts."""
    shoppers = people(200)
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(shoppers)
        shop.init("unknown")
        sync_job.run(shop.settings)
        denials = {
            c: tuple(False if f is False else None for f in flags) for c, flags in shoppers.items() if False in flags
        }
        assert holds(platform.platform) == denials


def test_init_from_a_dump_sends_the_difference(tmp_path: Path) -> None:
    """What a dump of the platform says is taken as held; the approved grants and the denials are sent."""
    shoppers = people(200)
    held = changed(shoppers, 0.2, seed=9)
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(held)
        dump = tmp_path / "dump.csv"
        shop.export.rename(dump)
        shop.write(shoppers)
        approved: list[int] = []

        def approve(grants: int) -> int:
            approved.append(grants)
            return grants

        init.init(shop.settings, str(dump), approve, Watch())
        sync_job.run(shop.settings)
        differ = {
            c
            for c, flags in shoppers.items()
            if any(f is not None and f is not held[c][i] for i, f in enumerate(flags))
        }
        grants = [c for c, flags in shoppers.items() if any(f and not held[c][i] for i, f in enumerate(flags))]
        assert {entry.client for entry in platform.platform.log} == differ
        assert approved == [len(grants)]


def test_obligations_leave_before_the_export_is_opened(tmp_path: Path) -> None:
    """A bad export delays no denial that is owed, and a delivered one is closed."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({5: (True, True, True, True)})
        shop.init("equal")
        shop.withdraw({5: "sms email", 6: "sms"})
        shop.export.write_text("")
        with pytest.raises(ExportError):
            sync_job.run(shop.settings)
        assert {e.client: tuple(e.flags) for e in platform.platform.log} == {
            5: (False, False, None, None),
            6: (False, None, None, None),
        }
        assert shop.owed() == {}
        with shop.state() as state:
            assert [run.exit for run in state.ledger.runs()] == [0, 3]


def test_a_refused_grant_does_not_strand_a_denial(tmp_path: Path) -> None:
    """A row that grants and denies and is refused is sent again with its denials alone."""

    def no_grants(number: int, client: int) -> Fault | None:
        return Fault.REFUSE if number == 1 else None

    with running(Options(script=no_grants)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=1)
        shop.write({5: (True, False, None, None)})
        shop.init()
        report = sync_job.run(shop.settings)
        assert report.summary["outcomes"] == {"delivered": 0, "refused": 1, "exhausted": 0, "deferred": 0}
        assert holds(platform.platform) == {5: (None, False, None, None)}
        results = sync_job.read_results(report.folder)
        assert results[["outcome", "denials", "attempts"]].to_numpy().tolist() == [["refused", "delivered", 2]]


def test_a_missing_column_grants_nothing_and_ends_in_6(tmp_path: Path) -> None:
    """On a later night a channel that is gone states nothing, and the run is restrict-only."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write({5: (False, False, False, False), 6: (True, True, True, True)})
        shop.init("equal")
        shop.export.write_text("Client,AllowSms,AllowEmail,AllowPush\n5,true,false,false\n6,true,false,true\n")
        report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.HELD
        assert [tuple(e.flags) for e in platform.platform.log] == [(None, False, None, None)]
        assert report.summary["decided"]["held"] == 1


def test_the_files_of_a_report_say_the_same(tmp_path: Path) -> None:
    """summary.json, the history and the results file agree, and what holds ids is for this user alone."""
    with running(Options(unknown_every=7)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(300))
        shop.init()
        report = sync_job.run(shop.settings)
        summary = json.loads((report.folder / "summary.json").read_text())
        assert summary == report.summary
        counted = sync_job.read_results(report.folder)["outcome"].value_counts().to_dict()
        assert counted == {name: count for name, count in summary["outcomes"].items() if count}
        assert summary["outcomes"]["refused"] > 0
        assert any("не найден" in one["message"] for one in summary["codes"])
        assert report.exit_code is Exit.ATTENTION
        for path in [*tmp_path.rglob("*.parquet"), *tmp_path.rglob("*.db"), *report.folder.iterdir()]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_report_says_how_it_was_sent(tmp_path: Path) -> None:
    """Points over time, a histogram of good answers, retries, and what the platform said that is new."""

    def busy(number: int, client: int) -> Fault | None:
        return Fault.ERROR_BEFORE if number % 10 == 0 else None

    with running(Options(script=busy, unknown_every=7)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(300))
        shop.init()
        found = sync_job.run(shop.settings).summary
        shop.write(people(300, seed=2))
        again = sync_job.run(shop.settings).summary
    assert found["retries"] > 0
    assert found["requests"] - found["retries"] == found["planned"]
    assert sum(found["round_trips"]["counts"]) >= found["outcomes"]["delivered"] > 0
    assert found["round_trips"]["sum_s"] > 0
    assert found["samples"][-1]["settled"] == found["planned"]
    assert all(0 <= one["s"] <= found["ended"] - found["started"] + 1 for one in found["samples"])
    assert {one.get("since") for one in found["codes"]} == {"new", None}
    assert {one.get("since") for one in again["codes"]} == {"known", None}
    assert again["gone"] == []
    assert found["settings"]["endpoint"]["site_code"] == "тест & <b>"
    assert found["memory_mb"] > 50
    assert sum(one["open"] for one in found["withdrawals"]["ages"]) == found["withdrawals"]["open"]


def test_a_client_with_an_open_obligation_is_granted_nothing(tmp_path: Path) -> None:
    """Its row of the export carries denials alone until the platform has acknowledged what is owed."""

    def busy(number: int, client: int) -> Fault | None:
        return Fault.REFUSE if number == 1 else None

    with running(Options(script=busy)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=1)
        shop.write({5: (False, False, False, False)})
        shop.init("equal")
        shop.withdraw({5: "sms"})
        shop.write({5: (False, True, False, False)})
        sync_job.run(shop.settings)
        assert not any(flag for entry in platform.platform.log for flag in entry.flags)
        assert shop.owed() == {5: 0b01}
