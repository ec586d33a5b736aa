"""Makes the picture of a report page that README shows, of what `make demo` left: `make picture`."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from sync_job.report import page

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "demo" / "reports"
PICTURE = ROOT / "docs" / "report.png"
CONFIG = "configs/demo.toml"
WIDTH = 1000
LAST = "#flow"  # the section that the picture ends with: as much as a reader of README wants to see
MOST_BYTES = 300_000


def text(found: list[dict[str, Any]]) -> str:
    """Return the page of the last run that read an export and sent something."""
    nights = [place for place, one in enumerate(found) if one.get("kind") == "run" and one["planned"]]
    last = nights[-1]
    return page.report(found[last], found[:last], config=CONFIG)


def main() -> None:
    """Open the demo's page in a browser, and keep its upper part as a PNG."""
    found = [json.loads(path.read_bytes()) for path in sorted(REPORTS.glob("*/summary.json"))]
    command = shutil.which("chromium")
    if not found or command is None:
        sys.exit("nothing to draw: run `make demo` first" if command else "the chromium command is missing")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "report.html"
        path.write_text(text(found), "utf-8")
        browser = driver.chromium.launch(executable_path=command, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": WIDTH, "height": WIDTH}, color_scheme="light")
        shown.goto(path.as_uri())
        box = shown.locator(LAST).bounding_box()
        assert box is not None
        end = box["y"] + box["height"]
        shown.screenshot(path=PICTURE, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": end})
        browser.close()
    size = PICTURE.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{PICTURE.relative_to(ROOT)} has {size:,} bytes, more than {MOST_BYTES:,}")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: {size:,} bytes\n")


if __name__ == "__main__":
    main()
