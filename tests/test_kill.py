"""A run that is killed or asked to end at any moment is finished by the next one."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sync_job
from sync_job.ledger.state import State
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.forked import Forked
from tests.shop import Shop, changed, expected, holds, people

CLIENTS = 1000
CONCURRENCY = 8
_PATIENCE_S = 60.0


def _start(shop: Shop) -> Forked:
    return Forked("run", "--config", shop.config)


def _wait_for(moment: Callable[[], bool], process: Forked) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)


def _requests(number: int) -> Callable[[Shop, Standin, int], bool]:
    return lambda _, platform, before: platform.requests - before >= number


def _file(pattern: str, least: int = 1) -> Callable[[Shop, Standin, int], bool]:
    return lambda shop, _, __: len(list(shop.folder.glob(pattern))) >= least


MOMENTS = {
    "at once": lambda *_: True,
    "the run's folder": _file("state/runs/0002*"),
    "the plan": _file("state/runs/0002*/1/plan.parquet"),
    "the journal": _file("state/runs/0002*/1/journal.db"),
    **{f"{number} requests": _requests(number) for number in (1, 8, 40, 63, 65, 100, 150, 200, 300, 400, 500, 600)},
    "the last request": _requests(733),
    "the next snapshot": _file("state/snapshots/*.parquet", 2),
    "the results": _file("reports/0002*/.results.csv.new"),
    "the summary": _file("reports/0002*/summary.json"),
}


def test_there_are_twenty_moments() -> None:
    """A run is killed at twenty moments, from before its plan to after its report."""
    assert len(MOMENTS) == 20


@pytest.mark.parametrize("name", MOMENTS)
def test_a_killed_run_is_finished_by_the_next(tmp_path: Path, name: str) -> None:
    """No client is lost, no consent is invented, the dead run is reported, and few requests are sent twice."""
    first = people(CLIENTS)
    second = changed(first, 0.75)
    with running(Options(latency_ms=1)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=CONCURRENCY, linger_s=0.3)
        shop.write(first)
        shop.init("equal")
        shop.write(second)
        process = _start(shop)
        _wait_for(lambda: MOMENTS[name](shop, platform, 0), process)
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert name in ("the summary", "the results", "the next snapshot", "the last request"), "it ended too early"
        time.sleep(0.1)  # what was in flight is applied, or not
        reports = [sync_job.run(shop.settings)]
        time.sleep(0.35)  # until nobody lingers
        reports.append(sync_job.run(shop.settings))
        differ = {
            c: f
            for c, f in second.items()
            if any(a is not None and a is not b for a, b in zip(f, first[c], strict=True))
        }
        wanted = expected(differ)
        held = holds(platform.platform)
        for client, flags in differ.items():
            for place, flag in enumerate(flags):
                if flag is not None and flag is not first[client][place]:
                    assert held[client][place] is flag
        assert set(held) == set(wanted)
        sent: dict[int, int] = {}
        for entry in platform.platform.log:
            sent[entry.client] = sent.get(entry.client, 0) + 1
            for place, flag in enumerate(entry.flags):
                assert flag is None or flag is second[entry.client][place]
        # Once in doubt, a row is sent once more by the next run, and once after its linger.
        twice = sum(1 for count in sent.values() if count > 1)
        assert twice <= CONCURRENCY + 2 * 200
        with State.open(shop.settings.state.path, shop.settings.endpoint.target, write=False) as state:
            assert [run.stage for run in state.ledger.runs()] == ["reported"] * len(state.ledger.runs())
            assert not state.holdings().due.any()
            for run in state.ledger.runs():
                assert (shop.folder / "reports" / run.run / "summary.json").exists()
        assert not list((shop.folder / "state" / "runs").iterdir())
        assert reports[-1].summary["planned"] == 0 or not sync_job.run(shop.settings).summary["planned"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_end_drains_first(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """What was in flight settles, the rest is deferred, and the next run sends just that."""
    with running(Options(latency_ms=2)) as platform:
        shop = Shop(tmp_path, platform.url, concurrency=4)
        shop.write(people(1500))
        shop.init()
        process = _start(shop)
        _wait_for(lambda: platform.requests > 100, process)
        process.send_signal(number)
        assert process.wait(30) == code
        process.communicate()
        report = sync_job.run(shop.settings)
        assert 0 < report.summary["planned"] < 1500
        assert report.summary["outcomes"]["delivered"] == report.summary["planned"]
        assert platform.requests == len(holds(platform.platform))
