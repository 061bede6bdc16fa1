"""`Picture`: a figure as PNG and SVG, the same bytes for the same results."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltpl.report.looks import COLOURS, INK, PAPER, RULE, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 180
THEME = {INK: "ink", RULE: "rule", PAPER: "paper"} | {c: f"c{k}" for k, c in enumerate(COLOURS)}


@dataclass(frozen=True)
class Sheet:
    """The paper of a figure, in inches: for a page or a laptop, or for a phone.

    Args:
        width: Width.
        height: Height.
        narrow: Whether it is for a phone.
    """

    width: float
    height: float
    narrow: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Args:
        name: Name of its files, such as `accuracy`.
        title: Its heading.
        caption: What it shows, in words.
        png: For documents.
        svg: For documents and wide screens.
        narrow: The same as SVG for phones.
    """

    name: str
    title: str
    caption: str
    png: bytes
    svg: str
    narrow: str


def picture(
    name: str,
    title: str,
    caption: str,
    draw: Callable[[Figure, Sheet], None],
    wide: tuple[float, float] = (7.4, 4.2),
    narrow: tuple[float, float] = (3.9, 3.9),
) -> Picture:
    """Draw a figure for pages and for phones.

    Args:
        name: Name of its files.
        title: Its heading.
        caption: What it shows.
        draw: Draws it on an empty figure.
        wide: Inches on a page.
        narrow: Inches on a phone.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    page, phone = Sheet(*wide), Sheet(*narrow, narrow=True)
    svg, png = _render(draw, page)
    return Picture(name, title, caption, png, svg, _render(draw, phone, with_png=False)[0])


def _render(
    draw: Callable[[Figure, Sheet], None], sheet: Sheet, with_png: bool = True
) -> tuple[str, bytes]:
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The figures of a report are drawn by matplotlib: pip install matplotlib.",
            name=error.name,
        ) from None
    svg, png = io.BytesIO(), io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the table has it right.
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from", UserWarning)
        figure = Figure((sheet.width, sheet.height), layout="constrained")
        draw(figure, sheet)
        # The canvases' own methods: `savefig` would draw everything twice.
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(svg, metadata=nothing)
        if with_png:
            figure.set_layout_engine("none")  # it is laid out already
            figure.dpi = DPI  # an SVG is 72
            canvas = FigureCanvasAgg(figure)
            canvas.print_png(png, metadata={"Software": None})
    return svg.getvalue().decode(), png.getvalue()


def inline(svg: str, name: str, label: str) -> str:
    """Return an SVG for a page: no header, colours of the page's scheme, ids of its own.

    Args:
        svg: What matplotlib wrote.
        name: Goes before each id, for ids must differ in a page.
        label: What a screen reader says; escaped already.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for colour, variable in THEME.items():
        svg = svg.replace(f": {colour}", f": var(--{variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
