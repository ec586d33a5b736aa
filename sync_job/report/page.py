"""The report page: `content` drawn as one HTML file that asks nothing of any network, and the page over all runs.

Pure functions of summaries, so that a page can be made again at any time.
"""

from collections.abc import Callable, Mapping, Sequence

import jinja2
from markupsafe import Markup

from sync_job.report import content, headline, picture, plots, series
from sync_job.report.content import Cell
from sync_job.report.counts import Summary
from sync_job.report.words import Language, Words

_INDEXED = 500  # runs on the page over all of them, so that it stays small
_PICTURES: Mapping[str, Callable[[Summary, Words], str]] = {
    "flow": plots.flow,
    "transitions": plots.transitions,
    "throughput": series.throughput,
    "ages": plots.ages,
}


def report(found: Summary, earlier: Sequence[Summary], language: Language = "en", config: str = "") -> str:
    """Return the page of a run as HTML.

    *earlier* are summaries of runs of the same target before it, the newest last; *config* is the file that the
    commands in it name.
    """
    words = Words(language, content.zone(found))
    sections = list(content.sections(found, earlier, words))
    pictures = {one.plot: Markup(_picture(one.plot, found, earlier, words)) for one in sections if one.plot}  # noqa: S704
    return _render(
        "report.html.j2",
        words,
        found=found,
        top=headline.read(found, earlier, words, config),
        kind=content.kind(found, words),
        sections=sections,
        pictures=pictures,
    )


def index(summaries: Sequence[Summary], language: Language = "en") -> str:
    """Return the page over runs, as HTML, for the folder that has a folder for each; *summaries* the newest last."""
    words = Words(language, content.zone(summaries[-1]) if summaries else "UTC")
    runs = [
        (one, headline.state(one), headline.sentence(one, summaries[max(0, place - content.NIGHTS) : place], words))
        for place, one in enumerate(summaries)
    ][-_INDEXED:]
    return _render(
        "index.html.j2",
        words,
        runs=runs[::-1],
        left_out=len(summaries) - len(runs),
        picture=Markup(series.trend(summaries, words)),  # noqa: S704
    )


def _picture(name: str, found: Summary, earlier: Sequence[Summary], words: Words) -> str:
    if name == "trend":
        return series.trend([*earlier, found], words)
    return _PICTURES[name](found, words)


def _render(name: str, words: Words, **values: object) -> str:
    """Fill a template; whatever comes from outside is text there, never markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sync_job.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def cell(value: Cell) -> str:
        return words.number(value) if isinstance(value, int) else value

    environment.filters["cell"], environment.filters["longest"] = cell, _longest
    return environment.get_template(name).render(
        words=words,
        content=content,
        style=Markup(picture.STYLE),  # noqa: S704
        **values,
    )


def _longest(said: str) -> int:
    """Return how long the longest word is, which a narrow screen may have to break."""
    return max(map(len, said.split()), default=0)
