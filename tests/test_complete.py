import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sync_job.config import ExportSettings, Settings, duration_s, load
from sync_job.errors import ConfigError, ExportError, ExportIncompleteError
from sync_job.exports import complete, loader
from sync_job.runs.awaiting import await_export
from sync_job.runs.watch import Watch
from tests import stores
from tests.commands import Cli

HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
TEXT = HEADER + "1,1,1,0,0\n2,0,0,1,1\nx,1,1,1,1\n"
UTC = ZoneInfo("UTC")
NOW = 1.7e9


class Clock:
    """Time that passes while somebody sleeps; what is to happen meanwhile happens then."""

    def __init__(self) -> None:
        self.now = NOW
        self.slept: list[float] = []
        self.then: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds
        for when, act in [one for one in self.then if one[0] <= self.now - NOW]:
            self.then.remove((when, act))
            act()


def _settings(**keys: Any) -> ExportSettings:
    return ExportSettings.model_validate({"as_of": "none"} | keys)


def _write(path: Path, text: str = TEXT, changed: float = NOW - 3600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (changed, changed))
    return path


def _load(place: Path | str, **keys: Any) -> loader.Export:
    return loader.load(_settings(**keys), UTC, where=str(place), first_look=True)


def _ready(where: Path | str, clock: Clock, **keys: Any) -> complete.Ready:
    return complete.ready(str(where), _settings(**keys), UTC, clock=clock, sleep=clock.sleep)


# pick


def test_the_newest_file_is_picked_by_its_name(tmp_path: Path) -> None:
    """By the time in it, whatever the files' own times are; it says which it left out. Parts go together."""
    for name, changed in (("crm_2026-11-22.csv", 3.0), ("crm_2026-11-23.csv", 1.0), ("crm_2026-11-09.csv", 2.0)):
        _write(tmp_path / name, changed=changed)
    export = _load(tmp_path, pick="newest", as_of="filename:%Y-%m-%d")
    assert [Path(one.path).name for one in export.inputs] == ["crm_2026-11-23.csv"]
    left_out = [str(tmp_path / f"crm_2026-11-{day}.csv") for day in ("09", "22")]
    assert export.counts()["left_out"] == left_out
    _write(tmp_path / "more_2026-11-23.csv")
    assert len(_load(tmp_path, pick="newest", as_of="filename:%Y-%m-%d").inputs) == 2
    _write(tmp_path / "undated.csv")
    with pytest.raises(ExportError, match=r"undated.csv: no time like"):
        _load(tmp_path, pick="newest", as_of="filename:%Y-%m-%d")


def test_the_newest_file_is_picked_by_its_time(tmp_path: Path) -> None:
    """Where names are not what gives the age; by default all files are one export."""
    for name, changed in (("a.csv", 3e8), ("b.csv", 1e8), ("c.csv", 2e8)):
        _write(tmp_path / name, changed=changed)
    export = _load(f"{tmp_path}/*.csv", pick="newest", as_of="mtime")
    assert ([Path(one.path).name for one in export.inputs], export.as_of) == (["a.csv"], 3e8)
    assert len(_load(tmp_path).inputs) == 3
    assert _load(tmp_path).left_out == []


def test_what_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    """An older file may be broken."""
    _write(tmp_path / "a.csv", "", changed=1e8)
    _write(tmp_path / "b.csv", changed=2e8)
    assert _load(tmp_path, pick="newest").rows == 3


# stable


def test_a_file_that_was_left_alone_is_complete_at_once(tmp_path: Path) -> None:
    """By its own time."""
    clock = Clock()
    path = _write(tmp_path / "a.csv", changed=NOW - 60)
    assert [place.name for place in _ready(path, clock, complete="stable:60s").places] == [str(path)]
    assert clock.slept == []


@pytest.mark.parametrize("changed", [NOW - 20, NOW + 7200])
def test_a_young_file_is_watched(tmp_path: Path, changed: float) -> None:
    """For what is left of the time; a file from the future for all of it, because its time says nothing."""
    clock = Clock()
    _ready(_write(tmp_path / "a.csv", changed=changed), clock, complete="stable:1m")
    assert sum(clock.slept) == (40 if changed < NOW else 60)
    assert max(clock.slept) <= 5


@pytest.mark.parametrize("what", ["grows", "another", "gone", "touched"])
def test_a_file_that_is_still_written_is_not_complete(tmp_path: Path, what: str) -> None:
    """It grows, gets another time, another one appears in its folder, or it goes."""
    clock = Clock()
    path = _write(tmp_path / "a.csv", changed=NOW - 1)
    acts: dict[str, Callable[[], object]] = {
        "grows": lambda: _write(path, TEXT + "4,1,1,1,1\n", NOW - 1),
        "another": lambda: _write(tmp_path / "b.csv"),
        "gone": path.unlink,
        "touched": lambda: os.utime(path, (NOW, NOW)),
    }
    clock.then.append((30, acts[what]))
    with pytest.raises(ExportIncompleteError):
        _ready(tmp_path, clock, complete="stable:60s")
    assert 30 <= sum(clock.slept) <= 35


# marker


@pytest.mark.parametrize(
    ("pattern", "marker"), [("_SUCCESS", "_SUCCESS"), ("{name}.ok", "a.csv.ok"), ("{name}.done", "a.csv.done")]
)
def test_a_marker_says_that_an_export_is_complete(tmp_path: Path, pattern: str, marker: str) -> None:
    """It lies beside the file, and is no older."""
    _write(tmp_path / "a.csv", changed=NOW)
    with pytest.raises(ExportIncompleteError, match=f"not complete: {re.escape(marker)} is not beside it"):
        _load(tmp_path, complete=f"marker:{pattern}")
    _write(tmp_path / marker, "", changed=NOW - 1)
    with pytest.raises(ExportIncompleteError, match="says that an earlier one was complete"):
        _load(tmp_path, complete=f"marker:{pattern}")
    _write(tmp_path / marker, "", changed=NOW)
    assert _load(tmp_path, complete=f"marker:{pattern}").rows == 3


def test_one_marker_may_be_for_all_partitions(tmp_path: Path) -> None:
    """It lies in the folder that was named, above those of partitions; one above that is none."""
    for day in (23, 24):
        _write(tmp_path / "out" / f"dt=2026-11-{day}" / "part-0.csv", TEXT.replace("1,1,1", f"{day},1,1"))
    _write(tmp_path / "_SUCCESS", "")
    with pytest.raises(ExportIncompleteError, match="not complete"):
        _load(tmp_path / "out", complete="marker:_SUCCESS")
    _write(tmp_path / "out" / "_SUCCESS", "")
    assert _load(tmp_path / "out", complete="marker:_SUCCESS").rows == 6


# sidecar

SHA, MD5 = (hashlib.new(kind, TEXT.encode()).hexdigest() for kind in ("sha256", "md5"))


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("sha256", SHA),
        ("sha256", f"{SHA.upper()}\n"),
        ("sha256", f"{SHA}  a.csv\n"),
        ("sha256", f"{SHA} *out/a.csv\r\n"),
        ("sha256", f"{MD5 * 2}  b.csv\n{SHA}  a.csv\n"),
        ("md5", MD5),
        ("md5", f"{MD5}  a.csv"),
        ("rows", "3"),
        ("count", " 3\n"),
    ],
)
def test_a_sidecar_that_is_right_lets_the_file_in(tmp_path: Path, ending: str, text: str) -> None:
    """A digest alone or with its name, or the number of rows, rejected ones too."""
    path = _write(tmp_path / "a.csv")
    _write(tmp_path / f"a.csv.{ending}", text)
    assert _load(path, complete="sidecar").rows == 3
    assert _load(tmp_path, complete="sidecar").rows == 3, "it is no file of the export"


@pytest.mark.parametrize(
    ("ending", "text", "words"),
    [
        ("sha256", "0" * 64, f"sha256 digest: {SHA}, and .*a.csv.sha256 says 0000"),
        ("md5", "0" * 32, "md5 digest"),
        ("rows", "4", r"rows: 3, and .*a.csv.rows says 4"),
        ("count", "2", "rows: 3"),
        ("sha256", SHA[:-1], "no digest of a.csv"),
        ("sha256", f"{SHA}  b.csv", "no digest of a.csv"),
        ("sha256", f"{SHA}  a.csv\n{MD5 * 2}  a.csv", "no digest of a.csv"),
        ("rows", "3 rows", "not a number"),
        ("rows", "", "empty"),
    ],
)
def test_a_sidecar_that_is_not_refuses_it(tmp_path: Path, ending: str, text: str, words: str) -> None:
    """With both, or with what is wrong with it."""
    path = _write(tmp_path / "a.csv")
    _write(tmp_path / f"a.csv.{ending}", text)
    with pytest.raises(ExportError, match=words):
        _load(path, complete="sidecar")


def test_all_sidecars_are_held_to(tmp_path: Path) -> None:
    """One that is right does not speak for another; without any the file is not complete."""
    path = _write(tmp_path / "a.csv")
    with pytest.raises(ExportIncompleteError, match=r"none of a.csv.sha256, a.csv.md5, .* is beside it"):
        _load(path, complete="sidecar")
    _write(tmp_path / "a.csv.sha256", SHA)
    _write(tmp_path / "a.csv.rows", "4")
    with pytest.raises(ExportError, match="rows: 3"):
        _load(path, complete="sidecar")


def test_rows_that_are_another_brands_are_rows_of_the_file(tmp_path: Path) -> None:
    """The number in a sidecar is of all of them."""
    path = _write(tmp_path / "a.csv", "Brand," + HEADER + "a,1,1,1,0,0\nb,2,1,1,0,0\n")
    _write(tmp_path / "a.csv.rows", "2")
    assert _load(path, complete="sidecar", where={"Brand": "a"}).rows == 1


def test_a_cut_file_never_gets_past_its_sidecar(tmp_path: Path) -> None:
    """At whatever length."""
    path = tmp_path / "a.csv"
    _write(tmp_path / "a.csv.sha256", SHA)
    for length in range(len(TEXT)):
        _write(path, TEXT[:length])
        with pytest.raises(ExportError):
            _load(path, complete="sidecar")


def test_what_lies_beside_a_file_of_a_web_server_is_found() -> None:
    """Markers and sidecars alike."""
    with stores.files() as server:
        server.files["/in/a.csv"] = TEXT.encode()
        url = f"{server.url}/in/a.csv"
        for how in ("marker:_SUCCESS", "sidecar"):
            with pytest.raises(ExportIncompleteError, match="not complete"):
                _load(url, complete=how)
        server.files |= {"/in/_SUCCESS": b"x", "/in/a.csv.sha256": SHA.encode()}
        assert _load(url, complete="marker:_SUCCESS").rows == 3
        assert _load(url, complete="sidecar").rows == 3
        assert _load(url, complete="stable:60s").rows == 3


def test_a_stream_is_complete_when_it_ends() -> None:
    """Nothing lies beside it."""
    with pytest.raises(ExportError, match="a stream ends when it is complete"):
        _load("-", complete="sidecar")


def test_parts_have_no_marker(tmp_path: Path) -> None:
    """A repaired list of rejects is complete when somebody names it."""
    path = _write(tmp_path / "rejects.csv")
    keys = _settings(complete="marker:_SUCCESS", pick="newest")
    assert loader.load(keys, UTC, where=str(path), first_look=False, kind="part").rows == 3
    with pytest.raises(ExportIncompleteError):
        loader.load(keys, UTC, where=str(path), first_look=False)


# what can be configured


@pytest.mark.parametrize(
    "text",
    [
        "stable",
        "stable:",
        "stable:60",
        "stable:0s",
        "stable:1d",
        "marker:",
        "marker:../x",
        "marker:{x}",
        "sidecar:x",
        "yes",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    """By the configuration."""
    with pytest.raises(ValueError, match=r"no length of time|a marker is|is none of"):
        _settings(complete=text)


def test_lengths_of_time() -> None:
    """Seconds, minutes, hours."""
    assert [duration_s(text) for text in ("90s", "30m", "2h")] == [90, 1800, 7200]


# waiting


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return the settings of a target whose export is not there yet."""
    file = tmp_path / "nightly.toml"
    file.write_text(
        '[export]\npath = "in"\nas_of = "none"\ncomplete = "marker:_SUCCESS"\n[endpoint]\nbase_url = "http://127.0.0.1:9"\n'
    )
    return load(file)


def test_an_export_is_awaited(tmp_path: Path, settings: Settings) -> None:
    """Until it is there, not empty, and complete; with a note of what is missing."""
    clock, notes = Clock(), []

    class Seen(Watch):
        def at(self, done: int, total: int | None = None, note: str = "", rate: float = 0.0) -> None:
            notes.append((done, total, note))

    clock.then = [
        (100, lambda: _write(tmp_path / "in" / "a.csv", "")),
        (200, lambda: _write(tmp_path / "in" / "_SUCCESS", "")),
        (300, lambda: _write(tmp_path / "in" / "a.csv")),
    ]
    assert await_export(settings, 3600, Seen(), clock=clock, sleep=clock.sleep)
    assert sum(clock.slept) == 300
    assert "no such file" in notes[0][2]
    assert "not complete: _SUCCESS" in notes[15][2]
    assert "empty" in notes[25][2]
    assert {total for _, total, _ in notes} == {3600}
    assert [done for done, _, _ in notes] == list(range(0, 300, 10))


def test_waiting_ends(tmp_path: Path, settings: Settings) -> None:
    """When its time is up, or for what waiting does not mend."""
    clock = Clock()
    assert not await_export(settings, 95, Watch(), clock=clock, sleep=clock.sleep)
    assert sum(clock.slept) == 95
    _write(tmp_path / "in" / "a.csv")
    _write(tmp_path / "in" / "a.csv.gz")
    with pytest.raises(ExportError, match="the same file twice"):
        await_export(settings, 95, Watch(), clock=clock, sleep=clock.sleep)


def test_commands_wait_and_then_end_as_before(tmp_path: Path, cli: Cli, settings: Settings) -> None:
    """With exit 3, and why; a time that is none is exit 2."""
    config = str(tmp_path / "nightly.toml")
    _write(tmp_path / "first.csv")
    made = cli("init", str(tmp_path / "first.csv"), "--config", config, "--platform", "unknown", "--no-withdrawals")
    assert made.code == 3, "its marker is missing"
    _write(tmp_path / "_SUCCESS", "")
    made = cli("init", str(tmp_path / "first.csv"), "--config", config, "--platform", "unknown", "--no-withdrawals")
    assert made.code in (0, 1)
    for command in ("run", "plan"):
        ended = cli(command, "--config", config, "--wait-for-export", "1s", "--quiet")
        assert ended.code == 3
        assert "no such file" in ended.err
        ended = cli(command, "--config", config, "--wait-for-export", "1s", "--part", str(tmp_path / "first.csv"))
        assert ended.code == 2
        ended = cli(command, "--config", config, "--wait-for-export", "soon")
        assert ended.code == 2
        assert "--wait-for-export: 'soon' is no length of time" in ended.err


def test_an_address_is_kept_as_it_is(tmp_path: Path) -> None:
    """A path is relative to the configuration's folder; an address and `-` are not."""
    file = tmp_path / "nightly.toml"
    for path in ("s3://crm/in/*.csv", "https://u:p@h/x?a=/../b", "-"):
        file.write_text(f'[export]\npath = "{path}"\nas_of = "none"\n[endpoint]\nbase_url = "http://127.0.0.1:9"\n')
        assert load(file).export.path == path
    file.write_text('[export]\ncomplete = "soon"\nas_of = "none"\n[endpoint]\nbase_url = "http://127.0.0.1:9"\n')
    with pytest.raises(ConfigError, match=r"\[export\] complete"):
        load(file)
