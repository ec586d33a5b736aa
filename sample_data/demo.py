"""Runs the demonstration: a stand-in platform on loopback, `init`, two nights of the sample export, and opt-outs.

Everything it makes lies in the folder `demo/`, which is emptied first. `make demo` calls it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
COMMAND = [sys.executable, "-m", "sync_job"]
FINE = (0, 1)  # 1: finished, and something new is to be looked at


def consent_sync(*arguments: str) -> None:
    """Run the command as a person would, and show it."""
    print(f"\n$ consent-sync {' '.join(arguments)}", flush=True)
    ended = subprocess.run([*COMMAND, *arguments], cwd=ROOT, check=False)
    if ended.returncode not in FINE:
        raise SystemExit(f"consent-sync {arguments[0]} ended with exit {ended.returncode}")


def main() -> None:
    """Run it all, and say where the reports are."""
    if DEMO.exists():
        shutil.rmtree(DEMO)
    DEMO.mkdir()
    config = ("--config", "configs/demo.toml")
    standin = subprocess.Popen(
        [*COMMAND, "standin", "--port", "0", "--latency-ms", "2", "--record", str(DEMO / "platform.csv")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert standin.stdout is not None
        said = standin.stdout.readline().split()
        if not said:
            raise SystemExit("the stand-in platform did not start")
        os.environ["CONSENT_SYNC__ENDPOINT__BASE_URL"] = said[-1]
        print(f"the stand-in platform listens on {said[-1]}")
        first, second = "sample_data/2026-11-21.csv", "sample_data/2026-11-22.parquet"
        consent_sync("init", first, *config, "--platform", "unknown", "--no-withdrawals", "--quiet")
        consent_sync("run", first, *config, "--quiet")
        consent_sync("plan", second, *config)
        consent_sync("run", second, *config, "--quiet")
        consent_sync("opt-out", "sample_data/opt-outs.csv", "--check", *config)
        consent_sync("opt-out", "sample_data/opt-outs.csv", *config, "--quiet")
        consent_sync("run", second, *config, "--quiet")
        consent_sync("withdrawals", "status", *config)
        consent_sync("report", *config)
        consent_sync("runs", *config)
    finally:
        standin.terminate()
        standin.wait(10)
    print("\nreports:")
    for folder in sorted((DEMO / "reports").iterdir()):
        print(f"  {folder.relative_to(ROOT)}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    night = next((DEMO / "reports").glob("0003-*")) / "report.html"
    print(f"the page of the second night, for a browser: {night.relative_to(ROOT)}")
    print(f"what the platform holds now: {(DEMO / 'platform.csv').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
