"""The report page: whole, small, all text, with the numbers of its summary, in both languages; the terminal too."""

import io
import random
import tomllib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import sync_job
from sync_job.report import content, page, terminal
from sync_job.report.counts import Summary
from sync_job.report.words import LANGUAGES, Language, Words
from tests.random_summaries import EVIL, START, night, summary

EN = Words("en")
VOID = {"meta", "link", "br", "path", "rect", "use", "line", "circle"}
SEEDS = range(12)


class Page(HTMLParser):
    """A page as a browser takes it: its tables by section, its text, and what it would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.heads: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.csp = self.lang = ""
        self._section = ""
        self._cell = False
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        said = dict(attrs)
        self.tags.append(tag)
        self.ids += [said["id"] or ""] if "id" in said else []
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name in said if name.startswith("on")], "no handlers"
        if tag == "html":
            self.lang = said.get("lang") or ""
        elif tag == "meta" and said.get("http-equiv") == "Content-Security-Policy":
            self.csp = said.get("content") or ""
        elif tag == "section":
            self._section = said.get("id") or ""
            self.tables[self._section] = []
        elif tag == "table":
            self.tables[self._section].append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("th", "td"):
            self.heads += [said] if tag == "th" else []
            self.tables[self._section][-1][-1].append("")
            self._cell = True
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note its end."""
        if tag in ("th", "td"):
            self._cell = False
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element without content."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        """Note its text."""
        if self._open and self._open[-1] != "style":
            self.text += data
        if self._cell:
            self.tables[self._section][-1][-1][-1] += data

    def counts(self, section: str, place: int) -> list[int]:
        """Return the numbers in the last column of a table."""
        rows = self.tables[section][place][1:]
        return [int(row[-1].replace(",", "").replace("\N{NO-BREAK SPACE}", "")) for row in rows]


def runs(seed: int) -> tuple[Summary, list[Summary]]:
    """Return a random run and those before it."""
    rng = random.Random(seed)
    earlier = [summary(rng, number) for number in range(rng.choice((0, 1, 2, 40)))]
    return summary(rng, 50), earlier


@cache
def written(seed: int, language: Language = "en") -> str:
    """Return the page of a random run."""
    return page.report(*runs(seed), language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_run_makes_a_page(seed: int, language: Language) -> None:
    """Every element is closed, every header has a scope, ids are unique, and nothing is missing in its language."""
    read = Page(written(seed, language))
    assert read.lang == language
    assert len(read.ids) == len(set(read.ids))
    assert all(one.get("scope") in ("col", "row") for one in read.heads)
    assert read.tags.count("table") == read.tags.count("caption")
    assert read.tags.count("h1") == 1
    assert [name for name in read.tables if name != "headline"] == [
        one.name for one in content.sections(*runs(seed), Words(language))
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_page_loads_and_runs_nothing(seed: int) -> None:
    """No script, no address outside of the page, and a policy that would forbid both."""
    read = Page(written(seed))
    assert read.csp == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not {"script", "img", "iframe", "object", "form", "base"} & set(read.tags)
    assert all(one.startswith(("#", "data:,")) for one in read.loads)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_on_the_page_are_those_of_the_summary(seed: int) -> None:
    """Rows, clients and changes are shown in sums that add up to their last row; codes, guards and ages are whole."""
    found, _ = runs(seed)
    read = Page(written(seed))
    sums = [read.counts("flow", place) for place in range(len(read.tables["flow"]))]
    assert all(sum(parts) == whole for *parts, whole in sums)
    assert sums[-1] == [*found["outcomes"].values(), found["planned"]]
    if export := found["export"]:
        assert sums[0][1:] == [export["duplicates"], export["rejects"], export["rows"]]
        fates = [found["decided"][name] for name in ("unchanged", "waiting", "held", "blocked", "forgotten")]
        assert sums[1][1:] == [*fates, found["decided"]["stated"]]
        assert read.counts("gone", 0) == [
            found["decided"]["absent"],
            found["grants"]["lost"],
            found["grants"]["unknown"],
        ]
        if export["rejects"]:
            assert read.counts("rejects", 0) == list(export["reasons"].values())
    if one := found["withdrawals"]["open"]:
        names = ("open", "past_target", "past_limit", "parked")
        assert read.counts("owed", 0) == [found["withdrawals"][name] for name in names]
        assert read.counts("owed", 1) == [*(age["open"] for age in found["withdrawals"]["ages"]), one]
    codes = [one for one in found["codes"] if one["outcome"] != "delivered"]
    if codes:
        assert [row[4] for row in read.tables["refusals"][0][1:]] == [EN.number(one["count"]) for one in codes]
    if found["guards"]:
        shown = [tuple(row[2:]) for row in read.tables["guarded"][0][1:]]
        assert shown == [(EN.number(one["count"]), EN.number(one["at_most"])) for one in found["guards"]]


def test_changes_are_the_matrix_of_each_channel() -> None:
    """New grants, re-grants and revocations are its cells, and every cell is in the table beside the picture."""
    matrix = {
        "nothing": {"denied": 1, "allowed": 2},
        "denied": {"denied": 3, "allowed": 4},
        "allowed": {"denied": 5, "allowed": 6},
    }
    read = Page(page.report(night(transitions={"Sms": matrix, "Push": matrix}), []))
    assert read.tables["changes"][0][1] == ["SMS", "2", "4", "5", "1", "9"]
    assert [row[2:] for row in read.tables["changes"][1][1:4]] == [["1", "2"], ["3", "4"], ["5", "6"]]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_comes_from_outside_is_text(language: Language) -> None:
    """A Message, a reason, a file's name, a column, a target and a setting with markup show as they are."""
    one = {"outcome": "refused", "status": 200, "code": 1, "message": EVIL, "count": 1, "since": "new"}
    found = night(target=EVIL, run=EVIL, codes=[one], gone=[one], reasons=[EVIL], settings={EVIL: EVIL})
    found["export"] |= {"rejects": 1, "reasons": {EVIL: 1}, "missing_columns": [EVIL], "digest": EVIL}
    for text in (page.report(found, [found], language), page.index([found], language)):
        assert "<script" not in text.lower()
        assert EVIL in Page(text).text
    assert Page(page.report(found, [], language)).text.count(EVIL) >= 8


def test_new_known_and_gone_are_told_apart() -> None:
    """Each refusal says whether the night before had it, and what is gone is in a table of its own."""
    codes = [
        {"outcome": "refused", "status": 200, "code": code, "message": "no", "count": 1, "since": since}
        for code, since in ((1, "new"), (2, "known"))
    ]
    gone = [{"outcome": "refused", "status": 200, "code": 3, "message": "gone"}]
    now, before = Page(page.report(night(codes=codes, gone=gone), [])).tables["refusals"]
    assert [(row[0], row[-1]) for row in now[1:]] == [("1", "new"), ("2", "known")]
    assert [row[0] for row in before[1:]] == ["3"]


def test_a_page_stays_small_whatever_the_run() -> None:
    """Thousands of reasons, answers, files and long Messages are cut, and how many more there are is said."""
    answers = [
        {"outcome": "refused", "status": 200, "code": code, "message": "ы" * 5000, "count": 1, "since": "new"}
        for code in range(5000)
    ]
    found = night(codes=answers, gone=answers, reasons=["x" * 300] * 5000)
    export = found["export"]
    export |= {"rejects": 5000, "reasons": {f"reason {n}": 1 for n in range(5000)}, "inputs": export["inputs"] * 5000}
    found["settings"] = {f"key{n}": "x" * 5000 for n in range(1000)}
    found["samples"] = summary(random.Random(3)).get("samples", [])
    text = page.report(found, [found] * 400, "ru")
    assert len(text.encode()) < 1_000_000
    assert Words("ru")("more", n=4960) in Page(text).text
    assert len(page.index([night()] * 2000).encode()) < 1_000_000


def test_nothing_names_a_client_of_whom_the_summary_says_nothing() -> None:
    """The page holds no more than the summary: no results, no lists."""
    found = night(codes=[{"outcome": "refused", "status": 200, "code": 1, "message": "client … gone", "count": 1}])
    assert "client … gone" in page.report(found, [])


def test_secrets_are_shown_as_the_summary_has_them() -> None:
    """Settings are in the page under the names of the configuration file, secrets masked."""
    settings = {"endpoint": {"auth": {"password": "**********"}, "retry_codes": [8, 9]}, "report": {"page": True}}
    read = Page(page.report(night(settings=settings), []))
    assert read.tables["settings"][0][1:] == [
        ["endpoint.auth.password", "**********"],
        ["endpoint.retry_codes", "8, 9"],
        ["report.page", "true"],
    ]


def test_the_trend_has_the_last_thirty_nights_and_drains_apart() -> None:
    """The newest is last, this run among them."""
    earlier = [night(run=f"{n:04}-x", started=START + 86400 * n, kind="drain" if n == 20 else "run") for n in range(40)]
    nights, drains = Page(page.report(night(run="0040-x", started=START + 86400 * 40), earlier)).tables["trend"]
    assert [int(row[0].split()[0]) for row in nights[1:]] == [n for n in range(10, 41) if n != 20]
    assert [int(row[0].split()[0]) for row in drains[1:]] == [20]


def test_the_index_links_each_run_to_its_page() -> None:
    """The newest first, relative, with state and sentence."""
    found = [night(run=f"{n:04}-20261124T021500Z", exit=n % 2) for n in (1, 2, 3)]
    read = Page(page.index(found))
    assert [one for one in read.loads if one.endswith("report.html")] == [
        f"000{n}-20261124T021500Z/report.html" for n in (3, 2, 1)
    ]
    assert read.text.count("3 of 3 changes delivered.") == 3
    assert read.text.count("Look") == 2
    assert page.index([], "ru")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_terminal_says_the_same(seed: int) -> None:
    """Off a terminal it is plain text: no boxes, no colours, nothing that a terminal would obey, every total."""
    found, earlier = runs(seed)
    out = io.StringIO()
    Console(file=out, width=120).print(terminal.report(found, earlier, "nightly.toml"))
    said = out.getvalue()
    assert "\x1b" not in said
    assert not set("│─┃━╭┌") & set(said)
    flow = said[said.index(EN("flow")) :]
    for count in found["outcomes"].values():
        assert not count or EN.number(count) in flow
    assert all(len(line) <= 120 or "consent-sync" in line for line in said.splitlines())


def test_templates_ship_with_the_package() -> None:
    """What setuptools takes along are the templates that are there."""
    root = Path(sync_job.__file__).parent
    taken = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "sync_job"
    ]
    shipped = {path for pattern in taken for path in root.glob(pattern)}
    there = set((root / "report" / "templates").iterdir())
    assert there
    assert there <= shipped
