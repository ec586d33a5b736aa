"""`doctor` on things that are really broken: each is found, with its cure, and nothing is changed or sent."""

import asyncio
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from sync_job.config import EndpointSettings
from sync_job.delivery import probe
from sync_job.errors import Exit
from sync_job.ledger import backed_up, lock, pause
from sync_job.ledger.backed_up import BackedUp
from sync_job.report import doctor_text
from sync_job.runs import backups, doctor, night
from sync_job.runs.decide import Wish
from sync_job.runs.doctor import clock, disk, endpoint
from sync_job.runs.doctor.check import ago
from sync_job.runs.watch import Watch
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, people
from tests.sockets import Authority, serving

AUTH = "CONSENT_SYNC__ENDPOINT__AUTH__"
Found = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the machine has in its environment."""
    for name in [one for one in os.environ if one.upper().startswith("CONSENT_SYNC__")]:
        monkeypatch.delenv(name)


@pytest.fixture
def shop(tmp_path: Path, platform: Standin) -> Shop:
    """Return a shop after its first night, with a backup."""
    shop = Shop(tmp_path, platform.url)
    shop.write(people(20))
    shop.init()
    night.run(shop.settings, Wish(), Watch())
    backups.backup(shop.settings, tmp_path / "b.tar")
    shop.config.chmod(0o600)
    return shop


def look(shop: Shop, *, offline: bool = True, **said: Any) -> Found:
    """Return what `doctor` finds."""
    return doctor.examine(shop.config, Watch(), offline=offline, **said)


def of(found: Found, area: str, what: str) -> Found:
    """Return one check."""
    there = [one for one in found["checks"] if (one["area"], one["what"]) == (area, what)]
    assert len(there) == 1, [(one["area"], one["what"], one["found"]) for one in found["checks"]]
    return dict(there[0])


def bad(found: Found) -> list[tuple[str, str, str]]:
    """Return what is not well: area, what, verdict."""
    return [
        (one["area"], one["what"], one["verdict"])
        for one in found["checks"]
        if one["verdict"] in ("warning", "problem")
    ]


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return everything in a folder, with mode, size and time of the last change."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (said.st_mode, said.st_size, said.st_mtime_ns) for path, said in found.items()}


def configure(shop: Shop, section: str, *lines: str) -> None:
    """Add keys to the end of the configuration, in a section of their own."""
    with shop.config.open("a") as file:
        file.write("\n".join(("", section, *lines, "")))


def test_all_is_well(shop: Shop, platform: Standin) -> None:
    """Nothing to look at, exit 0, no update sent, and nothing on disk is other than before."""
    before, sent = tree(shop.folder), platform.requests
    found = look(shop, offline=False)
    assert bad(found) == []
    assert found["exit"] == 0
    assert of(found, "endpoint", "answer")["verdict"] == "ok"
    assert "exit 0" in of(found, "past", "last success")["found"]
    assert str(shop.folder / "b.tar") in of(found, "past", "last backup")["found"]
    assert platform.requests == sent
    assert tree(shop.folder) == before


def test_nothing_that_looks_takes_the_lock(shop: Shop) -> None:
    """Beside a run that holds it everything is looked at, and the run is named."""
    with lock.held(shop.settings.state.path):
        found = look(shop)
    assert found["exit"] == 0
    assert of(found, "state", "running")["verdict"] == "ok"


def test_json_and_words_say_the_same(shop: Shop, cli: Cli) -> None:
    """Each check of `--json` stands in the words; `--quiet` says what is not well alone."""
    (shop.folder / "keys").chmod(0o755)
    said = cli("doctor", "--config", shop.config, "--offline", "--json")
    found = json.loads(said.out)
    assert said.code == found["exit"] == Exit.STATE
    words = cli("doctor", "--config", shop.config, "--offline")
    assert words.code == Exit.STATE
    flat = " ".join(words.out.split())
    for one in found["checks"]:
        assert one["what"] in flat
        assert " ".join(one["cure"].split()) in flat
    quiet = cli("doctor", "--config", shop.config, "--offline", "--quiet").out
    assert "keys folder" in quiet
    assert "python" not in quiet.lower()


def test_every_file_that_is_open_to_others_is_found(shop: Shop) -> None:
    """In the state it is a warning with the cure; a folder that others may enter is what a run would end with, 4."""
    ledger = shop.folder / "state" / "ledger.db"
    ledger.chmod(0o644)
    found = look(shop)
    assert bad(found) == [("disk", "state folder", "warning")]
    assert "ledger.db" in of(found, "disk", "state folder")["found"]
    ledger.chmod(0o600)
    (shop.folder / "state").chmod(0o750)
    found = look(shop)
    assert of(found, "disk", "state folder")["cure"] == f"chmod 700 {shop.folder / 'state'}"
    assert found["exit"] == Exit.STATE


@pytest.mark.parametrize("place", ["state", "state/snapshots", "state/runs", "state/inbox", "keys"])
def test_every_folder_that_a_run_writes_to_is_tried(shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """One that is mounted read-only is what a run would end with, 4, and it is named."""
    real = os.access
    shut = shop.folder / place
    monkeypatch.setattr(os, "access", lambda path, mode: path != shut and real(path, mode))
    found = look(shop)
    assert found["exit"] == Exit.STATE
    assert f"{shut} cannot be written to" in of(found, "disk", f"{place.split('/')[0]} folder")["found"]


def test_configuration_that_others_may_change_is_found(shop: Shop) -> None:
    """Who may write it says where consent goes."""
    shop.config.chmod(0o666)
    assert bad(look(shop)) == [("configuration", "mode", "warning")]


def test_secret_that_is_missing_is_named_and_the_rest_is_looked_at(shop: Shop) -> None:
    """Its variable is said; state and endpoint are looked at as if it were there."""
    configure(shop, "[endpoint.auth]", 'kind = "bearer"')
    found = look(shop, offline=False)
    assert found["exit"] == Exit.CONFIG
    assert bad(found) == [("configuration", "file", "problem"), ("configuration", "[endpoint.auth] bearer", "problem")]
    assert f"{AUTH}BEARER_FILE" in of(found, "configuration", "[endpoint.auth] bearer")["cure"]
    assert of(found, "state", "ledger")["verdict"] == "ok"
    assert of(found, "endpoint", "answer")["verdict"] == "ok"


@pytest.mark.parametrize("how", ["variable", "file", "open file", "no file", "empty", "both"])
def test_the_source_of_a_secret_is_said_and_never_its_value(
    shop: Shop, cli: Cli, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A variable, or a file with its mode; neither words nor JSON have what it holds."""
    configure(shop, "[endpoint.auth]", 'kind = "bearer"')
    file = shop.folder / "token"
    file.write_text("" if how == "empty" else "hush-hush\n")
    file.chmod(0o644 if how == "open file" else 0o600)
    if how in ("variable", "both"):
        monkeypatch.setenv(f"{AUTH}BEARER", "hush-hush")
    if how != "variable":
        monkeypatch.setenv(f"{AUTH}BEARER_FILE", str(shop.folder / "none" if how == "no file" else file))
    said = cli("doctor", "--config", shop.config, "--offline", "--json")
    words = cli("doctor", "--config", shop.config, "--offline")
    assert "hush" not in said.out + said.err + words.out + words.err
    one = of(json.loads(said.out), "configuration", "[endpoint.auth] bearer")
    verdicts = {"variable": "ok", "file": "ok", "open file": "warning", "both": "warning"}
    assert one["verdict"] == verdicts.get(how, "problem")
    assert f"{AUTH}BEARER" in one["found"]
    if how == "open file":
        assert "0644" in one["found"]
        assert one["cure"] == f"chmod 600 {file}"


def test_secret_header_without_a_value_is_named(shop: Shop) -> None:
    """By the header's name and its variable."""
    text = shop.config.read_text().replace("[delivery]", 'secret_headers = ["X-Api-Key"]\n[delivery]')
    shop.config.write_text(text)
    one = of(look(shop), "configuration", "[endpoint] secret_headers X-Api-Key")
    assert one["verdict"] == "problem"
    assert "CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_API_KEY" in one["cure"]


@pytest.mark.parametrize("text", ["no toml [", "[export]\npath = 1\n", None])
def test_configuration_that_cannot_be_used_is_no_traceback(tmp_path: Path, cli: Cli, text: str | None) -> None:
    """Exit 2, what is wrong with it, and what does not depend on it: versions."""
    config = tmp_path / "c.toml"
    if text is not None:
        config.write_text(text)
    said = cli("doctor", "--config", config, "--json")
    found = json.loads(said.out)
    assert said.code == Exit.CONFIG
    assert of(found, "configuration", "file")["verdict"] == "problem"
    assert of(found, "versions", "libraries")["verdict"] == "ok"


def test_no_state_yet(tmp_path: Path) -> None:
    """Exit 4 and `init`; the export is looked at all the same."""
    shop = Shop(tmp_path, "http://127.0.0.1:9")
    shop.write(people(3))
    found = look(shop)
    assert found["exit"] == Exit.STATE
    assert "consent-sync init" in of(found, "state", "ledger")["found"]
    assert of(found, "export", "path")["verdict"] == "ok"
    assert not (tmp_path / "state").exists()


def test_damaged_ledger_is_a_problem_and_ends_no_other_look(shop: Shop) -> None:
    """What needs it is skipped, and said to be; disk, clock and versions are looked at."""
    ledger = shop.folder / "state" / "ledger.db"
    content = bytearray(ledger.read_bytes())
    content[100:3000] = b"\x55" * 2900
    ledger.write_bytes(content)
    found = look(shop)
    assert found["exit"] == Exit.STATE
    assert "damaged" in of(found, "state", "ledger")["found"]
    assert of(found, "owed", "obligations")["verdict"] == "skipped"
    assert of(found, "clock", "system time")["verdict"] == "ok"
    assert ledger.read_bytes() == bytes(content)


def test_metrics_folder_that_nobody_makes_is_found(shop: Shop) -> None:
    """A run does not make it, unlike its own folders, and its metrics would be nowhere."""
    configure(shop, "[metrics]", f'textfile = "{shop.folder}/nowhere/a.prom"')
    found = look(shop)
    assert [one[1:] for one in bad(found)] == [("metrics folder", "problem")]
    (shop.folder / "nowhere").mkdir()
    assert bad(look(shop)) == []


def test_snapshot_that_is_gone_is_found(shop: Shop) -> None:
    """The ledger alone does not say what is held."""
    for path in (shop.folder / "state" / "snapshots").iterdir():
        path.unlink()
    assert of(look(shop), "state", "snapshot")["verdict"] == "problem"


def test_anchor_that_is_gone_or_damaged_or_ahead_is_found(shop: Shop) -> None:
    """Without one the state is taken for a backup; one that is ahead says that it is."""
    (anchor,) = (shop.folder / "keys").glob("*.anchor.json")
    whole = anchor.read_text()
    (shop.folder / "state").rename(shop.folder / "newer")
    backups.restore(shop.settings, shop.folder / "b.tar")
    night.run(Shop(shop.folder, shop.settings.endpoint.base_url).settings, Wish(), Watch())
    newer = anchor.read_text()
    (shop.folder / "state").rename(shop.folder / "newest")
    (shop.folder / "newer").rename(shop.folder / "state")
    assert newer != whole
    one = of(look(shop), "keys", "anchor")
    assert one["verdict"] == "problem"
    assert "state restored" in one["cure"]
    anchor.write_text(whole[:-20])
    assert "damaged" in of(look(shop), "keys", "anchor")["found"]
    anchor.unlink()
    assert "missing" in of(look(shop), "keys", "anchor")["found"]
    anchor.write_text(whole)
    anchor.chmod(0o600)
    assert look(shop)["exit"] == 0


def test_restored_and_paused_states_are_found(shop: Shop) -> None:
    """Neither is a problem: a run does what it may; both need a person."""
    (shop.folder / "state").rename(shop.folder / "lost")
    backups.restore(shop.settings, shop.folder / "b.tar")
    pause.pause(shop.settings.state.path, reason="moving", by="me", now=time.time())
    found = look(shop)
    assert ("state", "restored", "warning") in bad(found)
    assert ("state", "paused", "warning") in bad(found)
    assert found["exit"] == 0


def test_state_of_another_target_is_a_problem(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4, with both targets."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__OPERATOR", "8")
    found = look(shop)
    assert found["exit"] == Exit.STATE
    assert "operator 7" in of(found, "state", "ledger")["found"]


def test_run_that_died_is_found(shop: Shop) -> None:
    """And what finishes it."""
    with shop.state(write=True) as state:
        state.ledger.begin("run", time.time(), "20260101T000000Z")
    one = of(look(shop), "state", "died")
    assert one["verdict"] == "warning"
    assert "20260101T000000Z" in one["found"]


def test_obligation_past_its_limit_is_exit_7(shop: Shop) -> None:
    """Graver than the state, by the product's own order; one in the inbox is a warning."""
    (shop.folder / "keys").chmod(0o755)
    assert look(shop)["exit"] == Exit.STATE
    (shop.folder / "keys").chmod(0o700)
    shop.withdraw({1003: "all"}, received_at=time.time() - 90 * 86400)
    assert ("state", "inbox", "warning") in bad(look(shop))
    configure(shop, "[guards.none]")  # a configuration that cannot be used hides nothing of what is known with it
    shop.config.write_text(shop.config.read_text().replace("\n[guards.none]\n", ""))
    with shop.state(write=True) as state:
        from sync_job.runs import intake

        intake.absorb(state, shop.settings)
    found = look(shop)
    assert found["exit"] == Exit.OBLIGATION
    assert "1 past their limit" in of(found, "owed", "obligations")["found"]
    (shop.folder / "keys").chmod(0o755)
    assert look(shop)["exit"] == Exit.OBLIGATION


def test_what_waits_for_approval_is_found(tmp_path: Path, platform: Standin) -> None:
    """By the run that held it, and how many."""
    shop = Shop(tmp_path, platform.url, guards="re_grants = 0\nre_grants_share = 0\nnew_grants = 1000")
    shop.write({1: (False, False, False, False), 2: (True, True, True, True)})
    shop.init("equal")
    shop.write({1: (True, False, False, False), 2: (True, True, True, True)})
    night.run(shop.settings, Wish(), Watch())
    one = of(look(shop), "owed", "held")
    assert one["verdict"] == "warning"
    assert "1 grants" in one["found"]


def test_export_that_is_missing_or_old_is_found(shop: Shop) -> None:
    """Missing is what a run would end with, 3; older than `max_age_h` is a warning, because it grants nothing."""
    text = shop.config.read_text().replace('as_of = "none"', 'as_of = "mtime"')
    shop.config.write_text(text)
    os.utime(shop.export, (1, time.time() - 40 * 3600))
    assert bad(look(shop)) == [("export", "path", "warning")]
    shop.export.unlink()
    found = look(shop)
    assert bad(found) == [("export", "path", "problem")]
    assert found["exit"] == Exit.EXPORT


def test_room_is_told_from_what_a_run_writes() -> None:
    """Less than one run is a problem, less than three a warning."""
    place = Path("/")
    assert disk.room("room", place, 99 << 20, 100 << 20).verdict == "problem"
    assert disk.room("room", place, 299 << 20, 100 << 20).verdict == "warning"
    assert disk.room("room", place, 301 << 20, 100 << 20).verdict == "ok"
    assert disk.room("room", place, 1 << 20, 0).verdict == "warning"


def test_reports_that_cannot_be_written_are_found(shop: Shop) -> None:
    """As where a file has the folder's name."""
    (shop.folder / "file").write_text("")
    text = shop.config.read_text() + f'\n[report]\npath = "{shop.folder / "file"}"\n'
    shop.config.write_text(text)
    assert ("disk", "reports folder", "problem") in bad(look(shop))


def test_no_night_for_long_is_a_warning(shop: Shop) -> None:
    """With the last that ended well, and the last that did not."""
    with shop.state(write=True) as state:
        state.ledger._db.execute("UPDATE runs SET ended = ended - 400000, started = started - 400000")
        run = state.ledger.begin("run", time.time(), "20260101T000000Z")
        state.ledger.finish(run, time.time())
        state.ledger.report(run, 5, {}, [])
    found = look(shop)
    assert "5 days ago" in of(found, "past", "last success")["found"]
    assert "exit 5" in of(found, "past", "last night")["found"]
    assert found["exit"] == 0


def test_backup_is_noted_beside_the_keys_and_the_state_stays_as_it_is(shop: Shop) -> None:
    """When and where to; a restored state still knows of it, one that is old is a warning, and so is none."""
    keys, target = shop.settings.state.keys, shop.settings.endpoint.target
    noted = backed_up.last(keys, target)
    assert noted is not None
    assert noted.file == str(shop.folder / "b.tar")
    assert time.time() - noted.at < 3600
    assert backed_up.path(keys, target).stat().st_mode & 0o777 == 0o600
    backed_up.note(keys, target, BackedUp(time.time() - 8 * 86400, "b.tar"))
    assert bad(look(shop)) == [("past", "last backup", "warning")]
    backed_up.path(keys, target).write_text("{")
    assert of(look(shop), "past", "last backup")["found"] == "none is known"


# The clock


def test_clock_that_is_behind_what_the_state_knows_is_found(shop: Shop) -> None:
    """The state was written later than now."""
    (one,) = clock.look(shop.settings, time.time() + 7200, time.time())
    assert one.verdict == "warning"
    (one,) = clock.look(shop.settings, time.time() + 30, time.time())
    assert one.verdict == "ok"


@contextmanager
def answering(answer: Callable[[], bytes], context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the port of a server in a thread that answers everything with what *answer* returns, and what it was asked.

    It ends with the block.
    """
    heads: list[bytes] = []
    loop = asyncio.new_event_loop()
    ready, port = threading.Event(), [0]
    stop = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer())

    async def main() -> None:
        async with serving(serve, context) as number:
            port[0] = number
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        assert ready.wait(10)
        yield port[0], heads
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def dated(off_s: float, status: str = "200 OK") -> Callable[[], bytes]:
    """Return what answers with a Date that is off."""

    def answer() -> bytes:
        date = formatdate(time.time() + off_s, usegmt=True)
        return f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode()

    return answer


@pytest.mark.parametrize(("off_s", "verdict"), [(0, "ok"), (50, "ok"), (-50, "ok"), (90, "warning"), (-90, "warning")])
def test_clock_is_held_beside_the_endpoints(off_s: float, verdict: str) -> None:
    """More than a minute is a warning, and says which way; the answer's Date is what is known of the other."""
    with answering(dated(off_s)) as (port, _):
        reached = probe.reach(EndpointSettings.model_validate({"base_url": f"http://127.0.0.1:{port}"}))
    (one,) = clock.beside(reached)
    assert one.verdict == verdict
    assert off_s != 90 or "behind" in one.found
    assert off_s != -90 or "ahead of" in one.found


def test_answer_without_a_date_says_nothing_of_the_clock() -> None:
    """Nor does one that is no date."""
    for more in (b"", b"Date: yesterday\r\n"):
        with answering(lambda more=more: b"HTTP/1.1 200 OK\r\n" + more + b"\r\n") as (port, _):  # type: ignore[misc]
            reached = probe.reach(EndpointSettings.model_validate({"base_url": f"http://127.0.0.1:{port}"}))
        assert reached.status == 200
        assert list(clock.beside(reached)) == []


# The endpoint


def test_request_is_harmless() -> None:
    """A HEAD of the base URL: no body, no token, no secret header."""
    secret = {"secret_headers": [{"name": "X-Api-Key", "value": "hush"}], "token": "77", "headers": {"X-Shop": "1"}}
    with answering(dated(0)) as (port, heads):
        base = f"http://127.0.0.1:{port}/partner"
        reached = probe.reach(
            EndpointSettings.model_validate({"base_url": base, "auth": {"kind": "bearer", "bearer": "hush"}} | secret)
        )
    assert reached.failed == ""
    (head,) = heads
    assert head.startswith(b"HEAD /partner/ HTTP/1.1\r\n")
    assert b"hush" not in head
    assert b"authorization" not in head.lower()
    assert b"content-length" not in head.lower()


def test_endpoint_that_is_down_is_a_problem(shop: Shop, platform: Standin) -> None:
    """Exit 5, and the step: the connection."""
    platform.stop()
    found = look(shop, offline=False)
    assert found["exit"] == Exit.ENDPOINT
    assert bad(found) == [("endpoint", "connection", "problem")]


def test_name_that_nobody_knows_is_a_problem(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is the name. `.invalid` is reserved for not being there."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__BASE_URL", "https://loyalty.invalid")
    found = look(shop, offline=False)
    assert of(found, "endpoint", "name")["verdict"] == "problem"


def test_endpoint_that_is_not_well_is_a_warning() -> None:
    """It answers 503; one that answers anything below 500 is there."""
    for status, verdict in (("503 Service Unavailable", "warning"), ("404 Not Found", "ok"), ("401 No", "ok")):
        with answering(dated(0, status)) as (port, _):
            said = EndpointSettings.model_validate({"base_url": f"http://127.0.0.1:{port}"})
            reached = probe.reach(said)
        assert endpoint._answer(reached.status or 0).verdict == verdict


def test_plain_http_across_a_network_is_a_warning(shop: Shop) -> None:
    """As in delivery; nothing is asked here."""
    one = shop.settings
    far = one.model_copy(update={"endpoint": one.endpoint.model_copy(update={"base_url": "http://10.0.0.1"})})
    (found, *_) = endpoint.look(far, probe.Reached())
    assert (found.what, found.verdict) == ("encryption", "warning")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return a private CA."""
    return Authority(tmp_path_factory.mktemp("ca"))


def trusting(port: int, authority: Authority) -> EndpointSettings:
    """Return the settings of an endpoint on loopback whose CA is trusted."""
    said = {"base_url": f"https://127.0.0.1:{port}", "tls": {"ca": authority.certificate}}
    return EndpointSettings.model_validate(said)


def test_certificate_that_soon_expires_is_a_warning(authority: Authority) -> None:
    """The test's are good for two days; what is good for longer is well."""
    with answering(dated(0), authority.server()) as (port, _):
        reached = probe.reach(trusting(port, authority))
    assert reached.failed == ""
    assert reached.tls.startswith("TLSv1.")
    now = time.time()
    assert reached.expires is not None
    assert 86400 < reached.expires - now <= 2 * 86400
    assert endpoint.certificate(reached, now).verdict == "warning"
    assert endpoint.certificate(reached, now - 30 * 86400).verdict == "ok"


def test_certificate_that_expired_is_a_problem(authority: Authority, shop: Shop) -> None:
    """The step and the reason are said, nothing is asked, and the command ends in 5."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("expired", "subjectAltName=IP:127.0.0.1", days=-1))
    with answering(dated(0), context) as (port, heads):
        text = shop.config.read_text().replace(shop.settings.endpoint.base_url, f"https://127.0.0.1:{port}")
        shop.config.write_text(f'{text}\n[endpoint.tls]\nca = "{authority.certificate}"\n')
        found = look(shop, offline=False)
    one = of(found, "endpoint", "certificate")
    assert one["verdict"] == "problem"
    assert "expired" in one["found"]
    assert one["exit"] == Exit.ENDPOINT
    assert heads == []


def test_certificate_of_a_stranger_is_a_problem(authority: Authority) -> None:
    """The system's CAs did not sign it."""
    with answering(dated(0), authority.server()) as (port, _):
        reached = probe.reach(EndpointSettings.model_validate({"base_url": f"https://127.0.0.1:{port}"}))
    assert reached.failed == "tls"
    assert "self-signed" in reached.why or "unable to get" in reached.why


def test_proxy_is_honoured_and_its_no_is_told_apart(authority: Authority) -> None:
    """Plain requests go to it with their whole address; https by CONNECT, with the proxy's credentials alone."""
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with answering(lambda: refusal) as (port, heads):
        said = {"proxy": f"http://127.0.0.1:{port}", "proxy_auth": "user:word"}
        plain = probe.reach(EndpointSettings.model_validate({"base_url": "http://127.0.0.1:9/x"} | said))
        secured = probe.reach(EndpointSettings.model_validate({"base_url": "https://127.0.0.1:9/x"} | said))
    assert plain.status == 407
    assert endpoint._answer(407).verdict == "problem"
    assert secured.failed == "proxy"
    assert heads[0].startswith(b"HEAD http://127.0.0.1:9/x/ HTTP/1.1\r\n")
    assert heads[1].startswith(b"CONNECT 127.0.0.1:9 HTTP/1.")
    assert all(b"Proxy-Authorization: Basic " in head for head in heads)


def test_login_is_asked_for_only_when_it_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password is found with `--login`, and without it no token is asked for."""
    with running(Options(username="me", password="right")) as platform:  # noqa: S106
        text = shop.config.read_text().replace(shop.settings.endpoint.base_url, platform.url)
        shop.config.write_text(f'{text}\n[endpoint.auth]\nkind = "password"\nusername = "me"\n')
        monkeypatch.setenv(f"{AUTH}PASSWORD", "wrong")
        look(shop, offline=False)
        assert platform.login_requests == 0
        found = look(shop, offline=False, login=True)
        assert of(found, "endpoint", "login")["verdict"] == "problem"
        monkeypatch.setenv(f"{AUTH}PASSWORD", "right")
        found = look(shop, offline=False, login=True)
        assert of(found, "endpoint", "login")["verdict"] == "ok"


def test_what_nobody_thought_of_is_a_finding(shop: Shop) -> None:
    """A state folder that is a file: no look ends in a traceback."""
    (shop.folder / "state").rename(shop.folder / "away")
    (shop.folder / "state").write_text("")
    found = look(shop)
    assert found["exit"] == Exit.STATE
    assert of(found, "versions", "libraries")["verdict"] == "ok"


def test_lengths_of_time_are_said_as_people_do() -> None:
    """And one that is negative is none."""
    assert [ago(one) for one in (-5, 59, 300, 7300, 200000)] == [
        *("0 seconds", "59 seconds", "5 minutes", "2 hours", "2 days")
    ]


def test_words_never_cut_what_is_copied() -> None:
    """A long path stays whole on its line."""
    path = "/" + "x" * 150
    check = {
        "area": "disk",
        "what": "folder",
        "verdict": "problem",
        "found": f"{path}: gone",
        "cure": f"chmod 700 {path}",
    }
    counts = {"ok": 0, "warning": 0, "problem": 1, "skipped": 0}
    assert f"{path}\n" in doctor_text.examined({"checks": [check], "counts": counts, "exit": 4}, "a.toml") + "\n"


def test_words_say_which_file_the_commands_take() -> None:
    """A cure is pasted; where none is a command, nothing is said of it."""
    check = {"area": "state", "what": "paused", "verdict": "warning", "found": "by ann", "cure": "consent-sync resume"}
    found = {"checks": [check], "counts": {"ok": 0, "warning": 1, "problem": 0, "skipped": 0}, "exit": 0}
    assert "The commands take --config 'a b.toml'." in doctor_text.examined(found, "a b.toml")
    check["cure"] = "Mend its mode."
    assert "--config" not in doctor_text.examined(found, "a b.toml")
