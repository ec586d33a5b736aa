"""Metrics: what Prometheus reads of runs, what it may rely on, and the alarms that are made of them."""

import fcntl
import io
import os
import re
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import sync_job
from sync_job.cli import options
from sync_job.config import load
from sync_job.consent.channels import CHANNELS
from sync_job.errors import BusyError, ConfigError, Exit, NoStateError, StateDamagedError, exit_of
from sync_job.ledger import lock
from sync_job.ledger.applied import ReadExport
from sync_job.report import metrics
from sync_job.report.metrics import FAMILIES, MOST_ANSWERS, OTHER, PREFIX
from sync_job.runs import measuring
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, changed, people

ROOT = Path(sync_job.__file__).parent.parent
DEPLOY = ROOT / "deploy" / "prometheus"
RULES = (DEPLOY / "consent-sync.rules.yml").read_text("utf-8")
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text("utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")
TARGET = "https://loyalty.example.com operator 1"
FIRST = 700_000_000  # a client's id that nothing else looks like
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Values:
    """Return every value of a text by its name and labels."""
    return {
        (one.name.removeprefix(PREFIX), frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    """Return a value of the target, by all its other labels; none where it is not there."""
    found = [one for (called, its), one in parsed(text).items() if called == name and _rest(its) == labels]
    assert len(found) < 2
    return found[0] if found else None


def _rest(labels: frozenset[tuple[str, str]]) -> dict[str, str]:
    return {name: said for name, said in labels if name != "target"}


def promtool(*arguments: str | Path, text: str = "", folder: Path = DEPLOY) -> None:
    """Run Prometheus' own tool, which must find nothing wrong."""
    command = shutil.which("promtool")
    if command is None:
        pytest.skip("the promtool command is missing, which checks metrics and alarms as Prometheus does")
    ended = subprocess.run(
        [command, *arguments], input=text, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr


# Random runs

COUNT = st.integers(0, 10**8)
MOMENT = st.floats(1.6e9, 2.2e9)
OUTCOMES = ("delivered", "refused", "exhausted", "deferred")
LANES = ("obligation", "withdrawal", "revocation", "denial", "grant")
HELD = ("nothing", "denied", "allowed")
BOUNDS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]


def counts(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a count for each name."""
    return st.fixed_dictionaries(dict.fromkeys(names, COUNT))


ANSWER = st.fixed_dictionaries(
    {
        "outcome": st.sampled_from(OUTCOMES),
        "status": st.none() | st.sampled_from([200, 400, 404, 500]),
        "code": st.none() | st.integers(0, 40),
        "message": st.text(max_size=5),
        "count": st.integers(1, 10**6),
    },
    optional={"since": st.sampled_from(["new", "known"])},
)
SUMMARY = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["run", "drain", "backfill"]),
        "target": st.just(TARGET) | st.text(max_size=20),
        "started": MOMENT,
        "ended": MOMENT,
        "exit": st.sampled_from([int(code) for code in Exit]),
        "restrict_only": st.sampled_from(["", "said so"]),
        "outcomes": counts(OUTCOMES),
        "requests": COUNT,
        "codes": st.lists(ANSWER, max_size=60),
        "seconds": st.dictionaries(st.sampled_from(["read", "decide", "deliver", "report"]), st.floats(0, 1e5)),
        "export": st.none() | counts(("rows", "clients", "duplicates", "rejects")),
        "decided": st.none()
        | counts(
            ("planned", "planned_unstated", "forgotten", "waiting", "blocked", "held", "unchanged", "absent")
        ).flatmap(
            lambda found: st.fixed_dictionaries(
                {name: st.just(count) for name, count in found.items()}
                | {name: counts(CHANNELS) for name in ("held_channels", "blocked_channels")}
            )
        ),
        "grants": st.none()
        | st.fixed_dictionaries(
            {"new": COUNT, "re": COUNT, "revocations": counts(CHANNELS), "lost": COUNT, "unknown": COUNT}
        ),
        "guards": st.lists(
            st.fixed_dictionaries(
                {"guard": st.sampled_from(["re-grants", "revocations"]), "channel": st.sampled_from(["", *CHANNELS])}
            ),
            max_size=3,
        ),
        "delivery": st.none() | counts(("limit", "most_in_flight", "turned_away", "pauses", "outages")),
        "withdrawals": st.fixed_dictionaries(
            dict.fromkeys(("open", "parked", "past_target", "past_limit", "lists_waiting", "clients_waiting"), COUNT)
            | {name: st.none() | MOMENT for name in ("oldest_started", "first_limit")},
            optional={
                "target_h": st.floats(1, 100),
                "limit_h": st.none() | st.floats(1, 100),
                "last_acknowledged": MOMENT,
            },
        ),
    },
    optional={
        "transitions": st.fixed_dictionaries(
            {one: st.fixed_dictionaries({was: counts(HELD[1:]) for was in HELD}) for one in CHANNELS}
        ),
        "lanes": counts(LANES),
        "retries": COUNT,
        "memory_mb": st.integers(1, 10**5),
        "version": st.just("9.9.9"),
        "round_trips": st.fixed_dictionaries(
            {
                "bounds_s": st.just(BOUNDS_S),
                "counts": st.lists(COUNT, min_size=13, max_size=13),
                "sum_s": st.floats(0, 1e6),
            }
        ),
    },
)  # what older summaries lack is optional


def flat(summary: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield what must be told of a run, worked out as somebody would who has the summary and docs/metrics.md."""
    export, decided, grants = (summary.get(name) or {} for name in ("export", "decided", "grants"))
    delivery, owed = (summary.get(name) or {} for name in ("delivery", "withdrawals"))
    for name in export:
        yield f"export_{name}", {}, export[name]
    for name in ("forgotten", "waiting", "blocked", "held", "unchanged"):
        if decided:
            yield "clients", {"decision": name}, decided[name]
    if decided:
        yield "clients", {"decision": "planned"}, decided["planned"] - decided["planned_unstated"]
        yield "clients_absent", {}, decided["absent"]
        for name in ("held", "blocked"):
            for channel in CHANNELS:
                yield f"clients_{name}", {"channel": channel}, decided[f"{name}_channels"][channel]
    if grants:
        yield "clients_lost", {}, grants["lost"]
        yield "clients_unknown", {}, grants["unknown"]
        yield from (("wanted_grants", {"grant": which}, grants[which]) for which in ("new", "re"))
        yield from (("wanted_revocations", {"channel": c}, grants["revocations"][c]) for c in CHANNELS)
    for channel, matrix in summary.get("transitions", {}).items():
        for was, sent in ((was, sent) for was in HELD for sent in HELD[1:]):
            yield "planned_changes", {"channel": channel, "was": was, "sent": sent}, matrix[was][sent]
    yield from (("planned_clients", {"lane": lane}, n) for lane, n in summary.get("lanes", {}).items())
    yield from (("outcomes", {"outcome": name}, n) for name, n in summary["outcomes"].items())
    yield from (("run_stage_duration_seconds", {"stage": name}, s) for name, s in summary["seconds"].items())
    yield "requests", {}, summary["requests"]
    if "retries" in summary:
        yield "retries", {}, summary["retries"]
    if "memory_mb" in summary:
        yield "run_memory_max_bytes", {}, summary["memory_mb"] * 1024 * 1024
    yield "run_start_timestamp_seconds", {}, summary["started"]
    yield "run_end_timestamp_seconds", {}, summary["ended"]
    yield "run_died", {}, 0
    yield "run_restricted", {}, int(summary["restrict_only"] != "")
    for one in summary["guards"]:
        yield "guard_tripped", {"guard": one["guard"], "channel": one["channel"]}, 1
    for name, key in (
        *(("requests_turned_away", "turned_away"), ("request_pauses", "pauses"), ("request_outages", "outages")),
        *(("request_limit", "limit"), ("requests_in_flight_max", "most_in_flight")),
    ):
        if delivery:
            yield name, {}, delivery[key]
    no = [one for one in summary["codes"] if one["outcome"] in ("refused", "exhausted")]
    yield "undone_answers_new", {}, sum(one.get("since") == "new" for one in no)
    for name, key, times in (
        *((f"obligations_{key}", key, 1) for key in ("open", "parked", "past_target", "past_limit")),
        *((f"inbox_{what}", f"{what}_waiting", 1) for what in ("lists", "clients")),
        ("obligation_oldest_timestamp_seconds", "oldest_started", 1),
        ("obligation_first_limit_timestamp_seconds", "first_limit", 1),
        ("obligation_last_acknowledged_timestamp_seconds", "last_acknowledged", 1),
        ("obligation_target_seconds", "target_h", 3600),
        ("obligation_limit_seconds", "limit_h", 3600),
    ):
        if owed.get(key) is not None:
            yield name, {}, owed[key] * times


_APART = ("last_", "build_info", "undone_rows", "round_trip_seconds", "export_first_read", "export_last_read")


@given(SUMMARY)
def test_counts_are_those_of_the_summary(summary: dict[str, Any]) -> None:
    """Each number is there with its labels, equal, and there is no other."""
    text = metrics.reported(summary, "")
    told = {
        (name, frozenset(_rest(labels).items()) - {("kind", summary["kind"])}): one
        for (name, labels), one in parsed(text).items()
        if not name.startswith(_APART)
    }
    assert told == {(name, frozenset(labels.items())): pytest.approx(one) for name, labels, one in flat(summary)}


@settings(max_examples=40)
@given(SUMMARY)
def test_undone_rows_add_up_and_are_few(summary: dict[str, Any]) -> None:
    """All refused and exhausted rows are counted, as many series as ErrorCodes there may be; the largest are named."""
    kind, text = summary["kind"], metrics.reported(summary, "")
    found = [(dict(labels), one) for (name, labels), one in parsed(text).items() if name == "undone_rows"]
    for outcome in ("refused", "exhausted"):
        rows = sum(one["count"] for one in summary["codes"] if one["outcome"] == outcome)
        assert sum(one for labels, one in found if labels["outcome"] == outcome) == rows
    named = [one for labels, one in found if labels["code"] != OTHER]
    assert len(named) <= MOST_ANSWERS
    assert len(found) <= len(named) + 2
    for one in summary["codes"]:
        rows = sum(
            other["count"]
            for other in summary["codes"]
            if [other[name] for name in ("outcome", "status", "code")]
            == [one[name] for name in ("outcome", "status", "code")]
        )
        labels = {name: "" if one[name] is None else str(one[name]) for name in ("outcome", "status", "code")}
        told = value(text, "undone_rows", kind=kind, **labels)
        assert told == rows or (told is None and (one["outcome"] not in ("refused", "exhausted") or rows <= min(named)))


@settings(max_examples=40)
@given(SUMMARY)
def test_histogram_is_cumulative(summary: dict[str, Any]) -> None:
    """Buckets count what took at most so long; the last is all."""
    text = metrics.reported(summary, "")
    trips = summary.get("round_trips")
    kind = summary["kind"]
    if trips is None:
        assert value(text, "round_trip_seconds_count", kind=kind) is None
        return
    assert value(text, "round_trip_seconds_sum", kind=kind) == pytest.approx(trips["sum_s"])
    assert value(text, "round_trip_seconds_count", kind=kind) == sum(trips["counts"])
    for place, bound in enumerate([*map(float, BOUNDS_S), "+Inf"]):
        so_far = value(text, "round_trip_seconds_bucket", kind=kind, le=str(bound))
        assert so_far == sum(trips["counts"][: place + 1])


@settings(max_examples=40)
@given(st.lists(SUMMARY, max_size=3), SUMMARY)
def test_a_run_replaces_its_kind_and_nothing_else(before: list[dict[str, Any]], last: dict[str, Any]) -> None:
    """What other kinds and targets had stays as it was, and of the run's own nothing is left."""
    text = ""
    for one in before:
        text = metrics.reported(one, text)
    after = parsed(metrics.reported(last, text))
    own = {("target", last["target"]), ("kind", last["kind"])}

    def of_others(found: Values) -> Values:
        # What is true of the target has no kind, and is the last run's to say, whichever it was.
        return {
            key: one
            for key, one in found.items()
            if ("target", last["target"]) not in key[1] or _kind(key[1]) not in ("", last["kind"])
        }

    assert of_others(after) == of_others(parsed(text))
    alone = parsed(metrics.reported(last, ""))
    success = "last_success_timestamp_seconds"
    assert {key: one for key, one in after.items() if own <= key[1] and key[0] != success} == {
        key: one for key, one in alone.items() if own <= key[1] and key[0] != success
    }


def _kind(labels: frozenset[tuple[str, str]]) -> str:
    return dict(labels).get("kind", "")


# What outlives a run

PLAIN: dict[str, Any] = {
    "kind": "run",
    "target": TARGET,
    "started": 100.0,
    "ended": 200.0,
    "exit": 0,
    "outcomes": dict.fromkeys(OUTCOMES, 1),
    "seconds": {},
}


@pytest.mark.parametrize("code", [code for code in Exit if code not in (Exit.OK, Exit.ATTENTION)])
def test_last_success_survives_what_is_none(code: Exit) -> None:
    """Of whatever the next run ends in, with a report or without; and no other kind's success stands for it."""
    text = metrics.reported(PLAIN, "")
    text = metrics.reported(PLAIN | {"ended": 300.0, "exit": int(code)}, text)
    text = metrics.ended(TARGET, "run", code, 400.0, text)
    text = metrics.reported(PLAIN | {"kind": "drain", "ended": 500.0}, text)
    assert value(text, "last_success_timestamp_seconds", kind="run") == 200.0
    assert value(text, "last_end_timestamp_seconds", kind="run") == 400.0
    assert value(text, "last_exit_code", kind="run") == code
    assert value(text, "last_success_timestamp_seconds", kind="drain") == 500.0


@pytest.mark.parametrize("code", [Exit.OK, Exit.ATTENTION])
def test_a_run_that_came_to_its_end_is_a_success(code: Exit) -> None:
    """Single rows that were refused do not make a night fail."""
    text = metrics.reported(PLAIN | {"ended": 300.0, "exit": int(code)}, metrics.reported(PLAIN, ""))
    assert value(text, "last_success_timestamp_seconds", kind="run") == 300.0


def test_a_dead_run_is_no_success() -> None:
    """Its report says exit 1 as well, but it was another run that wrote it."""
    text = metrics.reported(PLAIN | {"ended": 300.0, "exit": 1}, metrics.reported(PLAIN, ""), died=True)
    assert value(text, "last_success_timestamp_seconds", kind="run") == 200.0
    assert value(text, "run_died", kind="run") == 1


def test_no_success_so_far_is_zero() -> None:
    """A rule that asks how long ago it was fires, as it could not where there is no value."""
    text = metrics.ended(TARGET, "run", Exit.EXPORT, 400.0, "")
    assert value(text, "last_success_timestamp_seconds", kind="run") == 0


def test_an_error_leaves_the_last_report_as_it_was() -> None:
    """What the last run with a report did is still what it did."""
    before = metrics.reported(PLAIN, "")
    after = metrics.ended(TARGET, "run", Exit.BUSY, 400.0, before)
    ends = {"last_end_timestamp_seconds", "last_exit_code"}
    assert {key for key, one in parsed(after).items() if parsed(before).get(key) != one and key[0] not in ends} == set()


@given(
    st.text()
    | st.lists(st.sampled_from(["# TYPE ", "consent_sync_outcomes", "{", "}", '"', "=", " 1", "\n", "\\"])).map("".join)
)
def test_a_file_that_is_no_metrics_is_replaced(text: str) -> None:
    """Whatever stands there, what is written over it can be read, and is about the run."""
    assert value(metrics.reported(PLAIN, text), "outcomes", kind="run", outcome="refused") == 1


def test_metrics_of_an_older_version_do_not_stay() -> None:
    """A name that is not written any more would keep its last value for ever."""
    text = "# TYPE consent_sync_gone gauge\nconsent_sync_gone 1\n# TYPE other gauge\nother 2\n" + metrics.reported(
        PLAIN, ""
    )
    after = metrics.reported(PLAIN, text)
    assert "consent_sync_gone" not in after
    assert "other 2" not in after


# Documents and alarms

ROW = re.compile(r"^\| `(consent_sync_[a-z_]+)` \| (\w+) \| (.*?) \| .* \| `(.*)` \|$", re.MULTILINE)


def test_every_metric_is_documented_and_there() -> None:
    """docs/metrics.md has each with its type and labels, in the order of the text, and no other."""
    documented = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(DOCUMENT)
    ]
    assert documented == [(one.full_name, one.type, one.label_names()) for one in FAMILIES]
    text = metrics.reported(PLAIN, "")
    assert re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE) == [(name, kind) for name, kind, _ in documented]


def test_examples_have_the_labels() -> None:
    """Each example is a value with labels of the metric, but for the target."""
    for name, kind, labels, example in ROW.findall(DOCUMENT):
        known = {*re.findall(r"`(\w+)`", labels), *(["le"] if kind == "histogram" else [])} - {"target"}
        assert set(re.findall(r'(\w+)="', example)) == known, name
        assert parsed(f"{name}{example if known else ' ' + example}\n"), name


def test_every_metric_of_the_rules_is_there() -> None:
    """An alarm on a name that is not written would never fire."""
    written = {one.full_name for one in FAMILIES}
    assert set(re.findall(r"\bconsent_\w+", RULES)) <= written
    assert set(re.findall(r"\bnode_\w+", RULES)) == {"node_textfile_mtime_seconds"}  # the collector's own


def alarms() -> list[str]:
    """Return the names of all alarms."""
    return re.findall(r"- alert: (\w+)", RULES)


def test_every_alarm_says_what_to_do() -> None:
    """Each has a severity, words, and a row of docs/operating.md to read, and no row is without an alarm."""
    (section,) = re.findall(r"^## Alarms\n(.*?)^## ", OPERATING, re.MULTILINE | re.DOTALL)
    rows = set(re.findall(r"`(ConsentSync\w+)`(?=[^\n]*\|)", section))
    assert rows == set(alarms())
    for block in RULES.split("- alert: ")[1:]:
        assert re.search(r"severity: (critical|warning)\n", block)
        for name in ("summary: ", "description: ", "runbook: docs/operating.md#alarms\n"):
            assert name in block, block
        critical = "severity: critical" in block
        assert (f"`{block.split()[0]}`, critical" in section) == critical


def test_every_alarm_is_tested() -> None:
    """Each is expected to fire somewhere in the rules' own tests."""
    tests = (DEPLOY / "consent-sync.rules.test.yml").read_text("utf-8")
    assert {one for one in alarms() if one not in tests} == set()


def test_rules_are_rules() -> None:
    """Prometheus itself reads the alarms."""
    promtool("check", "rules", "consent-sync.rules.yml")


def test_alarms_fire_when_they_should() -> None:
    """And not before, by the tests that are shipped with them."""
    promtool("test", "rules", "consent-sync.rules.test.yml")


# The file

BEGIN = '[export]\nas_of = "none"\n[endpoint]\nbase_url = "https://loyalty.example.com"\noperator = 1\n'


def configured(folder: Path, textfile: str) -> Path:
    """Return a configuration with that text file."""
    config = folder / "nightly.toml"
    config.write_text(f'{BEGIN}[metrics]\ntextfile = "{textfile}"\n')
    return config


def test_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    """As all paths of a configuration are; "" is none, and none is the default."""
    assert load(configured(tmp_path, "a/m.prom")).metrics.textfile == tmp_path / "a" / "m.prom"
    assert load(configured(tmp_path, "")).metrics.textfile is None


@pytest.mark.parametrize("name", ["metrics.txt", "prom", "m.prom.gz", "folder.prom"])
def test_path_that_no_collector_reads_is_refused(tmp_path: Path, name: str) -> None:
    """A file that is never looked at is a monitor that never says anything."""
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(
        ConfigError, match=r"\[metrics\] textfile: .* node_exporter reads files whose names end in \.prom"
    ):
        load(configured(tmp_path, name))


def test_file_is_for_all_to_read(tmp_path: Path) -> None:
    """Whatever the mask is: node_exporter is another user."""
    settings = load(configured(tmp_path, "m.prom"))
    mask = os.umask(0o077)
    try:
        measuring.ended(settings, "run", Exit.OK)
        measuring.ended(settings, "run", Exit.OK)
    finally:
        os.umask(mask)
    assert (tmp_path / "m.prom").stat().st_mode & 0o777 == 0o644
    assert {one.name for one in tmp_path.iterdir()} == {"nightly.toml", "m.prom"}


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    """Metrics are there for who wants them."""
    measuring.ended(load(configured(tmp_path, "")), "run", Exit.OK)
    assert {one.name for one in tmp_path.iterdir()} == {"nightly.toml"}


def test_what_a_killed_one_left_is_no_matter(tmp_path: Path) -> None:
    """Its half a file is neither read by anybody nor in the way."""
    (tmp_path / ".m.prom.new").write_text("consent_sync_outc")
    measuring.ended(load(configured(tmp_path, "m.prom")), "run", Exit.OK)
    assert {one.name for one in tmp_path.iterdir()} == {"nightly.toml", "m.prom"}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a warning, and what is read until then stays whole."""
    settings = load(configured(tmp_path, "m.prom"))
    measuring.ended(settings, "run", Exit.OK)
    before = (tmp_path / "m.prom").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        measuring.ended(settings, "run", Exit.EXPORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "m.prom").read_bytes() == before
    said = "".join(capsys.readouterr())
    assert "metrics.failed" in said
    assert str(tmp_path / "m.prom") in said


def test_file_is_never_seen_half_written(tmp_path: Path) -> None:
    """Two that write it at once lose nothing of each other, and who reads it finds a whole one each time."""
    settings = load(configured(tmp_path, "m.prom"))
    times = 60
    path = tmp_path / "m.prom"
    measuring.ended(settings, "run", Exit.OK)

    def write(kind: str) -> None:
        for number in range(times):
            measuring.ended(settings, kind, Exit.OK if number + 1 < times else Exit.ENDPOINT)

    writers = [threading.Thread(target=write, args=(kind,)) for kind in ("run", "drain", "opt-out")]
    for one in writers:
        one.start()
    last = FAMILIES[-1]
    reads = 0
    while any(one.is_alive() for one in writers) or not reads:
        text = path.read_text("utf-8")
        assert text.endswith(f"# TYPE {last.full_name} {last.type}\n")
        assert value(text, "last_end_timestamp_seconds", kind="run")
        reads += 1
    for one in writers:
        one.join()
    for kind in ("run", "drain", "opt-out"):
        assert value(path.read_text("utf-8"), "last_exit_code", kind=kind) == Exit.ENDPOINT


def test_a_folder_that_another_holds_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run hangs because of its metrics."""
    monkeypatch.setattr(measuring, "_PATIENCE_S", 0.0)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        measuring.ended(load(configured(tmp_path, "m.prom")), "run", Exit.OK)
    finally:
        os.close(handle)
    assert not (tmp_path / "m.prom").exists()
    assert "metrics.failed" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StateDamagedError("x"), Exit.STATE),
        (BusyError("x"), Exit.BUSY),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (MemoryError(), Exit.BUG),
        (ZeroDivisionError(), Exit.BUG),
    ],
)
def test_an_error_is_noted_and_goes_on(tmp_path: Path, error: BaseException, code: Exit) -> None:
    """With the exit code that the command ends with, at every target that it is about."""
    (tmp_path / "b").mkdir()
    targets = [load(configured(folder, "m.prom")) for folder in (tmp_path, tmp_path / "b")]
    with pytest.raises(type(error)), measuring.ending("run", *targets):
        raise error
    assert exit_of(error) is code
    for folder in (tmp_path, tmp_path / "b"):
        assert value((folder / "m.prom").read_text(), "last_exit_code", kind="run") == code


def test_a_question_that_is_interrupted_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves at `Type that number` has ended the command, which is what is noted."""
    settings = load(configured(tmp_path, "m.prom"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(KeyboardInterrupt), measuring.ending("init", settings):
        options.typed("It would send an *allowed* to 3 clients.", "approve it")
    assert value((tmp_path / "m.prom").read_text(), "last_exit_code", kind="init") == Exit.INTERRUPTED


# Runs


@pytest.fixture
def standin() -> Iterator[Standin]:
    """Run a platform."""
    with running(Options(unknown_every=9)) as one:
        yield one


class Measured(Shop):
    """A shop with a text file."""

    def __init__(self, folder: Path, url: str, textfile: str = "metrics.prom") -> None:
        super().__init__(folder, url)
        self.path = folder / textfile
        with self.config.open("a") as file:
            file.write(f'\n[report]\npage = false\n[metrics]\ntextfile = "{textfile}"\n')

    def told(self, name: str, **labels: str) -> float | None:
        """Return a value in the file."""
        return value(self.path.read_text("utf-8"), name, **labels)

    def kinds(self) -> set[str]:
        """Return the kinds of which the file tells."""
        return {_kind(labels) for _, labels in parsed(self.path.read_text("utf-8"))} - {""}


@pytest.fixture
def shop(tmp_path: Path, standin: Standin) -> Measured:
    """Return a shop before its first day."""
    found = Measured(tmp_path, standin.url)
    found.write(people(120, first=FIRST))
    return found


def begin(shop: Measured, cli: Cli) -> None:
    """Make the state, by the command."""
    arguments = ("init", shop.export, "--config", shop.config, "--platform", "unknown", "--no-withdrawals")
    assert cli(*arguments).code == 0


def test_a_run_of_the_command_writes_the_file(shop: Measured, cli: Cli) -> None:
    """From end to end: what a night did is what Prometheus' own tool finds well written, with no client in it."""
    begin(shop, cli)
    shop.write(changed(people(120, first=FIRST), 0.5))
    ended = cli("run", "--config", shop.config, "--json")
    with shop.state() as state:
        (*_, last) = state.ledger.runs()
    summary = last.summary
    assert summary is not None
    text = shop.path.read_text("utf-8")
    promtool("check", "metrics", text=text)
    told = parsed(text)
    for name, labels, one in flat({**summary, "export": None}):
        kind = {} if name.startswith(("obligation", "inbox")) else {"kind": "run"}
        assert told[name, frozenset({**labels, **kind, "target": summary["target"]}.items())] == pytest.approx(one), (
            name
        )
    assert shop.told("export_rows", kind="run") == 120
    assert shop.told("last_exit_code", kind="run") == ended.code == summary["exit"] == 1
    assert shop.told("outcomes", kind="run", outcome="delivered") == summary["outcomes"]["delivered"] > 0
    assert shop.told("undone_rows", kind="run", outcome="refused", status="200", code="8") > 0  # type: ignore[operator]
    assert not {int(one) for one in re.findall(r"\d+", text)} & set(range(FIRST, FIRST + 120))


def test_no_kind_of_run_is_forgotten(shop: Measured, cli: Cli) -> None:
    """Each command that sends something, or makes the state, leaves its kind."""
    begin(shop, cli)
    cli("run", "--config", shop.config)
    listing = shop.listing({FIRST: "sms"})
    cli("opt-out", listing.path, "--config", shop.config, "--received-at", "2026-01-01", "--scope", "sms")
    shop.withdraw({FIRST + 1: "email"})
    cli("drain", "--config", shop.config)
    cli("plan", "--config", shop.config, "-o", shop.folder / "tonight.plan")
    cli("apply", shop.folder / "tonight.plan", "--config", shop.config)
    cli("backfill", "--config", shop.config)
    cli("undo", "2", "--config", shop.config)
    cli("forget", "--client", FIRST + 2, "--reason", "asked by letter", "--by", "Ann", "--config", shop.config)
    with shop.state() as state:
        kinds = {run.kind for run in state.ledger.runs()}
    assert kinds == {"init", "run", "opt-out", "drain", "apply", "backfill", "undo", "forget"}
    assert shop.kinds() == kinds
    assert all(shop.told("run_start_timestamp_seconds", kind=kind) for kind in kinds)
    promtool("check", "metrics", text=shop.path.read_text("utf-8"))


def test_errors_without_a_report_are_seen(shop: Measured, cli: Cli) -> None:
    """No state, busy, a missing export and a damaged ledger: how the command ended is there each time."""
    assert cli("run", "--config", shop.config).code == Exit.STATE
    assert shop.told("last_exit_code", kind="run") == Exit.STATE
    begin(shop, cli)
    run = partial(cli, "run", "--config", shop.config)
    assert run().code == Exit.ATTENTION
    success = shop.told("last_success_timestamp_seconds", kind="run")
    with lock.held(shop.settings.state.path):
        assert run().code == Exit.BUSY
        assert shop.told("last_exit_code", kind="run") == Exit.BUSY
    shop.export.unlink()
    assert run().code == Exit.EXPORT
    assert shop.told("last_exit_code", kind="run") == Exit.EXPORT
    (shop.settings.state.path / "ledger.db").write_bytes(b"nothing of ours" * 1000)
    assert run().code == Exit.STATE
    assert shop.told("last_exit_code", kind="run") == Exit.STATE
    assert cli("drain", "--config", shop.config).code == Exit.STATE
    assert shop.told("last_exit_code", kind="drain") == Exit.STATE
    assert shop.told("last_success_timestamp_seconds", kind="run") == success
    ended, export_ended = (shop.told(f"{which}_end_timestamp_seconds", kind="run") for which in ("last", "run"))
    assert ended is not None
    assert export_ended is not None
    assert ended > export_ended > success  # type: ignore[operator]


def test_the_python_interface_notes_errors_too(shop: Measured) -> None:
    """Whoever schedules `sync_job.run` is alarmed alike."""
    with pytest.raises(NoStateError):
        sync_job.run(shop.settings)
    assert shop.told("last_exit_code", kind="run") == Exit.STATE


def test_a_dead_run_is_told_by_the_next(shop: Measured, cli: Cli) -> None:
    """Of its own kind, while the one that reported it is of another."""
    begin(shop, cli)
    with shop.state(write=True) as state:
        state.ledger.begin("run", 1.0, "x")
    assert cli("drain", "--config", shop.config).code == 0
    assert shop.told("run_died", kind="run") == 1
    assert shop.told("last_success_timestamp_seconds", kind="run") == 0
    assert cli("run", "--config", shop.config).code == 1
    assert shop.told("run_died", kind="run") == 0


@pytest.mark.parametrize("what", ["no folder", "folder in its place"])
def test_a_file_that_cannot_be_written_fails_no_run(tmp_path: Path, standin: Standin, cli: Cli, what: str) -> None:
    """The run ends as it would without, and the operator is told."""
    shop = Measured(tmp_path, standin.url, "textfiles/metrics.prom")
    shop.write(people(20, first=FIRST + 1))
    if what != "no folder":
        (tmp_path / "textfiles" / ".metrics.prom.new").mkdir(parents=True)
    begin(shop, cli)
    assert cli("run", "--config", shop.config, "--quiet").code == 1, "some are unknown to the platform"
    ended = cli("run", "--config", shop.config, "--quiet")
    assert ended.code == 0
    assert "metrics.failed" in ended.err
    assert str(shop.path) in ended.err
    with shop.state() as state:
        assert [run.stage for run in state.ledger.runs()] == ["reported"] * 3


def test_a_drain_with_nothing_to_send_says_so(shop: Measured, cli: Cli) -> None:
    """It makes no run, but it did its work; and what was closed by hand meanwhile is not owed any more."""
    begin(shop, cli)
    cli("run", "--config", shop.config)
    unknown = next(one for one in range(FIRST, FIRST + 9) if one % 9 == 0)
    shop.withdraw({unknown: "all"})
    assert cli("drain", "--config", shop.config).code == 1
    assert shop.told("obligations_parked") == 1
    ended = shop.told("last_end_timestamp_seconds", kind="drain")
    cli("withdrawals", "close", "--client", unknown, "--reason", "x", "--by", "y", "--config", shop.config)
    assert cli("drain", "--config", shop.config).code == 0
    assert shop.told("obligations_parked") == 0
    assert shop.told("last_exit_code", kind="drain") == 0
    assert shop.told("last_end_timestamp_seconds", kind="drain") > ended  # type: ignore[operator]


def test_each_brand_has_its_own_end(shop: Measured, standin: Standin, cli: Cli, tmp_path: Path) -> None:
    """Of one list for two brands: that of the one is sent, while the other is busy."""
    begin(shop, cli)
    (tmp_path / "other").mkdir()
    other = Measured(tmp_path / "other", standin.url)
    shutil.copy(shop.export, other.export)
    begin(other, cli)
    listing = shop.listing({FIRST + 1: "sms"})
    both = ("--config", shop.config, "--config", other.config, "--wait-s", 0)
    with lock.held(other.settings.state.path):
        lately = datetime.fromtimestamp(time.time() - 3600, UTC).isoformat()
        ended = cli("opt-out", listing.path, "--received-at", lately, *both)
    assert ended.code == Exit.BUSY
    assert shop.told("last_exit_code", kind="opt-out") == 0
    assert other.told("last_exit_code", kind="opt-out") == Exit.BUSY
    assert cli("opt-out", tmp_path / "none.csv", *both).code == Exit.EXPORT
    for one in (shop, other):
        assert one.told("last_exit_code", kind="opt-out") == Exit.EXPORT
    assert cli("drain", *both).code == 0
    assert other.told("outcomes", kind="drain", outcome="delivered") == 1


def test_an_export_that_stays_the_same_ages(shop: Measured, cli: Cli) -> None:
    """Read first and last are apart as long as its bytes are the same, and meet when they change; a part is none."""
    begin(shop, cli)
    first = shop.told("export_first_read_timestamp_seconds")
    cli("run", "--config", shop.config)
    assert shop.told("export_first_read_timestamp_seconds") == first
    assert shop.told("export_last_read_timestamp_seconds") > first  # type: ignore[operator]
    part = shop.folder / "part.csv"
    shutil.copy(shop.export, part)
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:3]))
    cli("run", "--part", part, "--config", shop.config)
    assert shop.told("export_first_read_timestamp_seconds") == first
    shop.write(changed(people(120, first=FIRST), 0.5))
    cli("run", "--config", shop.config)
    assert shop.told("export_first_read_timestamp_seconds") == shop.told("export_last_read_timestamp_seconds") != first


def test_an_export_that_comes_back_is_read_first_again(shop: Measured, cli: Cli) -> None:
    """Only what was read without another in between counts as the same."""
    begin(shop, cli)
    with shop.state(write=True) as state:
        applied = state.ledger.applied

        def apply(number: int, digest: str) -> None:
            applied.record(
                ReadExport(f"r{number}", "full", digest, None, None, 1, 0, 0, applied=True, at=1e10 + number)
            )

        for number, digest in enumerate("abbab"):
            apply(number, digest)
        assert applied.read() == (1e10 + 4, 1e10 + 4)
        apply(5, "b")
        assert applied.read() == (1e10 + 4, 1e10 + 5)
