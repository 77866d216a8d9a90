"""A reward model: loaded whole, with its own template, and refused if it has no trained head."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    set_seed,
)

from jobs.data.chat.render import Example, Renderer
from jobs.data.chat.templates import chat_template
from jobs.models.adapters.build import adapted
from jobs.models.adapters.save import write_adapter
from jobs.models.classifier import reward_head
from jobs.models.merge.peft_merge import merged_if_possible
from jobs.train.adapter_checkpoint import gather_adapter
from jobs.train.export import manifest_of
from jobs.train.rollouts.reward_model import RewardModel, load_reward_model
from jobs.train.rollouts.rewards import Completion
from launcher.artifacts.adapter_folder import read_adapter
from launcher.errors import LauncherError, RunError
from launcher.recipe import RewardRecipe, RlRecipe
from launcher.recipe.sections.adapter import Adapter
from tests.support.preference_runs import make_preference_run
from tests.support.rl_runs import make_rl
from tests.support.training_runs import ASSETS, context_of

CPU = torch.device("cpu")
MODEL = ASSETS / "stories260k"
SPACED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' A: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['role'] + ': ' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' A: ' }}{% endif %}"
)
"""A template whose prompts end in a space, which becomes a part of the answer's first token if both are tokenised."""


def completions() -> list[Completion]:
    questions = ["What is asthma?", "Who treats it, and where?"]
    answers = ["A disease of the airways.", "Doctors."]
    return [
        Completion([{"role": "user", "content": asked}], "", said, [5])
        for asked, said in zip(questions, answers, strict=True)
    ]


def judge(folder: Path, outputs: int = 1, template: str | None = None) -> Any:
    """Save a model with a head of random numbers, and the template that it reads; return the model."""
    set_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = template or chat_template(tokenizer, "alpaca")
    model = AutoModelForSequenceClassification.from_pretrained(
        MODEL, num_labels=outputs, dtype=torch.float32, pad_token_id=2
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


def load(folder: Path, path: str, data: dict[str, Any] | None = None, **options: Any) -> RewardModel:
    rewards = [{"type": "model", "path": path, **options}]
    context = context_of(make_rl(folder, {"name": "rloo"}, rewards=rewards, data=data or {}))
    recipe = context.recipe
    assert isinstance(recipe, RlRecipe) and recipe.precision.dtype == "fp32"
    return load_reward_model(context, recipe, 0, CPU)


def test_completions_get_the_models_output_whatever_they_are_padded_with(tmp_path: Path) -> None:
    model = judge(tmp_path / "judge")

    found = load(tmp_path, "./judge")(completions())

    texts = [alone(model, tmp_path / "judge", one) for one in completions()]
    assert found == pytest.approx(texts, abs=1e-4)
    assert abs(found[0] - found[1]) > 1e-3


def test_an_adapter_brings_its_head_with_it(tmp_path: Path) -> None:
    set_seed(4)
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32, pad_token_id=2)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(tmp_path / "lora")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = chat_template(tokenizer, "alpaca")
    tokenizer.save_pretrained(tmp_path / "lora")

    found = load(tmp_path, "stories260k", adapter="./lora")(completions())

    merged = adapted.merge_and_unload().eval()
    assert found == pytest.approx([alone(merged, tmp_path / "lora", one) for one in completions()], abs=1e-4)


def trained_adapter(folder: Path, section: dict[str, Any], base: str | Path = MODEL, pad: int = 2) -> Any:
    """Write an adapter as `kind: reward` does, with noise on all that it trains; return the adapted model."""
    set_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32, **reward_head(pad))
    settings: Adapter = TypeAdapter(Adapter).validate_json(json.dumps(section))
    trained = adapted(model, settings, 0, "SEQ_CLS", steps=100)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    write_adapter(trained, gather_adapter(trained), str(base), folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = chat_template(tokenizer, "alpaca")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    tokenizer.save_pretrained(folder)
    return trained.eval()


def as_trained(model: Any, folder: Path, ones: list[Completion], system_prompt: str | None = None) -> list[float]:
    """The rewards of completions as a training computes them: each by itself, by the training's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    renderer = Renderer(tokenizer, tokenizer.chat_template, system_prompt)
    found = []
    for one in ones:
        (example,) = renderer.encode([[*one.messages, {"role": "assistant", "content": one.text}]])
        assert isinstance(example, Example)
        ids = torch.from_numpy(example.ids.astype("int64"))[None]
        with torch.no_grad():
            found.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item())
    return found


@pytest.mark.parametrize(
    "section",
    [
        {"method": "lora", "init": "pissa", "r": 4},
        {"method": "prefix", "virtual_tokens": 4},
        {"method": "molora", "attention_targets": ["q_proj"], "ffn_targets": ["up_proj"], "experts": 3},
    ],
    ids=lambda one: one["method"],
)
def test_adapters_reward_as_in_their_training_merged_or_not(tmp_path: Path, section: dict[str, Any]) -> None:
    trained = trained_adapter(tmp_path / "adapter", section)

    found = load(tmp_path, "stories260k", adapter="./adapter")

    assert found(completions()) == pytest.approx(as_trained(trained, tmp_path / "adapter", completions()), abs=1e-4)
    assert isinstance(found.model, peft.PeftModel) is (section["method"] != "lora")
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert found.positions == 512 - section.get("virtual_tokens", 0)


def test_in_16_bits_the_sum_of_weight_and_update_is_rounded_once(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "adapter", {"method": "lora", "r": 4, "alpha": 8})
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.bfloat16, **reward_head(2))
    layer = "model.layers.1.mlp.up_proj"
    weight = base.get_submodule(layer).weight.float()

    found = merged_if_possible(base, read_adapter(tmp_path / "adapter")).get_submodule(layer).weight

    down, up = (saved[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (weight + 2 * (up @ down)).bfloat16())


def test_an_adapter_pads_as_in_its_training_whatever_its_base_says(tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(MODEL, pad_token_id=0).save_pretrained(base)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(base)
    trained = trained_adapter(tmp_path / "adapter", {"method": "lora"}, base)

    found = load(tmp_path, "./base", adapter="./adapter")

    assert found.model.config.pad_token_id == trained.config.pad_token_id == 2
    assert found(completions()) == pytest.approx(as_trained(trained, tmp_path / "adapter", completions()), abs=1e-4)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "adapter", {"method": "lora"})
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "org/other-7b"}))

    with pytest.raises(LauncherError, match=r"rewards\.0\.adapter: `adapter` was trained on `org/other-7b`"):
        load(tmp_path, "stories260k", adapter="./adapter")

    load(tmp_path, "stories260k", adapter="./adapter", trained_on="org/other-7b")


def test_an_adapter_with_others_below_it_is_refused(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "adapter", {"method": "lora"})
    beneath = [{"path": "first", "folder": None, "sha256": "0" * 64}]
    (tmp_path / "adapter" / "manifest.json").write_text(json.dumps({"beneath": beneath}))

    with pytest.raises(LauncherError, match=r"rewards\.0\.adapter: .* on top of the adapter `first`; .*`kind: export`"):
        load(tmp_path, "stories260k", adapter="./adapter")


ODD = [
    Completion([{"role": "user", "content": "What is it?"}], "", said, [])
    for said in ("The dog ran.", " The dog ran.\n", "A dog", "")
]


@pytest.mark.parametrize("template", [SPACED, None], ids=["a prompt that ends in a space", "alpaca"])
def test_conversations_become_the_tokens_of_the_training(tmp_path: Path, template: str | None) -> None:
    model = judge(tmp_path / "judge", template=template)

    found = load(tmp_path, "./judge")(ODD)

    assert found == pytest.approx(as_trained(model, tmp_path / "judge", ODD), abs=1e-4)


def asked(*systems: str) -> Completion:
    system = [{"role": "system", "content": one} for one in systems]
    return Completion([*system, {"role": "user", "content": "What is it?"}], "", "A dog.", [])  # type: ignore[list-item] # dicts


@pytest.mark.parametrize("how", ["manifest", "recipe"])
def test_the_system_prompt_is_that_of_the_training(tmp_path: Path, how: str) -> None:
    """That of a record stays; that of the policy's recipe gives way."""
    model = judge(tmp_path / "judge", template=SPACED)
    said = {"system_prompt": "Judge."}
    (tmp_path / "judge" / "manifest.json").write_text(
        json.dumps(said if how == "manifest" else {"system_prompt": "No"})
    )

    found = load(tmp_path, "./judge", {"system_prompt": "Help."}, **(said if how == "recipe" else {}))

    expected = as_trained(model, tmp_path / "judge", [asked(), asked("Judge."), asked("Be kind.")], "Judge.")
    assert expected[0] == expected[1] != expected[2]
    assert found([asked("Help."), asked(), asked("Be kind.")]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("prompt", ["Judge.", None])
def test_an_export_names_the_system_prompt_of_its_training(tmp_path: Path, prompt: str | None) -> None:
    run = make_preference_run(tmp_path, "reward", data={"system_prompt": prompt})
    context = context_of(run)
    assert isinstance(context.recipe, RewardRecipe)

    assert manifest_of(context, context.recipe, (), ["pairs"], 3)["system_prompt"] == prompt


def test_without_one_of_its_own_a_reward_model_reads_the_policys_system_prompt(tmp_path: Path) -> None:
    model = judge(tmp_path / "judge", template=SPACED)

    found = load(tmp_path, "./judge", {"system_prompt": "Help."})([asked("Help."), asked()])

    assert found == pytest.approx(as_trained(model, tmp_path / "judge", [asked("Help."), asked()]), abs=1e-4)


def test_what_nobody_would_train_on_is_judged_as_it_is(tmp_path: Path) -> None:
    model = judge(tmp_path / "judge")
    odd = Completion([{"role": "user", "content": "What is it?"}], "", "A dog.</s> Good", [])

    assert load(tmp_path, "./judge")([odd]) == pytest.approx([alone(model, tmp_path / "judge", odd)], abs=1e-4)


def test_a_template_that_takes_no_system_prompt_is_named(tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + SPACED
    judge(tmp_path / "judge", template=refusing)

    with pytest.raises(RunError, match=r"rewards\.0: the reward model's chat template refuses .* system, user, assis"):
        load(tmp_path, "./judge")([asked("Help.")])


def short_judge(folder: Path, positions: int) -> Any:
    """A model that crashes beyond its positions."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=512, n_positions=positions, num_labels=1)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 2, 1, 2
    model = GPT2ForSequenceClassification(config)
    judge(folder, template=SPACED)
    model.save_pretrained(folder)
    return model.eval()


def test_a_model_that_reads_less_than_the_policy_writes_is_refused(tmp_path: Path) -> None:
    short_judge(tmp_path / "judge", 95)

    with pytest.raises(LauncherError, match=r"rewards\.0\.path: `\./judge` has 95 positions, .* have 96 tokens"):
        load(tmp_path, "./judge")


def test_the_beginning_is_left_out_of_what_is_too_long_nevertheless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the reward model's own template a conversation can have more tokens than the policy's."""
    model = short_judge(tmp_path / "judge", 96)
    long = Completion([{"role": "user", "content": "What is it? " * 30}], "", "A dog.", [])
    reward = load(tmp_path, "./judge")

    found = reward([long, *completions()])

    (example,) = reward.renderer.encode([[*long.messages, {"role": "assistant", "content": "A dog."}]])
    assert isinstance(example, Example) and len(example.ids) > 200
    with torch.no_grad():
        expected = model(torch.from_numpy(example.ids[-96:].astype("int64"))[None]).logits.item()
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert found[1:] == pytest.approx(as_trained(model, tmp_path / "judge", completions()), abs=1e-5)
    assert "rewards.0: 1 of 3 conversations are longer than the 96 tokens" in capsys.readouterr().out


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    judge(tmp_path / "two", outputs=2)
    AutoModelForCausalLM.from_pretrained(MODEL).save_pretrained(tmp_path / "talker")
    model = AutoModelForCausalLM.from_pretrained(MODEL)
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


def test_a_head_that_an_adapter_lacks_is_not_made_up(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "adapter", {"method": "prefix", "virtual_tokens": 4})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "score" not in name}
    save_file(tensors, file, metadata={"format": "pt"})

    with pytest.raises(LauncherError, match=r"rewards\.0\.adapter: adapter `adapter` does not fit the base model"):
        load(tmp_path, "stories260k", adapter="./adapter")


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    judge(tmp_path / "judge")
    (tmp_path / "judge" / "chat_template.jinja").unlink()

    with pytest.raises(LauncherError, match="has no chat template; train it by `kind: reward`"):
        load(tmp_path, "./judge")
