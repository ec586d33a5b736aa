"""The same platform at another address: the state goes on there, with everything that was bound to the old one."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import sync_job
from sync_job.errors import ConfigError, ForeignStateError, RestoredStateError, StateError
from sync_job.ledger import anchor, lock, pause
from sync_job.runs import backups, erasure, forgetting, history, inspecting, restoring, retargeting
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, holds, people

NEW = "http://127.0.0.2:9"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Return a shop whose state was made."""
    shop = Shop(tmp_path, "http://127.0.0.1:9")
    shop.write(people(20))
    shop.init()
    return shop


def _say(shop: Shop, url: str) -> None:
    (line,) = [line for line in shop.config.read_text().splitlines() if line.startswith("base_url")]
    shop.config.write_text(shop.config.read_text().replace(line, f'base_url = "{url}"'))


def _move(shop: Shop, url: str = NEW, *, same_platform: bool = True, reason: str = "why", by: str = "me") -> object:
    return retargeting.retarget(shop.settings, url, same_platform=same_platform, reason=reason, by=by)


def test_the_state_goes_on_at_the_new_address(tmp_path: Path) -> None:
    """Nothing is sent again, who was erased stays so, reports of before are found, and it is sound."""
    first = people(60)
    with running(Options()) as old, running(Options()) as new:
        shop = Shop(tmp_path, old.url, linger_s=0)
        shop.write(first)
        shop.init()
        sync_job.run(shop.settings)
        forgetting.forget(shop.settings, forgetting.clients(shop.settings, [1003], None), "R", Watch())
        before = shop.settings.endpoint.target
        retargeting.retarget(shop.settings, new.url + "/", same_platform=True, reason="new host", by="me")
        with pytest.raises(ForeignStateError):
            sync_job.run(shop.settings)
        _say(shop, new.url)
        report = sync_job.run(shop.settings)
        assert report.exit_code == 0
        assert report.summary["planned"] == 0
        assert not report.summary["restrict_only"]
        assert erasure.tombstones(shop.settings).of(np.array([1003], np.int32)).all()
        assert history.history(shop.settings, 1000)["sent"]
        with shop.state() as state:
            assert state.ledger.about.targets() == [before, shop.settings.endpoint.target]
            (moved,) = state.ledger.about.moves()
            assert (moved["reason"], moved["by"]) == ("new host", "me")
        assert [path.name for path in _left(shop.settings.state.keys, before)] == [f"{anchor.tag(before)}.anchor.json"]
        assert inspecting.check(shop.settings)["exit"] == 0
        assert new.requests == 0


def test_the_configuration_may_have_the_new_address_already(shop: Shop) -> None:
    """Or the old one, but no third."""
    _say(shop, "http://127.0.0.3:9")
    with pytest.raises(ConfigError, match="one of the two"):
        _move(shop)
    _say(shop, NEW)
    _move(shop)
    shop.state().__enter__().close()


def _left(keys: Path, target: str) -> list[Path]:
    """Return what the keys have under a target's name."""
    return sorted(keys.glob(f"{anchor.tag(target)}*"))


@pytest.mark.parametrize("missing", [{"same_platform": False}, {"reason": " "}, {"by": ""}, {"url": "ftp://x"}])
def test_somebody_has_to_say_so(shop: Shop, missing: dict[str, object]) -> None:
    """That it is the same platform, why, and who."""
    with pytest.raises(ConfigError):
        _move(shop, **missing)  # type: ignore[arg-type]
    with shop.state() as state:
        assert state.ledger.about.moves() == []


def test_another_operator_is_refused(shop: Shop) -> None:
    """Its clients are others."""
    shop.config.write_text(shop.config.read_text().replace("operator = 7", "operator = 8"))
    with pytest.raises(ForeignStateError, match="operator"):
        _move(shop)


def test_a_paused_target_may_move(shop: Shop) -> None:
    """While the platform is being moved nothing should be sent: it stays paused."""
    pause.pause(shop.settings.state.path, reason="moving", by="me", now=time.time())
    _move(shop)
    assert pause.paused(shop.settings.state.path)


def test_a_state_that_is_there_keeps_its_name(shop: Shop) -> None:
    """The keys know another state at the new address: nothing is changed."""
    target = f"{NEW} operator 7"
    anchor.write(shop.settings.state.keys, target, anchor.Anchor(target, "b" * 32, 5, 5, 5))
    with pytest.raises(StateError, match="another state"):
        _move(shop)
    with shop.state() as state:
        assert state.ledger.about.moves() == []


@pytest.mark.parametrize("moment", ["the keys were written", "the ledger was switched"])
def test_one_that_died_is_made_good_by_the_next(shop: Shop, moment: str) -> None:
    """Done again it is as done once, with the configuration as it is or with the new address."""
    keys, old = shop.settings.state.keys, shop.settings.endpoint.target
    kept = {path.name: path.read_bytes() for path in keys.iterdir()}
    _move(shop)
    for name, content in kept.items():  # as if what comes last had not been done
        (keys / name).write_bytes(content)
        (keys / name).chmod(0o600)
    if moment == "the keys were written":
        with shop_at(shop, NEW).state(write=True) as state:
            state.ledger.about.move(old, reason="", by="", now=0)
    else:
        _say(shop, NEW)
    _move(shop)
    _say(shop, NEW)
    assert [path.name for path in _left(keys, old)] == [f"{anchor.tag(old)}.anchor.json"]
    assert anchor.moved(keys, old).startswith(NEW)
    assert inspecting.check(shop.settings)["exit"] == 0


def shop_at(shop: Shop, url: str) -> Shop:
    """Return the shop with another address in its configuration."""
    _say(shop, url)
    other = Shop.__new__(Shop)
    other.folder, other.config, other.export = shop.folder, shop.folder / "other.toml", shop.export
    other.config.write_text(shop.config.read_text())
    _say(shop, "http://127.0.0.1:9")
    return other


def test_it_waits_for_no_run_and_says_what_comes_next(shop: Shop, cli: Cli) -> None:
    """Busy is 75; in words it names the key of the configuration that is to be changed."""
    arguments = ("state", "retarget", NEW, "--same-platform", "--reason", "why", "--by", "me", "--config", shop.config)
    with lock.held(shop.settings.state.path):
        assert cli(*arguments).code == 75
    said = cli(*arguments)
    assert said.code == 0
    assert f'base_url = "{NEW}"' in said.out


def test_a_backup_from_before_the_move_goes_on_too(tmp_path: Path) -> None:
    """Restored under the old address and moved again: it is known to be old, and who was erased stays so."""
    first = people(60)
    with running(Options()) as old, running(Options()) as new:
        shop = Shop(tmp_path, old.url, linger_s=0)
        shop.write(first)
        shop.init()
        sync_job.run(shop.settings)
        backups.backup(shop.settings, tmp_path / "b.tar")
        forgetting.forget(shop.settings, forgetting.clients(shop.settings, [1003], None), "R", Watch())
        _move(shop, new.url)
        _say(shop, new.url)
        shop.withdraw({1001: "all"})
        sync_job.run(shop.settings)
        shutil.rmtree(tmp_path / "state")
        with pytest.raises(ForeignStateError):
            backups.restore(shop.settings, tmp_path / "b.tar")
        _say(shop, old.url)
        backups.restore(shop.settings, tmp_path / "b.tar")
        with pytest.raises(StateError, match="has moved to"):
            sync_job.run(shop.settings)
        _move(shop, new.url)
        _say(shop, new.url)
        with pytest.raises(RestoredStateError):
            sync_job.run(shop.settings)
        restoring.restored(shop.settings, shop.listing({1001: "all"}), "me", Watch())
        assert sync_job.run(shop.settings).exit_code == 0
        assert holds(new.platform)[1001] == (False,) * 4
        assert 1003 not in holds(new.platform)
        assert inspecting.check(shop.settings)["exit"] == 0
