"""Delivery over real sockets: outages, tokens that expire, proxies and servers that have enough, hours and signals.

`make soak` runs the first test with 100,000 rows.
"""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sync_job
from sync_job.errors import Exit
from sync_job.ledger.state import State
from sync_job.runs import night
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.contract import Answer
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests import nginx
from tests.forked import Forked
from tests.shop import People, Shop, expected, holds, people

ROWS = int(os.environ.get("CONSENT_SYNC_SOAK_ROWS", "2000"))
DENIED = (False, False, False, False)


NOTHING_ASKED = """[export.blank]
AllowEmail = "nothing"
AllowPush = "nothing"
AllowEmailOnlineCheque = "nothing"
"""


def shop_of(folder: Path, url: str, rows: int, **settings: Any) -> Shop:
    """Return a shop whose next run denies everything to so many clients."""
    shop = Shop(folder, url, **settings)
    shop.write({1000 + place: DENIED for place in range(rows)})
    shop.init()
    return shop


def rates(platform: Standin) -> list[float]:
    """Return when each change was applied, in seconds of a monotonic clock."""
    return [entry.at_s for entry in platform.platform.log]


@contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the block runs."""
    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_soak_ends_with_every_client_right(tmp_path: Path) -> None:
    """5 % of 500, 2 % of 503, resets before and after applying, garbage: nothing is lost, at most 1.2 requests a row.

    Every 25th 503 asks for a second's pause. All are delivered by one run, and the platform holds what was sent.
    """
    count = [0]
    rng = random.Random(7)

    def meets(number: int, client: int) -> Fault | None:
        drawn = rng.random() * 100
        if drawn < 2:
            count[0] += 1
            return Fault.UNAVAILABLE if count[0] % 25 else Fault.UNAVAILABLE_RETRY_AFTER
        for share, fault in (
            (7, Fault.ERROR_BEFORE if number % 2 else Fault.ERROR_AFTER),
            (8, Fault.RESET_BEFORE),
            (9, Fault.RESET_AFTER),
            (9.5, Fault.GARBAGE),
        ):
            if drawn < share:
                return fault
        return None

    shoppers: People = {
        client: flags for client, flags in people(ROWS * 2).items() if any(f is not None for f in flags)
    }
    shoppers = dict(list(shoppers.items())[:ROWS])
    with running(Options(script=meets, keep_log=False)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=64)
        shop.write(shoppers)
        shop.init()
        report = sync_job.run(shop.settings)
        summary = report.summary
        assert summary["outcomes"] == {"delivered": ROWS, "refused": 0, "exhausted": 0, "deferred": 0}
        assert holds(platform.platform) == expected(shoppers)
        assert summary["requests"] <= 1.2 * ROWS
        assert summary["delivery"]["turned_away"] > 0.01 * ROWS


def test_token_that_expires_every_two_seconds_costs_one_login_each_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewed before it expires, for all workers together: no request is turned away, no row is lost."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__PASSWORD", "hush")
    options = Options(username="sync", password="hush", token_life_s=2.0, workers=8, service_ms=20)  # noqa: S106
    with running(options) as platform:
        shop = shop_of(
            tmp_path, platform.url, 2500, more='[endpoint.auth]\nkind = "password"\nusername = "sync"\n', concurrency=16
        )
        began = time.monotonic()
        report = sync_job.run(shop.settings)
        took_s = time.monotonic() - began
        assert report.summary["outcomes"]["delivered"] == 2500
        logins = platform.logins
        assert logins.logins == 1
        # A token is renewed a fifth of its life before it ends.
        assert 1 <= logins.refreshes <= took_s / 1.6 + 1
        assert report.summary["requests"] == 2500


def test_five_seconds_without_an_endpoint_cost_no_row(tmp_path: Path) -> None:
    """The run waits, asks once a second, and goes on within two seconds of the endpoint's return.

    Probes that came later each time would miss that; `test_pool.py` has twenty seconds, and more, in virtual time.
    """
    with running(Options(workers=8, service_ms=20)) as platform:
        shop = shop_of(tmp_path, platform.url, 1500)
        back = [0.0]

        def outage() -> None:
            while platform.platform.entries < 500:
                time.sleep(0.01)
            platform.stop()
            time.sleep(5)
            platform.start()
            back[0] = time.monotonic()

        with meanwhile(outage):
            report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.OK
        assert report.summary["outcomes"]["delivered"] == 1500
        resumed = min(at for at in rates(platform) if at > back[0])
        assert resumed - back[0] < 2
        assert report.summary["delivery"]["outages"] == 1
        # One probe at a time, about one a second.
        assert report.summary["requests"] < 1500 + 64 + 10


@pytest.mark.parametrize(
    ("zones", "limits", "capacity", "share", "turned_away"),
    [
        (
            "limit_req_zone $server_name zone=all:1m rate=100r/s;",
            "limit_req zone=all burst=10 nodelay; limit_req_status 429;",
            100.0,
            0.85,
            0.10,
        ),
        ("limit_req_zone $server_name zone=all:1m rate=100r/s;", "limit_req zone=all burst=50;", 100.0, 0.85, 0.05),
        ("limit_conn_zone $server_name zone=all:1m;", "limit_conn all 4; limit_conn_status 503;", 200.0, 0.80, 0.15),
    ],
    ids=["limit_req", "limit_req with a delay", "limit_conn"],
)
def test_nginx_that_has_enough_is_kept_busy_and_not_flooded(
    tmp_path: Path, zones: str, limits: str, capacity: float, share: float, turned_away: float
) -> None:
    """Nobody chose a concurrency: most of what nginx lets through is used, little is turned away, nothing is lost."""
    rows = 1200
    with (
        running(Options(latency_ms=20)) as platform,
        nginx.in_front_of(platform.url, tmp_path, zones=zones, limits=limits) as proxy,
    ):
        shop = shop_of(tmp_path, proxy.url, rows)
        report = sync_job.run(shop.settings)
        assert report.summary["outcomes"]["delivered"] == rows
        at = rates(platform)
    said = proxy.statuses()
    used = rows / (at[-1] - at[0]) / capacity
    away = sum(count for status, count in said.items() if status in (429, 503)) / sum(said.values())
    assert used > share
    assert away < turned_away


def test_server_with_a_queue_is_kept_busy_and_its_queue_short(tmp_path: Path) -> None:
    """Eight workers of 40 ms behind a queue of 1,000: all are used, and hardly anything waits."""
    rows = 1500
    with running(Options(workers=8, service_ms=40, service_jitter_ms=10, queue=1000)) as platform:
        shop = shop_of(tmp_path, platform.url, rows, concurrency=64)
        report = sync_job.run(shop.settings)
        at, counts = rates(platform), platform.counts
    used = rows / (at[-1] - at[0]) / (8 / 0.050)
    assert report.summary["outcomes"]["delivered"] == rows
    assert used > 0.8
    assert counts.most_in_flight <= 24
    assert counts.turned_away == 0


def test_next_run_starts_from_half_of_what_was_learned(tmp_path: Path) -> None:
    """And a short run, which has not shown that less is possible, does not forget it."""
    with running(Options(workers=8, service_ms=20)) as platform:
        shop = shop_of(tmp_path, platform.url, 1500)
        first = sync_job.run(shop.settings).summary["delivery"]
        shop.write({1000: (True, False, False, False), 1001: (True, False, False, False)})
        sync_job.run(shop.settings)
        shop.write({1000 + place: (False, True, False, False) for place in range(100)})
        platform.platform.log.clear()
        report = sync_job.run(shop.settings)
        assert 4 <= first["limit"] <= 20
        assert report.summary["delivery"]["most_in_flight"] >= first["limit"] / 2 - 1


def test_rows_that_are_all_refused_alike_stop_the_export(tmp_path: Path) -> None:
    """Twenty requests, one at a time, exit 2, and the reason names the setting; the next run finds all of it again."""
    with running(Options(known=(), unknown=Answer(5, "Нет прав"))) as platform:
        shop = shop_of(tmp_path, platform.url, 300)
        report = sync_job.run(shop.settings)
        assert report.exit_code is Exit.CONFIG
        assert platform.requests == 20
        assert platform.counts.most_in_flight == 1
        (reason,) = [one for one in report.summary["reasons"] if "refused alike" in one]
        assert "ErrorCode 5 (Нет прав)" in reason
        assert "[endpoint] operator" in reason
        assert report.summary["outcomes"] == {"delivered": 0, "refused": 20, "exhausted": 0, "deferred": 280}
        assert sync_job.run(shop.settings).summary["planned"] == 300


def test_few_rows_that_are_refused_are_just_refused(tmp_path: Path) -> None:
    """Where there is no million behind them, a few refusals are no reason to doubt the configuration."""
    with running(Options(known=())) as platform:
        report = sync_job.run(shop_of(tmp_path, platform.url, 19).settings)
        assert report.exit_code is Exit.ATTENTION
        assert report.summary["outcomes"]["refused"] == 19


def test_obligations_are_no_canaries(tmp_path: Path) -> None:
    """What is owed is sent whole before the export, and once in a run, though all of it is refused alike."""
    with running(Options(known=())) as platform:
        shop = shop_of(tmp_path, platform.url, 5)
        shop.withdraw(dict.fromkeys(range(5000, 5060), "sms"))
        sync_job.run(shop.settings)
        assert platform.requests == 60 + 5


def minutes_from_now(minutes: float) -> str:
    """Return a time of day in UTC."""
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%H:%M")


def test_outside_its_window_an_export_is_not_sent(tmp_path: Path) -> None:
    """What is owed is, whatever the hour; the rest is deferred, the reason says so, and the exit code is not 0."""
    with running(Options()) as platform:
        window = f'window = "{minutes_from_now(60)}-{minutes_from_now(120)}"'
        shop = shop_of(tmp_path, platform.url, 50, more=window)
        shop.withdraw({5000: "sms"})
        report = sync_job.run(shop.settings)
        assert {entry.client for entry in platform.platform.log} == {5000}
        assert report.exit_code is Exit.ATTENTION
        assert any("outside [delivery] window" in reason for reason in report.summary["reasons"])
        assert report.summary["outcomes"]["deferred"] == 50


def test_time_that_is_up_stops_taking_rows_before(tmp_path: Path) -> None:
    """The last answer is there by then, grants are what is left, and the next run sends just the rest."""
    with running(Options(workers=1, service_ms=25)) as platform:
        shop = Shop(tmp_path, platform.url, more=NOTHING_ASKED)
        shop.write({1000 + place: (place % 2 == 0, None, None, None) for place in range(400)})
        shop.init()
        ends = int(time.time()) + 4
        until = datetime.fromtimestamp(ends, UTC).strftime("%H:%M:%S")
        report = night.run(shop.settings, Wish(until=until), Watch())
        last = max(rates(platform)) - time.monotonic() + time.time()
        assert last < ends
        assert report.exit_code is Exit.ATTENTION
        assert any("the time is up" in reason for reason in report.summary["reasons"])
        outcomes = report.summary["outcomes"]
        assert 0 < outcomes["delivered"] < 400
        assert outcomes["delivered"] + outcomes["deferred"] == 400
        sent = [entry.flags.sms for entry in platform.platform.log]
        assert sent == sorted(sent, key=bool), "denials first"


def start(shop: Shop, *options: str) -> Forked:
    """Return the command `run`, started in a process of its own."""
    return Forked(*options, "run", "--config", shop.config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(moment: Callable[[], bool]) -> None:
    """Return when it has come."""
    end = time.monotonic() + 30
    while not moment():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("twice", [False, True])
def test_signal_ends_a_run_whose_requests_hang(tmp_path: Path, number: signal.Signals, code: int, twice: bool) -> None:
    """After drain_s, or at once at the second signal: reported, what was acknowledged kept, what hung in doubt."""

    def hangs(count: int, client: int) -> Fault | None:
        return Fault.STALL if count > 200 else None

    with running(Options(script=hangs)) as platform:
        drain_s = 20 if twice else 1
        shop = shop_of(tmp_path, platform.url, 1000, more=f"drain_s = {drain_s}", timeout_s=30)
        process = start(shop)
        wait_for(lambda: platform.requests > 200)
        began = time.monotonic()
        process.send_signal(number)
        if twice:
            time.sleep(0.2)
            process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, err.decode()
        assert time.monotonic() - began < 8
        with State.open(shop.settings.state.path, shop.settings.endpoint.target, write=False) as state:
            last = state.ledger.runs()[-1]
            assert (last.stage, last.exit) == ("reported", code)
            assert last.summary is not None
            outcomes = last.summary["outcomes"]
        assert outcomes["delivered"] == 200
        assert outcomes["deferred"] == 800
        results = sync_job.read_results(shop.folder / "reports" / last.run)
        hung = results[results["doubt"] == "whole"]
        assert len(hung) == platform.requests - 200 > 0
        assert b"deferred" in out


def test_reset_of_kept_connections_is_no_sign_of_load(tmp_path: Path) -> None:
    """A server that closes a connection after every few requests costs no row, no attempt, and no part of the limit."""
    with running(Options(requests_per_connection=7, announce_close=False, latency_ms=5)) as platform:
        report = sync_job.run(shop_of(tmp_path, platform.url, 1500).settings)
        assert report.summary["outcomes"]["delivered"] == 1500
        assert report.summary["delivery"]["turned_away"] == 0
        assert report.summary["delivery"]["outages"] == 0
