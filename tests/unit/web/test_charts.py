from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from medd_web import charts
from medd_web.canvas import nice_ticks
from medd_web.charts import Chart, Curve, Measured, Series, wilson

SCRIPT = "<script>alert('1')</script>\"&"
COUNTS = [Series("scored", "scored", [3, 0, 1]), Series(f"failed {SCRIPT}", "failed", [1, 0, 0])]


def every_chart(name: str = "a name") -> dict[str, Chart]:
    return {
        "bars": charts.stacked_bars(name, name, [name] * 3, COUNTS, [(0, name)], name),
        "square": charts.unit_square(
            name,
            name,
            name,
            [Curve(name, "s1", [(0, 0), (1, 1)], [(0.5, 0.5, name)], [(0.5, 0.4, 0.6)])],
            diagonal=name,
        ),
        "intervals": charts.intervals(name, [Measured(name, 0.9, 0.8, 0.95), Measured("unknown", None)]),
        "shares": charts.shares_over_time(
            name, [(name, "s1", [Measured(name, 0.9, 0.8, 0.95, 40), Measured("none", None, n=0)])]
        ),
        "lines": charts.lines(name, name, [Series(name, "s1", [1, 2])], ["1", "2"], [(0, name)]),
    }


def parts(chart: Chart, tag: str, css: str = "") -> list[ElementTree.Element]:
    found = ElementTree.fromstring(str(chart.svg)).iter(tag)
    return [one for one in found if css in one.get("class", "").split() or not css]


@pytest.mark.parametrize("kind", every_chart())
def test_a_chart_has_a_name_a_size_and_nothing_that_the_policy_refuses(kind):
    root = ElementTree.fromstring(str(every_chart()[kind].svg))
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith("a name. ")
    assert root.get("viewBox", "").startswith("0 0 460 ")
    for element in root.iter():
        assert not {name for name in element.keys() if name == "style" or name.startswith("on")}  # noqa: SIM118
        assert not set(element.keys()) & {"fill", "stroke"}, "colours come from classes"


@pytest.mark.parametrize("kind", every_chart())
def test_words_from_outside_stay_words(kind):
    chart = every_chart(SCRIPT)[kind]
    assert "<script" not in str(chart.svg)
    assert SCRIPT in ElementTree.fromstring(str(chart.svg)).get("aria-label", "")


@pytest.mark.parametrize("kind", every_chart())
def test_the_figures_stand_in_a_table_as_well(kind):
    chart = every_chart()[kind]
    assert chart.rows
    assert all(len(row) == len(chart.columns) for row in chart.rows)


def test_bars_stand_upon_each_other_and_are_as_high_as_their_counts():
    chart = every_chart()["bars"]
    [low, high] = [one for one in parts(chart, "rect") if one.get("x") == parts(chart, "rect")[0].get("x")]
    assert float(low.get("height", 0)) == pytest.approx(3 * float(high.get("height", 0)), abs=0.05)
    assert float(high.get("y", 0)) + float(high.get("height", 0)) == pytest.approx(float(low.get("y", 0)), abs=0.05)
    assert [row[1:] for row in chart.rows] == [("3", "1"), ("1", "0")], "where nothing was there is no row"
    assert low.find("title") is not None


def test_an_empty_chart_is_one():
    nothing = charts.stacked_bars("nothing", "images", ["1"], [Series("scored", "scored", [0])], [], "")
    assert parts(nothing, "rect") == []
    assert nothing.rows == []
    charts.shares_over_time("nothing", [])
    charts.intervals("nothing", [])
    charts.lines("nothing", "", [Series("none", "s1", [])], [], [])


def test_the_corners_of_a_unit_square_are_its_corners():
    chart = charts.unit_square("ROC", "x", "y", [Curve("c", "s1", [(0, 0), (0, 1), (1, 1)])], diagonal="chance")
    [line] = parts(chart, "polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    [diagonal] = parts(chart, "line", "reference")
    assert points[0] == (float(diagonal.get("x1", 0)), float(diagonal.get("y1", 0)))
    assert points[2] == (float(diagonal.get("x2", 0)), float(diagonal.get("y2", 0)))
    assert points[1] == (points[0][0], points[2][1])


def test_what_was_not_measured_is_left_out_and_not_drawn_as_nought():
    assert len(parts(every_chart()["intervals"], "circle")) == 1
    assert len(parts(every_chart()["shares"], "circle")) == 1
    assert str(Measured("x", None)) == "–"
    assert str(Measured("x", 0.5)) == "0.500"
    assert str(Measured("x", 0.5, 0.4, 0.6)) == "0.500 (0.400 – 0.600)"


@given(st.floats(min_value=0, max_value=1e9))
def test_ticks_are_few_round_and_reach_the_highest(highest):
    ticks = nice_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest
    assert 2 <= len(ticks) <= 6
    assert len({round(high - low, 6) for low, high in pairwise(ticks)}) == 1
    assert all(tick == int(tick) for tick in ticks)


@given(st.integers(min_value=1, max_value=5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_that_of_scipy(counts):
    hits, n = counts
    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_of_nothing_everything_is_possible():
    assert wilson(0, 0) == (0, 1)
