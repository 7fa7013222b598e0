import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fraudkit.estimate import Estimate
from pipelines.evaluation import plots
from pipelines.page import page as make_page
from pipelines.svg import number, percent, ticks

SVG = "{http://www.w3.org/2000/svg}"
AUC = Estimate(0.981, 0.972, 0.99)
RECALL, PRECISION = np.array([0.25, 0.5, 0.75, 1.0]), np.array([1.0, 0.8, 0.6, 0.1])


def figures() -> dict[str, str]:
    rng = np.random.default_rng(0)
    return {
        "roc": plots.roc([0, 0, 0.1, 1], [0, 0.8, 0.9, 1], AUC),
        "precision_recall": plots.precision_recall(RECALL, PRECISION, AUC, (0.75, 0.6), 0.0017),
        "calibration": plots.calibration(
            [1e-5, 1e-3, 0.4],
            [Estimate(0, 0, 1e-3), Estimate(2e-3, 1e-3, 4e-3), Estimate(1, 0.6, 1)],
            [9_000, 500, 6],
        ),
        "scores": plots.scores(rng.normal(-7, 1, 5_000), rng.normal(2, 3, 90), -3.0, 1.0),
        "coefficients": plots.coefficients(["V1", "V2", "log_amount"], [-0.4, 1.2, 0.0]),
    }


def drawn(svg: str, style: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(svg).iter() if each.get("class") == style]  # noqa: S314


def points(path: ElementTree.Element) -> list[list[float]]:
    return [[float(x) for x in pair.split(",")] for pair in path.get("d", "")[1:].split()]


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


@pytest.mark.parametrize("name", figures())
def test_a_figure_is_well_formed_finite_described_and_stands_alone(name: str) -> None:
    svg = figures()[name]
    root = ElementTree.fromstring(svg)  # noqa: S314
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.find(f"{SVG}style") is not None
    assert not re.search(r"\b(nan|inf)\b|href|url\(|@import|<script", svg)
    assert svg.count("http") == 1  # the name space, which nobody fetches


@pytest.mark.parametrize("name", figures())
def test_everything_drawn_lies_inside_the_figure(name: str) -> None:
    svg = figures()[name]
    root = ElementTree.fromstring(svg)  # noqa: S314
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for path in root.iter(f"{SVG}path"):
        for command, first, second in re.findall(r"([MLHV ])(-?[\d.e+]+)(?:,(-?[\d.e+]+))?", path.get("d", "")):
            x, y = (0.0, float(first)) if command == "V" else (float(first), float(second or 0))
            assert 0 <= x <= width, path.attrib
            assert 0 <= y <= height, path.attrib
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x", -1)) <= width
        assert 0 <= float(text.get("y", -1)) <= height


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert figures() == figures()


def test_the_roc_curve_goes_through_its_points_and_names_its_area() -> None:
    svg = figures()["roc"]
    (curve,) = drawn(svg, "fraud")
    assert points(curve) == [[44, 406], [44, 110], [84, 73], [444, 36]]
    assert "AUC 0.981 (0.972 to 0.990)" in texts(svg)


def test_a_point_that_is_not_finite_is_left_out() -> None:
    svg = plots.roc([np.nan, 0, 1], [0, 0.5, np.inf], AUC)
    (curve,) = drawn(svg, "fraud")
    assert points(curve) == [[44, 221]]


def test_the_area_under_the_drawn_staircase_is_the_average_precision() -> None:
    wanted = float(np.sum(np.diff(RECALL, prepend=0.0) * PRECISION))
    for recall, precision in ((RECALL, PRECISION), (RECALL[::-1], PRECISION[::-1])):
        (curve,) = drawn(plots.precision_recall(recall, precision, AUC, None, 0.002), "fraud")
        across, up = np.array(points(curve)).T
        area = np.sum(np.diff(across) / 400 * (406 - up[1:]) / 370)
        assert area == pytest.approx(wanted, abs=1e-3)


def test_the_working_point_stands_where_the_review_threshold_puts_it() -> None:
    svg = figures()["precision_recall"]
    (dot,) = drawn(svg, "dot legit")
    assert (dot.get("cx"), dot.get("cy")) == ("344", "184")
    assert {"recall 0.750", "precision 0.600", "chance: 0.17 %"} <= set(texts(svg))
    assert not drawn(plots.precision_recall(RECALL, PRECISION, AUC, None, 0.5), "dot legit")


def test_a_group_without_a_fraud_is_an_open_dot_at_the_bottom() -> None:
    svg = figures()["calibration"]
    (unseen,) = drawn(svg, "dot open")
    assert (unseen.get("cx"), unseen.get("cy")) == ("84", "356")
    assert len(drawn(svg, "dot fraud")) == 2


def test_calibration_with_no_fraud_at_all_and_with_a_probability_of_zero_can_be_drawn() -> None:
    svg = plots.calibration([0.0, 0.02], [Estimate(0, 0, 0.1), Estimate(0, 0, 0.2)], [20, 10])
    assert len(drawn(svg, "dot open")) == 2


def test_each_class_fills_the_score_histogram_to_one_outliers_included() -> None:
    legit = np.append(np.full(999, -5.0), -700.0)
    svg = plots.scores(legit, np.full(10, 3.0), -2.0, 1.0)
    for style in ("area legit", "area fraud"):
        (outline,) = drawn(svg, style)
        tops = [float(y) for y in re.findall(r"V([\d.]+)", outline.get("d", ""))[:-1]]
        shares = [(306 - y) / 270 * 1.25 for y in tops]
        assert sum(shares) == pytest.approx(1.0, abs=0.01)
    assert "review from 11.9 %" in texts(svg)
    assert "block from 73.1 %" in texts(svg)


def test_coefficients_are_sorted_by_magnitude() -> None:
    found = texts(figures()["coefficients"])
    assert [text for text in found if text in {"V1", "V2", "log_amount"}] == ["V2", "V1", "log_amount"]
    assert {"+1.200", "−0.400"} <= set(found)


def test_coefficients_that_are_all_zero_can_be_drawn() -> None:
    assert "+0.000" in texts(plots.coefficients(["V1"], [0.0]))


def test_a_page_shows_its_figures_and_escapes_its_texts() -> None:
    page = make_page("a < b", [(name, "x & y", svg) for name, svg in figures().items()])
    assert page.count("<svg") == 5
    assert "<title>a &lt; b</title>" in page
    assert page.count("x &amp; y") == 5
    assert "http:" not in page
    assert "https:" not in page
    assert page.count(":root{color-scheme") == 1


def test_numbers_are_written_for_people() -> None:
    assert [number(value) for value in (0.0, -0.0, 3.0, 172_792.0)] == ["0", "0", "3", "172,792"]
    assert [number(value) for value in (-1.23456, 0.00123456, 88.349)] == ["−1.235", "0.001235", "88.35"]
    assert [number(value) for value in (1.2e-7, -1.5e15)] == ["1.200e−07", "−1.500e+15"]
    assert [percent(share) for share in (0.0, 0.00172749, 1e-7, 0.05, 1.0)] == [
        "0 %",
        "0.173 %",
        "0.00001 %",
        "5 %",
        "100 %",
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-31.1, 4.2), (0, 3e-7), (-2.5, 1e9), (1e12, 1e12 + 1e6)])
def test_ticks_are_few_evenly_spaced_and_inside(low: float, high: float) -> None:
    values = np.array([value for value, _ in ticks(low, high)])
    assert 2 <= values.size <= 7
    slack = 1e-8 * (high - low)
    assert low - slack <= values.min()
    assert values.max() <= high + slack
    assert np.diff(values) == pytest.approx(np.full(values.size - 1, values[1] - values[0]))
