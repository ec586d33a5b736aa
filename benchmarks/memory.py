"""Memory and time of large plans: what a run holds when it begins to send, and after a minute of sending.

`python -m benchmarks.memory [MILLIONS…]` prints a line for each size: 1, 5 and 10 million planned rows by default.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from sync_job.standin.background import running
from sync_job.standin.options import Options

MILLION = 1_000_000
SENDING_S = 60
_CONFIG = """
[export]
path = "export.csv"
as_of = "none"
[endpoint]
base_url = "{url}"
operator = 1
[withdrawals]
scope = "all"
basis = "objection"
"""


def measure(millions: int, url: str, folder: Path) -> str:
    """Return a line about a run of so many million planned rows."""
    clients = millions * MILLION
    (folder / "config.toml").write_text(_CONFIG.format(url=url))
    flags = {f"Allow{name}": np.arange(clients) % 3 == k for k, name in enumerate(("Sms", "Email", "Push"))}
    table = pa.table({"Client": np.arange(1, clients + 1, dtype=np.int32), **flags})
    table = table.append_column("AllowEmailOnlineCheque", pa.array(np.zeros(clients, np.bool_)))
    pa.csv.write_csv(table, str(folder / "export.csv"))
    del table, flags
    command = [sys.executable, "-m", "sync_job"]
    config = ["--config", str(folder / "config.toml")]
    subprocess.run(  # noqa: S603 - our own command
        [*command, "init", "export.csv", *config, "--platform", "unknown", "--no-withdrawals", "--quiet"],
        cwd=folder,
        check=False,
    )
    run = subprocess.Popen([*command, "run", *config, "--json"], cwd=folder, stdout=subprocess.PIPE)  # noqa: S603
    while _stage(folder) != "sending":
        if run.poll() is not None:
            raise SystemExit(f"the run ended before it sent anything: exit {run.returncode}")
        time.sleep(0.1)
    time.sleep(5)  # until connections and caches are there
    begins, most = _resident(run.pid), _resident(run.pid, "VmHWM")
    time.sleep(SENDING_S)
    ends, sent = _resident(run.pid), _done(folder)
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=300)
    seconds = json.loads(out)["seconds"]
    return (
        f"{millions:>3} million rows: {most:,.0f} MB at most before sending; {begins:,.1f} MB while sending, "
        f"{ends - begins:+,.1f} MB after {SENDING_S} s and {sent:,} rows; read {seconds['read']:.1f} s, decide and "
        f"write the plan {seconds['decide']:.1f} s"
    )


def _stage(folder: Path) -> str:
    return str(_running(folder).get("stage", ""))


def _done(folder: Path) -> int:
    return int(_running(folder).get("done", 0))


def _running(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "state" / "running.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def _resident(pid: int, what: str = "VmRSS") -> float:
    """Return the memory of a process, in MB."""
    said = Path(f"/proc/{pid}/status").read_text()
    return int(said.split(f"{what}:")[1].split()[0]) / 1000


def main(sizes: list[int]) -> None:
    """Measure and print each size."""
    with running(Options(keep_log=False)) as platform:
        for millions in sizes:
            with tempfile.TemporaryDirectory() as folder:
                sys.stdout.write(f"{measure(millions, platform.url, Path(folder))}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1, 5, 10])
