"""What deploy/ ships works: units, pods, image, crontab and DAG are held to their tools and to the program itself."""

import fnmatch
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sync_job import config
from sync_job.cli.app import app
from sync_job.config import PREFIX
from sync_job.config.sections import DeliverySettings
from sync_job.errors import Exit
from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests import strace
from tests.shop import NO_GUARDS, Shop, people
from tests.test_docs import commands

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
CRONTAB = DEPLOY / "cron" / "consent-sync"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DAG = DEPLOY / "airflow" / "consent_sync_dag.py"
CONTAINERFILE = (ROOT / "Containerfile").read_text("utf-8")
PROGRAM = "/opt/consent-sync/bin/consent-sync"
CONFIG = "/etc/consent-sync/nightly.toml"
BEARER = "/etc/consent-sync/bearer"
BEARER_VARIABLE = f"{PREFIX}ENDPOINT__AUTH__BEARER_FILE"
NIGHT = ["run", "--require-new", "--wait", "3600", "--config", CONFIG]
DRAIN = ["drain", "--config", CONFIG]
# What a run may still have to do behind drain_s, when it is told to end: fold, and write its report.
REPORT_S = 120
EVERY = {int(code) for code in Exit}


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the machine has in its environment."""
    for name in [one for one in os.environ if one.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; without it the test is skipped."""
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("the systemd-analyze command is missing, which knows what units mean")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, check=False)


def unit(path: Path) -> dict[str, list[str]]:
    """Return what a unit says of each key, in its order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def codes(text: list[str]) -> set[int]:
    """Return the exit codes that a key of a unit lists."""
    return {int(word) for word in " ".join(text).split()}


def cron_lines() -> list[list[str]]:
    """Return the lines of work of the crontab: five fields of time, user, and command."""
    lines = [line for line in CRONTAB.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [line.split(None, 6) for line in lines if not re.match(r"\w+=", line)]


def manifests() -> dict[tuple[str, str], Any]:
    """Return each Kubernetes object by its kind and name."""
    found = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text("utf-8"))]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def pods() -> dict[str, Any]:
    """Return what each pod is, by the name of what makes it."""
    of_jobs = {
        name: one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for (kind, name), one in manifests().items()
        if kind == "CronJob"
    }
    return of_jobs | {name: one["spec"] for (kind, name), one in manifests().items() if kind == "Pod"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Containerfile, in upper case, and what each is given, on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in whole)]


@pytest.fixture(scope="module")
def platform() -> Iterator[Standin]:
    """Return a stand-in of the platform."""
    with running(Options()) as standin:
        yield standin


# Command lines


def parsed(words: list[str]) -> str:
    """Return the name of the command that *words* are, after the program has parsed all of them.

    Raises:
        Exception: the command-line library's own, for what it would refuse.
    """
    command: Any = typer.main.get_command(app)
    name, rest = "", words
    while inner := getattr(command, "commands", None):
        name, command, rest = f"{name} {rest[0]}".strip(), inner[rest[0]], rest[1:]
    command.make_context(name, list(rest))
    return name


def shipped() -> dict[str, list[list[str]]]:
    """Return the command lines that each kind of file starts, without the program's name."""
    started: dict[str, list[list[str]]] = {"cron": [shlex.split(line[6])[1:] for line in cron_lines()]}
    started["systemd"] = [shlex.split(line)[1:] for path in SERVICES for line in unit(path)["ExecStart"]]
    started["kubernetes"] = [pod["containers"][0]["args"] for pod in pods().values() if "args" in pod["containers"][0]]
    return started


@pytest.mark.parametrize("kind", ["cron", "systemd", "kubernetes"])
def test_each_kind_starts_the_same_night_and_the_same_drain(kind: str) -> None:
    """Whoever starts them, the two command lines are the same, and the program parses them."""
    assert sorted(shipped()[kind]) == [DRAIN, NIGHT]
    assert {parsed(words) for words in shipped()[kind]} == {"run", "drain"}


def test_parsing_refuses_what_the_program_refuses() -> None:
    """The test above would see an option that does not exist, and a command."""
    with pytest.raises(Exception, match="No such option"):
        parsed([*NIGHT, "--wate"])
    with pytest.raises(KeyError):
        parsed(["runn", "--config", CONFIG])


def test_commands_that_people_are_shown_are_commands() -> None:
    """Each in a block or a line of code of a document, or in a comment of a manifest, exists, and so do its options."""
    texts = [
        line for path in MANIFESTS for line in re.findall(r"^# .* -- (consent-sync .*)$", path.read_text("utf-8"), re.M)
    ]
    for name in ("scheduling", "handover", "operating"):
        text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
        texts += [
            line for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()
        ]
        texts += re.findall(r"`(consent-sync [^`]*)`", text)
    lines = [line for text in texts for line in re.findall(r"(?:^|[\s/])consent-sync (?=[a-z])([^#|\"]*)", text)]
    known = {name: {one for parameter in found.params for one in parameter.opts} for name, found in commands()}
    groups = {name.split()[0] for name in known if " " in name}
    assert len(lines) > 60
    for line in lines:
        words = line.split()
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), "")
        assert name or words in [[one] for one in groups], line
        options = {option for word in words for option in re.findall(r"^\[?(--[a-z][a-z-]*)", word)}
        assert options <= known.get(name, set()), line


# cron


def test_crontab_lines_have_times_a_user_and_a_command() -> None:
    """Five fields that cron can read, a user who is not root, no % (a newline to cron), and a newline at the end."""
    text = CRONTAB.read_text("utf-8")
    assert text.endswith("\n")
    assert "." not in CRONTAB.name, "cron leaves out files with a dot in their name"
    assert re.search(r"^MAILTO=\S+@\S+$", text, re.MULTILINE)
    bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    assert len(cron_lines()) == 2
    for *times, user, command in cron_lines():
        for field, (low, high) in zip(times, bounds, strict=True):
            found = re.fullmatch(r"(?:\*|(\d+))(?:/(\d+))?", field)
            assert found, field
            assert all(low <= int(number) <= high for number in found.groups() if number), field
        assert user == "consent-sync"
        assert "%" not in command
        assert shlex.split(command)[0] == "consent-sync"
    path = re.search(r"^PATH=(.*)$", text, re.MULTILINE)
    assert path
    assert path.group(1).split(":")[0] == str(Path(PROGRAM).parent)


def test_all_start_at_the_same_hours() -> None:
    """Crontab, timers, CronJobs and DAGs name the same times."""
    of = {shlex.split(line[6])[1]: " ".join(line[:5]) for line in cron_lines()}
    night, drain = of["run"], of["drain"]
    assert (night, drain) == ("15 2 * * *", "*/15 * * * *")
    jobs = {name: one["spec"]["schedule"] for (kind, name), one in manifests().items() if kind == "CronJob"}
    assert jobs == {"consent-sync": night, "consent-sync-drain": drain}
    assert re.findall(r'schedule="(.*?)"', DAG.read_text("utf-8")) == [night, drain]
    timers = {path.stem: unit(path)["OnCalendar"] for path in UNITS if path.suffix == ".timer"}
    assert timers == {"consent-sync": ["*-*-* 02:15:00"], "consent-sync-drain": ["*:0/15"]}


# systemd


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Return the units as they are installed, but for the place of the program, which must be there."""
    program = Path(sys.executable).parent / "consent-sync"
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace(PROGRAM, str(program)), "utf-8")
    return sorted(tmp_path.iterdir())


def test_units_are_understood(units: list[Path]) -> None:
    """There is nothing that systemd has to say against them."""
    said = systemd_analyze("verify", *units)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_a_wrong_unit_would_be_seen(units: list[Path]) -> None:
    """A key that does not exist is one of the things that systemd sees."""
    units[0].write_text(units[0].read_text("utf-8").replace("ProtectSystem=", "ProtectSistem="), "utf-8")
    assert "ProtectSistem" in systemd_analyze("verify", *units).stderr


@pytest.mark.parametrize("service", [path.name for path in SERVICES])
def test_services_are_exposed_little(service: str, units: list[Path]) -> None:
    """Of 10, the exposure that systemd sees is 1.5 at most; what is left is the network and the root folder."""
    (path,) = [one for one in units if one.name == service]
    said = systemd_analyze("security", "--offline=true", "--no-pager", "--threshold=15", path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_services_are_hardened_alike() -> None:
    """Both say the same from the first line of the hardening to the end, and what the contract of each line needs."""
    night, drain = (path.read_text("utf-8") for path in SERVICES[::-1])
    assert night[night.index("UMask=") :] == drain[drain.index("UMask=") :]
    for path in SERVICES:
        said = {key: value[-1] for key, value in unit(path).items()}
        assert said["Type"] == "oneshot"
        assert said["NoNewPrivileges"] == said["PrivateTmp"] == "yes"
        assert said["ProtectSystem"] == "strict"
        assert said["UMask"] == "0077"
        assert said["CapabilityBoundingSet"] == ""
        assert said["KillSignal"] == "SIGTERM"
        assert said["LoadCredential"] == f"bearer:{BEARER}"
        assert f"{BEARER_VARIABLE}=%d/bearer" in unit(path)["Environment"]
        assert shlex.split(said["ExecStart"])[0] == PROGRAM


def test_each_exit_code_has_its_place_in_the_service_of_the_night() -> None:
    """It is a success, is not tried again, or is: each code is exactly one of these, and only 75 is the last."""
    said = unit(DEPLOY / "systemd" / "consent-sync.service")
    well, never = codes(said["SuccessExitStatus"]) | {0}, codes(said["RestartPreventExitStatus"])
    assert said["Restart"] == ["on-failure"]
    assert not well & never
    assert EVERY - well - never == {Exit.BUSY}
    assert well | never <= EVERY
    assert {Exit.ATTENTION, Exit.HELD, Exit.OBLIGATION} <= never, "a person looks: the service has failed"


def test_each_exit_code_has_its_place_in_the_service_of_the_drain() -> None:
    """The timer is the next try, and busy is none of its concerns: whoever holds the lock sends what is owed."""
    said = unit(DEPLOY / "systemd" / "consent-sync-drain.service")
    assert said["Restart"] == ["no"]
    assert codes(said["SuccessExitStatus"]) == {Exit.BUSY, Exit.INTERRUPTED, Exit.TERMINATED}


def test_tries_of_a_night_fit_into_their_limit() -> None:
    """The starts that are allowed, each after the longest wait for a lock, end before the limit forgets the first."""
    said = {key: value[-1] for key, value in unit(DEPLOY / "systemd" / "consent-sync.service").items()}
    hours, minutes = (int(said[key].rstrip("himn")) for key in ("StartLimitIntervalSec", "RestartSec"))
    wait_s = int(NIGHT[NIGHT.index("--wait") + 1])
    assert int(said["StartLimitBurst"]) * (wait_s + minutes * 60) < hours * 3600


def allowed_calls(service: Path) -> set[str]:
    """Return the system calls that the filter of a service lets through."""

    def group(name: str) -> set[str]:
        said = systemd_analyze("syscall-filter", "--no-pager", name)
        assert said.returncode == 0, said.stderr
        words = [line.strip() for line in said.stdout.splitlines()[1:]]
        named = [word for word in words if word and not word.startswith("#")]
        return {call for word in named for call in (group(word) if word.startswith("@") else {word})}

    found: set[str] = set()
    for line in unit(service)["SystemCallFilter"]:
        calls = {call for name in line.lstrip("~").split() for call in group(name)}
        found = found - calls if line.startswith("~") else found | calls
    return found


def test_a_night_and_a_drain_need_no_more_than_their_services_allow(tmp_path: Path, platform: Standin) -> None:
    """They end in 0 where all other system calls are refused; no memory becomes code, and no other socket is opened."""
    shop = Shop(tmp_path, platform.url)
    shop.write(people(30))
    shop.init()
    shop.withdraw({1003: "all"})
    for name, service in (("run", "consent-sync"), ("drain", "consent-sync-drain")):
        if name == "drain":
            shop.withdraw({1005: "all"})
        path = DEPLOY / "systemd" / f"{service}.service"
        allowed = allowed_calls(path)
        refused = "!" + ",".join(f"?{call}" for call in sorted(allowed))
        watched = "!" + ",".join(f"?{call}" for call in sorted(allowed - {"mmap", "mprotect", "socket"}))
        trace = tmp_path / "trace"
        ended = subprocess.run(
            [
                *(strace.command(), "-f", "-qq", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={watched}"),
                *("-e", f"inject={refused}:error=EPERM"),
                *(sys.executable, "-m", "sync_job", name, "--config", str(shop.config)),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        calls = trace.read_text("utf-8", errors="replace").splitlines()
        assert any("PROT_EXEC" in line for line in calls), "it loads libraries"
        for line in calls:
            if "PROT_EXEC" in line:
                assert "mprotect(" not in line, line
                assert "PROT_WRITE" not in line, line
        families = set(re.findall(r"\bsocket\((AF_\w+)", "\n".join(calls)))
        assert families <= set(unit(path)["RestrictAddressFamilies"][0].split())


# Kubernetes


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_manifests_fit_their_schemas(version: str) -> None:
    """No unknown field, no value of another type, in the oldest version that has all of it and in the newest."""
    assert {kind for kind, _ in manifests()} == {"ConfigMap", "PersistentVolumeClaim", "CronJob", "Pod"}
    for one in manifests().values():
        kubernetes_validate.validate(one, version, strict=True)


def test_a_wrong_manifest_would_be_seen() -> None:
    """A field that does not exist is refused."""
    one = manifests()["CronJob", "consent-sync"]
    one["spec"]["jobTemplate"]["spec"]["podFailPolicy"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, "1.31", strict=True)


def test_each_exit_code_has_its_place_in_the_cronjob_of_the_night() -> None:
    """A code ends the job, or counts as one of its tries: busy and being stopped do; 0 alone is a success."""
    job = manifests()["CronJob", "consent-sync"]["spec"]["jobTemplate"]["spec"]
    rules = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {"values": []})["values"]
    }
    assert {*rules} == EVERY - {0}
    again = {code for code, action in rules.items() if action == "Count"}
    assert again == {Exit.BUSY, Exit.INTERRUPTED, Exit.TERMINATED}
    assert {action for code, action in rules.items() if code not in again} == {"FailJob"}
    drain = manifests()["CronJob", "consent-sync-drain"]["spec"]["jobTemplate"]["spec"]
    assert (drain["backoffLimit"], drain.get("podFailurePolicy")) == (0, None)


def test_pods_are_hardened_and_alike() -> None:
    """Night, drain and desk differ in what they start alone; none is root, writes its root or has a capability."""
    found = pods()
    assert {*found} == {"consent-sync", "consent-sync-drain", "consent-sync-desk"}
    for pod in found.values():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        assert pod["restartPolicy"] == "Never"
        assert not pod["automountServiceAccountToken"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["env"] == [{"name": BEARER_VARIABLE, "value": BEARER}]
        for key in ("args", "command"):
            container.pop(key, None)
    assert found["consent-sync"] == found["consent-sync-drain"] == found["consent-sync-desk"]
    for kind, one in manifests().items():
        if kind[0] == "CronJob":
            assert one["spec"]["concurrencyPolicy"] == "Forbid"


def test_pods_have_the_configuration_and_each_of_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ConfigMap is configs/nightly.toml; state, keys, reports are on the volume, and exports and secret there."""
    objects = manifests()
    text = objects["ConfigMap", "consent-sync"]["data"]["nightly.toml"]
    assert tomllib.loads(text) == tomllib.loads((ROOT / "configs" / "nightly.toml").read_text("utf-8"))
    (tmp_path / "nightly.toml").write_text(text, "utf-8")
    monkeypatch.setenv(f"{PREFIX}ENDPOINT__AUTH__BEARER", "hush")
    settings = config.load(tmp_path / "nightly.toml")
    pod = pods()["consent-sync"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {Path(one["mountPath"]): one for one in pod["containers"][0]["volumeMounts"]}
    assert {one["name"] for one in mounts.values()} == {*volumes}

    def below(path: Path | str) -> Any:
        (found,) = [mount for place, mount in mounts.items() if Path(path).is_relative_to(place)]
        return found

    for path in (settings.state.path, settings.state.keys, settings.report.path):
        assert below(path)["name"] == "kept"
        assert "readOnly" not in below(path)
    assert (
        volumes["kept"]["persistentVolumeClaim"]["claimName"]
        == objects["PersistentVolumeClaim", "consent-sync"]["metadata"]["name"]
    )
    assert below(settings.export.path)["readOnly"]
    assert below(CONFIG) is below(BEARER)
    (_, secret) = volumes[below(BEARER)["name"]]["projected"]["sources"]
    assert secret["secret"]["name"] == "consent-sync"
    assert below("/tmp/x")["name"] == "tmp"  # noqa: S108 - a path of the pod
    jobs = [one["spec"] for (kind, _), one in objects.items() if kind == "CronJob"]
    assert {job["timeZone"] for job in jobs} == {settings.run.timezone}


def test_whoever_ends_a_run_waits_longer_than_it_drains() -> None:
    """Services, pods and DAG leave it drain_s, and time to fold and to write its report."""
    least_s = DeliverySettings.model_validate({}).drain_s + REPORT_S
    for path in SERVICES:
        (minutes,) = re.findall(r"^TimeoutStopSec=(\d+)min$", path.read_text("utf-8"), re.MULTILINE)
        assert int(minutes) * 60 >= least_s
    assert all(pod["terminationGracePeriodSeconds"] >= least_s for pod in pods().values())
    assert int(re.findall(r"^PATIENCE_S = (\d+)", DAG.read_text("utf-8"), re.MULTILINE)[0]) >= least_s


# The image


def test_the_image_is_small_and_not_root() -> None:
    """Two stages of one slim Python, a numeric user that the pods name too, the program as entry, no health check."""
    found = instructions(CONTAINERFILE)
    stages = [rest.split(" AS ")[0] for word, rest in found if word == "FROM"]
    assert len(stages) == 2
    assert stages[0] == stages[1]
    assert stages[0].endswith("-slim")
    last = found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]
    said = dict(last)
    user, _, group = said["USER"].partition(":")
    assert int(user)
    security = pods()["consent-sync"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (int(user), int(group), int(group))
    assert json.loads(said["ENTRYPOINT"]) == ["consent-sync"]
    assert said["HEALTHCHECK"] == "NONE"
    assert said["ENV"].startswith(f"PATH={Path(PROGRAM).parent}:")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f'image.version="{version}"' in said["LABEL"]
    assert {pod["containers"][0]["image"] for pod in pods().values()} == {f"consent-sync:{version}"}
    assert "root" not in said["USER"]
    assert not [word for word, _ in found if word == "ADD"]


def copied() -> list[str]:
    """Return what the image is made from."""
    copies = [rest.split() for word, rest in instructions(CONTAINERFILE) if word == "COPY" and "--from" not in rest]
    return [source for words in copies for source in words[:-1]]


def test_only_what_the_image_needs_is_sent_to_its_builder() -> None:
    """Each source of a COPY is there and not ignored; configuration, state or a secret that lies around is ignored."""
    rules = [line for line in (ROOT / ".containerignore").read_text("utf-8").splitlines() if not line.startswith("#")]

    def ignored(path: str) -> bool:
        found = False
        for rule in rules:
            pattern = rule.lstrip("!")
            names = [path, *map(str, Path(path).parents)]
            if any(fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for name in names):
                found = not rule.startswith("!")
        return found

    for source in copied():
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    for path in ("bearer", "state/ledger.db", "demo/reports", ".git/config", "configs/nightly.toml", "deploy/cron"):
        assert ignored(path), path
    assert (ROOT / ".dockerignore").resolve() == ROOT / ".containerignore"


def test_what_is_copied_into_the_image_is_the_whole_package(tmp_path: Path) -> None:
    """The package builds from it alone, without the network, and has every file of sync_job and the program."""
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    ended = subprocess.run(
        [*build, "--no-build-isolation", "--wheel-dir", "dist", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        (entry,) = [packed.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert "consent-sync = sync_job.cli:main" in entry
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "sync_job").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - names == set()


def pins(path: Path) -> dict[str, tuple[str, set[str]]]:
    """Return the version and the hashes of each package of a lock."""
    text = path.read_text("utf-8").replace("\\\n", "")
    found = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)((?:\s+--hash=\S+)+)", text, re.MULTILINE)
    return {canonicalize_name(name): (version, set(hashes.split())) for name, version, hashes in found}


def test_the_image_has_what_the_package_needs_and_no_more() -> None:
    """Its lock is the package, its extras and what builds it, at the versions and hashes that are tested here."""
    mine, tested = pins(DEPLOY / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert {name: pin for name, pin in mine.items() if tested.get(name) != pin} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = (
        project["project"]["dependencies"] + extras["remote"] + extras["holidays"] + project["build-system"]["requires"]
    )
    left, needed = [Requirement(one) for one in wanted], set[str]()
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        needed.add(name)
        for text in metadata.requires(name) or []:
            found = Requirement(text)
            if not found.marker or any(found.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                left.append(found)
    assert {*mine} == needed


# Airflow


class _Fails(Exception):  # noqa: N818 - a stand-in
    pass


class _Skips(Exception):  # noqa: N818
    pass


class _Again(Exception):  # noqa: N818
    pass


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the example, imported with small stand-ins for what it takes from Airflow."""
    tasks: list[tuple[str, dict[str, Any]]] = []

    def task(function: Any = None, **options: Any) -> Any:
        if function is None:
            return lambda inner: task(inner, **options)

        def called(*given: Any) -> str:
            tasks.append((function.__name__, options))
            return f"what {function.__name__} returns"

        return called

    def of(name: str, **names: Any) -> None:
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)

    of("airflow")
    of("airflow.sdk", dag=lambda **_: lambda function: function, task=task)
    of("airflow.sdk.exceptions", AirflowException=_Again, AirflowFailException=_Fails, AirflowSkipException=_Skips)
    of("pendulum", datetime=lambda *given, **said: (given, said))
    spec = importlib.util.spec_from_file_location("consent_sync_dag", DAG)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    vars(module)["tasks"] = tasks
    return module


def test_each_exit_code_has_its_place_in_the_dag(dag: ModuleType) -> None:
    """Each is in one of the four sets; those that come through are told, 75 is tried again, and the rest is not."""
    sets = (dag.FINE, dag.LOOK, dag.AGAIN, dag.STOP)
    assert sorted(code for one in sets for code in one) == sorted(EVERY)
    assert ({Exit.OK}, {Exit.ATTENTION, Exit.HELD}, {Exit.BUSY}) == (dag.FINE, dag.LOOK, dag.AGAIN)
    for code in EVERY | {-9, 137}:
        told = dag.judge(code, "")
        if code in dag.FINE | dag.LOOK:
            assert dag.checked(told) == told
        else:
            with pytest.raises(_Again if code in {Exit.BUSY, -9, 137} else _Fails, match=f"exit {code}"):
                dag.checked(told)


def test_the_dags_have_a_task_each_and_somebody_who_looks(dag: ModuleType) -> None:
    """The night has its tries, 15 minutes apart, the drain has none; both run where the state is."""
    names = [name for name, _ in dag.tasks]
    assert names == ["night", "somebody_looks", "drain", "somebody_looks"]
    night, drain = dag.tasks[0][1], dag.tasks[2][1]
    assert (night["queue"], drain["queue"]) == (dag.QUEUE, dag.QUEUE)
    assert (night["retries"], drain["retries"]) == (3, 0)


@pytest.fixture
def fits(dag: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], ModuleType]:
    """Return what has the example call the real program with another configuration."""

    def of(path: Path) -> ModuleType:
        monkeypatch.setattr(dag, "PROGRAM", str(Path(sys.executable).parent / "consent-sync"))
        monkeypatch.setattr(dag, "CONFIG", str(path))
        (tmp_path / "bearer").write_text("hush\n")
        monkeypatch.setattr(dag, "BEARER_FILE", str(tmp_path / "bearer"))
        return dag

    return of


def test_tasks_judge_what_real_commands_end_with(
    fits: Callable[[Path], ModuleType], tmp_path: Path, platform: Standin, capfd: pytest.CaptureFixture[str]
) -> None:
    """0 is told with its counts, 6 is for somebody to look at, 3 and 4 stop, busy is tried again; nobody is named."""
    shop = Shop(
        tmp_path, platform.url, guards=NO_GUARDS.replace("re_grants = 1000000", "re_grants = 0\nre_grants_share = 0")
    )
    dag = fits(shop.config)
    with pytest.raises(_Fails, match="exit 4"):
        dag.night()
    base = dict.fromkeys(range(7654001, 7654021), (False,) * 4)
    shop.write(base)
    shop.init()
    told = dag.night()
    assert (told["exit"], told["next"], told["outcomes"]["delivered"]) == (0, "fine", 20)
    with pytest.raises(_Skips):
        dag.somebody_looks(told)
    shop.write(base | {7_654_001: (True,) * 4})
    held = dag.night()
    assert (held["exit"], held["next"]) == (6, "look")
    capfd.readouterr()
    dag.somebody_looks(held)
    assert held["reasons"][0] in capfd.readouterr().out
    assert "76540" not in json.dumps([told, held])
    shop.withdraw({7_654_002: "all"})
    assert dag.drain()["next"] in ("fine", "look")
    shop.export.unlink()
    with pytest.raises(_Fails, match="exit 3"):
        dag.night()
    subprocess.run(
        [dag.PROGRAM, "pause", "--reason", "moving", "--by", "operator", "--config", str(shop.config)], check=True
    )
    with pytest.raises(_Skips):
        dag.drain()
    with pytest.raises(_Again, match="exit 75"):
        dag.night()


def test_a_task_that_is_ended_ends_its_command_first(
    fits: Callable[[Path], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command gets SIGTERM, and is waited for; what ended the task goes on."""
    # Who has written more than a pipe holds knows that it is being read.
    program = tmp_path / "program"
    program.write_text(f"""#!/bin/sh
trap 'sleep 0.2; echo drained > {tmp_path}/said; exit 143' TERM
head -c 200000 /dev/zero
kill -USR1 $PPID
while :; do sleep 0.05; done
""")
    program.chmod(0o700)
    dag = fits(tmp_path / "nightly.toml")
    monkeypatch.setattr(dag, "PROGRAM", str(program))

    def end(*_: object) -> None:
        raise TimeoutError("the task is ended")

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(TimeoutError):
            dag.called("run")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "said").read_text() == "drained\n"


# Documents


def test_paths_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Program, configuration, secret, state and the folder of metrics have one place each, whoever names them."""
    texts = {
        path.name: path.read_text("utf-8")
        for path in (*UNITS, CRONTAB, *MANIFESTS, DAG, ROOT / "Containerfile", *(ROOT / "docs").glob("*.md"))
    }
    texts["nightly.toml"] = (ROOT / "configs" / "nightly.toml").read_text("utf-8")
    for name, text in texts.items():
        assert set(re.findall(r"/opt/consent-sync/bin/[\w-]+", text)) <= {
            PROGRAM,
            *(f"/opt/consent-sync/bin/{tool}" for tool in ("python", "pip")),
        }, name
        assert set(re.findall(rf"{BEARER_VARIABLE}=(\S+?)[\s`\"]", text + " ")) <= {
            BEARER,
            "%d/bearer",
            '"$PWD/bearer',
        }, name
        assert set(re.findall(r"/etc/consent-sync/[\w-]+\.toml", text)) <= {
            f"/etc/consent-sync/{one.name}" for one in (ROOT / "configs").glob("*.toml")
        }, name
    monkeypatch.setenv(f"{PREFIX}ENDPOINT__AUTH__BEARER", "hush")
    settings = config.load(ROOT / "configs" / "nightly.toml")
    for path in SERVICES:
        (folder,) = unit(path)["StateDirectory"]
        for one in (settings.state.path, settings.state.keys, settings.report.path):
            assert one.is_relative_to(Path("/var/lib") / folder)
        (metrics,) = unit(path)["ReadWritePaths"]
        assert f"{metrics.lstrip('-')}/" in (ROOT / "docs" / "metrics.md").read_text("utf-8")


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document."""
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)}


def test_links_to_a_heading_find_it() -> None:
    """In all documents, and in the alarms' links to the run book."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text("utf-8")):
            there = path.parent / file if file else path
            assert anchor in anchors(there), f"{path.name}: {file}#{anchor}"
    rules = yaml.safe_load((DEPLOY / "prometheus" / "consent-sync.rules.yml").read_text("utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        file, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert anchor in anchors(ROOT / file), alert["alert"]


def test_the_run_book_has_each_exit_code_and_each_alarm() -> None:
    """A heading for each code, with a command below it; a row for each alarm, and no other."""
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    for code in Exit:
        found = re.search(rf"^### Exit {code.value}: .*\n((?:(?!^#).*\n)+)", text, re.MULTILINE)
        assert found, code
        assert code is Exit.OK or "`consent-sync " in found.group(1) or "```" in found.group(1), code
    rules = (DEPLOY / "prometheus" / "consent-sync.rules.yml").read_text("utf-8")
    rows = re.findall(r"^\| (`ConsentSync.*?) \|", text, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(named) == sorted(re.findall(r"- alert: (\w+)", rules))
