"""Canaries: a wrong token or a wrong column of ids is noticed early, and a few bad rows keep no denial back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sync_job.consent.rows import Lane
from sync_job.delivery.canary import drawn
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.nightly import Nightly
from tests.shop import NO_GUARDS, holds

YES, NO = (True,) * 4, (False,) * 4


class Bad:
    """Which clients the platform refuses, by an ErrorCode that is not configured."""

    def __init__(self) -> None:
        self.clients: set[int] = set()

    def script(self, _: int, client: int) -> Fault | None:
        """Return what a request meets."""
        return Fault.REFUSE if client in self.clients else None


@pytest.fixture
def bad() -> Bad:
    """Return that no client is refused yet."""
    return Bad()


@pytest.fixture
def platform(bad: Bad) -> Iterator[Standin]:
    """Run a platform whose members are all ids from 100 on."""
    with running(Options(known=range(100, 100_000), script=bad.script)) as platform:
        yield platform


@pytest.fixture
def shop(tmp_path: Path, platform: Standin, cli: Cli) -> Nightly:
    """Return a shop without guards: these tests send most of an export at once."""
    return Nightly(tmp_path / "shop", platform.url, cli, guards=NO_GUARDS)


def _init(shop: Nightly, how: str = "unknown", **said: int) -> None:
    more = [f"--approve-grants={said['approve_grants']}"] if said else []
    assert shop.run("init", shop.export, "--platform", how, "--no-withdrawals", *more).code == 0


def test_unknown_ids_at_the_head_keep_no_denial_back(shop: Nightly, platform: Standin) -> None:
    """25 lowest ids are no members (M08): the first night denies the 175 others, and ends in 1."""
    shop.write(dict.fromkeys([*range(1, 26), *range(1001, 1176)], NO))
    _init(shop)
    assert shop.run("run").code == 1
    assert holds(platform.platform) == dict.fromkeys(range(1001, 1176), NO)


@pytest.mark.parametrize("unknown", [20, 24, 300])
def test_many_unknown_ids_stop_grants_at_most(shop: Nightly, platform: Standin, unknown: int) -> None:
    """Whatever the share of ids that are no members, the denials of members go out in the same night."""
    strangers = [place % 99 + 1 for place in range(min(unknown, 99))] + [
        *range(200_000, 200_000 + max(0, unknown - 99))
    ]
    people = dict.fromkeys(strangers, NO) | dict.fromkeys((500, 501), NO) | {600: YES}
    shop.write(people)
    _init(shop, "empty", approve_grants=1)
    said = shop.run("run")
    assert said.code == 1, said
    assert holds(platform.platform) == {500: NO, 501: NO, 600: YES}


def test_a_wrong_column_of_ids_grants_nobody(shop: Nightly, platform: Standin) -> None:
    """No row is known to the platform: it ends in 2, says which column, and only the denials are tried."""
    shop.write({client: YES if client % 2 else NO for client in range(200_000, 200_400)})
    _init(shop, "empty", approve_grants=200)
    said = shop.run("run")
    assert said.code == 2, said
    assert "[export.columns] Client" in said.out + said.err
    assert platform.requests == 200


def test_a_plan_of_grants_that_nobody_knows_stops_after_the_canaries(shop: Nightly, platform: Standin) -> None:
    """There is no denial that could show the ids to be right: twenty requests, and exit 2."""
    shop.write(dict.fromkeys(range(200_000, 200_400), YES))
    _init(shop, "empty", approve_grants=400)
    assert shop.run("run").code == 2
    assert platform.requests == 20


def test_rows_that_are_refused_alike_stop_only_one_night(shop: Nightly, platform: Standin, bad: Bad) -> None:
    """Twenty bad denials, all that the plan has, and members behind them: the same ones do not stop every night."""
    bad.clients = set(range(1001, 1021))
    shop.write(dict.fromkeys(bad.clients, NO) | dict.fromkeys(range(2001, 2101), YES))
    _init(shop, "empty", approve_grants=100)
    codes = [shop.run("run").code for _ in range(3)]
    assert codes[0] == 2
    assert codes[-1] in (0, 1)
    assert set(holds(platform.platform)) == set(range(2001, 2101))


def test_bad_rows_at_the_head_keep_no_denial_back(shop: Nightly, platform: Standin, bad: Bad) -> None:
    """Fifty rows that are refused alike come first in the plan: all others are denied in the first night."""
    bad.clients = set(range(1001, 1051))
    shop.write(dict.fromkeys([*bad.clients, *range(2001, 2101)], NO))
    _init(shop)
    assert shop.run("run").code == 1
    assert set(holds(platform.platform)) == set(range(2001, 2101))


def test_a_small_plan_with_few_good_rows_sends_them_the_next_night(shop: Nightly, platform: Standin, bad: Bad) -> None:
    """Refused canaries are drawn last the next time, so that the row behind them shows that it is not the token."""
    bad.clients = set(range(1001, 1021))
    shop.write(dict.fromkeys([*bad.clients, 2001], NO))
    _init(shop)
    assert [shop.run("run").code for _ in range(2)] == [2, 1]
    assert set(holds(platform.platform)) == {2001}


def test_a_wrong_token_is_noticed_after_the_canaries(shop: Nightly, platform: Standin, bad: Bad) -> None:
    """Every row is refused alike: exit 2 after twenty requests, each night; once it is fixed all goes out at once."""
    everybody = range(1001, 1301)
    bad.clients = set(everybody)
    shop.write(dict.fromkeys(everybody, NO))
    _init(shop)
    for night in (1, 2):
        said = shop.run("run")
        assert (said.code, platform.requests) == (2, 20 * night), said
    bad.clients = set()
    assert shop.run("run").code == 0
    assert set(holds(platform.platform)) == set(everybody)


def test_one_unknown_id_shows_that_the_token_is_right(shop: Nightly, platform: Standin, bad: Bad) -> None:
    """A configured *not found* is an answer to a request that was read: with one among refusals the run goes on."""
    bad.clients = set(range(1001, 1041))
    shop.write(dict.fromkeys([*bad.clients, *range(1, 41), 5000], NO))
    _init(shop)
    assert shop.run("run").code == 1
    assert set(holds(platform.platform)) == {5000}


def test_a_plan_from_a_file_is_sent_by_the_same_rule(shop: Nightly, platform: Standin) -> None:
    """`apply` sends the denials of members though every canary is unknown, and the grants behind them."""
    shop.write(dict.fromkeys(range(200_000, 200_400), NO) | {500: NO, 600: YES})
    _init(shop, "empty", approve_grants=1)
    assert shop.run("plan", shop.export, "-o", shop.folder / "p").code == 0
    assert shop.run("apply", shop.folder / "p").code == 1
    assert holds(platform.platform) == {500: NO, 600: YES}


@pytest.mark.parametrize("count", [0, 1, 20, 1000])
def test_canaries_are_spread_and_denials_go_first(count: int) -> None:
    """What is owed stays first, each row is there once, and no grant is drawn while a denial could be."""
    lane = np.array([Lane.OBLIGATION] * 3 + [Lane.WITHDRAWAL] * 2 + [Lane.DENIAL] * 50 + [Lane.GRANT] * 50, np.uint8)
    refused = np.zeros(len(lane), np.bool_)
    refused[5:15] = True
    order = drawn(lane, refused, count, len(lane))
    assert sorted(order.tolist()) == list(range(len(lane)))
    assert order[:5].tolist() == [0, 1, 2, 3, 4]
    canaries = order[5 : 5 + count]
    assert (np.diff(lane[canaries].astype(int)) >= 0).all()
    if count == 20:
        assert not refused[canaries].any()
        assert canaries.max() - canaries.min() > 30
    limited = drawn(lane, refused, count, 30)
    assert sorted(limited[:30].tolist()) == list(range(30)) or count < 25
    assert limited[5 : 5 + min(count, 25)].max(initial=0) < 30
