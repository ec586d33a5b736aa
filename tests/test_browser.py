"""The report page as people see it, in a real browser; what it looked like is kept in `artefacts/`."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, sync_playwright

from sync_job.report import page as pages
from sync_job.report.words import LANGUAGES, Language
from sync_job.runs import night
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from tests import summaries
from tests.shop import Shop, changed, people
from tests.summaries import Summary

ARTEFACTS = Path(__file__).parent.parent / "artefacts"
SIZES = {"phone": (390, 844), "desk": (1280, 900)}
SCHEMES = ("light", "dark")
GRAVE = ("serious", "critical")
CASES = ("fine", "act", "extreme", "nothing")


class Shown(NamedTuple):
    """A summary, and those of the runs before it."""

    found: Summary
    earlier: list[Summary]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    """Return what the pages are made of: a fine night and one with refusals and a tripped guard, both real, and worse.

    It is made before the browser starts, which leaves no room for another event loop.
    """
    first = people(400)
    second = changed(first, 0.02)
    third = changed(second, 0.4, seed=3) | people(100, seed=4, first=5000)
    found = []
    with running(Options(script=lambda _, client: Fault.REFUSE if client % 7 == 0 and refuses else None)) as platform:
        refuses = False
        folder = tmp_path_factory.mktemp("shop")
        shop = Shop(folder, platform.url)
        shop.write(first)
        shop.init()
        for export in (first, second):
            shop.write(export)
            found.append(night.run(shop.settings, Wish(), Watch()).summary)
        refuses = True
        shop = Shop(folder, platform.url, guards="new_grants = 20\nre_grants = 5\nchanged = 1000")
        shop.withdraw(dict.fromkeys(range(1000, 1100), "all"))
        shop.write(third)
        found.append(night.run(shop.settings, Wish(), Watch()).summary)
    assert (found[1]["exit"], found[2]["exit"]) == (0, 6), found[2]["reasons"]
    return {
        "fine": Shown(found[1], found[:1]),
        "act": Shown(found[2], found[:2]),
        "extreme": Shown(summaries.extreme(), summaries.nights(12)),
        "nothing": Shown(summaries.nothing(), []),
    }


@pytest.fixture(scope="module")
def browser(shown: dict[str, Shown]) -> Iterator[Browser]:
    """Run a headless browser, after what it shows has been made."""
    command = shutil.which("chromium")
    if command is None:
        pytest.skip("the chromium command is missing, which shows the page as a reader's browser does")
    ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=command, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page in a browser, and everything it did that it must not."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.wrong: list[str] = []
        self._own = path.as_uri()
        page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        page.route("**/*", self._request)
        page.goto(self._own)

    def _request(self, route: Route) -> None:
        if route.request.url == self._own:
            route.continue_()
        else:
            self.wrong.append(f"request: {route.request.url}")
            route.abort()

    def look(self, name: str, language: Language) -> None:
        """Look at it on a phone and on a desk, in light and dark; keep what was seen.

        Audits take long: one language is audited in light, the other in dark, where there is least room.
        """
        audited = {"en": ("phone", "light"), "ru": ("phone", "dark")}[language]
        for (size, (width, height)), scheme in itertools.product(SIZES.items(), SCHEMES):
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.emulate_media(color_scheme=cast("Any", scheme))
            self.page.screenshot(path=ARTEFACTS / f"{name}-{language}-{size}-{scheme}.png", full_page=True)
            wide = self.page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                self.wrong.append(f"{size}: {wide} pixels wide, scrolls sideways")
            if (size, scheme) == audited:
                self.wrong += grave(self.page, f"{size}, {scheme}")


def grave(page: Page, where: str) -> list[str]:
    """Return what axe finds that keeps the page from some people."""
    found = Axe().run(page).response["violations"]
    return [
        f"{where}: {one['id']}: {one['help']}: {node['html']}: {node['failureSummary']}"
        for one in found
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


def opened(browser: Browser, folder: Path, text: str) -> Watched:
    """Open a page from a file of its own."""
    path = folder / "report.html"
    path.write_text(text, "utf-8")
    return Watched(browser.new_page(), path)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES)
def test_page_in_a_browser(
    browser: Browser, shown: dict[str, Shown], tmp_path: Path, case: str, language: Language
) -> None:
    """It asks for nothing, complains of nothing, fits a phone, keeps nobody out, and prints."""
    text = pages.report(*shown[case], language)
    assert len(text.encode()) < 1_000_000
    watched = opened(browser, tmp_path, text)
    watched.look(case, language)
    printed = watched.page.pdf()
    watched.page.close()
    assert not watched.wrong
    assert printed.startswith(b"%PDF")


@pytest.mark.parametrize("language", LANGUAGES)
def test_index_in_a_browser(browser: Browser, tmp_path: Path, language: Language) -> None:
    """The page over all runs does as well."""
    found = [*summaries.nights(12), summaries.acting(), summaries.extreme()]
    watched = opened(browser, tmp_path, pages.index(found, language))
    watched.look("index", language)
    watched.page.close()
    assert not watched.wrong


def test_messages_of_the_platform_are_text(browser: Browser, shown: dict[str, Shown], tmp_path: Path) -> None:
    """A Message of `<script>` is shown as it is, and nothing of it runs."""
    watched = opened(browser, tmp_path, pages.report(*shown["extreme"]))
    assert watched.page.title() != "taken"
    assert "<script>document.title = 'taken'</script>" in watched.page.inner_text("body")
    assert watched.page.locator("script, img, iframe, object").count() == 0
    assert not watched.wrong
    watched.page.close()


def test_paper_is_light(browser: Browser, shown: dict[str, Shown], tmp_path: Path) -> None:
    """Whoever reads in dark prints on white all the same, in colours that are meant for it."""
    watched = opened(browser, tmp_path, pages.report(*shown["act"]))
    painted = """() => [...document.querySelectorAll("body, .badge, svg.plot path, svg.plot text")].map((one) => {
        const style = getComputedStyle(one)
        return [style.color, style.backgroundColor, style.fill]
    })"""
    found = []
    for scheme in SCHEMES:
        watched.page.emulate_media(media="print", color_scheme=cast("Any", scheme))
        found.append(watched.page.evaluate(painted))
    watched.page.emulate_media(media="screen", color_scheme="dark")
    assert found[0] == found[1] != watched.page.evaluate(painted)
    watched.page.close()


def test_pictures_have_the_width_of_a_phone(browser: Browser, shown: dict[str, Shown], tmp_path: Path) -> None:
    """On a phone no text of a picture is under 8 pixels high, and none leaves its picture or lies on another."""
    watched = opened(browser, tmp_path, pages.report(*shown["extreme"], "ru"))
    watched.page.set_viewport_size({"width": 390, "height": 844})
    wrong = watched.page.evaluate(
        """() => [...document.querySelectorAll("svg.plot")].flatMap((svg) => {
            const own = svg.getBoundingClientRect()
            const texts = [...svg.querySelectorAll("text")].map((text) => [
                text.textContent, text.getBoundingClientRect()
            ])
            const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                && a.top < b.bottom - 4 && b.top < a.bottom - 4
            return texts.flatMap(([said, box], place) => [
                ...(box.left < own.left - 1 || box.right > own.right + 1 ? [`${said} leaves its picture`] : []),
                ...(box.height < 8 ? [`${said} is small`] : []),
                ...texts.slice(0, place).filter(([, there]) => meet(box, there)).map(([other]) => `${said}, ${other}`),
            ])
        })"""
    )
    drawn = watched.page.locator("svg.plot").count()
    watched.page.close()
    assert drawn >= 4
    assert not wrong
