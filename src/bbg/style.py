"""One look for all pictures: colours that the colour-blind tell apart, and figures without frames.

    with style.applied():
        figure = style.figure(10, 4)
        axis = style.axis(figure.subplots(), title="accuracy", x="epoch", y="%")
        ...
        write_bytes(path, style.png(figure))

One accent: green is what a picture is about (in pictures of bbg, what runs at 1 bit), orange is wrong or the other
side, grey is the rest. Matplotlib is imported where a figure is made; colours alone need nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from bbg.environment import import_matplotlib

# Green, orange and violet are the first three of ColorBrewer's Dark2, which is safe for the colour-blind.
GREEN, ORANGE, VIOLET = "#1b9e77", "#d95f02", "#7570b3"
LIGHT = "#d3eee2"  # a light green: the other of two bits
INK, GREY, PALE, PAPER = "#22303c", "#8b96a3", "#c9ced6", "#f5f7f9"

# For more series than an accent and grey can tell: Okabe and Ito's, without yellow, which is faint on white.
SERIES = (GREEN, ORANGE, VIOLET, "#0072b2", "#cc79a7", "#56b4e9", "#e69f00", "#22303c")
SHADES = ("#5b6673", "#8b96a3", "#a9743a", "#6a7fa8", "#9a6a8c")  # quiet colours, for what stands beside the accent
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_RC: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": PALE,
    "grid.alpha": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "lines.linewidth": 2,
    "text.parse_math": False,  # names of users may hold a $
    "svg.hashsalt": "bbg",  # the same figures give the same file
}


@contextmanager
def applied() -> Iterator[None]:
    """Figures that are made and written within this context have the style; matplotlib's settings come back after.

    Those of the user, as of a file matplotlibrc, count for nothing in it.
    """
    matplotlib = import_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def text(name: str) -> str:
    """A name as it can be drawn: what is no character, as in names of files that are no text, is a question mark."""
    return name.encode(errors="replace").decode()


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches; its parts find room for themselves."""
    import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.04)
    return Figure(figsize=(width, height), layout=layout)


def axis(of: Any, title: str = "", x: str = "", y: str = "") -> Any:
    """The axis `of` with its title, the names of both directions, and lines across at the ticks of `y`."""
    of.set(title=title, xlabel=x, ylabel=y)
    of.grid(axis="y")
    of.set_axisbelow(True)
    return of


def whole_numbers(of: Any) -> None:
    """Ticks of the horizontal direction at whole numbers alone: there is no epoch 1.25."""
    from matplotlib.ticker import MaxNLocator

    of.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def percent(of: Any, direction: str = "y") -> None:
    """Numbers of a direction, which are shares, as per cent."""
    getattr(of, f"{direction}axis").set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")


def apart(heights: list[float], least: float) -> list[float]:
    """Places for labels beside `heights`, at least `least` from each other, and as near to their own as that allows."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[tuple[list[int], float]] = []  # labels that touch, and the middle of each group
    for i in order:
        members, middle = [i], heights[i]
        while groups and middle - groups[-1][1] < least * (len(members) + len(groups[-1][0])) / 2:
            before, _ = groups.pop()
            members = [*before, *members]
            middle = sum(heights[j] for j in members) / len(members)
        groups.append((members, middle))
    placed = list(heights)
    for members, middle in groups:
        for k, i in enumerate(members):
            placed[i] = middle + least * (k - (len(members) - 1) / 2)
    return placed


def shades() -> Any:
    """From paper to the accent, for maps of shares."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("bbg", [PAPER, GREEN, "#0b3d2e"])


def label_ends(of: Any, x: float, heights: Sequence[float], texts: Sequence[str], colours: Sequence[str]) -> None:
    """A text behind the end of each line, in its colour, none over another: it needs no legend."""
    low, high = of.get_ylim()
    size = 9.5
    tall = of.get_position().height * of.figure.get_figheight() * 72  # points, about: before the layout is made
    places = apart(list(heights), (high - low) * 1.25 * size / max(tall, 1))
    for place, text, colour in zip(places, texts, colours, strict=True):
        of.annotate(
            text,
            (x, place),
            (8, 0),
            textcoords="offset points",
            color=colour,
            fontsize=size,
            va="center",
            clip_on=False,
        )


def png(of: Any, dpi: int = 130) -> bytes:
    """The figure as a PNG file."""
    return _file(of, "png", dpi=dpi, metadata={"Software": None})


def svg(of: Any) -> bytes:
    """The figure as an SVG file, the same for the same figure: no date stands in it."""
    return _file(of, "svg", metadata={"Date": None})


def _file(of: Any, form: str, **how: Any) -> bytes:
    drawn = BytesIO()
    of.savefig(drawn, format=form, **how)
    return drawn.getvalue()


def run_title(recipe: Mapping[str, Any], *more: str) -> str:
    """What was trained, as a title: network and method of a recipe, and `more`."""
    name, width = recipe.get("network") or recipe.get("factory") or "", recipe.get("width")
    parts = (f"{name} w{width}" if width else str(name), recipe.get("method"), *more)
    return " · ".join(str(part) for part in parts if part)
