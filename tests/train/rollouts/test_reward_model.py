"""A reward model: loaded whole, with its own template, and refused if it has no trained head."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from jobs.data.chat.templates import chat_template
from jobs.train.rollouts.reward_model import load_reward_model
from jobs.train.rollouts.rewards import Completion
from launcher.errors import LauncherError
from launcher.recipe.sections.rewards import ModelReward
from tests.support.rl_runs import make_rl
from tests.support.training_runs import ASSETS, context_of

CPU = torch.device("cpu")


def completions() -> list[Completion]:
    questions = ["What is asthma?", "Who treats it, and where?"]
    answers = ["A disease of the airways.", "Doctors."]
    return [
        Completion([{"role": "user", "content": asked}], "", said, [5])
        for asked, said in zip(questions, answers, strict=True)
    ]


def judge(folder: Path, outputs: int = 1) -> Any:
    """Save a model with a head of random numbers, and the template that it reads; return the model."""
    set_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    tokenizer.chat_template = chat_template(tokenizer, "alpaca")
    model = AutoModelForSequenceClassification.from_pretrained(
        ASSETS / "stories260k", num_labels=outputs, dtype=torch.float32, pad_token_id=2
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def alone(model: Any, folder: Path, one: Completion) -> float:
    """The reward of one completion without padding, as the model's own template writes it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{one.messages[0]['content']}\n\n### Response:\n{one.text}</s>"
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    # The end of a sequence is also what rows are padded with, and the head reads the last token before it.
    state = model.model(ids).last_hidden_state[0, -2]
    return (state @ model.score.weight[0]).item()


def load(folder: Path, path: str, **options: Any) -> Any:
    context = context_of(make_rl(folder, {"name": "rloo"}))
    return load_reward_model(context, ModelReward(type="model", path=path, **options), "rewards.0", CPU, torch.float32)


def test_completions_get_the_models_output_whatever_they_are_padded_with(tmp_path: Path) -> None:
    model = judge(tmp_path / "judge")

    found = load(tmp_path, "./judge")(completions())

    texts = [alone(model, tmp_path / "judge", one) for one in completions()]
    assert found == pytest.approx(texts, abs=1e-4)
    assert abs(found[0] - found[1]) > 1e-3


def test_an_adapter_brings_its_head_with_it(tmp_path: Path) -> None:
    set_seed(4)
    base = AutoModelForSequenceClassification.from_pretrained(
        ASSETS / "stories260k", num_labels=1, dtype=torch.float32, pad_token_id=2
    )
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(tmp_path / "lora")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    tokenizer.chat_template = chat_template(tokenizer, "alpaca")
    tokenizer.save_pretrained(tmp_path / "lora")

    found = load(tmp_path, "stories260k", adapter="./lora")(completions())

    merged = adapted.merge_and_unload().eval()
    assert found == pytest.approx([alone(merged, tmp_path / "lora", one) for one in completions()], abs=1e-4)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    judge(tmp_path / "two", outputs=2)
    AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k").save_pretrained(tmp_path / "talker")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k")
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "lora"
    )

    with pytest.raises(LauncherError, match=r"rewards\.0\.path: `\./two` has 2 outputs, so it is no reward model"):
        load(tmp_path, "./two")
    with pytest.raises(LauncherError, match=r"rewards\.0\.path: `\./talker` has .* so it is no reward model"):
        load(tmp_path, "./talker")
    with pytest.raises(LauncherError, match=r"rewards\.0\.adapter: .* has no head that rewards"):
        load(tmp_path, "stories260k", adapter="./lora")
    with pytest.raises(LauncherError, match=r"rewards\.0\.path: "):
        load(tmp_path, "./nowhere")


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    judge(tmp_path / "judge")
    (tmp_path / "judge" / "chat_template.jinja").unlink()

    with pytest.raises(LauncherError, match="has no chat template; train it by `kind: reward`"):
        load(tmp_path, "./judge")
