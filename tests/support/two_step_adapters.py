"""A clinical adapter for tests, and training on top of one by plain autograd on W + s1 B1 A1 + s2 B2 A2."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import default_collate
from transformers import AutoModelForCausalLM

from jobs.data.sampling.corpus_reader import open_corpus
from jobs.models.adapters.build import adapted
from launcher.recipe import CptRecipe
from launcher.run.paths import RunDir
from tests.support.corpora import packed_samples
from tests.support.training_runs import ASSETS, context_of

STORIES = ASSETS / "stories260k"
CLINICAL = {"r": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}
DOWNSTREAM = {"method": "lora", "r": 4, "alpha": 8, "targets": ["q_proj", "k_proj", "v_proj"]}
SCALE = 2.0
"""alpha / r of both."""

Tensors = dict[str, Tensor]


def make_clinical(folder: Path, data_use: str = "open", targets: list[str] | None = None, **config: Any) -> Path:
    """Make an adapter as an earlier run exports it: with something in it, and a manifest."""
    torch.manual_seed(7)
    options = {"r": 2, "lora_alpha": 4, "target_modules": targets or CLINICAL["targets"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(STORIES), LoraConfig(**options | config))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.peft_config["default"].base_model_name_or_path = "stories260k"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "manifest.json").write_text(json.dumps({"run": "before", "corpora": ["notes"], "data_use": data_use}))
    return folder


def tensors_of(folder: Path) -> Tensors:
    """An adapter's weights."""
    return load_file(folder / "adapter_model.safetensors")


@dataclass(frozen=True)
class Reference:
    """Training in a loop of torch alone."""

    losses: list[float]
    clinical: Tensors
    downstream: Tensors


def train_plainly(run: RunDir, clinical: Path, steps: int, is_clinical_trained: bool) -> Reference:
    """Do the first steps of a run with weights that are put together anew in each of them."""
    recipe = context_of(run).recipe
    assert isinstance(recipe, CptRecipe)
    assert recipe.adapter is not None
    base = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32, use_cache=False)
    first = {name: tensor.requires_grad_(is_clinical_trained) for name, tensor in tensors_of(clinical).items()}
    second = _fresh(recipe)
    trained = [*second.values(), *(first.values() if is_clinical_trained else ())]
    optimizer = torch.optim.AdamW(
        trained, lr=recipe.optim.lr, betas=recipe.optim.betas, eps=recipe.optim.eps, weight_decay=0
    )
    found = []
    for step in range(1, steps + 1):
        inputs, labels = batch_of(run, step)
        weights = put_together(base, first, second)
        loss = loss_of(functional_call(base, weights, kwargs=inputs).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return Reference(found, first, second)


def batch_of(run: RunDir, step: int) -> tuple[Tensors, Tensor]:
    """What a run of 8 sequences of 32 tokens reads in a step, counted from 1, and what it is to predict."""
    corpus = open_corpus(run.root.parent / "corpora" / "words")
    samples = packed_samples([corpus], [1], 32, context_of(run).recipe.seed, step * 8)
    batch = default_collate([samples[index] for index in range(step * 8 - 8, step * 8)])
    labels = batch.pop("labels")
    return batch, labels


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss per token."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _fresh(recipe: CptRecipe) -> Tensors:
    """A and B of the new adapter before the first step."""
    assert recipe.adapter is not None
    model = adapted(AutoModelForCausalLM.from_pretrained(STORIES), recipe.adapter, recipe.seed, "CAUSAL_LM", 20)
    new = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return {name.replace(".default", ""): tensor.detach().clone().requires_grad_() for name, tensor in new.items()}


def put_together(base: torch.nn.Module, *adapters: Tensors) -> Tensors:
    """The weights with adapters in them."""
    weights = {}
    for adapter in adapters:
        for key in [key for key in adapter if ".lora_A." in key]:
            name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
            before = weights.get(name, base.get_parameter(name).detach())
            weights[name] = before + SCALE * adapter[key.replace(".lora_A.", ".lora_B.")] @ adapter[key]
    return weights


def in_plain_peft(clinical: Path, downstream: Path, base: Any = None) -> PeftModel:
    """Both adapters as anybody would load them who has peft and nothing of ours."""
    config = PeftConfig.from_pretrained(clinical)
    if base is not None:
        config.task_type = None  # it is no causal language model
    base = AutoModelForCausalLM.from_pretrained(STORIES) if base is None else base
    model = PeftModel.from_pretrained(base, clinical, adapter_name="clinical", config=config)
    model.load_adapter(downstream, "downstream")
    model.base_model.set_adapter(["clinical", "downstream"])
    return model.eval()
