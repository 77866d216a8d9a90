"""Stages that are sweeps, as files say it: names of points and of what they make, order, and faults."""

from pathlib import Path

import pytest

from launcher.errors import RecipeError
from launcher.load.pipeline import LoadedPipeline, load_pipeline
from launcher.pipeline.order import order_stages, sort_loaded
from tests.support.recipe_files import summarise

TRAIN = """\
kind: cpt
name: train
model: {path: base}
data: {corpora: [{name: words}]}
adapter: {method: lora, r: 8, alpha: 16, targets: [q_proj]}
evaluation: {interval: 5 steps}
batch: {global_batch: 8 sequences, sequence_length: 32}
optim: {lr: 1e-5}
schedule: {length: 10 steps}
output: adapter
resources: {time: 1h}
"""
MERGE = (
    "{kind: merge, name: merge, base_model: base, adapters: [{path: adapter}], output: merged, resources: {time: 1h}}"
)
SWEEP = "sweep: {grid: {adapter.r: [4, 8], optim.lr: [1e-5]}}"
SELECT = "select: {metric: validation_loss}"


def load(folder: Path, train: str, more: str = "", rehearse: bool = False) -> LoadedPipeline:
    (folder / "train.yaml").write_text(TRAIN)
    (folder / "swept.yaml").write_text(TRAIN + "sweep: {grid: {optim.lr: [1e-4, 1e-3]}}\nrehearsal: {seed: 3}\n")
    path = folder / "p.yaml"
    path.write_text(f"kind: pipeline\nname: p\nstages:\n  train: {train}\n{more}")
    return load_pipeline(path, rehearse=rehearse)


def faults(folder: Path, train: str, more: str = "") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, train, more)
    return [*summarise(caught.value.faults), *(fault.message for fault in caught.value.faults)]


def test_each_point_has_a_name_by_its_values_and_so_has_what_it_makes(tmp_path: Path) -> None:
    found = load(tmp_path, f"{{recipe: train.yaml, {SWEEP}}}")

    assert [stage.name for stage in found.stages] == ["train-r=4-lr=1e-05", "train-r=8-lr=1e-05"]
    assert [stage.loaded.recipe.makes.name for stage in found.stages if stage.loaded.recipe.makes] == [
        "adapter.r-4.lr-1e-05",
        "adapter.r-8.lr-1e-05",
    ]
    assert found.choices == ()
    assert {stage.loaded.point.sweep for stage in found.stages if stage.loaded.point} == {"p:train"}


def test_what_is_selected_has_the_name_that_the_recipe_says_and_readers_wait_for_it(tmp_path: Path) -> None:
    found = load(tmp_path, f"{{recipe: train.yaml, {SWEEP}, {SELECT}}}", f"  merge: {MERGE.join(['{recipe: ', '}'])}\n")

    [choice] = found.choices
    assert (choice.metric, choice.direction, choice.makes) == ("validation_loss", "minimize", ("adapter", "adapter"))
    points = {"train-r=4-lr=1e-05", "train-r=8-lr=1e-05"}
    assert order_stages(found).awaits == {**{point: set() for point in points}, "train": points, "merge": {"train"}}
    assert sort_loaded(found) == {"train": set(), "merge": {"train"}}


def test_a_stage_may_read_one_point_or_wait_for_all(tmp_path: Path) -> None:
    reads = MERGE.replace("path: adapter", "path: adapter.r-4.lr-1e-05")
    waits = MERGE.replace("path: adapter", "path: other").replace("merged", "also")
    more = f"  merge: {{recipe: {reads}}}\n  last: {{recipe: {waits}, needs: [train]}}\n"
    found = load(tmp_path, f"{{recipe: train.yaml, {SWEEP}}}", more)

    awaits = order_stages(found).awaits
    assert awaits["merge"] == {"train-r=4-lr=1e-05"}
    assert awaits["last"] == {"train-r=4-lr=1e-05", "train-r=8-lr=1e-05"}


def test_a_stage_has_the_sweep_of_its_recipe_unless_it_has_one_itself(tmp_path: Path) -> None:
    own = load(tmp_path, "swept.yaml")
    replaced = load(tmp_path, f"{{recipe: swept.yaml, {SWEEP}}}")
    rehearsed = load(tmp_path, "swept.yaml", "rehearsal: {max_points: 1}\n", rehearse=True)

    assert [stage.name for stage in own.stages] == ["train-lr=0.0001", "train-lr=0.001"]
    assert [stage.name for stage in replaced.stages] == ["train-r=4-lr=1e-05", "train-r=8-lr=1e-05"]
    assert [stage.name for stage in rehearsed.stages] == ["train-lr=0.0001"]


def test_long_names_of_points_are_cut_and_stay_different(tmp_path: Path) -> None:
    grid = "sweep: {grid: {adapter.targets: [[q_proj, k_proj, v_proj, o_proj, up_proj, down_proj, gate_proj], "
    grid += "[q_proj, k_proj, v_proj, o_proj, up_proj, down_proj, lm_head]], "
    grid += "optim.weight_decay: [0.125], optim.lr: [1e-5]}}"
    found = load(tmp_path, f"{{recipe: train.yaml, {grid}}}")

    names = [stage.name for stage in found.stages]
    made = [stage.loaded.recipe.makes.name for stage in found.stages if stage.loaded.recipe.makes]
    assert len(set(names)) == len(set(made)) == 2
    assert all(len(name) <= 100 for name in (*names, *made))


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (f"{{recipe: train.yaml, {SELECT}}}", "p.yaml:4 conflict stages.train.select"),
        (f"{{recipe: train.yaml, {SWEEP}, select: {{metric: f1}}}}", "p.yaml:4 conflict stages.train.select.metric"),
        (
            f"{{recipe: train.yaml, {SWEEP}, select: {{metric: loss, direction: maximize}}}}",
            "p.yaml:4 conflict stages.train.select.direction",
        ),
        (
            f"{{recipe: train.yaml, {SWEEP}, select: {{metric: loss, allow_failed: 2}}}}",
            "p.yaml:4 conflict stages.train.select.allow_failed",
        ),
        ("{recipe: train.yaml, sweep: {grid: {adapter.rank: [4]}}}", "p.yaml:4 unknown-key adapter.rank"),
        ("{recipe: train.yaml, sweep: {}}", "p.yaml:4 conflict sweep.grid"),
    ],
)
def test_the_faults_of_sweeps_and_selections_have_their_places(tmp_path: Path, train: str, expected: str) -> None:
    assert expected in faults(tmp_path, train)


def test_a_metric_that_is_not_reported_names_those_that_are(tmp_path: Path) -> None:
    told = faults(tmp_path, f"{{recipe: train.yaml, {SWEEP}, select: {{metric: validation_los}}}}")

    assert "`validation_los` is not reported by this recipe; write one of `validation_loss`" in told[-1]


SEARCH = "search: {space: {optim.lr: [1e-5, 1e-4]}, trials: 2, metric: validation_loss}"


def test_a_search_is_one_stage_that_selects_by_its_own_metric_or_by_another(tmp_path: Path) -> None:
    (tmp_path / "searched.yaml").write_text(TRAIN + SEARCH)

    found = load(tmp_path, "searched.yaml", f"  merge: {{recipe: {MERGE}}}")

    assert [stage.name for stage in found.stages] == ["train", "merge"]
    best = found.stages[0].best
    assert best
    assert (best.metric, best.direction, len(found.stages[0].corners)) == ("validation_loss", "minimize", 2)
    assert order_stages(found).awaits["merge"] == {"train"}
    other = load(tmp_path, "{recipe: searched.yaml, select: {metric: token_perplexity}}").stages[0].best
    assert other
    assert other.metric == "token_perplexity"


def test_a_search_passes_over_failed_trials_without_being_told(tmp_path: Path) -> None:
    (tmp_path / "searched.yaml").write_text(TRAIN + SEARCH)

    told = faults(tmp_path, "{recipe: searched.yaml, select: {metric: validation_loss, allow_failed: 1}}")

    assert told == [
        "p.yaml:4 conflict stages.train.select.allow_failed",
        "is for sweeps; a search passes over trials that failed, so leave it out",
    ]
