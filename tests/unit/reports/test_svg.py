"""Charts: scale, thinning, labels, standard errors, budgets, edge cases.

Reference: the coordinates in the SVG, computed by hand.
"""

import re

import pytest

from vitas_ds.reports.svg import Axis, Limit, Series, chart, short, ticks


def test_chart_draws_points_to_scale():
    text = chart("t", [Series("s", [0, 5, 10], [1.0, 2.0, 3.0], dots=True)], Axis("x"), Axis("y"))
    points = [(float(a), float(b)) for a, b in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', text)]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x0 < x1 and y0 > y1  # larger values are higher up


@pytest.mark.parametrize("ys", [[], [None], [5.0], [0.0], [2.0, 2.0, 2.0], [-1e-9, 1e9]])
def test_chart_of_edge_cases(ys):
    text = chart("t", [Series("s", list(range(len(ys))), ys)], Axis("x"), Axis("y"))
    assert ("<svg" in text) == any(y is not None for y in ys)
    assert "nan" not in text and "inf" not in text


def test_chart_thins_a_long_line_and_keeps_its_end():
    ys = [float(i) for i in range(10_001)]
    text = chart("t", [Series("s", ys, ys)], Axis("x"), Axis("y"))
    assert 200 < text.count("<circle") <= 402 and "s 10k" in text


def test_ticks_and_short():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.912, 0.958) == pytest.approx([0.92, 0.93, 0.94, 0.95])
    assert [short(x) for x in (0, 1.3e9, 42_000, 0.05, 2e-5, 170842)] == ["0", "1.3G", "42k", "0.05", "2e-05", "171k"]
    assert [short(x) for x in (999_400, 999_600, 999_700_000, 1e15)] == ["999k", "1M", "1G", "1P"]


def test_both_axes_have_labels_and_names_are_escaped():
    text = chart("<t>", [Series("<s>", [1, 2], [3, 4]), Series("b", [1], [3])], Axis("<x> [ms]"), Axis("<y>", True))
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert "&lt;x&gt; [ms]" in labels and "&lt;y&gt;" in labels and "300%" in labels
    assert "&lt;s&gt;</span>" in text and not re.search("<[txys]>", text)


def test_one_step_is_a_visible_point_over_a_whole_step():
    text = chart("t", [Series("loss", [1], [2.5])], Axis("step", whole=True), Axis("loss"))
    assert text.count('<circle class="dot') == 1
    assert re.findall(r'text-anchor="middle">([\d.]+)</text>', text) == ["0", "1", "2"]


def test_standard_errors_are_drawn_to_scale():
    series = Series("s", [0, 1, 2], [1.0, 2.0, 3.0], errors=[1.0, None, 0.5])
    text = chart("t", [series], Axis("x"), Axis("y"))
    ys = [float(y) for y in re.findall(r'cy="([\d.]+)"', text)]
    unit = (ys[0] - ys[2]) / 2  # pixels
    bars = [tuple(map(float, bar)) for bar in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", text)]
    assert [abs(a - b) / unit for a, b in bars] == pytest.approx([2.0, 1.0], abs=0.02)
    assert [(a + b) / 2 for a, b in bars] == pytest.approx([ys[0], ys[2]], abs=0.1)


def test_a_limit_is_a_vertical_line_at_its_value():
    text = chart("t", [Series("s", [0, 10], [0, 1])], Axis("x"), Axis("y"), [Limit(5, "budget: 5", name="budget")])
    x = re.search(r'class="limit c6" x1="([\d.]+)" x2="([\d.]+)"', text)
    left, right = (float(v) for v in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="4" data-tip="s', text))
    assert float(x[1]) == float(x[2]) == pytest.approx((left + right) / 2, abs=0.1)
    assert "budget</span>" in text


def test_tick_labels_differ():
    values = [0.2755, 0.276, 0.2765, 0.277]
    assert Axis("y").labels(values) == ["0.2755", "0.276", "0.2765", "0.277"]
    assert Axis("y", percent=True).labels([0.9, 0.90001]) == ["90%", "90.001%"]
    assert Axis("y").labels([1e6, 1.0001e6]) == ["1M", "1.0001M"] and Axis("y").labels([]) == []


def test_whole_ticks():
    assert ticks(0, 2, whole=True) == [0, 1, 2] and ticks(0.5, 3.2, whole=True) == [1, 2, 3]
    assert all(t % 1 == 0 for high in range(1, 60) for t in ticks(0, high, whole=True))
