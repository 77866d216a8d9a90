"""Compiled layers: the same numbers, once for all layers, in training alone; how often they break off is counted."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import TypeAdapter
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from jobs.models import compiled_layers
from jobs.models.adapters.build import adapted
from jobs.models.compiled_layers import CompiledCode, compile_layers, missing_compiler
from jobs.models.recompute import recompute
from launcher.errors import LauncherError
from launcher.recipe.sections.adapter import Adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # torch 2.13 warns itself while it traces, and looks at `.grad`

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Traced as for a GPU, but carried out by torch as it is; inductor takes long (tests/train/test_step_speed.py)."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled_layers._compiled.cache_clear()
    with torch.compiler.set_stance("default", force_backend="eager"), torch._dynamo.config.patch(optimize_ddp=True):
        yield


def llama(**others: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, use_cache=False, **others)).train()


def step(model: Any, length: int = 24) -> list[torch.Tensor]:
    """Gradients of two packed documents."""
    ids = torch.randint(3, 64, (2, length), generator=torch.Generator().manual_seed(1))
    positions = torch.cat((torch.arange(10), torch.arange(length - 10))).expand(2, -1)
    model(input_ids=ids, labels=ids, position_ids=positions).loss.backward()
    return [one.grad for one in model.parameters() if one.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "full", "selective"])
def test_one_graph_serves_all_layers_and_changes_nothing(how: Any) -> None:
    plain, model = llama(), llama()
    recompute(model, how)

    assert compile_layers(model) == 3
    found, expected = step(model), step(plain)

    assert len(found) == len(expected) > 20
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(found, expected, strict=True))
    assert CompiledCode.so_far() == CompiledCode(1, {})


@pytest.mark.slow
def test_adapted_layers_are_two_graphs_since_the_first_ones_input_needs_no_gradient() -> None:
    model: Any = get_peft_model(llama(), LoraConfig(init_lora_weights=False, target_modules="all-linear"))  # type: ignore[arg-type]
    expected = [one.clone() for one in step(model)]
    model.zero_grad()

    compile_layers(model)
    found = step(model)

    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(found, expected, strict=True))
    assert CompiledCode.so_far() == CompiledCode(2, {})


ADAPTERS: tuple[dict[str, Any], ...] = (
    {"method": "lora", "r": 4, "init": "pissa"},
    {"method": "lora", "r": 4, "rslora": True},
    {"method": "ia3"},
    {"method": "oft", "block_size": 4},
    {"method": "adaption_prompt", "length": 4, "layers": 2},
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("section", ADAPTERS, ids=lambda one: "-".join(map(str, one.values())))
def test_what_validation_lets_through_is_compiled_without_a_break(section: dict[str, Any]) -> None:
    adapter: Any = TypeAdapter(Adapter).validate_json(json.dumps(section))
    plain, model = (adapted(llama(), adapter, 1, "CAUSAL_LM", 8, None).train() for _ in range(2))

    compile_layers(model)
    found, expected = step(model), step(plain)

    assert len(found) == len(expected) > 0
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))
    assert CompiledCode.so_far().breaks == {}


@pytest.mark.slow
def test_only_training_passes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    compile_layers(model)

    with torch.no_grad():
        step_free = model(input_ids=torch.arange(9)[None]).logits
    model.eval()
    model(input_ids=torch.arange(9)[None])

    assert step_free.shape == (1, 9, 64)
    assert CompiledCode.so_far().graphs == 0


@pytest.mark.slow
def test_each_length_is_compiled_by_itself() -> None:
    model = llama()
    compile_layers(model)

    for length in (24, 25, 26, 24):
        step(model, length)

    assert CompiledCode.so_far().graphs == 3


@pytest.mark.slow
def test_a_copy_of_a_model_computes_with_its_own_weights() -> None:
    model = llama()
    compile_layers(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for one in other.parameters():
            one.zero_()

    assert all(one.abs().max() == 0 for one in step(other)[1:-2])  # all layers are 0, and so are their gradients


@pytest.mark.slow
def test_breaks_are_counted_by_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LlamaMLP.forward

    def broken(self: Any, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        result: torch.Tensor = plain(self, x)
        return result

    monkeypatch.setattr(LlamaMLP, "forward", broken)
    model = llama()
    compile_layers(model)

    step(model)

    code = CompiledCode.so_far()
    assert sum(code.breaks.values()) >= 1
    assert code.graphs >= 2
    assert "graph break" in str(code).splitlines()[0]
    assert re.search(r"\n  \d x Call to `torch._dynamo.graph_break\(\)`$", str(code))


def test_a_model_without_known_layers_is_refused() -> None:
    with pytest.raises(LauncherError, match=r"model\.compile: transformers does not say what the layers of a Linear"):
        compile_layers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PATH": ""}, "there is no `g++` or `clang++` on this node"),
        ({"CXX": "no-such-compiler"}, "there is no `no-such-compiler` on this node"),
    ],
)
def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str) -> None:
    monkeypatch.delenv("CXX", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert said in str(missing_compiler(torch.device("cpu")))


def test_a_compiler_that_is_there_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert missing_compiler(torch.device("cpu")) is None


def test_gpus_need_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_layers, "find_spec", lambda _: None)

    assert "`triton` is missing" in str(missing_compiler(torch.device("cuda")))
