import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from sync_job.report import picture, plots, series
from sync_job.report.words import LANGUAGES, Words
from tests.summaries import acting, fine, huge, nights, nothing, samples

SVG = "{http://www.w3.org/2000/svg}"
EN = Words("en")
OF_ONE: Mapping[str, Callable[[dict[str, Any], Words], str]] = {
    "flow": plots.flow,
    "transitions": plots.transitions,
    "throughput": series.throughput,
    "ages": plots.ages,
}
CASES: Mapping[str, Callable[[], dict[str, Any]]] = {"fine": fine, "acting": acting, "huge": huge}


def drawn(found: dict[str, Any], words: Words = EN) -> dict[str, str]:
    """Return all pictures of a summary, its own and that of the nights that end with it."""
    svgs = {name: draw(found, words) for name, draw in OF_ONE.items()}
    svgs["trend"] = series.trend([*nights(34), found], words)
    return {name: svg for name, svg in svgs.items() if svg}


def texts(svg: str) -> list[str]:
    """Return what is written in a picture."""
    return [one.text or "" for one in Xml.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


def numbers(said: str) -> set[int]:
    """Return the whole numbers in a text."""
    return {int(one.replace(",", "")) for one in re.findall(r"\d[\d,]*", said)}


def within(found: object) -> set[int]:
    """Return the whole numbers anywhere in a summary."""
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, Sequence) and not isinstance(found, str):
        return set().union(*map(within, found)) if found else set()
    return {round(found)} if isinstance(found, int | float) else set()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_pictures_are_elements_of_a_page(case: str, language: Any) -> None:
    """Each is one SVG element that scales, says what it shows, and asks for nothing outside of itself."""
    ids: list[str] = []
    for name, svg in drawn(CASES[case](), Words(language)).items():
        root = Xml.fromstring(svg)  # noqa: S314 - our own
        assert root.tag == f"{SVG}svg", name
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 20, name
        assert "viewBox" in root.attrib
        assert not {"width", "height", "style"} & root.attrib.keys(), "CSS says how large it is"
        assert not [one for one in root.iter() if one.tag in (f"{SVG}style", f"{SVG}script", f"{SVG}image")]
        addresses = re.findall(r"https?://[^\"]*", svg)
        assert set(addresses) == {"http://www.w3.org/2000/svg"}, "but for the name of the format"
        own = [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
        assert set(re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", svg)) <= {(one, "") for one in own} | {
            ("", one) for one in own
        }
        ids += own
    assert len(ids) == len(set(ids)), "no two pictures of a page share an id"


def test_colours_are_the_page_s() -> None:
    """No colour is fixed: each is the text's, or a variable that STYLE sets for light and for dark."""
    for svg in drawn(acting()).values():
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        used = set(re.findall(r"var\((--plot-\w+)\)", svg))
        assert used
        for variable in used:
            assert picture.STYLE.count(f"{variable}:#") == 2
        assert "font-family" not in svg, "text is the page's"


def test_same_summary_is_the_same_picture() -> None:
    """A page that is made again is the same, byte for byte, in another process as well."""
    code = "from tests.test_plots import acting, drawn; import json, sys; json.dump(drawn(acting()), sys.stdout)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(ended.stdout) == drawn(acting()) == drawn(acting())


def test_nothing_is_drawn_of_nothing() -> None:
    """Where there is nothing to show there is no picture; nor from summaries that are older than a key."""
    assert drawn(nothing()).keys() == {"trend"}
    assert series.trend([], EN) == series.trend([fine()], EN) == ""
    old = {name: fine()[name] for name in ("kind", "run", "started", "ended", "planned", "outcomes")}
    assert [draw({**old, "planned": 0}, EN) for draw in OF_ONE.values()] == [""] * len(OF_ONE)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_the_summary(case: str) -> None:
    """Every number in the pictures of counts is a count of the summary, or a difference that it states."""
    found = CASES[case]()
    export = found["export"]
    differences = {export["rows"] - export["duplicates"] - export["rejects"]}
    if found["decided"]:
        goes_on = found["decided"]["planned"] - found["decided"]["planned_unstated"]
        differences |= {goes_on, found["planned"] - goes_on}
    known = within(found) | differences
    for name in ("flow", "transitions", "ages"):
        if not (svg := OF_ONE[name](found, EN)):
            continue
        label = re.search(r'aria-label="([^"]*)"', svg)
        for said in [*texts(svg), label[1] if label else ""]:
            assert numbers(said) <= known, f"{name}: {said}"


def test_flow_adds_up() -> None:
    """Each stage's parts, as they are written, sum up to the number above them."""
    rng = random.Random(3)
    for _ in range(20):
        found = acting()
        parts = {
            name: rng.choice((0, 0, 1, 7, 1234)) for name in ("unchanged", "forgotten", "waiting", "held", "blocked")
        }
        planned = rng.choice((0, 5, 999))
        found["decided"] |= {
            **parts,
            "planned": planned,
            "planned_unstated": 0,
            "stated": sum(parts.values()) + planned,
        }
        ended = {name: rng.choice((0, 3, 100)) for name in ("delivered", "refused", "exhausted", "deferred")}
        found |= {"outcomes": ended, "planned": sum(ended.values())}
        label = re.search(r'aria-label="[^:]*: ([^"]*)"', plots.flow(found, EN))
        assert label
        for stage in label[1].split("; "):
            whole, of = stage.split(": ")
            assert sum(map(sum, map(numbers, of.split(", ")))) == sum(numbers(whole)), stage


def test_a_run_that_ended_early_planned_less_than_it_decided() -> None:
    """What was decided and never planned is no client that came from elsewhere."""
    found = acting()
    found |= {"planned": 5, "outcomes": {"delivered": 5, "refused": 0, "exhausted": 0, "deferred": 0}}
    said = texts(plots.flow(found, EN))
    assert said.count("5") == 2
    assert not [one for one in said if "\N{MINUS SIGN}" in one or "owed" in one]


def test_bars_are_as_wide_as_their_counts() -> None:
    """The bars of a stage lie side by side and fill the width: nobody sees a part twice, or none of it."""
    found = fine()
    found |= {"export": None, "decided": None, "planned": 8}
    found["outcomes"] = {"delivered": 4, "refused": 2, "exhausted": 1, "deferred": 1}
    boxes = re.findall(
        r'<path d="M ([\d.]+) [\d.]+ L ([\d.]+) [^"]*" style="fill: var\(--plot-(\w+)\)"', plots.flow(found, EN)
    )
    eighths = {paint: (8 * float(start) / picture.WIDTH, 8 * float(end) / picture.WIDTH) for start, end, paint in boxes}
    assert eighths == {
        "main": (0.0, 8.0),
        "done": (0.0, 4.0),
        "refused": (4.0, 6.0),
        "exhausted": (6.0, 7.0),
        "deferred": (7.0, 8.0),
    }


@pytest.mark.parametrize("count", [1, 2, 300])
def test_throughput_of_few_and_many_samples(count: int) -> None:
    """One sample is a dot, and many are a line; beside it stands the most that was measured."""
    found = fine() | {"samples": samples(count, 0.05 if count < 3 else 7000)}
    svg = series.throughput(found, EN)
    most = max(one["rate"] for one in found["samples"])
    assert f"max {EN.number(most, 1 if most < 10 else 0)}" in texts(svg)
    assert len(svg) < 60_000


def test_ages_mark_target_and_limit() -> None:
    """What is older than the target, and than the limit, has its own colour; no limit is no line."""
    found = acting()
    svg = plots.ages(found, EN)
    assert {"target 24 h", "limit 72 h", "up to 1 h", "over 168 h"} <= set(texts(svg))
    assert {"main", "exhausted", "refused"} <= set(re.findall(r"--plot-(\w+)", svg))
    found["withdrawals"]["limit_h"] = None
    svg = plots.ages(found, EN)
    assert not any(said.startswith("limit") for said in texts(svg))
    assert "refused" not in re.findall(r"--plot-(\w+)", svg)


def test_drains_are_drawn_apart() -> None:
    """What is sent between nights is no night: it neither shortens their row nor lowers their numbers."""
    ended = [*nights(40)]
    drains = [
        one | {"kind": "drain", "planned": 1, "outcomes": one["outcomes"] | {"delivered": 1}} for one in ended[:3]
    ]
    said = texts(series.trend([*ended, *drains], EN))
    assert EN("nights", n=series.MOST) in said
    assert EN("drains", n=3) in said
    assert said.index(EN("nights", n=series.MOST)) < said.index(EN("drains", n=3))
    only = texts(series.trend(ended, EN))
    assert said[1 : 1 + len(only)] == only


def test_one_huge_night_does_not_hide_the_others() -> None:
    """A night out of all proportion is cut off, and says how much it was."""
    ended = nights(30)
    ended[4] |= {"planned": 2_500_000, "outcomes": ended[4]["outcomes"] | {"delivered": 2_500_000}}
    svg = series.trend(ended, EN)
    assert "max 2,500,000" in texts(svg)
    heights = [
        abs(float(low) - float(high))
        for low, high in re.findall(r'<path d="M [\d.]+ ([\d.]+) L [\d.]+ [\d.]+ L [\d.]+ ([\d.]+) [^"]* z', svg)
    ]
    assert len([height for height in heights if height > 4]) > 60, "of the two rows that it is in as well"


def test_texts_are_escaped() -> None:
    """A name that looks like markup is text."""
    found = acting()
    found["transitions"] = {"<script>": found["transitions"]["Sms"], 'A&"B': found["transitions"]["Email"]}
    svg = plots.transitions(found, EN)
    assert "<script" not in svg
    assert '"B:' in Xml.fromstring(svg).attrib["aria-label"]  # noqa: S314 - our own
    assert "<script>" in texts(svg)


def test_pictures_are_small() -> None:
    """All pictures of a page together take less than 300 KB, whatever the counts."""
    for case in CASES.values():
        assert sum(map(len, drawn(case() | {"samples": samples(300, math.e * 1e4)}).values())) < 150_000


def test_drawing_says_nothing() -> None:
    """Matplotlib is quiet where it may not write its list of fonts: a nightly run prints nothing."""
    code = "from tests.test_plots import drawn, fine; drawn(fine())"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env=os.environ | {"MPLCONFIGDIR": "/dev/null/nowhere"},
    )
    assert (ended.stdout, ended.stderr) == (b"", b"")
