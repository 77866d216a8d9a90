"""Reading scores.json: what it comes back as, and what is said of files that are none."""

import json

import pytest

from launcher.artifacts.scores import Score, find_scores, read_scores
from launcher.artifacts.standard_errors import mean_of
from launcher.errors import LauncherError
from launcher.run.paths import SCORES
from tests.support.evaluations import answered, choice_report, write_evaluation


@pytest.fixture
def run(tmp_path):
    return write_evaluation(tmp_path / "run", {"medqa": choice_report(answered("1101"))}, name="stories")


def test_scores_are_found_from_the_file_its_folder_and_the_run_directory(run):
    file = run / "outputs" / SCORES

    assert find_scores(file) == find_scores(file.parent) == find_scores(run) == file
    assert read_scores(file) == read_scores(run)
    assert read_scores(run).tasks["medqa"].scores["acc"].value == 0.75


def test_a_score_is_that_of_its_mean():
    score = Score.of(mean_of([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]))

    assert (score.value, score.standard_error, score.n, score.clusters) == (0.5, 0.5, 4, 2)
    assert (score.low, score.high) == pytest.approx((0.5 - 0.97998, 0.5 + 0.97998), abs=1e-5)


def test_a_score_of_one_item_has_no_interval():
    assert Score.of(mean_of([1.0])) == Score(value=1.0, n=1)


def test_a_folder_without_scores_is_refused_with_what_to_name(tmp_path):
    with pytest.raises(LauncherError, match=r"holds no scores.json; name a finished run of `kind: evaluate`"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "the file: Invalid JSON"),
        ("[]", "the file: Input should be an object"),
        ("{}", "run: Field required"),
    ],
)
def test_what_is_no_scores_file_is_refused_with_the_key(run, content, said):
    (run / "outputs" / SCORES).write_text(content)

    with pytest.raises(LauncherError, match=said) as caught:
        read_scores(run)
    assert str(run / "outputs" / SCORES) in str(caught.value)
    assert str(caught.value).endswith("name the scores.json of an evaluation")


def test_a_wrong_value_is_named_by_its_path_without_quoting_it(run):
    file = run / "outputs" / SCORES
    content = json.loads(file.read_text())
    content["tasks"]["medqa"]["scores"]["acc"]["n"] = "PATIENT"
    file.write_text(json.dumps(content))

    with pytest.raises(LauncherError, match=r"tasks\.medqa\.scores\.acc\.n: ") as caught:
        read_scores(run)
    assert "PATIENT" not in str(caught.value)


def test_keys_that_a_newer_launcher_may_write_are_not_silently_dropped(run):
    file = run / "outputs" / SCORES
    file.write_text(json.dumps(json.loads(file.read_text()) | {"more": 1}))

    with pytest.raises(LauncherError, match=r"more: Extra inputs are not permitted"):
        read_scores(run)
