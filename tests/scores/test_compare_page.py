"""The page of `launcher compare --html`: whole, of one file, and without anything that could be taken for markup."""

import itertools
import math
import re
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.artifacts.scores import Score
from launcher.cli.views.compare_page import axis_ticks
from launcher.cli.views.score_plot import axis, interval, plot
from launcher.cli.views.score_wording import difference_text, number, score_text
from launcher.scores.comparison import ComparedScore
from launcher.scores.differences import difference_of, perplexity_difference
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, perplexity_report, texts, write_evaluation
from tests.support.pages import PageReader

HOSTILE = '<script>alert("1")</script> & \' "'


@pytest.fixture
def page(tmp_path):
    places = []
    for name, right, loss in (("base", "1100" * 10, 1.0), (HOSTILE, "1111" * 10, 1.2)):
        tasks = {"medqa": choice_report(answered(right)), HOSTILE: perplexity_report(texts(1, loss=loss))}
        places.append(str(write_evaluation(tmp_path / f"{len(places)}", tasks, name, f"{len(places)}aaaaa")))
    launcher("compare", *places, "--html", str(tmp_path / "page.html"))
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(page):
    read = PageReader(page)

    assert read.tags.count("svg") == 4
    assert read.tags.count("tbody") == 2
    assert read.urls == []
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script", page)


def test_the_page_says_what_the_table_says(page):
    said = "".join(PageReader(page).texts)

    for text in ("0.5000 ±0.0801", "1.0000 ±0.0000", "+0.5000 ±0.0801 *", "<0.001", "McNemar", "lower is better"):
        assert text in said
    assert 'aria-label="base: 0.5000, 95 % interval 0.3431 to 0.6569"' in page


def test_names_are_text_and_never_markup(page):
    assert "".join(PageReader(page).texts).count(HOSTILE) >= 3
    assert "script" not in PageReader(page).tags


def test_the_page_has_a_style_for_dark_screens_for_narrow_ones_and_for_paper(page):
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media screen and (max-width" in page
    assert "@media print" in page


@pytest.mark.parametrize(
    ("name", "said"), [("missing/page.html", "there is no folder"), (".", "ends in `.html`"), ("a.yaml", "ends in")]
)
def test_where_the_page_cannot_be_written_is_said(tmp_path, name, said):
    place = write_evaluation(tmp_path / "one", {"medqa": choice_report(answered("1100"))})

    _, errors = launcher("compare", str(place), "--html", str(tmp_path / name), code=2)

    assert said in errors


def test_a_page_about_credentialed_data_is_for_its_owner_only(tmp_path):
    reports = {"medqa": choice_report(answered("1100"))}
    place = write_evaluation(tmp_path / "one", reports, data_use="credentialed")

    launcher("compare", str(place), "--html", str(tmp_path / "page.html"))

    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600
    assert "credentialed: `model`" in (tmp_path / "page.html").read_text(encoding="utf-8")


def compared(*ends):
    low, value, high = ends
    return ComparedScore("task", "acc", "model", Score(value=value, low=low, high=high, n=9), False)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-6, 1e5)), min_size=1, max_size=5))
def test_an_axis_holds_all_intervals_with_few_round_ticks(scores):
    rows = [compared(value - half, value, value + half) for value, half in scores]

    ticks = axis_ticks(rows)

    slack = 1e-9 * max(1.0, *map(abs, ticks))
    assert ticks[0] <= min(value - half for value, half in scores) + slack
    assert ticks[-1] >= max(value + half for value, half in scores) - slack
    assert 2 <= len(ticks) <= 6
    assert all(one < other for one, other in itertools.pairwise(ticks))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0, 12345.0, None, math.inf, -3.0])
def test_scores_without_an_interval_have_an_axis(value):
    ticks = axis_ticks([compared(None, value, None)])

    assert 2 <= len(ticks) <= 6
    if value is not None and math.isfinite(value):
        assert ticks[0] <= value <= ticks[-1]


@pytest.mark.parametrize("low", [0.1, 0.7, 12345.6, 1e-13, -0.1])
@pytest.mark.parametrize("steps", [1, 5])
def test_rounding_errors_get_an_axis_as_one_value_does(low, steps):
    high = low
    for _ in range(steps):
        high = math.nextafter(high, math.inf)
    ticks = axis_ticks([compared(low, high, high)])

    assert 2 <= len(ticks) <= 6
    assert all(one < other for one, other in itertools.pairwise(ticks))
    assert plot("", ticks, [interval(low, high, ticks, "plain")], low)
    assert axis(ticks)


def test_numbers_have_four_digits_behind_the_point_while_they_are_small():
    assert [number(value) for value in (0.25, 9.87654, 12.345, 1234.5, None)] == [
        "0.2500",
        "9.8765",
        "12.35",
        "1,234",
        "-",
    ]
    assert score_text(Score(value=12.3, standard_error=0.123, n=5)) == "12.30 ±0.12"
    assert score_text(Score(value=None, n=0)) == "-"


def test_differences_of_perplexities_are_in_percent():
    ratio = perplexity_difference("word_perplexity", [10.0, 22.0], [11.0, 22.0], [10.0, 10.0])

    assert difference_text(ratio) == "-4.88% ±4.76%"  # exp(-1/20), times a standard error of 1/20
    assert difference_text(difference_of([1.0, 0.0], [0.0, 0.0])) == "+0.5000 ±0.5000"
