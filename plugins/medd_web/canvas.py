"""What charts are drawn on: an SVG element that grows, and where values lie on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from markupsafe import Markup

#: Width of every chart in its own units; text is 12 of them high.
WIDTH = 460
#: What lies around the values.
LEFT, BOTTOM = 44, 38
_RIGHT, _TOP = 12, 12


@dataclass(frozen=True, slots=True)
class Plot:
    """Where the values lie on the canvas."""

    height: float
    low: float
    high: float
    left: float = LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    margin: float = BOTTOM

    @property
    def bottom(self) -> float:
        """Where the lowest value lies."""
        return self.height - self.margin

    def x(self, share: float) -> float:
        """Where a share of the width lies."""
        return self.left + (self.right - self.left) * share

    def y(self, value: float) -> float:
        """Where a value lies."""
        return self.bottom - (self.bottom - self.top) * (value - self.low) / ((self.high - self.low) or 1)


@dataclass(slots=True)
class Canvas:
    """An SVG element that grows."""

    height: float
    title: str
    description: str
    root: ElementTree.Element = field(init=False)

    def __post_init__(self) -> None:
        box = f"0 0 {WIDTH} {self.height:g}"
        label = f"{self.title}. {self.description}".strip()
        self.root = ElementTree.Element("svg", {"viewBox": box, "class": "chart", "role": "img", "aria-label": label})

    def add(self, tag: str, css: str, text: str = "", tip: str = "", **attributes: float | str) -> None:
        """Add an element; numbers are rounded, and `tip` is shown by the browser under the pointer."""
        told = {name.replace("_", "-"): _short(value) for name, value in attributes.items()}
        element = ElementTree.SubElement(self.root, tag, {"class": css} | told)
        element.text = text
        if tip:
            ElementTree.SubElement(element, "title").text = tip

    def markup(self) -> Markup:
        """The element; what came from outside was escaped by ElementTree."""
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))

    def y_axis(self, plot: Plot, ticks: Sequence[float], form: str, name: str = "") -> None:
        """Add a line across the plot and a number for each tick, and the name of the axis."""
        for tick in ticks:
            y = plot.y(tick)
            self.add("line", "rule", x1=plot.left, x2=plot.right, y1=y, y2=y)
            self.add("text", "tick end", form.format(tick), x=plot.left - 6, y=y + 4)
        if name:
            middle = (plot.top + plot.bottom) / 2
            self.add("text", "axis middle", name, x=11, y=middle, transform=f"rotate(-90 11 {middle:.1f})")

    def x_labels(self, plot: Plot, labels: Sequence[tuple[float, str]], name: str = "") -> None:
        """Add words below the plot, each at its x, and the name of the axis."""
        for x, text in labels:
            css = "tick end" if x > plot.right - 16 else "tick start" if x < plot.left + 12 else "tick middle"
            self.add("text", css, text, x=x, y=plot.bottom + 15)
        if name:
            self.add("text", "axis middle", name, x=(plot.left + plot.right) / 2, y=plot.bottom + 31)


def nice_ticks(highest: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to at least `highest`, some four steps of them."""
    rough = max(highest, 1) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = max(1.0, next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough))
    return [n * step for n in range(math.ceil(max(highest, 1) / step) + 1)]


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
