"""The night, and what is owed every 15 minutes, as DAGs of Airflow 3: an example to copy into the folder of DAGs.

It reads what the command ends with and prints with `--json`, and decides by `judge` alone. A task that fails is one
that somebody has to see: what would end the same way again is not tried again. XCom gets counts and reasons; no
client ids, for a summary has none.

The tasks belong on the machine that has the state: one worker, which listens to QUEUE.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

PROGRAM = "/opt/consent-sync/bin/consent-sync"
CONFIG = "/etc/consent-sync/nightly.toml"
BEARER_FILE = "/etc/consent-sync/bearer"
QUEUE = "consent-sync"
ZONE = "Europe/Moscow"
PATIENCE_S = 180  # more than [delivery] drain_s: behind it the run folds what was acknowledged and writes its report

FINE = {0}
LOOK = {1, 6}  # it has finished, and a person reads the report, or approves what was held
AGAIN = {75}  # another run holds the lock, or the target is paused
# A person mends something first. 5 as well: a run waits for an endpoint that is away itself ([delivery] max_outage_s),
# and a login that was refused must not be repeated. 130 and 143: somebody has stopped it.
STOP = {2, 3, 4, 5, 7, 70, 130, 143}
TOLD = ("run", "reasons", "reasons_of_run", "planned", "outcomes")


def judge(code: int, printed: str) -> dict[str, Any]:
    """Return what there is to tell of a command that ended with *code* and *printed* this.

    `next` is "fine", "look", "again" or "stop". A negative code, or one over 128 that is none of the program's own,
    is a process that was killed: the next one carries on where it was.
    """
    killed = code < 0 or (code > 128 and code not in STOP)
    nexts = {"fine": code in FINE, "look": code in LOOK, "again": code in AGAIN or killed}
    try:
        said = json.loads(printed)
    except ValueError:
        said = None  # an error is on standard error, and so in the log of the task
    found = {name: said[name] for name in TOLD if name in said} if isinstance(said, Mapping) else {}
    return {"exit": code, "next": next((name for name, so in nexts.items() if so), "stop"), **found}


def called(*arguments: str) -> tuple[int, str]:
    """Run a command, and return what it ended with and printed; a task that is ended ends it with SIGTERM."""
    environment = os.environ | {"CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE": BEARER_FILE}
    line = [PROGRAM, *arguments, "--json", "--config", CONFIG]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as child:  # noqa: S603
        try:
            printed, _ = child.communicate()
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=PATIENCE_S)
            child.kill()  # nothing, where it has ended
            raise
    return child.returncode, printed


def checked(told: dict[str, Any]) -> dict[str, Any]:
    """Return *told* of a command that has finished; Airflow's errors say what becomes of the others."""
    if told["next"] == "again":
        raise AirflowException(f"exit {told['exit']}: later again")
    if told["next"] == "stop":
        raise AirflowFailException(f"exit {told['exit']}: the log above says why, docs/operating.md what to do")
    return told


def night() -> dict[str, Any]:
    """Send what the CRM's export changes."""
    return checked(judge(*called("run", "--require-new", "--wait", "3600")))


def drain() -> dict[str, Any]:
    """Send what is owed to people who withdrew; where that cannot be now, it can in 15 minutes."""
    told = judge(*called("drain"))
    if told["next"] == "again":
        raise AirflowSkipException("another run holds the lock and sends it, or the target is paused")
    return checked(told)


def somebody_looks(told: dict[str, Any]) -> None:
    """Have a person look, where that is due; skipped where it is not."""
    if told["next"] != "look":
        raise AirflowSkipException("nothing to look at")
    reasons = "; ".join(told.get("reasons") or told.get("reasons_of_run") or ["see the log of the task before"])
    # Yours: a mail, a line in a chat, a ticket.
    print(f"exit {told['exit']}: {reasons}. Read it with: consent-sync report --config {CONFIG}")  # noqa: T201


ALWAYS = {
    "start_date": pendulum.datetime(2026, 1, 1, tz=ZONE),
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["consent-sync"],
}


@dag(schedule="15 2 * * *", **ALWAYS)
def consent_sync() -> None:
    """Send what the CRM's export changes, once a night, and have somebody look where that is due."""
    told = task(queue=QUEUE, retries=3, retry_delay=timedelta(minutes=15))(night)()
    task(somebody_looks)(told)


@dag(schedule="*/15 * * * *", **ALWAYS)
def consent_sync_drain() -> None:
    """Send what is owed to people who withdrew, every 15 minutes."""
    told = task(queue=QUEUE, retries=0)(drain)()
    task(somebody_looks)(told)


consent_sync()
consent_sync_drain()
