"""What a name given to `launcher chat` means, on a site with runs, models and adapters."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.errors import LauncherError, RunError
from launcher.load import load_recipes
from launcher.operate.chat_subject import FoundSubject, SubjectOptions, find_subject
from launcher.recipe import Recipe
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord

RECIPES = Path(__file__).parents[2] / "recipes"
STORIES, LORA = RECIPES / "assets" / "stories260k", RECIPES / "assets" / "stories260k_lora"
NOTHING = SubjectOptions()


@dataclass
class ChatSite:
    """A site with the shipped Llama as `llama`."""

    cluster: Cluster
    models: Path
    runs: Path

    def run(self, recipe: Recipe, run_id: str = "abc123", folder: str | None = None) -> RunDir:
        """Make the directory of a run."""
        run = RunDir(self.runs / f"{recipe.name}-20261129-120000-{run_id}")
        run.outputs.mkdir(parents=True)
        run.recipe.write_text(recipe.model_dump_json())
        cluster = self.cluster.model_dump(mode="json")
        RunRecord(run_id, recipe.name, recipe.kind, "f", 0.0, "h", None, folder or str(self.runs), "", cluster).write(
            run.record
        )
        return run

    def find(self, target: str, options: SubjectOptions = NOTHING) -> FoundSubject:
        """Find what a name means."""
        return find_subject(target, self.cluster, options)


@pytest.fixture
def site(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> ChatSite:
    (tmp_path / "runs").mkdir()
    shutil.copytree(STORIES, tmp_path / "models" / "llama")
    return ChatSite(make_cluster(), tmp_path / "models", tmp_path / "runs")


def recipe(name: str, *changes: str) -> Recipe:
    [loaded] = load_recipes(RECIPES / f"{name}.yaml", changes)
    return loaded.recipe


def sft(*changes: str) -> Recipe:
    return recipe("medicalgpt_sft", "model.path=llama", "data.system_prompt=Be kind.", *changes)


def export_adapter(folder: Path, base: str = "llama", **manifest: Any) -> None:
    shutil.copytree(LORA, folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    said = {"base_model": base, "data_use": "open", "beneath": []} | manifest
    (folder / "manifest.json").write_text(json.dumps(said))


def test_of_a_run_that_trained_an_adapter_base_adapter_template_and_prompt_are_found(site: ChatSite) -> None:
    run = site.run(sft())
    export_adapter(run.outputs / "model")

    for name in ("abc123", "medicalgpt-sft", str(run.root), str(run.outputs / "model")):
        found = site.find(name)
        assert found.subject.base == str(site.models / "llama")
        assert found.subject.adapters == {"none": (), "medicalgpt-sft": (str(run.outputs / "model"),)}
        assert (found.subject.choice, found.subject.title) == ("medicalgpt-sft", "medicalgpt-sft")
        assert (found.subject.template, found.subject.system_prompt) == ("alpaca", "Be kind.")
        assert (found.seed, found.resources) == (42, sft().resources)


def test_the_name_that_a_run_gave_its_model_leads_to_its_recipe(site: ChatSite) -> None:
    run = site.run(sft("output=our-model"))
    export_adapter(run.outputs / "model")
    (site.models / "our-model").symlink_to(run.outputs / "model")

    assert site.find("our-model").subject.system_prompt == "Be kind."


def test_a_whole_model_is_its_own_base(site: ChatSite) -> None:
    run = site.run(sft("adapter=null"))
    shutil.copytree(STORIES, run.outputs / "model")
    found = site.find("abc123").subject

    assert (found.base, found.adapters, found.choice) == (str(run.outputs / "model"), {"none": ()}, "none")


def test_adapters_beneath_come_first(site: ChatSite) -> None:
    run = site.run(sft())
    export_adapter(site.models / "earlier")
    beneath = [{"path": "earlier", "folder": None}, {"path": "other", "folder": "other-1"}]
    export_adapter(run.outputs / "model", beneath=beneath)

    [_, stack] = site.find("abc123").subject.adapters.values()
    own = run.outputs / "model"
    assert stack == (str(site.models / "earlier"), str(own / "other-1"), str(own))


def test_a_run_that_generates_is_asked_as_it_asked(site: ChatSite) -> None:
    changes = ("model.path=llama", "model.adapters=[{path: lora}]", "decoding.temperature=0.5", "decoding.top_p=0.9")
    site.run(recipe("generate_medcare", *changes))
    export_adapter(site.models / "lora")
    found = site.find("generate-medcare")

    assert found.subject.base == str(site.models / "llama")
    assert [*found.subject.adapters.values()] == [(), (str(site.models / "lora"),)]
    assert (found.subject.template, found.subject.system_prompt) == ("chatml", "You are a helpful assistant.")
    assert (found.decoding.temperature, found.decoding.top_p, found.decoding.max_new_tokens) == (0.5, 0.9, 1024)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("biomed_llama_cpt", "has no model yet"),
        ("medicalgpt_sft", "has no model yet"),
        ("medicalgpt_dpo", "has no model yet"),
        ("medicalgpt_ppo", "has no model yet"),
        ("medicalgpt_merge", "has no model yet"),
        ("medicalgpt_reward", "of kind `reward`, and has no model that writes text"),
        ("clinical_baseline_diag", "of kind `classify`, and has no model that writes text"),
        ("prepare_medline", "of kind `prepare`, and has no model that writes text"),
        ("medicalgpt_vocabulary", "of kind `vocabulary`, and has no model that writes text"),
    ],
)
def test_every_kind_says_whether_it_makes_a_model_that_writes(site: ChatSite, name: str, fault: str) -> None:
    site.run(recipe(name))
    with pytest.raises(RunError, match=fault):
        site.find("abc123")


def test_of_a_run_that_evaluates_its_model_is_asked(site: ChatSite) -> None:
    site.run(recipe("biomed_llama_eval", "model.path=llama"))
    assert site.find("abc123").subject.base == str(site.models / "llama")


def test_a_credentialed_run_or_adapter_makes_it_credentialed(site: ChatSite) -> None:
    run = site.run(sft("data_use=credentialed"))
    export_adapter(run.outputs / "model")
    export_adapter(site.models / "closed", data_use="credentialed")

    assert site.find("abc123").subject.data_use == "credentialed"
    assert site.find("llama").subject.data_use == "open"
    assert site.find("llama", SubjectOptions(["closed"])).subject.data_use == "credentialed"
    assert site.find("closed").subject.data_use == "credentialed"


def test_further_adapters_are_choices(site: ChatSite) -> None:
    run = site.run(sft())
    export_adapter(run.outputs / "model")
    export_adapter(site.models / "other")
    found = site.find("abc123", SubjectOptions(["other"], "llama2", "fp32")).subject

    assert [*found.adapters] == ["none", "medicalgpt-sft", "other"]
    assert (found.template, found.model.dtype, found.choice) == ("llama2", "fp32", "medicalgpt-sft")
    assert [*site.find("llama", SubjectOptions(["abc123"])).subject.adapters] == ["none", "medicalgpt-sft"]
    with pytest.raises(LauncherError, match="`other` is named twice"):
        site.find("abc123", SubjectOptions(["other", str(site.models / "other")]))


def test_an_adapter_of_another_model_is_refused(site: ChatSite) -> None:
    export_adapter(site.models / "other", base="mistral")
    with pytest.raises(LauncherError, match=r"--adapter other: `other` was trained on `mistral`, not on `.*llama`"):
        site.find("llama", SubjectOptions(["other"]))
    with pytest.raises(LauncherError, match=r"--adapter llama: .* is not an adapter"):
        site.find("llama", SubjectOptions(["llama"]))


def test_the_base_of_a_copied_adapter_is_found_by_its_name_or_must_be_named(site: ChatSite) -> None:
    export_adapter(site.models / "copied", base="/elsewhere/llama")
    export_adapter(site.models / "lost", base="/elsewhere/gone")
    export_adapter(site.models / "hub", base="org/gone")

    assert site.find("copied").subject.base == str(site.models / "llama")
    assert site.find("hub").subject.base == "org/gone"
    assert site.find("lost", SubjectOptions(base="llama")).subject.base == str(site.models / "llama")
    with pytest.raises(LauncherError, match=r"adapter of `/elsewhere/gone`, which was not found; .*`--base`"):
        site.find("lost")


def test_a_model_comes_before_a_run_and_a_hub_id_after_both(site: ChatSite) -> None:
    site.run(sft("name=llama"))
    assert site.find("llama").subject.base == str(site.models / "llama")
    assert site.find("org/name").subject.base == "org/name"
    with pytest.raises(RunError, match=r"no run below .*\. Nor is there a model `lama` below `.*models`"):
        site.find("lama")
