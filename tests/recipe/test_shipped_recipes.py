"""Every file under recipes/: it loads, its rehearsal needs nothing else, and recipes that belong together fit."""

import re
from collections import Counter
from glob import glob
from pathlib import Path

import pytest

from launcher.devcluster.config import Layout, Settings, Shape, cluster_profile
from launcher.load import load_cluster, load_recipes
from launcher.load.pipeline import load_pipeline
from launcher.pipeline.order import sort_loaded
from launcher.plan import check
from launcher.recipe import CptRecipe, EvaluateRecipe, MergeRecipe, PrepareRecipe, SftRecipe, VocabularyRecipe
from launcher.recipe.base import AdapterInput, Artifact
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.molora import Orthogonal
from tests.support.recipe_files import write

FOLDER = Path(__file__).parents[2] / "recipes"
PROFILES = sorted((FOLDER / "clusters").rglob("*.yaml"))
PIPELINES = sorted((FOLDER / "pipelines").glob("*.yaml"))
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path not in (*PROFILES, *PIPELINES))
_CLINICAL = ("mor", "los", "pmv", "diag", "proc")
AWAITS: dict[str, dict[str, set[str]]] = {
    "biomed_llama": {
        **{"prepare": set(), "before": set(), "pretrain": {"prepare"}, "after": {"pretrain"}},
        **{name: {"pretrain"} for name in ("tune-medqa", "tune-medmcqa", "tune-pubmedqa", "instruct")},
        **{"medqa": {"tune-medqa"}, "medmcqa": {"tune-medmcqa"}, "pubmedqa": {"tune-pubmedqa"}},
        **{"instructed": {"instruct"}},
    },
    "clinical_llama_lora": {
        **{"prepare": set(), "adapt": {"prepare"}, "perplexity": {"adapt", "prepare"}, "outcomes": set()},
        **{task: {"adapt", "outcomes"} for task in _CLINICAL},
        **{f"baseline-{task}": {"outcomes"} for task in _CLINICAL},
    },
    "medcare": {
        **{"stage1": set(), "taia": {"stage1"}, "stage2": {"stage1", "taia"}},
        **{"answers": {"stage2", "taia"}, "exams": {"stage2", "taia"}},
    },
    "medicalgpt": {
        **{"vocabulary": set(), "prepare": {"vocabulary"}, "pretrain": {"vocabulary", "prepare"}},
        **{"merge-pretrained": {"pretrain"}, "sft": {"merge-pretrained"}, "merge-sft": {"merge-pretrained", "sft"}},
        **{"reward": {"merge-sft"}, "ppo": {"merge-sft", "reward"}},
    },
    "pubmedqa_qlora": {
        **{"terms": set(), "train": set(), "train-terms": {"terms"}},
        **{"evaluate": {"train"}, "evaluate-terms": {"train-terms"}, "export": {"train-terms"}},
    },
}
"""By pipeline and stage, in order: the stages that it waits for."""


def test_there_are_recipes_and_profiles() -> None:
    assert len(RECIPES) >= 2
    assert {path.stem for path in PROFILES} >= {"a100", "dev", "local"}


@pytest.mark.parametrize("rehearse", [False, True])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads(path: Path, rehearse: bool) -> None:
    assert load_recipes(path, rehearse=rehearse)


@pytest.mark.parametrize("rehearse", [False, True])
@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_shipped_pipeline_loads_and_its_stages_fit_together(path: Path, rehearse: bool) -> None:
    awaits = sort_loaded(load_pipeline(path, rehearse=rehearse))

    assert awaits == AWAITS[path.stem]
    assert [*awaits] == [*AWAITS[path.stem]]


def test_clinical_llama_loras_grids_are_the_published_ones() -> None:
    path = FOLDER / "pipelines" / "clinical_llama_lora.yaml"
    loaded, rehearsed = load_pipeline(path), load_pipeline(path, rehearse=True)

    points = Counter(stage.sweep for stage in loaded.stages if stage.sweep)
    assert points == {
        **{"adapt": 27},
        **dict.fromkeys(_CLINICAL, 48),
        **{f"baseline-{task}": 4 for task in _CLINICAL},
    }
    assert {one.name: (one.metric, one.direction) for one in loaded.choices} == {
        **{"adapt": ("token_perplexity", "minimize")},
        **dict.fromkeys(_CLINICAL, ("auroc", "maximize")),
    }
    few = Counter(stage.sweep for stage in rehearsed.stages if stage.sweep)
    assert set(few.values()) == {1, 2}


@pytest.mark.parametrize("path", [*RECIPES, *PIPELINES], ids=lambda path: path.stem)
def test_a_shipped_recipe_says_what_it_needs_and_takes(path: Path) -> None:
    header = path.read_text(encoding="utf-8").partition("kind:")[0]

    assert "# Needs: " in header
    assert "# Takes: " in header
    assert f"launcher submit recipes/{path.relative_to(FOLDER)}" in header or "launcher doctor --submit" in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_head_of_a_recipe_names_each_folder_that_it_reads_files_from(path: Path) -> None:
    inputs = [one for item in load_recipes(path) for one in item.recipe.inputs()]
    folders = {one.name.partition("/")[0] for one in inputs if one.type in ("files", "preferences")}

    assert [name for name in sorted(folders) if not re.search(rf"(?<![\w/]){name}/", needs_of(path))] == []


def needs_of(path: Path) -> str:
    """What a recipe needs, as its head says it, and what the recipes need to which that refers."""
    needs = path.read_text(encoding="utf-8").partition("# Needs: ")[2].partition("# Takes: ")[0].replace("\n#  ", "")
    referred = re.match(r"(?:what|the same as) ((?:\w+\.yaml(?:, | and )?)+)", needs)
    names = re.findall(r"\w+\.yaml", referred[1]) if referred else []
    return " ".join([needs, *(needs_of(FOLDER / name) for name in names)])


@pytest.mark.parametrize("path", [*RECIPES, *PIPELINES], ids=lambda path: path.stem)
def test_a_rehearsal_reads_by_no_key_that_is_empty_without_it(path: Path) -> None:
    more = keys_of_inputs(path, rehearse=True) - keys_of_inputs(path)

    assert [key for key in more if f"--set {key}=" not in path.read_text(encoding="utf-8")] == []


def keys_of_inputs(path: Path, rehearse: bool = False) -> set[str]:
    """Keys by which a recipe reads something, or a pipeline with the stage before it; whatever the place in a list."""
    if path in PIPELINES:
        stages = load_pipeline(path, rehearse=rehearse).stages
        named = [(f"{one.sweep or one.name}.", one.loaded) for one in stages]
    else:
        named = [("", one) for one in load_recipes(path, rehearse=rehearse)]
    keys = [f"{before}{one.key}" for before, item in named for one in item.recipe.inputs()]
    return {re.sub(r"\.\d+\b", ".*", key) for key in keys}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/someone")

    assert load_cluster(str(path)).name == path.stem


def test_medicalgpts_vocabulary_has_its_published_values() -> None:
    (loaded,) = load_recipes(FOLDER / "medicalgpt_vocabulary.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, VocabularyRecipe)
    assert (recipe.new_tokens, recipe.max_characters, recipe.clean.normalise) == (20_000, 16, "nfkc")


def test_clinical_recipes_are_credentialed_and_keep_to_the_site() -> None:
    clinical = [path for path in RECIPES if "mimic" in path.stem or "clinical" in path.stem]
    loaded = [item for path in clinical for rehearse in (False, True) for item in load_recipes(path, rehearse=rehearse)]
    recipes = [item.recipe for item in loaded]
    notes = [recipe for recipe in recipes if recipe.name not in ("prepare-pubmed", "prepare-pubmed-rehearsal")]

    assert len(notes) == 36
    assert {recipe.data_use for recipe in notes} == {"credentialed"}
    assert {recipe.tracking.mode for recipe in notes if isinstance(recipe, TrainingRecipe | EvaluateRecipe)} == {
        "offline"
    }


def test_the_mimic_iv_recipes_read_the_notes_and_no_other_table_of_physionets_folder(tmp_path: Path) -> None:
    tables = ("discharge", "discharge_detail", "radiology", "radiology_detail")
    for table in tables:
        write(tmp_path, "", f"mimic-iv-note/{table}.csv.gz")
    recipes = [
        load_recipes(FOLDER / f"{name}.yaml")[-1].recipe for name in ("prepare_mimic_iv", "prepare_pubmed_and_mimic")
    ]

    for recipe in recipes:
        assert isinstance(recipe, PrepareRecipe)
        patterns = [source.files for source in recipe.sources if source.format == "mimic_iv"]
        found = [path.name for pattern in patterns for path in sorted(tmp_path.glob(pattern))]
        assert found == ["discharge.csv.gz", "radiology.csv.gz"]


def test_recipes_decontaminate_against_evaluation_sets_of_every_format(tmp_path: Path) -> None:
    sets = ("medqa/test.jsonl", "pubmedqa/ori_pqal.json", "mmlu/test/anatomy_test.csv", "medmcqa.jsonl.gz")
    for name in (*sets, "README.md", "mmlu/LICENSE.txt"):
        write(tmp_path, "", f"evaluation/{name}")

    for name in ("prepare_medline", "prepare_pmc", "prepare_pubmed_and_mimic"):
        recipe = load_recipes(FOLDER / f"{name}.yaml")[0].recipe
        assert isinstance(recipe, PrepareRecipe)
        assert recipe.clean.decontaminate is not None
        (pattern,) = recipe.clean.decontaminate.files
        found = glob(str(tmp_path / pattern), recursive=True)
        assert {Path(path).relative_to(tmp_path / "evaluation").as_posix() for path in found} == set(sets)


@pytest.mark.parametrize("rehearse", [False, True])
def test_medcares_recipes_follow_each_other(rehearse: bool) -> None:
    parts = ("stage1", "merge", "stage2")
    first, merge, second = (load_recipes(FOLDER / f"medcare_{one}.yaml", rehearse=rehearse)[0].recipe for one in parts)

    assert isinstance(first, SftRecipe)
    assert isinstance(merge, MergeRecipe)
    assert isinstance(second, SftRecipe)
    assert isinstance(second.adapter, Orthogonal)
    assert merge.base_model == first.model.path
    assert [(adapter.path, adapter.only) for adapter in merge.adapters] == [(first.output, "attention")]
    assert (second.model.path, second.adapter.start_from) == (merge.output, first.output)


def test_medicalgpts_recipes_follow_each_other() -> None:
    parts = ("vocabulary", "pt", "merge", "sft")
    tokens, first, merge, second = (load_recipes(FOLDER / f"medicalgpt_{one}.yaml")[0].recipe for one in parts)

    assert isinstance(first, CptRecipe)
    assert isinstance(merge, MergeRecipe)
    assert isinstance(second, SftRecipe)
    assert tokens.makes == Artifact("tokenizer", str(first.model.tokenizer))
    assert (merge.base_model, [adapter.path for adapter in merge.adapters]) == (first.model.path, [first.output])
    assert merge.makes == Artifact("model", second.model.path)


@pytest.mark.parametrize("rehearse", [False, True])
def test_medicalgpts_later_stages_start_from_the_merged_second_one(rehearse: bool) -> None:
    parts = ("sft", "merge_sft", "reward", "dpo", "ppo", "rloo", "grpo")
    loaded = {one: load_recipes(FOLDER / f"medicalgpt_{one}.yaml", rehearse=rehearse)[0].recipe for one in parts}
    second, merge, reward = loaded["sft"], loaded["merge_sft"], loaded["reward"]

    assert isinstance(second, SftRecipe)
    assert isinstance(merge, MergeRecipe)
    assert (merge.base_model, [adapter.path for adapter in merge.adapters]) == (second.model.path, [second.output])
    if not rehearse:
        for one in parts[2:]:
            assert {read.key: read.name for read in loaded[one].inputs()}["model.path"] == merge.output, one
        for one in ("ppo", "rloo"):
            found = {read.key: read for read in loaded[one].inputs()}["rewards.0.adapter"]
            assert isinstance(found, AdapterInput)
            assert (found.name, found.base) == (reward.makes.name, reward.model.path)


def test_the_rehearsals_can_run_with_nothing_but_what_is_shipped(tmp_path: Path) -> None:
    profile = "name: site\nroots: {runs: r, data: d, corpora: c, models: m}\ngpus: {device: cpu}\nslurm: {lead: 60s}\n"
    cluster = load_cluster(str(write(tmp_path, profile, "profile.yaml")))
    rehearsals = [item.recipe for path in RECIPES for item in load_recipes(path, rehearse=True)]

    made = {recipe.makes.name: recipe.data_use for recipe in rehearsals if recipe.makes}
    found = [fault for recipe in rehearsals for fault in check(recipe, cluster, str(FOLDER), made)]

    assert not found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_rehearsal_is_submitted_by_a_test_on_a_real_slurm(path: Path) -> None:
    tests = [one.read_text(encoding="utf-8") for one in (Path(__file__).parents[1] / "slurm").glob("*.py")]

    assert any(names(text, path.stem) for text in tests)


def names(text: str, stem: str) -> bool:
    """Tell whether a program has the name of a recipe, in one piece or, as `f"medcare_{part}"`, in two."""
    begins = re.findall(r'f"(\w+_)\{', text)
    return f'"{stem}' in text or any(
        f'"{stem.removeprefix(begin)}"' in text for begin in begins if stem.startswith(begin)
    )


def test_the_dev_profile_is_what_the_dev_cluster_writes(tmp_path: Path) -> None:
    layout = Layout(Path("~/.launcher/devcluster"))
    settings = Settings(Shape(), (22, 5), "me", "here", "127.0.0.1", False, 20000, (20001,), 20002)
    written = load_cluster(str(write(tmp_path, cluster_profile(settings, layout), "cluster.yaml")))

    shipped = load_cluster(str(FOLDER / "clusters" / "dev.yaml"))

    assert shipped.slurm.lead.seconds == written.slurm.lead.seconds
    lead = {"slurm": shipped.slurm.model_copy(update={"lead": written.slurm.lead})}
    assert shipped.model_copy(update=lead) == written
