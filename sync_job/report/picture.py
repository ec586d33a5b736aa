"""One picture of the report page: drawn by matplotlib in pixels, written as SVG that belongs into a page.

What is drawn is `plots`' job and `series`'. Text is as high as it is said to be on a screen 390 pixels wide.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as Xml

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

WIDTH = 360  # pixels: a phone of 390 less its margins; wide screens show it a third larger
_DOTS_PER_INCH = 72  # of SVG as matplotlib writes it: a point is a pixel

# What matplotlib is told to paint with stands for a colour of the page, which differs in light and dark. They are told
# apart by people who see few colours by their lightness, and every one has its name or number beside it.
Paint = Literal["ink", "soft", "rule", "main", "done", "refused", "exhausted", "deferred", "quiet"]
_TOLD: dict[Paint, str] = {
    "ink": "#010101",
    "soft": "#020202",
    "rule": "#030303",
    "main": "#040404",
    "done": "#050505",
    "refused": "#060606",
    "exhausted": "#070707",
    "deferred": "#080808",
    "quiet": "#090909",
}
_LIGHT = {
    "soft": "#565d68",
    "rule": "#c9ced6",
    "main": "#0072b2",
    "done": "#0072b2",
    "refused": "#a8320a",
    "exhausted": "#c97f00",
    "deferred": "#8a55a0",
    "quiet": "#868e9a",
}
_DARK = {
    "soft": "#aeb6c2",
    "rule": "#454c57",
    "main": "#56b4e9",
    "done": "#56b4e9",
    "refused": "#ff8a66",
    "exhausted": "#f0c14b",
    "deferred": "#cfa6e3",
    "quiet": "#8d96a3",
}


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--plot-{name}:{colour};" for name, colour in colours.items())


# The page has this once. Paper is always light.
STYLE = (
    f":root{{{_variables(_LIGHT)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(_DARK)}}}}}"
    ".plot{display:block;width:100%;max-width:30rem;height:auto}"
)

_PAINTS = {told: "currentColor" if paint == "ink" else f"var(--plot-{paint})" for paint, told in _TOLD.items()}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile("|".join(_PAINTS))
_FONT = re.compile(r"font-family: [^;]*;? ?")
_LONG = re.compile(r"\d+\.\d\d\d+")
_REFERENCE = re.compile(r"url\(#(\w+)\)")
_STRAIGHT = "rotate(-0 "

Align = Literal["left", "center", "right"]


class Picture:
    """A picture so many pixels high; x grows to the right and y down."""

    def __init__(self, height: float) -> None:
        self._height = height
        self._marks: list[Callable[[Figure, Transform], object]] = []

    def text(
        self,
        x: float,
        y: float,
        said: str,
        *,
        size: float = 12,
        align: Align = "left",
        paint: Paint = "ink",
        bold: bool = False,
    ) -> None:
        """Write *said* with its baseline at *y*."""
        look: dict[str, Any] = {
            "size": size,
            "weight": "bold" if bold else "normal",
            "color": _TOLD[paint],
            "parse_math": False,
        }
        self._marks.append(
            lambda figure, pixels: figure.text(x, y, said, ha=align, va="baseline", transform=pixels, **look)
        )

    def box(self, x: float, y: float, width: float, height: float, paint: Paint, *, share: float = 1.0) -> None:
        """Fill a rectangle; of its colour only *share* is seen."""
        if width > 0 and height > 0:
            self.shape([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], paint, share=share)

    def shape(self, corners: Sequence[tuple[float, float]], paint: Paint, *, share: float = 1.0) -> None:
        """Fill a shape; of its colour only *share* is seen."""
        look: dict[str, Any] = {"fc": _TOLD[paint], "ec": "none", "alpha": share}

        def draw(figure: Figure, pixels: Transform) -> None:
            from matplotlib.patches import Polygon

            figure.add_artist(Polygon(corners, transform=pixels, **look))

        self._marks.append(draw)

    def line(
        self,
        points: Sequence[tuple[float, float]],
        paint: Paint,
        *,
        width: float = 1.0,
        dashed: bool = False,
        dots: bool = False,
    ) -> None:
        """Draw a line through *points*, or a dot at each."""
        xs, ys = zip(*points, strict=True)
        style = "none" if dots else (0, (4, 3)) if dashed else "-"
        look: dict[str, Any] = {
            "color": _TOLD[paint],
            "lw": width,
            "ls": style,
            "marker": "o" if dots else "",
            "ms": 5,
            "mew": 0,
        }

        def draw(figure: Figure, pixels: Transform) -> None:
            from matplotlib.lines import Line2D

            figure.add_artist(Line2D(xs, ys, transform=pixels, **look))

        self._marks.append(draw)

    def svg(self, name: str, label: str) -> str:
        """Return the picture as an SVG element that says *label* to those who do not see it.

        *name* keeps its ids apart from those of other pictures in the page; the same picture is the same text.
        """
        root = Xml.fromstring(self._written(name))  # noqa: S314 - matplotlib wrote it a moment ago
        _clean(root, name)
        attributes = {"class": "plot", "role": "img", "aria-label": label, "viewBox": root.attrib["viewBox"]}
        root.attrib.clear()
        root.attrib.update(attributes | {"stroke-linejoin": "round"})
        Xml.register_namespace("", _SVG.strip("{}"))
        return Xml.tostring(root, encoding="unicode")

    def _written(self, name: str) -> str:
        """Return the picture as matplotlib writes it, whatever its user has set for pictures of his own."""
        # Where it cannot keep its list of fonts it says so by a warning: nothing that a nightly run should print.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib  # most of a second: only who makes a page pays it
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        written = io.StringIO()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name})
            size = WIDTH / _DOTS_PER_INCH, self._height / _DOTS_PER_INCH
            figure = Figure(size, dpi=_DOTS_PER_INCH, frameon=False)
            pixels = Affine2D().scale(1, -1).translate(0, self._height)
            for mark in self._marks:
                mark(figure, pixels)
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(written, format="svg", metadata=nothing)
        return written.getvalue()


def _clean(root: Xml.Element, name: str) -> None:
    """Leave out what only a file of its own needs, and put the page's colours in the place of those told."""
    used = set(_REFERENCE.findall(Xml.tostring(root, encoding="unicode")))
    used |= {link.removeprefix("#") for one in root.iter() if (link := one.get(_LINK))}
    for one in list(root.iter()):
        for child in list(one):
            # Its style sheet would hold for the whole page.
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style") or (child.tag == f"{_SVG}defs" and _bare(child)):
                one.remove(child)
    for one in root.iter():
        if link := one.attrib.pop(_LINK, ""):
            one.set("href", f"#{name}-{link.removeprefix('#')}")
        if mark := one.attrib.pop("id", ""):
            one.attrib.update({"id": f"{name}-{mark}"} if mark in used else {})
        if one.get("transform", "").startswith(_STRAIGHT):
            del one.attrib["transform"]
        for key, value in one.attrib.items():
            said = _COLOUR.sub(lambda found: _PAINTS[found[0]], _FONT.sub("", value))
            said = _REFERENCE.sub(rf"url(#{name}-\1)", said)
            one.set(key, " ".join(_LONG.sub(lambda found: f"{float(found[0]):.2f}", said).split()))
        if one.tag != f"{_SVG}text":
            one.text = None
        one.tail = None


def _bare(defs: Xml.Element) -> bool:
    return all(child.tag == f"{_SVG}style" for child in defs)
