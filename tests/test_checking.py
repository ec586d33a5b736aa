"""What `check` says: how each file was read, which column is what, what each token says, and what looks wrong."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.config import ExportSettings
from sync_job.report import check_text
from sync_job.runs import checking
from sync_job.runs.watch import Watch
from tests.commands import Cli

HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque"
FLAGS = [f"{place % 2},{place % 3 // 2},{place % 5 // 4},{place % 4 // 3}" for place in range(40)]
ROWS = [f"{100 + 7 * place},{flags}" for place, flags in enumerate(FLAGS)]
Check = Callable[..., dict[str, Any]]


@pytest.fixture
def checked(tmp_path: Path) -> Check:
    """Return what `check` finds in an export of these bytes, or rows, by these settings."""

    def check(content: bytes | list[str], **said: Any) -> dict[str, Any]:
        if isinstance(content, list):
            content = "\n".join([HEADER, *content, ""]).encode()
        (tmp_path / "export.csv").write_bytes(content)
        settings = ExportSettings.model_validate({"as_of": "none"} | said)
        return checking.check(settings, ZoneInfo("UTC"), str(tmp_path / "export.csv"), Watch())

    return check


def test_it_is_said_how_a_file_is_written_and_which_column_is_what(checked: Check) -> None:
    """Encoding, delimiter and newlines; each column with the rule by which it was found; what was not looked at."""
    text = "allow_sms;Client;DoNotMail;AllowPush;Город\r\nда;5;нет;1;Омск\r\nнет;6;да;0;Тверь\r\n"
    columns = {"AllowEmail": "DoNotMail", "AllowEmailOnlineCheque": ""}
    found = checked(text.encode("cp1251"), columns=columns, inverted=["AllowEmail"])
    (one,) = found["inputs"]
    assert (one["encoding"], one["delimiter"], one["newline"]) == ("cp1251", ";", "CR LF")
    assert [(column["name"], column["column"], column["by"], column["inverted"]) for column in one["mapped"]] == [
        ("Client", "Client", "exactly", False),
        ("AllowSms", "allow_sms", "but for case, blanks, _ and -", False),
        ("AllowEmail", "DoNotMail", "exactly", True),
        ("AllowPush", "AllowPush", "exactly", False),
        ("AllowEmailOnlineCheque", "", "not mapped", False),
        ("consent_changed_at", "", "not mapped", False),
    ]
    assert one["unused"] == ["Город"]
    assert found["said"]["AllowEmail"] == [
        {"token": "нет", "count": 1, "says": "allowed"},
        {"token": "да", "count": 1, "says": "denied"},
    ]
    said = check_text.plain(check_text.check(found))
    for words in ("cp1251", "delimiter ';'", "CR LF", "not read   Город", "exactly, inverted"):
        assert words in said


def test_columns_by_place_and_by_folder_are_said_to_be_so(tmp_path: Path, checked: Check) -> None:
    """Without a header a column's rule is its place; a channel may come from the folder's name."""
    by_place = {"Client": "1", "AllowSms": "2", "AllowEmail": "", "AllowPush": "", "AllowEmailOnlineCheque": ""}
    (one,) = checked(b"5,1\n6,0\n", columns=by_place, header=False)["inputs"]
    assert [column["by"] for column in one["mapped"]][:3] == ["its place", "its place", "not mapped"]
    folder = tmp_path / "spark" / "AllowSms=1"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"Client": [5]}), folder / "part-0.parquet")
    columns = {"AllowEmail": "", "AllowPush": "", "AllowEmailOnlineCheque": ""}
    settings = ExportSettings.model_validate({"as_of": "none", "columns": columns})
    (one,) = checking.check(settings, ZoneInfo("UTC"), str(tmp_path / "spark"), Watch())["inputs"]
    assert one["mapped"][1] == {"name": "AllowSms", "column": "AllowSms", "by": "the folder's name", "inverted": False}
    assert one["partition"] == {"AllowSms": "1"}


def test_each_token_is_said_with_what_it_means(checked: Check) -> None:
    """Allowed, denied, nothing and unknown; blanks as the configuration reads them."""
    rows = ["1,yes,,1,0", "2,no,,0,0", "3,perhaps,,1,0", "4, YES ,-,1,0"]
    found = checked(rows, blank={"AllowEmail": "denied"}, values={"nothing": ["-"]})
    assert {one["token"]: one["says"] for one in found["said"]["AllowSms"]} == {
        "yes": "allowed",
        "no": "denied",
        "perhaps": "unknown",
        " YES ": "allowed",
    }
    assert {one["token"]: one["says"] for one in found["said"]["AllowEmail"]} == {"": "denied", "-": "nothing"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row[:-1] + "1" for row in ROWS], "column 'AllowEmailOnlineCheque' says '1' in all 40 rows"),
        ([row[:-1] + "1" for row in ROWS], "'AllowEmailOnlineCheque' never says no"),
        ([*ROWS, "x,1,1,1,1"], "2.4% of the rows are rejects: 1 of 41"),
        ([f"{place},{flags}" for place, flags in enumerate(FLAGS, 1)], "as row numbers are"),
        ([f"16{place * 79190:08},{flags}" for place, flags in enumerate(FLAGS)], "have 10 digits and begin with 160"),
        ([f"79{place * 7919:09},{flags}" for place, flags in enumerate(FLAGS)], "most ids are outside 1 to"),
    ],
)
def test_what_looks_wrong_is_warned_of(checked: Check, rows: list[str], said: str) -> None:
    """A column that never says no, one that is constant, ids that look like something else, and many rejects."""
    assert any(said in one for one in checked(rows)["warnings"])


def test_nothing_is_warned_of_where_nothing_looks_wrong(checked: Check) -> None:
    """Ids with gaps, and four columns that say both."""
    assert checked(ROWS)["warnings"] == []


def test_a_last_line_without_a_newline_is_warned_of(checked: Check) -> None:
    """It may be the half of a line, and the end of half an export."""
    assert any("without a newline" in one for one in checked("\n".join([HEADER, *ROWS]).encode())["warnings"])
    assert not checked("\n".join([HEADER, *ROWS]).encode(), final_newline=False)["warnings"]


def test_rejects_are_shown_in_one_line_without_what_a_terminal_obeys(checked: Check) -> None:
    """A row with newlines and an escape sequence is a line of printable characters; a long one is cut."""
    found = checked([*ROWS, '"x\n\x1b[2J",1,1,1,1', f"{'y' * 1000},1,1,1,1"])
    lines = check_text.plain(check_text.check(found)).splitlines()
    (shown,) = [line for line in lines if "[2J" in line]
    assert shown.endswith(':42: "x\\n\\x1b[2J",1,1,1,1')
    assert all(line.isprintable() and len(line) < 500 for line in lines)


def test_nothing_is_made_and_json_has_all_of_it(tmp_path: Path, cli: Cli) -> None:
    """`check` leaves the folder as it was; `--json` has inputs, tokens, rejects and warnings."""
    path = tmp_path / "export.csv"
    path.write_text("\n".join([HEADER, *ROWS, "x,1,1,1,1", ""]))
    found = json.loads(cli("check", path, "--json").out)
    assert {"inputs", "said", "samples", "warnings", "lowest_id", "density", "as_of", "age_h"} <= set(found)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_there_is_a_table_in_colours_unless_told(tmp_path: Path, no_color: bool) -> None:
    """Columns stand one below the other; NO_COLOR takes the colours away."""
    path = tmp_path / "export.csv"
    path.write_text("\n".join([HEADER, *ROWS, ""]))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm", "COLUMNS": "120"} | ({"NO_COLOR": "1"} if no_color else {})
    out = _on_a_terminal(["check", str(path)], environment)
    assert ("\x1b[32mallowed" in out) is not no_color
    begins = [line.index("'") for line in out.splitlines() if line.startswith("Allow") and "'" in line]
    assert len(begins) > 6
    assert len(set(begins)) == 1


def _on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    """Return what the command prints on a terminal of its own."""
    ours, theirs = pty.openpty()
    code = "import sys; from sync_job.cli import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        found = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            found += piece
        assert process.wait(60) == 0
    os.close(ours)
    return found.decode()
