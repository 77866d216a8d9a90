"""Adapters on top of adapters: what recipes may ask for, what is built, gradients by plain autograd."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from jobs.models.adapters.build import adapted, declared_trainable
from jobs.models.adapters.stack import BaseAdapter, open_base_adapters, stack, trained_names
from launcher.artifacts.adapter_folder import read_adapter
from launcher.cluster import Cluster, Roots
from launcher.errors import LauncherError
from launcher.plan import check
from launcher.recipe import CptRecipe, MergeRecipe
from launcher.recipe.base import Artifact
from launcher.recipe.sections.common import EarlierAdapter
from launcher.run.record import RunRecord
from tests.support.recipe_files import RECIPE, faults, load
from tests.support.training_runs import context_of, cpt_recipe, make_run_of
from tests.support.two_step_adapters import DOWNSTREAM, STORIES, Tensors, make_clinical, put_together, tensors_of

STACKED = RECIPE.replace("path: org/model", "path: org/model, adapters: [{path: clinical}]")


def two_step(**changes: Any) -> CptRecipe:
    model = {"path": "stories260k", "adapters": [{"path": "clinical"}]}
    return CptRecipe.model_validate_json(json.dumps(cpt_recipe(**{"model": model, "adapter": DOWNSTREAM} | changes)))


def built(folder: Path, *trainable: bool) -> tuple[Any, tuple[BaseAdapter, ...]]:
    """The tiny model with a new adapter on top of others."""
    earlier = tuple(
        BaseAdapter(EarlierAdapter(path="x", trainable=one), read_adapter(folder / "clinical"), f"clinical-{place}")
        for place, one in enumerate(trainable)
    )
    adapter = two_step().adapter
    assert adapter is not None
    base = AutoModelForCausalLM.from_pretrained(STORIES)
    return stack(adapted(base, adapter, 1, "CAUSAL_LM", 20), earlier), earlier


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("", "model.adapters: nothing is trained on top of them; add an `adapter`, or merge them into the model first"),
        ("{method: ia3}", "adapter.method: `ia3` "),
        ("{method: oft}", "adapter.method: `oft` "),
        ("{method: lora, dora: true}", "adapter.dora: "),
        ("{method: lora, init: pissa}", "adapter.init: `pissa` "),
        ("{method: lora, embeddings: all}", "adapter.embeddings: "),
        ("{method: lora, bias: all}", "adapter.bias: peft trains biases with one adapter only; write `none`"),
    ],
)
def test_what_does_not_go_on_top_of_an_adapter_is_refused_with_the_reason(
    tmp_path: Path, section: str, told: str
) -> None:
    found = faults(tmp_path, STACKED + (f"adapter: {section}\n" if section else ""))

    assert [fault for fault in found if told in fault]


def test_what_training_starts_from_is_not_written_over(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, STACKED + "adapter: {method: lora}\noutput: clinical\n")

    assert "output: `clinical` is an input of the training" in found
    assert load(tmp_path, STACKED + "adapter: {method: lora}\noutput: downstream\n").makes == Artifact(
        "adapter", "downstream"
    )


def complaints(folder: Path, recipe: Any, pending: dict[str, str] | None = None) -> list[str]:
    (folder / "stories260k").exists() or (folder / "stories260k").symlink_to(STORIES)
    (folder / "words").mkdir(exist_ok=True)
    (folder / "words" / "manifest.json").write_text("{}")
    roots = Roots(runs="r", data="d", corpora=str(folder), models=str(folder))
    cluster = Cluster(name="site", executor="local", roots=roots)
    return [f"{fault.key}: {fault.message}" for fault in check(recipe, cluster, str(folder), pending or {})]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "IA3"}, "`clinical` is `IA3`, not LoRA, which cannot be active together with another adapter"),
        ({"use_dora": True}, "`clinical` scales weights (DoRA)"),
        ({"init_lora_weights": "pissa_niter_4"}, "`clinical` changes the model's weights (`pissa_niter_4`)"),
        ({"bias": "all"}, "`clinical` holds biases"),
        ({"modules_to_save": ["lm_head"]}, "`clinical` holds more than LoRA (`modules_to_save`)"),
        ({"task_type": "SEQ_CLS"}, "`clinical` is an adapter for `SEQ_CLS`"),
        ({"base_model_name_or_path": "org/other"}, "`clinical` was trained on `org/other`"),
    ],
)
def test_an_adapter_that_nothing_goes_on_top_of_is_refused_before_the_queue_and_on_the_node(
    tmp_path: Path, config: dict[str, Any], told: str
) -> None:
    folder = make_clinical(tmp_path / "clinical")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    recipe = cpt_recipe(model={"path": "stories260k", "adapters": [{"path": "./clinical"}]}, adapter=DOWNSTREAM)

    (found,) = complaints(tmp_path, two_step())

    assert f"model.adapters.0.path: {told}" in found
    with pytest.raises(LauncherError, match=r"model.adapters.0.path: `clinical` "):
        open_base_adapters(context_of(make_run_of(recipe, tmp_path)), CptRecipe.model_validate_json(json.dumps(recipe)))


def test_two_steps_of_what_is_there_or_will_be_are_feasible(tmp_path: Path) -> None:
    (missing,) = complaints(tmp_path, two_step())
    pending = complaints(tmp_path, two_step(), {"clinical": "open"})
    make_clinical(tmp_path / "clinical")

    assert missing.startswith("model.adapters.0.path: `clinical` is not below `")
    assert pending == []
    assert complaints(tmp_path, two_step()) == []


def test_a_name_that_is_taken_is_refused_before_the_queue_unless_a_rehearsal_left_it(tmp_path: Path) -> None:
    recipe = two_step(model={"path": "stories260k", "adapters": []}, output="made")
    run = make_run_of(cpt_recipe(), tmp_path)
    export = make_clinical(run.outputs / "model")
    (tmp_path / "made").symlink_to(export)

    assert complaints(tmp_path, recipe) == ["output: there is a model `made` already; write another name, or remove it"]
    record = RunRecord.read(run.record)
    record.rehearsal = True
    record.write(run.record)
    assert complaints(tmp_path, recipe) == []


def test_what_is_made_of_credentialed_data_is_credentialed(tmp_path: Path) -> None:
    told = "`clinical` was made of credentialed data; write `data_use: credentialed`"
    base = two_step(model={"path": "clinical", "adapters": []})

    assert complaints(tmp_path, two_step(), {"clinical": "credentialed"}) == [f"model.adapters.0.path: {told}"]
    assert complaints(tmp_path, base, {"clinical": "credentialed"}) == [f"model.path: {told}"]
    make_clinical(tmp_path / "clinical", data_use="credentialed")
    assert complaints(tmp_path, two_step()) == [f"model.adapters.0.path: {told}"]
    assert f"model.path: {told}" in complaints(tmp_path, base)
    assert complaints(tmp_path, two_step(data_use="credentialed")) == []


def test_an_adapter_is_not_used_without_those_below_it(tmp_path: Path) -> None:
    clinical = make_clinical(tmp_path / "clinical")
    beneath = [{"path": "clinical", "folder": None, "sha256": read_adapter(clinical).digest}]
    downstream = make_clinical(tmp_path / "downstream", targets=["k_proj"])
    (downstream / "manifest.json").write_text(json.dumps({"run": "x", "beneath": beneath}))
    told = "`downstream` was trained on top of the adapter `clinical`; name that one before it"

    def merge(*names: str) -> list[str]:
        fields = {"kind": "merge", "name": "merge", "base_model": "stories260k", "resources": {"time": "1h"}}
        adapters = [{"path": name} for name in names]
        return complaints(tmp_path, MergeRecipe.model_validate_json(json.dumps(fields | {"adapters": adapters})))

    def train(*names: str) -> list[str]:
        adapters = [{"path": name} for name in names]
        return complaints(tmp_path, two_step(model={"path": "stories260k", "adapters": adapters}))

    assert (merge("downstream"), train("downstream")) == (
        [f"adapters.0.path: {told}"],
        [f"model.adapters.0.path: {told}"],
    )
    assert merge("downstream", "clinical") == [f"adapters.0.path: {told}"]
    assert merge("clinical", "downstream") == train("clinical", "downstream") == []


@pytest.mark.parametrize("trainable", [(False,), (True,), (True, False)])
def test_gradients_of_all_adapters_are_those_of_plain_autograd(tmp_path: Path, trainable: tuple[bool, ...]) -> None:
    clinical = make_clinical(tmp_path / "clinical")
    model, earlier = built(tmp_path, *trainable)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    base = AutoModelForCausalLM.from_pretrained(STORIES)
    plain: list[Tensors] = [tensors_of(clinical) for _ in trainable]
    plain.append({k.replace(".default", ""): p.detach().clone() for k, p in model.named_parameters() if "default" in k})
    for tensors, is_trained in zip(plain, (*trainable, True), strict=True):
        for tensor in tensors.values():
            tensor.requires_grad_(is_trained)
    ids = torch.arange(48).reshape(2, 24) + 3

    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    expected = functional_call(base, put_together(base, *plain), kwargs={"input_ids": ids, "labels": ids}).loss
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(gradients) == declared_trainable(model, trained_names(earlier))
    for name, tensors in zip([*(one.name for one in earlier), "default"], plain, strict=True):
        for key, tensor in tensors.items():
            got = gradients.get(key.replace(".weight", f".{name}.weight"))
            assert (got is None) == (tensor.grad is None)
            if got is not None and tensor.grad is not None:
                assert tensor.grad.abs().max() > 1e-4
                torch.testing.assert_close(got, tensor.grad, rtol=1e-4, atol=1e-6)


def test_an_adapter_of_other_layers_does_not_fit(tmp_path: Path) -> None:
    folder = make_clinical(tmp_path / "clinical")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["q_proj"]}))

    with pytest.raises(LauncherError, match=r"adapter `x` does not fit the model: .*v_proj.* is only in the"):
        built(tmp_path, False)


def test_a_frozen_adapter_drops_nothing(tmp_path: Path) -> None:
    make_clinical(tmp_path / "clinical", lora_dropout=0.5)

    frozen, trained = (built(tmp_path, is_trained)[0].train() for is_trained in (False, True))

    ids = torch.arange(24)[None]
    assert torch.equal(frozen(input_ids=ids).logits, frozen(input_ids=ids).logits)
    assert not torch.equal(trained(input_ids=ids).logits, trained(input_ids=ids).logits)
