"""Names that two recipes, or a recipe and a run, would give to different things; and recipes that are there twice."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cluster import Cluster
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import RATES, MakeCluster, all_runs, make_adapter, make_corpus, make_model
from tests.support.wanted_runs import PREPARE

Recipe = Mapping[str, Any]
Submit = Callable[..., tuple[str, str]]
TRAINING = RATES | {"tracking": {"mode": "disabled"}}
CPT = TRAINING | {"output": "mine"}
OTHER = CPT | {"name": "other", "seed": 1}
MERGE = {
    "kind": "merge", "name": "merge", "base_model": "model", "adapters": [{"path": "lora"}], "output": "mine",
    "resources": {"time": "1h"},
}  # fmt: skip
VOCABULARY = {
    "kind": "vocabulary", "name": "words", "tokenizer": "tokenizer", "output": "mine",
    "sources": PREPARE["sources"], "resources": {"time": "1h"},
}  # fmt: skip


@pytest.fixture
def cluster(make_cluster: MakeCluster, tmp_path: Path) -> Cluster:
    """A site with a model, an adapter and a corpus."""
    site = make_cluster()
    make_model(site, "model")
    make_adapter(site, "lora")
    make_corpus(site, "text")
    return site


@pytest.fixture
def submit(cluster: Cluster, fake_slurm: FakeSlurm, tmp_path: Path) -> Submit:
    """Type `launcher submit` with recipes, each in a file of its own."""
    profile = tmp_path / "site.yaml"
    profile.write_text(yaml.safe_dump(cluster.model_dump(mode="json", exclude_defaults=True)))

    def type_it(*recipes: Recipe, options: tuple[str, ...] = (), command: str = "submit", code: int = 0) -> Any:
        paths = [tmp_path / f"{place}.yaml" for place in range(len(recipes))]
        for path, recipe in zip(paths, recipes, strict=True):
            path.write_text(json.dumps(recipe))
        options = (*options, "--yes") if command == "submit" else options
        return launcher(command, *map(str, paths), "--cluster", str(profile), *options, code=code)

    return type_it


@pytest.mark.parametrize("command", ["submit", "validate"])
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (CPT, OTHER, "1.yaml:1: output: `rates` makes `mine`, too; write another name"),
        (CPT, CPT | {"name": "longer", "schedule": {"length": "9 steps"}}, "output: `rates` makes `mine`, too"),
        (CPT, MERGE, "output: `rates` makes `mine`, too"),
        (MERGE, MERGE | {"dtype": "fp32"}, "output: `merge` makes `mine`, too"),
        (CPT, CPT | {"name": "adapted", "adapter": {"method": "lora"}}, "output: `rates` makes `mine`, too"),
        (CPT, VOCABULARY, "output: `rates` makes `mine`, too"),
        (VOCABULARY, VOCABULARY | {"new_tokens": 9}, "output: `words` makes `mine`, too"),
        (PREPARE, PREPARE | {"seed": 2, "validation": 0.1}, "corpus: `abstracts` makes `abstracts` from other files"),
    ],
)
def test_two_recipes_that_give_one_name_are_refused(
    submit: Submit, cluster: Cluster, command: str, first: Recipe, second: Recipe, said: str
) -> None:
    assert said in submit(first, second, command=command, code=2)[1]
    assert all_runs(cluster) == []


def test_what_comes_to_the_same_may_have_one_name(submit: Submit, cluster: Cluster) -> None:
    """The first to finish makes it, and the others find it made."""
    submit(MERGE, MERGE | {"name": "as well", "resources": {"time": "2h"}}, PREPARE, PREPARE | {"name": "as well"})

    assert len(all_runs(cluster)) == 4


def finish(run: Path) -> None:
    append_event(RunDir(run).ledger, 0, job_id="1001", started=1.0, ended=2.0, reason="error", action="stop")


def test_a_name_that_a_queued_run_will_give_is_taken_until_the_run_is_over(
    submit: Submit, cluster: Cluster, fake_slurm: FakeSlurm
) -> None:
    submit(CPT)
    [run] = all_runs(cluster)

    said = submit(OTHER, code=2)[1]

    id_ = run.name.rpartition("-")[2]
    assert f"0.yaml:1: output: run `{id_}`, which is queued, makes `mine`; write another name" in said
    assert "output: run" in submit(MERGE, code=2)[1]
    assert "output: run" in submit(CPT, options=("--rerun",), code=2)[1]
    assert "is queued or running as" in submit(CPT)[1]
    assert len(all_runs(cluster)) == 1
    submit(OTHER | {"output": "another"})
    fake_slurm.forget("1001")
    finish(run)
    submit(OTHER)
    assert len(all_runs(cluster)) == 3


def test_corpora_of_one_name_are_compared_with_those_under_way(submit: Submit, cluster: Cluster) -> None:
    submit(PREPARE)

    submit(PREPARE | {"name": "as well"})
    said = submit(PREPARE | {"validation": 0.1}, code=2)[1]

    assert "corpus: run `" in said and "which is queued, makes `abstracts`" in said
    assert len(all_runs(cluster)) == 2


def test_a_rehearsal_takes_the_name_of_one_that_is_under_way(submit: Submit, cluster: Cluster) -> None:
    rehearsed = [one | {"rehearsal": {"schedule": {"length": "2 steps"}}} for one in (CPT, OTHER)]

    for one in rehearsed:
        submit(one, options=("--rehearse",))

    assert len(all_runs(cluster)) == 2
    assert "output: run" in submit(CPT | {"seed": 9}, code=2)[1]  # what is no rehearsal is refused at its start


def test_another_site_may_have_the_name(submit: Submit, cluster: Cluster, tmp_path: Path) -> None:
    """Two profiles with one folder of runs and models of their own."""
    submit(CPT)
    profile = tmp_path / "site.yaml"
    profile.write_text(profile.read_text().replace(f"{tmp_path}/models", f"{tmp_path}/others"))
    (tmp_path / "models").rename(tmp_path / "others")

    submit(OTHER)

    assert len(all_runs(cluster)) == 2


def test_a_recipe_that_is_there_twice_is_queued_once(submit: Submit, cluster: Cluster, fake_slurm: FakeSlurm) -> None:
    recipe = TRAINING

    printed, said = submit(recipe, recipe, recipe | {"name": "other"}, recipe, options=("--json",))

    assert said == "rates: is there more than once; it is queued once (--rerun queues each)\n"
    assert [run["name"] for run in json.loads(printed)["runs"]] == ["rates", "other"]
    assert len(all_runs(cluster)) == 2 == len(fake_slurm.queue())


def test_a_recipe_that_is_there_twice_is_no_conflict_with_itself(submit: Submit) -> None:
    assert submit(CPT, CPT, command="validate")[0].count(": ok: rates") == 2


def test_points_that_are_there_twice_are_queued_once(submit: Submit, cluster: Cluster) -> None:
    swept = TRAINING | {"sweep": {"grid": {"seed": [1, 2]}}}

    submit(swept, swept)

    assert len(all_runs(cluster)) == 2


def test_rerun_queues_each_of_them(submit: Submit, cluster: Cluster) -> None:
    recipe = TRAINING

    _, said = submit(recipe, recipe, options=("--rerun",))

    assert len(all_runs(cluster)) == 2 and "more than once" not in said
    assert "output: `rates` makes `mine`, too" in submit(CPT, CPT, options=("--rerun",), code=2)[1]


def test_files_beside_two_recipes_are_not_the_same(submit: Submit, cluster: Cluster, tmp_path: Path) -> None:
    recipe = TRAINING | {"model": {"path": "./model"}}
    for name in ("one", "two"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
        (tmp_path / name / "r.yaml").write_text(json.dumps(recipe))

    launcher(
        *("submit", f"{tmp_path}/one/r.yaml", f"{tmp_path}/two/r.yaml", f"{tmp_path}/one/r.yaml"),
        *("--cluster", f"{tmp_path}/site.yaml", "--yes"),
    )

    assert len(all_runs(cluster)) == 2


BESIDE = {"sources": [{"format": "pile", "files": "./a.jsonl"}], "tokenizer": "./tokenizer"}


def in_folders(folder: Path, **recipes: Recipe) -> list[str]:
    """Write recipes into folders of their own, each with a text and a tokenizer beside it."""
    for name, recipe in recipes.items():
        (folder / name / "tokenizer").mkdir(parents=True)
        (folder / name / "tokenizer" / "tokenizer.json").write_text("{}")
        (folder / name / "a.jsonl").touch()
        (folder / name / "r.yaml").write_text(json.dumps(recipe))
    return [f"{folder}/{name}/r.yaml" for name in recipes]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("recipe", "key"),
    [(PREPARE | BESIDE, "corpus"), (VOCABULARY | BESIDE, "output")],
    ids=["compared by decisive keys", "compared as a whole"],
)
def test_files_that_a_base_in_another_folder_names_are_the_same(
    submit: Submit, cluster: Cluster, tmp_path: Path, recipe: Recipe, key: str, at_once: bool
) -> None:
    first, based, other = in_folders(
        tmp_path, one=recipe, based={"base": "../one/r.yaml", "name": "based"}, other=recipe | {"name": "other"}
    )
    to_site = ("--cluster", f"{tmp_path}/site.yaml", "--yes")

    if at_once:
        refused = launcher("submit", first, other, *to_site, code=2)[1]
        launcher("submit", first, based, *to_site)
    else:
        launcher("submit", first, *to_site)
        launcher("submit", based, *to_site)
        refused = launcher("submit", other, *to_site, code=2)[1]

    assert len(all_runs(cluster)) == 2
    assert f"{key}: {'`' if at_once else 'run `'}" in refused, "files of the same names, in another folder"


def test_stages_of_a_pipeline_that_give_one_name_to_two_types_are_refused(submit: Submit, tmp_path: Path) -> None:
    stages = {"adapt": {"recipe": CPT | {"adapter": {"method": "lora"}}}, "merge": {"recipe": MERGE}}

    said = submit({"kind": "pipeline", "name": "p", "stages": stages}, code=2)[1]

    assert "stages.merge: stage `adapt` makes `mine`, too; set another name in one of them" in said
