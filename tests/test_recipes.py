"""Every file under recipes/: it loads, rehearses, and its published values are there."""

from pathlib import Path

import pytest

from launcher.devcluster.config import Layout, Settings, Shape, cluster_profile
from launcher.load import load_cluster, load_recipes
from launcher.plan import check
from launcher.recipe import ClassifyRecipe, CptRecipe, MergeRecipe, SftRecipe, VocabularyRecipe
from launcher.recipe.adapter import Lora
from launcher.recipe.molora import MoLora, Orthogonal
from launcher.recipe.notes import CoreNotes
from launcher.recipe.training import TrainingRecipe
from tests.loading import write

FOLDER = Path(__file__).parents[1] / "recipes"
PROFILES = sorted((FOLDER / "clusters").rglob("*.yaml"))
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path not in PROFILES)


def test_there_are_recipes_and_profiles() -> None:
    assert len(RECIPES) >= 2
    assert {path.stem for path in PROFILES} >= {"a100", "dev", "local"}


@pytest.mark.parametrize("rehearse", [False, True])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads(path: Path, rehearse: bool) -> None:
    assert load_recipes(path, rehearse=rehearse)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_says_what_it_needs_and_takes(path: Path) -> None:
    header = path.read_text(encoding="utf-8").partition("kind:")[0]

    assert "# Needs: " in header
    assert "# Takes: " in header
    assert f"launcher submit recipes/{path.relative_to(FOLDER)}" in header


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_loads(path: Path) -> None:
    assert load_cluster(str(path)).name == path.stem


def test_biomed_llama_has_its_published_values() -> None:
    (loaded,) = load_recipes(FOLDER / "biomed_llama_cpt.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, CptRecipe)
    assert (recipe.resources.nodes, recipe.resources.gpus_per_node, recipe.resources.gpu_memory) == (8, 4, "80GB")
    assert (recipe.batch.sequences, recipe.batch.sequence_length, recipe.accumulation_steps) == (2048, 2048, 64)
    assert (recipe.shard_size, recipe.replicas, recipe.parallel.reshard_after_forward) == (4, 8, False)
    optim, schedule = recipe.optim, recipe.schedule
    assert (optim.lr, optim.betas, optim.weight_decay, optim.clip_norm) == (3e-5, (0.9, 0.95), 0.1, 1.0)
    assert (schedule.shape, schedule.floor) == ("truncated_cosine", 0.1)
    assert (schedule.warmup, schedule.length) == ("3%", "1 epoch")
    assert (recipe.precision.dtype, recipe.precision.tf32) == ("bf16", True)


def test_medicalgpts_vocabulary_has_its_published_values() -> None:
    (loaded,) = load_recipes(FOLDER / "medicalgpt_vocabulary.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, VocabularyRecipe)
    assert (recipe.new_tokens, recipe.max_characters, recipe.clean.normalise) == (20_000, 16, "nfkc")


def test_medicalgpts_first_stage_has_its_published_values() -> None:
    (loaded,) = load_recipes(FOLDER / "medicalgpt_pt.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, CptRecipe)
    assert isinstance(recipe.adapter, Lora)
    assert (recipe.adapter.r, recipe.adapter.alpha, recipe.adapter.dropout) == (8, 32, 0.05)
    assert recipe.adapter.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (recipe.adapter.embeddings, recipe.model.tokenizer) == ("all", "llama-7b-medical")
    assert (recipe.batch.micro_batch, recipe.accumulation_steps, recipe.batch.sequence_length) == (4, 1, 1024)
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.schedule.warmup) == (2e-5, 0.01, "5%")
    assert (recipe.schedule.length, recipe.schedule.shape) == ("1 epoch", "linear")


@pytest.mark.parametrize("task", ["medqa", "medmcqa", "pubmedqa"])
def test_biomed_llamas_tasks_have_their_published_values(task: str) -> None:
    (loaded,) = load_recipes(FOLDER / f"biomed_llama_{task}.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, SftRecipe)
    assert [source.format for source in recipe.data.sources] == [task]
    assert recipe.data.chat_template == "plain"
    assert (recipe.batch.sequences, recipe.accumulation_steps, recipe.batch.sequence_length) == (128, 16, 2048)
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.betas) == (2e-5, 1e-4, (0.9, 0.999))
    assert (recipe.schedule.length, recipe.schedule.shape, recipe.schedule.warmup) == ("3 epochs", "cosine", "3%")
    assert (recipe.parallel.strategy, recipe.model.activation_checkpointing) == ("full_shard", True)
    assert (recipe.checkpoint.interval, recipe.checkpoint.keep) == ("300 steps", 3)


def test_clinical_recipes_are_credentialed_and_keep_to_the_site() -> None:
    clinical = [path for path in RECIPES if "mimic" in path.stem or "clinical" in path.stem]
    loaded = [item for path in clinical for rehearse in (False, True) for item in load_recipes(path, rehearse=rehearse)]
    recipes = [item.recipe for item in loaded]
    notes = [recipe for recipe in recipes if recipe.name not in ("prepare-pubmed", "prepare-pubmed-rehearsal")]

    assert len(notes) == 30
    assert {recipe.data_use for recipe in notes} == {"credentialed"}
    assert {recipe.tracking.mode for recipe in notes if isinstance(recipe, TrainingRecipe)} == {"offline"}


def test_the_clinical_adapter_has_its_published_values() -> None:
    (loaded,) = load_recipes(FOLDER / "clinical_llama_lora_mimic.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, CptRecipe)
    assert isinstance(recipe.adapter, Lora)
    assert (recipe.adapter.r, recipe.adapter.alpha, recipe.adapter.targets) == (16, 32, ("q_proj", "v_proj"))
    assert (recipe.batch.sequences, recipe.batch.sequence_length) == (4 * 64, 512)
    assert (recipe.optim.lr, recipe.schedule.length, recipe.seed) == (3e-4, "1 epoch", 1234)


@pytest.mark.parametrize(
    ("task", "rank", "alpha", "dropout"),
    [("los", 16, 4, 0.0), ("mor", 8, 4, 0.2), ("pmv", 16, 32, 0.0), ("diag", 8, 4, 0.1), ("proc", 2, 8, 0.1)],
)
def test_clinical_llama_lora_and_its_baselines_have_their_published_values(
    task: str, rank: int, alpha: int, dropout: float
) -> None:
    (ours,) = load_recipes(FOLDER / f"clinical_llama_lora_{task}.yaml")
    (baseline,) = load_recipes(FOLDER / f"clinical_baseline_{task}.yaml")

    lora, encoder = ours.recipe, baseline.recipe
    assert isinstance(lora, ClassifyRecipe)
    assert isinstance(encoder, ClassifyRecipe)
    assert isinstance(lora.adapter, Lora)
    assert (lora.adapter.r, lora.adapter.alpha, lora.adapter.dropout) == (rank, alpha, dropout)
    assert lora.adapter.targets == ("q_proj", "v_proj")
    assert [(one.path, one.trainable) for one in lora.model.adapters] == [("clinical-llama-lora", True)]
    assert (lora.batch.micro_batch, lora.accumulation_steps, lora.optim.lr) == (8, 2, 5e-5)
    assert encoder.adapter is None
    assert (encoder.batch.micro_batch, encoder.accumulation_steps, encoder.optim.lr) == (32, 2, 5e-5)
    for recipe in (lora, encoder):
        assert isinstance(recipe.data, CoreNotes)
        assert (recipe.data.task, recipe.schedule.length, recipe.evaluation.metric) == (task, "10 epochs", "auroc")
        assert (recipe.class_weights == "none") == (recipe.data.labels == "multilabel")


@pytest.mark.parametrize(("stage", "epochs", "kept"), [(1, "1 epoch", 10), (2, "3 epochs", 2)])
def test_medcares_stages_have_their_published_values(stage: int, epochs: str, kept: int) -> None:
    (loaded,) = load_recipes(FOLDER / f"medcare_stage{stage}.yaml")

    recipe = loaded.recipe
    assert isinstance(recipe, SftRecipe)
    assert (recipe.resources.nodes, recipe.resources.gpus_per_node, recipe.parallel.strategy) == (1, 4, "zero3")
    assert (recipe.batch.sequences, recipe.batch.micro_batch, recipe.accumulation_steps) == (128, 4, 8)
    assert (recipe.batch.sequence_length, recipe.precision.dtype) == (3072, "bf16")
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.clip_norm) == (2e-4, 0.0, 1.0)
    assert (recipe.schedule.length, recipe.schedule.shape, recipe.schedule.warmup) == (epochs, "cosine", "3%")
    assert (recipe.schedule.floor, recipe.checkpoint.interval, recipe.checkpoint.keep) == (0.0, "300 steps", kept)


def test_medcares_adapters_have_their_published_values() -> None:
    first, second = (load_recipes(FOLDER / f"medcare_stage{stage}.yaml")[0].recipe for stage in (1, 2))

    assert isinstance(first, SftRecipe)
    assert isinstance(second, SftRecipe)
    mixture, pair = first.adapter, second.adapter
    assert isinstance(mixture, MoLora)
    assert (mixture.r, mixture.alpha, mixture.dropout, mixture.balance) == (16, 32, 0.05, 0)
    assert (mixture.experts, mixture.top_k, mixture.shared_experts) == (8, 2, 2)
    assert isinstance(pair, Orthogonal)
    assert (pair.lambda1, pair.lambda2, pair.dropout, pair.base_trains) == (1, 0, 0.05, True)
    assert pair.r == pair.base_rank == mixture.r * mixture.shared_experts
    assert pair.alpha / pair.r == mixture.alpha / mixture.r


@pytest.mark.parametrize("rehearse", [False, True])
def test_medcares_recipes_follow_each_other(rehearse: bool) -> None:
    parts = ("stage1", "merge", "stage2")
    first, merge, second = (load_recipes(FOLDER / f"medcare_{one}.yaml", rehearse=rehearse)[0].recipe for one in parts)

    assert isinstance(first, SftRecipe)
    assert isinstance(merge, MergeRecipe)
    assert isinstance(second, SftRecipe)
    assert isinstance(second.adapter, Orthogonal)
    assert merge.base_model == first.model.path
    assert [(adapter.path, adapter.only) for adapter in merge.adapters] == [(first.makes, "attention")]
    assert (second.model.path, second.adapter.start_from) == (merge.makes, first.makes)


def test_medicalgpts_recipes_follow_each_other() -> None:
    parts = ("vocabulary", "pt", "merge", "sft")
    tokens, first, merge, second = (load_recipes(FOLDER / f"medicalgpt_{one}.yaml")[0].recipe for one in parts)

    assert isinstance(first, CptRecipe)
    assert isinstance(merge, MergeRecipe)
    assert isinstance(second, SftRecipe)
    assert first.model.tokenizer == tokens.makes
    assert (merge.base_model, [adapter.path for adapter in merge.adapters]) == (first.model.path, [first.makes])
    assert second.model.path == merge.makes


def test_the_rehearsals_can_run_with_nothing_but_what_is_shipped(tmp_path: Path) -> None:
    profile = "name: site\nroots: {runs: r, data: d, corpora: c, models: m}\ngpus: {device: cpu}\nslurm: {lead: 60s}\n"
    cluster = load_cluster(str(write(tmp_path, profile, "profile.yaml")))
    rehearsals = [item.recipe for path in RECIPES for item in load_recipes(path, rehearse=True)]

    made = {recipe.makes: recipe.data_use for recipe in rehearsals if recipe.makes}
    found = [fault for recipe in rehearsals for fault in check(recipe, cluster, str(FOLDER), made)]

    assert not found


def test_the_dev_profile_is_what_the_dev_cluster_writes(tmp_path: Path) -> None:
    layout = Layout(Path("~/.launcher/devcluster"))
    settings = Settings(Shape(), (22, 5), "me", "here", "127.0.0.1", False, 20000, (20001,), 20002)
    written = load_cluster(str(write(tmp_path, cluster_profile(settings, layout), "cluster.yaml")))

    shipped = load_cluster(str(FOLDER / "clusters" / "dev.yaml"))

    assert shipped.slurm.lead.seconds == written.slurm.lead.seconds
    lead = {"slurm": shipped.slurm.model_copy(update={"lead": written.slurm.lead})}
    assert shipped.model_copy(update=lead) == written
