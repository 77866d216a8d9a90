"""The reference of `dpo`: a model whose adapter is switched off, and log-probabilities that were computed before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from jobs.models.adapters.build import adapted
from jobs.models.adapters.save import write_adapter
from jobs.models.adapters.stack import activate
from jobs.rank.process_group import RankGroup
from jobs.train.adapter_checkpoint import gather_adapter
from jobs.train.pair_trainer import give_fused_head
from jobs.train.precomputed import PrecomputedLogProbs
from jobs.train.reference import AdapterOff, answer_log_probs
from tests.models.test_adapters import METHODS, adapter
from tests.support.training_runs import ASSETS

SWITCHED = [one for one in METHODS if one["method"] != "adaption_prompt"]
MOLORA = {"method": "molora", "r": 2, "alpha": 4, "experts": 2, "top_k": 1, "shared_experts": 1, "balance": 0.01,
          "attention_targets": ["q_proj"], "ffn_targets": ["up_proj"]}  # fmt: skip


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(3, 500, (4, 9))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    answers = torch.zeros_like(ids)
    answers[:, 4:7] = 1
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": answers}


def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32)


@pytest.fixture(scope="module")
def untouched() -> torch.Tensor:
    """Log-probabilities under the model without any adapter."""
    base = model().eval()
    give_fused_head(base, ("log_probs",))
    with torch.no_grad():
        return answer_log_probs(base, inputs())


@pytest.mark.parametrize("section", [*SWITCHED, MOLORA], ids=lambda one: "-".join(map(str, one.values()))[:30])
def test_an_adapter_switched_off_leaves_the_model_as_it_was(section: dict[str, Any], untouched: torch.Tensor) -> None:
    trained = adapted(model(), adapter(**section), 0, "CAUSAL_LM", 300)
    give_fused_head(trained, ("log_probs",))
    torch.manual_seed(1)
    move(trained)
    trained.train()
    flags = [parameter.requires_grad for parameter in trained.parameters()]

    found = AdapterOff(trained).log_probs(inputs())

    torch.testing.assert_close(found, untouched, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answer_log_probs(trained.eval(), inputs()), untouched, atol=1e-2), "it is on again"
    assert [parameter.requires_grad for parameter in trained.parameters()] == flags


def test_adapters_of_earlier_runs_stay_on(untouched: torch.Tensor) -> None:
    section = adapter(method="lora", r=2, targets=["q_proj"])
    trained = adapted(model(), section, 0, "CAUSAL_LM", 10)
    trained.add_adapter("earlier", trained.peft_config["default"])
    give_fused_head(trained, ("log_probs",))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.2 if "earlier" in name else -0.3)
    activate(trained, ["earlier"])
    with torch.no_grad():
        expected = answer_log_probs(trained, inputs())
    activate(trained, ["earlier", "default"])

    found = AdapterOff(trained).log_probs(inputs())

    assert torch.equal(found, expected)
    assert not torch.allclose(found, untouched, atol=1e-2)


def test_the_base_adapter_of_a_pair_stays_on(tmp_path: Path, untouched: torch.Tensor) -> None:
    torch.manual_seed(1)
    earlier = adapted(model(), adapter(method="lora", r=4, targets=["up_proj"]), 0, "CAUSAL_LM", 10)
    move(earlier)
    write_adapter(earlier, gather_adapter(earlier), "org/base", tmp_path / "earlier")
    section = adapter(method="orthogonal", start_from="x", base_r=4, base_trains=False, r=2, targets=["up_proj"])
    located = section.model_copy(update={"start_from": str(tmp_path / "earlier")})
    trained = adapted(model(), located, 0, "CAUSAL_LM", 10)
    give_fused_head(trained, ("log_probs",))
    with torch.no_grad():
        before = answer_log_probs(trained.eval(), inputs())
    move(trained)

    found = AdapterOff(trained).log_probs(inputs())

    assert torch.equal(found, before)
    assert not torch.allclose(found, untouched, atol=1e-2)
    assert not torch.allclose(answer_log_probs(trained, inputs()), before, atol=1e-2), "the new one is on again"


@torch.no_grad()
def move(trained: Any) -> None:
    """Change what is trained."""
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn_like(parameter))


class Counting:
    """A reference that says which pairs it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def log_probs(self, batch: Any) -> torch.Tensor:
        places = batch["place"].tolist()
        self.asked += places
        return torch.tensor([float(-place) for place in places] + [float(-place) - 0.5 for place in places])


def collate(samples: Any) -> dict[str, torch.Tensor]:
    return {"place": torch.tensor([sample["place"] for sample in samples])}


def kept(folder: Path, count: int) -> PrecomputedLogProbs:
    group = RankGroup(0, 1, True, torch.device("cpu"), None)
    pairs: Any = [{"place": place} for place in range(count)]
    return PrecomputedLogProbs(folder, pairs, collate, 3, group)


def test_what_was_computed_is_found_by_its_place_and_never_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.train.precomputed._BLOCK", 4)
    first, second = Counting(), Counting()
    kept(tmp_path, 10).compute(first, lambda batch: batch)
    (tmp_path / "pairs-000000004.safetensors").unlink()
    again = kept(tmp_path, 10)
    assert not again.is_complete

    again.compute(second, lambda batch: batch)

    assert again.is_complete
    assert ({*first.asked}, {*second.asked}) == ({*range(10)}, {4, 5, 6, 7})
    places = torch.tensor([7, 0, 9])
    assert again.log_probs({"place": places}).tolist() == [-7.0, 0.0, -9.0, -7.5, -0.5, -9.5]
