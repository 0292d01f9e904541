"""Charts as SVG, made on the server. Colours come from classes, so that they are right in light and dark.

Each has its figures beside it as a table: for who cannot see it, and for who wants the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medd_web.canvas import BOTTOM, LEFT, Canvas, Plot, nice_ticks


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, and the same as a table."""

    title: str
    svg: Markup
    #: CSS class and name of what is told apart by colour.
    legend: Sequence[tuple[str, str]]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: What has to be known to read it.
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one kind, in the order of the chart's labels."""

    name: str
    #: CSS class: "s1" to "s4", or a status.
    css: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) in [0, 1], joined."""

    name: str
    css: str
    points: Sequence[Sequence[float]]
    #: Points that are marked and described: (x, y, text).
    marks: Sequence[tuple[float, float, str]] = ()
    #: Intervals of y at an x: (x, low, high).
    spans: Sequence[tuple[float, float, float]] = ()
    #: Whether the points are joined at all.
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its 95 % interval."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    #: What it was measured on.
    n: int | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        span = "" if self.low is None or self.high is None else f" ({self.low:.3f} – {self.high:.3f})"
        return f"{self.value:.3f}{span}"


def stacked_bars(
    title: str, unit: str, labels: Sequence[str], series: Sequence[Series], ticks: Sequence[tuple[int, str]], axis: str
) -> Chart:
    """Counts over time, one bar for each label, stacked in the order of the series.

    Args:
        title: Of the chart.
        unit: What is counted.
        labels: Of the bars, for tips and the table.
        series: What is stacked, the lowest first.
        ticks: Which bars are named below, and how.
        axis: What runs from left to right.
    """
    totals = [sum(column) for column in zip(*(one.values for one in series), strict=True)]
    highest = max(totals, default=0)
    scale = nice_ticks(highest)
    plot = Plot(200, 0, scale[-1])
    told = ", ".join(f"{sum(one.values):.0f} {one.name}" for one in series)
    canvas = Canvas(200, title, f"{sum(totals):.0f} {unit}: {told}; at most {highest:.0f} in one bar.")
    canvas.y_axis(plot, scale, "{:g}")
    step = (plot.right - plot.left) / max(1, len(labels))
    gap = min(2.0, step * 0.2)
    for place, label in enumerate(labels):
        said = ", ".join(f"{one.values[place]:.0f} {one.name}" for one in series if one.values[place])
        base = 0.0
        for one in series:
            if value := one.values[place]:
                top, bottom = plot.y(base + value), plot.y(base)
                x, height = plot.left + place * step + gap / 2, max(0.5, bottom - top)
                canvas.add("rect", one.css, tip=f"{label}: {said}", x=x, y=top, width=step - gap, height=height)
                base += value
    canvas.add("line", "baseline", x1=plot.left, x2=plot.right, y1=plot.bottom, y2=plot.bottom)
    canvas.x_labels(plot, [(plot.left + (place + 0.5) * step, text) for place, text in ticks], axis)
    rows = [
        (label, *(f"{one.values[place]:.0f}" for one in series))
        for place, label in enumerate(labels)
        if any(one.values[place] for one in series)
    ]
    legend = [(one.css, one.name) for one in series]
    return Chart(title, canvas.markup(), legend, (axis, *(one.name for one in series)), rows)


def unit_square(
    title: str, x_axis: str, y_axis: str, curves: Sequence[Curve], *, diagonal: str = "", level: float | None = None
) -> Chart:
    """Curves of shares over shares, both in [0, 1].

    Args:
        title: Of the chart.
        x_axis: What runs from left to right.
        y_axis: What runs upwards.
        curves: What is drawn.
        diagonal: What the line from corner to corner stands for; "" for none.
        level: The height of a line of reference.
    """
    plot = Plot(400, 0, 1, right=LEFT + 350)
    canvas = Canvas(400, title, "; ".join(f"{curve.name}, {len(curve.points)} points" for curve in curves))
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
    canvas.y_axis(plot, ticks, "{:.1f}", y_axis)
    for tick in ticks:
        canvas.add("line", "rule", x1=plot.x(tick), x2=plot.x(tick), y1=plot.top, y2=plot.bottom)
        canvas.add("text", "tick middle", f"{tick:.1f}", x=plot.x(tick), y=plot.bottom + 15)
    canvas.x_labels(plot, (), x_axis)
    if diagonal:
        canvas.add("line", "reference", tip=diagonal, x1=plot.x(0), y1=plot.y(0), x2=plot.x(1), y2=plot.y(1))
    if level is not None:
        canvas.add("line", "reference", x1=plot.x(0), x2=plot.x(1), y1=plot.y(level), y2=plot.y(level))
    for curve in curves:
        for x, low, high in curve.spans:
            canvas.add("line", f"span {curve.css}", x1=plot.x(x), x2=plot.x(x), y1=plot.y(low), y2=plot.y(high))
        if curve.joined and len(curve.points) > 1:
            path = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in curve.points)
            canvas.add("polyline", f"curve {curve.css}", points=path)
        for x, y, text in curve.marks:
            canvas.add("circle", f"mark {curve.css}", tip=f"{curve.name}: {text}", cx=plot.x(x), cy=plot.y(y), r=5)
    rows = [(curve.name, f"{x:.3f}", f"{y:.3f}") for curve in curves for x, y in _some(curve.points)]
    legend = [(curve.css, curve.name) for curve in curves]
    return Chart(title, canvas.markup(), legend, ("", x_axis, y_axis), rows)


def intervals(title: str, values: Sequence[Measured], css: str = "s1") -> Chart:
    """Figures in [0, 1] below each other, each with its interval."""
    known = [one for one in values if one.value is not None]
    lowest = min((one.low if one.low is not None else one.value or 0 for one in known), default=0)
    low = max(0.0, math.floor(lowest * 10 - 0.01) / 10)
    height = 24 * len(known) + BOTTOM
    plot = Plot(height, 0, len(known), left=112, top=4)
    canvas = Canvas(height, title, "; ".join(f"{one.name} {one}" for one in known))

    def x(value: float) -> float:
        return plot.x((value - low) / ((1 - low) or 1))

    for tick in [low + (1 - low) * share / 4 for share in range(5)]:
        canvas.add("line", "rule", x1=x(tick), x2=x(tick), y1=plot.top, y2=plot.bottom)
        canvas.add("text", "tick end" if tick == 1 else "tick middle", f"{tick:.3g}", x=x(tick), y=plot.bottom + 15)
    for place, one in enumerate(known):
        y = plot.top + (place + 0.5) * (plot.bottom - plot.top) / len(known)
        canvas.add("text", "name end", one.name, x=plot.left - 10, y=y + 4)
        if one.low is not None and one.high is not None:
            canvas.add("line", f"span {css}", x1=x(one.low), x2=x(one.high), y1=y, y2=y)
        assert one.value is not None
        canvas.add("circle", f"mark {css}", tip=f"{one.name} {one}", cx=x(one.value), cy=y, r=4.5)
    rows = [(one.name, f"{one.value:.4f}", _span(one)) for one in known]
    return Chart(title, canvas.markup(), (), ("", "value", "95 % interval"), rows)


def shares_over_time(title: str, lines: Sequence[tuple[str, str, Sequence[Measured]]]) -> Chart:
    """Shares in [0, 1] over time, each with its interval; every line has the same labels, and gaps where n is 0.

    Args:
        title: Of the chart.
        lines: Name, CSS class, and the values, whose names are the times.
    """
    labels = [one.name for one in lines[0][2]] if lines else []
    low = min((one.low for _, _, values in lines for one in values if one.n and one.low is not None), default=0.0)
    bottom = math.floor(low * 5 - 0.01) / 5 if low > 0 else 0.0
    plot = Plot(200, bottom, 1)
    said = (f"{name}: " + ", ".join(f"{one.name} {one}" for one in values if one.n) for name, _, values in lines)
    canvas = Canvas(200, title, "; ".join(said))
    canvas.y_axis(plot, [bottom + (1 - bottom) * share / 4 for share in range(5)], "{:.0%}")
    step = (plot.right - plot.left) / max(1, len(labels))
    for number, (name, css, values) in enumerate(lines):
        shift = (number + 0.5) / len(lines) * min(step, 24) - min(step, 24) / 2
        points = []
        for place, one in enumerate(values):
            if one.value is None or one.low is None or one.high is None:
                continue
            x = plot.left + (place + 0.5) * step + shift
            points.append((x, plot.y(one.value)))
            canvas.add("line", f"span {css}", x1=x, x2=x, y1=plot.y(one.low), y2=plot.y(one.high))
            tip = f"{name}, {one.name}: {one}, n = {one.n}"
            canvas.add("circle", f"mark {css}", tip=tip, cx=x, cy=plot.y(one.value), r=4)
        canvas.add("polyline", f"curve thin {css}", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
    every = max(1, math.ceil(len(labels) / 6))
    named = [(plot.left + (n + 0.5) * step, text) for n, text in enumerate(labels) if n % every == 0]
    canvas.x_labels(plot, named)
    rows = [(name, one.name, str(one), str(one.n)) for name, _, values in lines for one in values if one.n]
    legend = [(css, name) for name, css, _ in lines]
    return Chart(title, canvas.markup(), legend, ("", "time", "share (95 %)", "n"), rows)


def lines(
    title: str,
    x_axis: str,
    series: Sequence[Series],
    labels: Sequence[str],
    ticks: Sequence[tuple[int, str]],
    *,
    from_zero: bool = False,
) -> Chart:
    """Values over time or over the epochs of a training.

    Args:
        title: Of the chart.
        x_axis: What runs from left to right.
        series: What is drawn; each has a value for every label.
        labels: For tips and the table.
        ticks: Which places are named below, and how.
        from_zero: Whether they are counts: the axis begins at 0, and the table leaves out where all are.
    """
    values = [value for one in series for value in one.values]
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = nice_ticks(high) if from_zero else [low + (high - low) * share / 4 for share in range(5)]
    spare = 0 if from_zero else (high - low) * 0.08 or 0.05
    plot = Plot(200, scale[0] - spare, scale[-1] + spare)
    told = ", ".join(f"{one.name} {min(one.values):.4g} to {max(one.values):.4g}" for one in series if one.values)
    canvas = Canvas(200, title, f"{told}.")
    canvas.y_axis(plot, scale, "{:g}" if from_zero else "{:.3g}")
    last = max(1, len(labels) - 1)
    for one in series:
        places = [(plot.x(n / last), plot.y(value)) for n, value in enumerate(one.values)]
        canvas.add("polyline", f"curve {one.css}", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places))
        for n, (x, y) in enumerate(places):
            tip = f"{one.name}, {labels[n]}: {one.values[n]:.4g}"
            canvas.add("circle", f"mark {one.css}", tip=tip, cx=x, cy=y, r=3 if len(places) <= 31 else 2)
    canvas.x_labels(plot, [(plot.x(place / last), text) for place, text in ticks], x_axis)
    rows = [
        (label, *(f"{one.values[n]:.4g}" for one in series))
        for n, label in enumerate(labels)
        if not from_zero or any(one.values[n] for one in series)
    ]
    legend = [(one.css, one.name) for one in series]
    return Chart(title, canvas.markup(), legend, (x_axis, *(one.name for one in series)), rows)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); of nothing everything is possible."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    share = hits / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - reach) / (1 + z * z / n)), min(1.0, (middle + reach) / (1 + z * z / n))


def _span(one: Measured) -> str:
    return "" if one.low is None or one.high is None else f"{one.low:.4f} – {one.high:.4f}"


def _some(points: Sequence[Sequence[float]], most: int = 25) -> list[Sequence[float]]:
    """Not more points than a table can hold."""
    if len(points) <= most:
        return list(points)
    return [points[round(n * (len(points) - 1) / (most - 1))] for n in range(most)]
