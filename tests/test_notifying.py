"""Who is told how runs end: whole commands against a platform and a listener, both on loopback."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sync_job
from sync_job.errors import ExportError, StateDamagedError
from sync_job.ledger import lock
from sync_job.runs import notifying
from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests.commands import Cli, Said
from tests.forked import Forked
from tests.listener import Listener, listening
from tests.shop import Shop, people

HUSH = "T000-hush-hush"
PATIENCE_S = 60.0  # far more than anything here takes: beyond it something is broken

Command = Callable[..., Said]


@pytest.fixture
def there() -> Iterator[Listener]:
    """Return who is told."""
    with listening() as found:
        yield found


@pytest.fixture
def shop(tmp_path: Path, platform: Standin) -> Shop:
    """Return a target with state and an export of twenty clients, of which nothing is sent yet."""
    found = Shop(tmp_path, platform.url)
    found.write(people(20))
    found.init("unknown")
    return found


@pytest.fixture
def command(cli: Cli, shop: Shop) -> Command:
    """Run a command on that target; its secrets are never printed."""

    def call(*arguments: str | Path) -> Said:
        said = cli("--log-format", "json", *arguments, "--config", shop.config)
        assert HUSH not in said.out + said.err
        return said

    return call


@pytest.fixture
def told(there: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """Return who is told of every run by webhook, and of nights by ping."""
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__WEBHOOK", f"{there.url}/hook/{HUSH}")
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__PING", f"{there.url}/ping/{HUSH}")
    return there


def heard(there: Listener) -> list[str]:
    """Return where was posted to since the last look, without what is secret."""
    found = [path.replace(f"/{HUSH}", "") for path in there.paths]
    there.posts.clear()
    return found


def events(said: Said) -> list[dict[str, object]]:
    """Return the log lines of a command."""
    return [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]


def failures(said: Said) -> list[tuple[object, object]]:
    """Return what could not be told, and why."""
    return [(line["what"], line["why"]) for line in events(said) if line["event"] == "notify.failed"]


def test_a_night_that_goes_well_pings_and_says_nothing(told: Listener, command: Command) -> None:
    """A start, a success, and no message: fine is what everybody takes for granted."""
    assert command("run").code == 0
    assert heard(told) == ["/ping/start", "/ping"]


def test_runs_from_python_are_told_as_well(told: Listener, shop: Shop) -> None:
    """`sync_job.run` is a night like any."""
    assert sync_job.run(shop.settings).exit_code == 0
    shop.export.unlink()
    with pytest.raises(ExportError):
        sync_job.run(shop.settings)
    assert sorted(heard(told)) == ["/hook", "/ping", "/ping/fail", "/ping/start", "/ping/start"]


def test_addresses_are_in_no_file(told: Listener, command: Command, shop: Shop) -> None:
    """Neither in the state nor in the report, whose settings have asterisks for them."""
    shop.export.unlink()
    assert command("run").code == 3
    assert "/hook" in heard(told)
    kept = [path for path in shop.folder.rglob("*") if path.is_file()]
    assert [path for path in kept if HUSH.encode() in path.read_bytes()] == []
    (memory,) = (shop.folder / "reports").glob(".told-*.json")
    assert json.loads(memory.read_text()) == {"run": "act"}
    assert memory.stat().st_mode & 0o777 == 0o600


def test_always_means_a_message_of_every_run(
    told: Listener, command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counts are those of the summary, and it names the folder of the report."""
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__WHEN", "always")
    assert command("run").code == 0
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert post.content_type == "application/json"
    (path,) = shop.folder.glob("reports/0002*/summary.json")
    summary = json.loads(path.read_text())
    assert post.json["run"] == summary["run"]
    assert post.json["state"] == "fine"
    assert post.json["folder"] == str(path.parent)
    for name, count in summary["outcomes"].items():
        assert post.json["counts"][name] == count
    assert post.json["counts"]["planned"] == summary["planned"] > 0


def test_trouble_is_told_once_and_so_is_its_end(told: Listener, command: Command, shop: Shop) -> None:
    """An export that is missing three nights, and back on the fourth: two messages, and four pings that end."""
    content = shop.export.read_bytes()
    shop.export.unlink()
    assert command("run").code == 3
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert (post.json["exit"], post.json["state"], post.json["before"]) == (3, "act", None)
    assert any("export.csv" in reason for reason in post.json["reasons"])
    assert any(str(shop.config) in step["command"] for step in post.json["next"])
    assert sorted(heard(told)) == ["/hook", "/ping/fail", "/ping/start"]
    for _ in range(2):
        assert command("run").code == 3
        assert heard(told) == ["/ping/start", "/ping/fail"]
    shop.export.write_bytes(content)
    assert command("run").code == 0
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert (post.json["state"], post.json["before"]) == ("fine", "act")
    assert sorted(heard(told)) == ["/hook", "/ping", "/ping/start"]


def test_what_was_not_heard_is_told_again(told: Listener, command: Command, shop: Shop) -> None:
    """The state counts as told when somebody took it."""
    shop.export.unlink()
    told.script = [500]
    said = command("run")
    assert said.code == 3
    assert ("webhook", "HTTP 500") in failures(said)
    told.script = [200]
    heard(told)
    assert command("run").code == 3
    assert "/hook" in heard(told)
    assert command("run").code == 3
    assert "/hook" not in heard(told)


def test_a_state_that_is_damaged_is_told(told: Listener, command: Command, shop: Shop) -> None:
    """No run begins, and so there is no start; the failure is there all the same."""
    (shop.folder / "state" / "ledger.db").write_bytes(b"x" * 5000)
    assert command("run").code == 4
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert (post.json["exit"], post.json["run"], post.json["counts"]) == (4, None, None)
    assert sorted(heard(told)) == ["/hook", "/ping/fail"]


def test_busy_pings_nothing(told: Listener, command: Command, shop: Shop) -> None:
    """Whoever holds the lock speaks for itself; people are told once that their night was not begun."""
    with lock.held(shop.folder / "state"):
        assert command("run").code == 75
        (post,) = told.posts
        assert (post.json["exit"], post.json["state"]) == (75, "look")
        assert heard(told) == ["/hook"]
        assert command("run").code == 75
        assert command("drain", "--wait-s", "0").code == 0
        assert heard(told) == []


def test_plan_and_check_tell_nobody(told: Listener, command: Command) -> None:
    """They are no runs."""
    for arguments in (["plan"], ["check"], ["report"], ["status"], ["runs"]):
        assert command(*arguments).code == 0
    assert heard(told) == []


def test_a_drain_that_owes_nothing_is_silent(told: Listener, command: Command) -> None:
    """96 times a day; and one that sends is no night either."""
    assert command("run").code == 0
    heard(told)
    assert command("drain").code == 0
    assert heard(told) == []


def test_a_drain_with_a_monitor_of_its_own_pings_each_time(
    told: Listener, command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is owed, for the monitor waits for it; it starts where there is something to send."""
    assert command("run").code == 0
    heard(told)
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__PING_KINDS", "drain")
    assert command("drain").code == 0
    assert heard(told) == ["/ping"]
    shop.withdraw({3: "all"})
    assert command("drain").code == 0
    assert heard(told) == ["/ping/start", "/ping"]
    with lock.held(shop.folder / "state"):  # whoever holds it sends what is owed
        assert command("drain").code == 0
    assert heard(told) == ["/ping"]
    assert command("run").code == 0
    assert heard(told) == []


def test_an_opt_out_past_its_limit_is_told_once(tmp_path: Path, told: Listener, cli: Cli) -> None:
    """By a drain that tries in vain; not by those after it that have nothing to try yet; and then so is its end."""
    with running(Options(script=lambda _, client: Fault.REFUSE if client == 1003 else None)) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init("equal")
        shop.withdraw({1003: "all"}, received_at=time.time() - 100 * 3600)

        def drained() -> tuple[int, list[tuple[str, str | None]]]:
            code = cli("drain", "--config", shop.config).code
            said = [(one.json["state"], one.json["before"]) for one in told.posts]
            told.posts.clear()
            return code, said

        assert drained() == (7, [("act", None)])
        assert [drained() for _ in range(3)] == [(7, [])] * 3
        close = ("withdrawals", "close", "--client", "1003", "--reason", "a test", "--by", "tests")
        assert cli(*close, "--config", shop.config).code == 0
        assert drained() == (0, [("fine", "act")])
        assert drained() == (0, [])


@pytest.mark.parametrize("answers", [[500], [307], [404], [0]])
def test_a_notifier_that_fails_changes_nothing(
    told: Listener, command: Command, monkeypatch: pytest.MonkeyPatch, answers: list[int]
) -> None:
    """Errors, redirects and silence: the run ends as it would have, and says what was not told."""
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__WHEN", "always")
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__TIMEOUT_S", "0.5")
    told.script = answers
    said = command("run")
    assert said.code == 0
    assert said.out == ""
    assert sorted(str(what) for what, _ in failures(said)) == ["ping", "ping", "webhook"]
    lines = events(said)
    assert {line["where"] for line in lines if line["event"] == "notify.failed"} == {told.url}
    assert all(line["level"] == "warning" for line in lines if line["event"] == "notify.failed")
    assert "run.ended" in {line["event"] for line in lines}


def test_nobody_there_changes_nothing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__PING", f"http://127.0.0.1:{taken.getsockname()[1]}/{HUSH}")
        monkeypatch.setenv("CONSENT_SYNC__NOTIFY__TIMEOUT_S", "0.5")
        said = command("run")
    assert said.code == 0
    assert failures(said) == [("ping", "no connection (Connection refused)")] * 2


def test_an_attention_may_be_a_failure(
    told: Listener, command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exit code of 1 is a success to the monitor, unless it is said to be none."""
    with shop.export.open("a") as file:
        file.write("nobody,true,true,true,true\n")
    assert command("run").code == 1
    assert sorted(heard(told)) == ["/hook", "/ping", "/ping/start"]
    with shop.export.open("a") as file:
        file.write("nobody either,true,true,true,true\n")
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__PING_ATTENTION", "fail")
    assert command("run").code == 1
    assert heard(told) == ["/ping/start", "/ping/fail"]


def test_a_part_is_no_night(told: Listener, command: Command, shop: Shop) -> None:
    """A repaired file that goes well must not hide that the night did not take place."""
    part = shop.folder / "part.csv"
    part.write_bytes(shop.export.read_bytes())
    assert command("run", "--part", part).code == 0
    assert heard(told) == []


def test_a_chat_gets_a_text(told: Listener, command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """`format = "slack"`."""
    monkeypatch.setenv("CONSENT_SYNC__NOTIFY__FORMAT", "slack")
    shop.export.unlink()
    assert command("run").code == 3
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert list(post.json) == ["text"]
    assert ":rotating_light: *run 0002-" in post.json["text"]


def test_a_bug_is_told_without_its_words(told: Listener, shop: Shop) -> None:
    """What an error that is none of ours says may name a client."""
    with pytest.raises(KeyError), notifying.telling(shop.settings, "run"):
        raise KeyError("1987654321")
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert post.json["exit"] == 70
    assert "KeyError" in post.body
    assert "1987654321" not in "".join(one.body for one in told.posts)


def test_what_goes_wrong_after_the_report_is_told_with_it(told: Listener, command: Command, shop: Shop) -> None:
    """The graver of both counts."""
    summary = json.loads(command("run", "--json").out)
    told.posts.clear()

    def end() -> None:
        with notifying.telling(shop.settings, "run"):
            notifying.reported(summary, lambda _: [])
            raise StateDamagedError("the inbox")

    with pytest.raises(StateDamagedError):
        end()
    (post,) = (one for one in told.posts if one.path.startswith("/hook"))
    assert (post.json["exit"], post.json["reasons"][0]) == (4, "the inbox")
    assert post.json["counts"]["planned"] > 0


def _start(shop: Shop, *export: str, stdin: int = subprocess.DEVNULL) -> Forked:
    return Forked("run", *export, "--config", shop.config, stdin=stdin)


def _until(moment: Callable[[], bool], process: Forked) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not moment():
        assert process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_run_that_is_ended_or_killed(
    tmp_path: Path, told: Listener, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM: a failure. SIGKILL: nothing, and so the monitor gives the alarm; the next run tells of it."""
    with running(Options(latency_ms=50)) as slow:
        shop = Shop(tmp_path, slow.url, concurrency=1)
        shop.write(people(60))
        shop.init("unknown")
        for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
            before = slow.requests
            with _start(shop) as process:
                _until(lambda before=before: slow.requests > before + 2, process)  # type: ignore[misc]
                process.send_signal(number)
                assert process.wait(PATIENCE_S) == code
            hooks = [one.json for one in told.posts if one.path.startswith("/hook")]
            if number == signal.SIGTERM:
                assert [one["exit"] for one in hooks] == [143]
                assert sorted(heard(told)) == ["/hook", "/ping/fail", "/ping/start"]
            else:
                assert heard(told) == ["/ping/start"]
        monkeypatch.setenv("CONSENT_SYNC__DELIVERY__MAX_CONCURRENCY", "32")
        assert cli("run", "--config", shop.config).code in (0, 1)
    (post,) = (one.json for one in told.posts if one.path.startswith("/hook"))
    assert any("0003-" in reason and "died" in reason for reason in post["reasons"])


@pytest.mark.parametrize(
    "first",
    [
        ("drain",),
        ("withdrawals", "close", "--client", "7", "--reason", "moved", "--by", "Mira"),
        ("state", "repair"),
        ("plan",),
    ],
    ids=lambda first: first[-1] if len(first) < 3 else first[1],
)
def test_a_killed_run_is_told_of_once_whatever_comes_first(
    tmp_path: Path, told: Listener, cli: Cli, monkeypatch: pytest.MonkeyPatch, first: tuple[str, ...]
) -> None:
    """The command that finishes it tells of it, or leaves it to the next that tells, also if nobody hears at first."""
    with running(Options(latency_ms=50)) as slow:
        shop = Shop(tmp_path, slow.url, concurrency=1)
        shop.write(people(60))
        shop.init("unknown")
        with _start(shop) as process:
            _until(lambda: slow.requests > 2, process)
            process.kill()
            process.wait(PATIENCE_S)
        told.script = [403]
        cli(*first, "--config", shop.config)
        told.script = [200]
        monkeypatch.setenv("CONSENT_SYNC__DELIVERY__MAX_CONCURRENCY", "32")
        for command in ("drain", "run", "drain", "run"):
            assert cli(command, "--config", shop.config).code == 0
    taken = [one for one in told.posts if one.path.startswith("/hook")]
    died = [one for one in taken if any("0002-" in reason and "died" in reason for reason in one.json["reasons"])]
    assert [one.json["kind"] for one in died] == ["drain"] * (2 if first == ("drain",) else 1)
    (memory,) = (shop.folder / "reports").glob(".told-*.json")
    assert "died" not in json.loads(memory.read_text())


def test_a_run_that_is_ended_before_it_sends(shop: Shop, told: Listener) -> None:
    """It waits for the rest of its export: SIGTERM ends it all the same, in 143, and everybody hears of it."""
    with _start(shop, "-", stdin=subprocess.PIPE) as process:
        _until(lambda: any(path.endswith("/start") for path in told.paths), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143
    assert [one.json["exit"] for one in told.posts if one.path.startswith("/hook")] == [143]
    assert sorted(heard(told)) == ["/hook", "/ping/fail", "/ping/start"]


def test_a_test_says_what_came_back(told: Listener, command: Command) -> None:
    """`notify` posts to both; exit 0 when both took it."""
    said = command("notify")
    assert said.code == 0
    assert said.out == f"webhook  {told.url}  HTTP 200, 'ok'\nping     {told.url}  HTTP 200, 'ok'\n"
    hooks = [one.json for one in told.posts if one.path.startswith("/hook")]
    assert [one["event"] for one in hooks] == ["test"]
    assert sorted(heard(told)) == ["/hook", "/ping"]


def test_a_test_that_does_not_get_through_ends_in_5(told: Listener, command: Command) -> None:
    """With what was answered."""
    told.script = [403]
    said = command("notify", "--json")
    assert said.code == 5
    assert [one["why"] for one in json.loads(said.out)["notices"]] == ["HTTP 403"] * 2


def test_a_test_needs_something_to_test(command: Command) -> None:
    """Exit 2, naming the variables."""
    said = command("notify")
    assert said.code == 2
    assert "CONSENT_SYNC__NOTIFY__WEBHOOK" in said.err


@pytest.mark.parametrize("name", ["WEBHOOK", "PING"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (f"ftp://example.com/{HUSH}", "no http or https address"),
        (f"https://user:{HUSH}@example.com/", "without user and fragment"),
        (f"https://example.com:x/{HUSH}", "no address"),
        (f"http://example.com/{HUSH}", "is plain http"),
        (f"https://example.com/{HUSH} x", "no http or https address"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_showing_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    """Exit 2, naming the variable."""
    monkeypatch.setenv(f"CONSENT_SYNC__NOTIFY__{name}", value)
    said = command("run")
    assert said.code == 2
    assert why in said.err
    assert f"CONSENT_SYNC__NOTIFY__{name}" in said.err


def test_addresses_do_not_belong_into_the_file(command: Command, shop: Shop) -> None:
    """They carry a token; the summary has asterisks for them."""
    shop.config.write_text(f'{shop.config.read_text()}\n[notify]\nwebhook = "https://example.com/{HUSH}"\n')
    said = command("run")
    assert said.code == 2
    assert "CONSENT_SYNC__NOTIFY__WEBHOOK" in said.err
