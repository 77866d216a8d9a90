"""The values that five systems publish, and the shipped recipes that carry them: every key, with its source.

Keys are those of the recipe, or properties of it. `Ours` marks where a recipe departs from what is published, on
purpose: then a comment beside the key says so.
"""

import re
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from launcher.load import load_recipes
from launcher.recipe.kinds.training import TrainingRecipe

FOLDER = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class Ours:
    """What a recipe has instead of a published value."""

    value: object
    published: object


ADAMW = {"optim.betas": (0.9, 0.999), "optim.eps": 1e-8}
"""Defaults of torch and transformers alike, which all but one leave as they are."""
TRAINER = {**ADAMW, "optim.clip_norm": 1.0, "schedule.floor": 0.0}
"""Defaults of transformers' TrainingArguments; its schedules end at 0."""

# https://github.com/Coldog2333/BioMed-LLaMA, pretrain/train_multi_nodes.sh and fsdp_config.json; README for the rate.
BIOMED_CPT = {
    "resources.nodes": 8, "resources.gpus_per_node": 4, "resources.gpu_memory": "80GB",
    "batch.micro_batch": 1, "accumulation_steps": 64, "batch.sequences": 2048, "batch.sequence_length": 2048,
    "optim.lr": 3e-5, "optim.betas": (0.9, 0.95), "optim.eps": 1e-8, "optim.weight_decay": 0.1, "optim.clip_norm": 1.0,
    "schedule.length": "1 epoch", "schedule.shape": "truncated_cosine", "schedule.floor": 0.1, "schedule.warmup": "3%",
    "precision.dtype": "bf16", "precision.tf32": True,
    "parallel.strategy": "hybrid_shard", "shard_size": 4, "replicas": 8, "parallel.reshard_after_forward": False,
    "model.activation_checkpointing": "none", "adapter": None,
    "checkpoint.interval": Ours("1h", "3000 steps"), "checkpoint.keep": 3,
}  # fmt: skip

# The same, evaluation/train.sh, for each of the three data sets.
BIOMED_TASK = {
    **TRAINER,
    "resources.nodes": 1, "resources.gpus_per_node": 8,
    "batch.micro_batch": 1, "accumulation_steps": 16, "batch.sequences": 128, "batch.sequence_length": 2048,
    "optim.lr": 2e-5, "optim.weight_decay": 1e-4,
    "schedule.length": "3 epochs", "schedule.shape": "cosine", "schedule.warmup": "3%",
    "precision.dtype": "bf16", "precision.tf32": True,
    "parallel.strategy": "full_shard", "model.activation_checkpointing": "full", "adapter": None,
    "checkpoint.interval": "300 steps", "checkpoint.keep": 3,
    "data.chat_template": "plain", "data.packing": "pad", "data.too_long": "truncate",
}  # fmt: skip

# The same; 3 x 50,000 draws in one epoch (README and evaluation/instruct_dataset.py).
BIOMED_INSTRUCT = {
    **BIOMED_TASK, "schedule.length": f"{-(-150_000 // 128)} steps",
    "data.mixture": "epochs", "data.draws": "independent",
}  # fmt: skip

# https://github.com/shibing624/MedicalGPT at fe677fe (June 2023), README, stages 1 and 2; the learning rate falls
# linearly by transformers' default. The new tokens and their embeddings are of later versions.
MEDICALGPT = {
    **TRAINER,
    "resources.nodes": 1, "resources.gpus_per_node": 8,
    "batch.micro_batch": 4, "accumulation_steps": 1, "batch.sequences": 32,
    "schedule.shape": "linear", "schedule.warmup": "5%",
    "precision.dtype": Ours("bf16", "fp16"),
    "parallel.strategy": "ddp", "model.activation_checkpointing": "full", "seed": 42,
    "adapter.method": "lora", "adapter.r": 8, "adapter.alpha": 32, "adapter.dropout": 0.05,
    "adapter.targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "checkpoint.interval": "500 steps", "checkpoint.keep": 3,
}  # fmt: skip
MEDICALGPT_PT = {
    **MEDICALGPT,
    "model.path": Ours("huggyllama/llama-7b", "minlik/chinese-llama-plus-7b-merged"),
    "model.tokenizer": "llama-7b-medical", "adapter.embeddings": "all",
    "batch.sequence_length": 1024, "optim.lr": 2e-5, "optim.weight_decay": 0.01, "schedule.length": "1 epoch",
}  # fmt: skip
MEDICALGPT_SFT = {
    **MEDICALGPT,
    "batch.sequence_length": 512, "optim.lr": 1e-5, "optim.weight_decay": 0.0, "schedule.length": "5 epochs",
    "data.sources.0.format": "alpaca", "data.chat_template": "alpaca", "data.packing": "pad",
    "data.too_long": "truncate",
}  # fmt: skip

# The same, stage 4; the rest are the defaults of PPOConfig of TRL 0.4.4, which clips no gradients and keeps
# the learning rate. A GPU samples 4 completions and learns from one at a time.
MEDICALGPT_PPO = {
    **ADAMW,
    "resources.nodes": 1, "resources.gpus_per_node": 8, "precision.dtype": Ours("bf16", "fp16"),
    "parallel.strategy": "ddp", "model.activation_checkpointing": "full", "seed": 42,
    "adapter.method": "lora", "adapter.r": 8, "adapter.alpha": 32, "adapter.dropout": Ours(0.0, 0.05),
    "adapter.targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "batch.micro_batch": 1, "batch.sequences": 8, "rollout": 4 * 8, "batch.sequence_length": 512 + 128,
    "optim.lr": 1.4e-5, "optim.weight_decay": 0.0, "optim.clip_norm": Ours(1.0, None),
    "schedule.length": "1 epoch", "schedule.shape": "constant", "schedule.warmup": "0 steps",
    "checkpoint.interval": "50 steps",
    "algorithm.name": "ppo", "algorithm.iterations": 5, "algorithm.target_kl": 0.1, "algorithm.reward_baseline": 0.0,
    "algorithm.kl_control": "adaptive", "algorithm.kl_weight": 0.2, "algorithm.kl_target": 6.0,
    "algorithm.kl_horizon": 10_000.0, "algorithm.clip": 0.2, "algorithm.value_clip": 0.2,
    "algorithm.value_weight": 0.1, "algorithm.gamma": 1.0, "algorithm.lam": 0.95, "algorithm.whiten": True,
    "generation.max_new_tokens": 128, "generation.min_new_tokens": 4,
    "generation.top_k": 0, "generation.top_p": 1.0,
    "data.sources.0.format": "alpaca", "data.chat_template": "alpaca", "rewards.0.type": "model",
}  # fmt: skip
# Its newest version, scripts/run_ppo.sh (RLOO) and scripts/run_grpo.sh.
MEDICALGPT_RLOO = {
    **TRAINER,
    "resources.gpus_per_node": 2, "precision.dtype": "bf16",
    "adapter.method": "lora", "adapter.r": 8, "adapter.alpha": 16, "adapter.dropout": Ours(0.0, 0.05),
    "adapter.targets": "all-linear",
    "batch.micro_batch": 1, "accumulation_steps": 4, "schedule.length": "3000 steps",
    "generation.max_new_tokens": 1000, "batch.sequence_length": 1024 + 1000,
    "algorithm.name": "rloo", "algorithm.kl_weight": 0.05, "algorithm.generations": 2, "rewards.0.type": "model",
}  # fmt: skip
MEDICALGPT_GRPO = {
    **TRAINER,
    "resources.gpus_per_node": 2, "precision.dtype": "bf16",
    "adapter.method": "lora", "adapter.r": 16, "adapter.alpha": 32, "adapter.dropout": Ours(0.0, 0.1),
    "optim.lr": 5e-7, "schedule.shape": "cosine", "schedule.warmup": "3%",
    "algorithm.name": "grpo", "algorithm.kl_weight": 0.001, "algorithm.generations": 4,
    "generation.max_new_tokens": 512, "rewards.0.type": Ours("answer_letter", "math-verify's accuracy"),
    "rewards.1.type": "format",
}  # fmt: skip
# The same, stage 3.
MEDICALGPT_REWARD = {
    **MEDICALGPT,
    "batch.sequence_length": 512, "optim.lr": 2e-5, "optim.weight_decay": 0.0, "schedule.length": "5 epochs",
    "data.sources.0.format": "question", "evaluation.interval": "50 steps", "center": None,
    "evaluation.metric": Ours("accuracy", "mean squared difference"),
    "data.chat_template": Ours("alpaca", "Question: ... Answer: ..."),
    "data.validation": Ours(0.1, "the training files"),
}  # fmt: skip
# Later versions: scripts/run_dpo.sh and defaults of training/dpo_training.py. Its beta is not passed on,
# and TRL's default is used.
MEDICALGPT_DPO = {
    **TRAINER,
    "model.path": Ours("llama-7b-medicalgpt-sft", "Qwen/Qwen3.5-2B"), "model.activation_checkpointing": "full",
    "adapter.method": "lora", "adapter.r": 8, "adapter.alpha": 16, "adapter.targets": "all-linear",
    "adapter.dropout": Ours(0.0, 0.05), "loss": "sigmoid", "beta": 0.1,
    "batch.micro_batch": Ours(4, "4, on 2 GPUs"), "batch.sequences": 32, "batch.sequence_length": 1024 + 512,
    "optim.lr": 5e-4, "optim.weight_decay": 0.05, "schedule.shape": "cosine", "schedule.length": "100 steps",
    "schedule.warmup": Ours("10 steps", "100 steps"), "precision.dtype": "bf16", "evaluation.interval": "20 steps",
    "checkpoint.interval": "50 steps", "resources.gpus_per_node": 2, "seed": 42,
    "data.validation": Ours(0.1, "the training files"),
}  # fmt: skip

# https://github.com/aryopg/clinical_peft: clinical_peft/trainer.py makes torch's AdamW with nothing but a learning rate
# (weight decay 0.01), and clips no gradients; `warmup_steps_ratio` 0.06 is passed on as a number of steps.
CLINICAL = {
    **ADAMW,
    "optim.weight_decay": 0.01, "optim.clip_norm": None,
    "schedule.shape": "linear", "schedule.warmup": Ours("6%", "0 steps"), "schedule.floor": 0.0, "seed": 1234,
}  # fmt: skip
# configs/mimic_pretrain_best_configs/mimic_iv/llama_7b_lora.yaml
CLINICAL_MIMIC = {
    **CLINICAL,
    "adapter.method": "lora", "adapter.r": 16, "adapter.alpha": 32, "adapter.dropout": 0.0,
    "adapter.targets": ("q_proj", "v_proj"),
    "batch.micro_batch": 4, "batch.sequences": 4 * 64, "batch.sequence_length": 512,
    "optim.lr": 3e-4, "schedule.length": "1 epoch",
}  # fmt: skip
# configs/mimic_pretrain_hpo_configs/mimic_iv/llama_7b_baseline.yaml: all parameters; the curriculum is ours.
CLINICAL_CPT = {
    **{key: value for key, value in CLINICAL.items() if key != "seed"},
    "adapter": None, "batch.sequences": 2 * 64, "batch.sequence_length": 512, "optim.lr": 3e-5,
}  # fmt: skip
CLINICAL_TASK = {
    **CLINICAL,
    "resources.nodes": 1, "resources.gpus_per_node": 1, "accumulation_steps": 2, "batch.sequence_length": 128,
    "optim.lr": 5e-5, "schedule.length": "10 epochs", "data.long_notes": "head",
    "evaluation.metric": Ours("auroc", "log_loss"),
}  # fmt: skip
# configs/downstream_hpo_configs/context_length_128/TASK/clinical_llama_finetune_downstream_peft_best.yaml
CLINICAL_LORA = {
    **CLINICAL_TASK,
    "model.adapters.0.path": "clinical-llama-lora", "model.adapters.0.trainable": True,
    "adapter.method": "lora", "adapter.targets": ("q_proj", "v_proj"), "batch.micro_batch": 8, "batch.sequences": 16,
}  # fmt: skip
# configs/downstream_hpo_configs/context_length_128/TASK/bioclinicalbert_baseline.yaml
CLINICAL_BASELINE = {
    **CLINICAL_TASK, "adapter": None, "model.adapters": (), "batch.micro_batch": 32, "batch.sequences": 64,
}  # fmt: skip
# Rank, alpha and dropout of the best, and class weights (clinical_peft/trainer.py: of notes with one label).
CLINICAL_TASKS = {
    "los": (16, 4, 0.0, "balanced"),
    "mor": (8, 4, 0.2, "balanced"),
    "pmv": (16, 32, 0.0, "balanced"),
    "diag": (8, 4, 0.1, "none"),
    "proc": (2, 8, 0.1, "none"),
}

# https://github.com/BlueZeros/MedCare at fcf9a3f, README; medcare/train/train.py for defaults, medcare/train/trainer.py
# and the adapters' code for ranks.
MEDCARE = {
    **TRAINER,
    "resources.nodes": 1, "resources.gpus_per_node": 4, "parallel.strategy": "zero3",
    "batch.micro_batch": 4, "accumulation_steps": 8, "batch.sequences": 128, "batch.sequence_length": 3072,
    "optim.lr": 2e-4, "optim.weight_decay": 0.0, "schedule.shape": "cosine", "schedule.warmup": "3%",
    "precision.dtype": "bf16", "precision.tf32": True, "model.activation_checkpointing": "full",
    "adapter.dropout": 0.05, "checkpoint.interval": "300 steps",
    "data.sources.0.format": "sharegpt", "data.chat_template": "chatml", "data.too_long": "truncate",
    "data.packing": "pad", "data.system_prompt": "You are a helpful assistant.",
}  # fmt: skip
MEDCARE_1 = {
    **MEDCARE, "schedule.length": "1 epoch", "checkpoint.keep": 10,
    "adapter.method": "molora", "adapter.r": 16, "adapter.alpha": 32, "adapter.balance": 0,
    "adapter.experts": 8, "adapter.top_k": 2, "adapter.shared_experts": 2,
    "adapter.attention_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "adapter.ffn_targets": ("gate_proj", "up_proj", "down_proj"),
}  # fmt: skip
MEDCARE_2 = {
    **MEDCARE, "schedule.length": "3 epochs", "checkpoint.keep": 2,
    "adapter.method": "orthogonal", "adapter.targets": ("gate_proj", "up_proj", "down_proj"),
    "adapter.r": Ours(32, "16, of which the code makes twice that"), "adapter.alpha": Ours(64, 32),
    "adapter.base_rank": 32, "adapter.lambda1": 1.0, "adapter.lambda2": 0.0, "adapter.base_trains": True,
}  # fmt: skip

# https://github.com/Followb1ind1y/Medical-LLM-Fine-tuning at 262c4b6: configs/lora_config.py, configs/training_args.py,
# configs/deepspeed_z3.json, src/modeling.py, src/data_utils.py; README for the GPUs.
PUBMEDQA = {
    **ADAMW,
    "model.path": "meta-llama/Meta-Llama-3-8B", "resources.nodes": 1, "resources.gpus_per_node": 2,
    "model.quantization.bits": 4, "model.quantization.type": "nf4", "model.quantization.double": False,
    "model.activation_checkpointing": Ours("full", "none"),
    "adapter.method": "lora", "adapter.r": 16, "adapter.alpha": 32, "adapter.dropout": 0.1, "adapter.bias": "none",
    "adapter.targets": ("q_proj", "v_proj"),
    "batch.micro_batch": 2, "accumulation_steps": 4, "batch.sequence_length": Ours(2048, None),
    "optim.lr": 2e-4, "optim.weight_decay": 0.001, "optim.clip_norm": 0.3,
    "schedule.length": "3 epochs", "schedule.shape": Ours("cosine", "linear, by DeepSpeed"), "schedule.warmup": "3%",
    "schedule.floor": 0.0, "precision.dtype": Ours("bf16", "fp16"), "parallel.strategy": Ours("ddp", "zero3"),
    "checkpoint.interval": "100 steps", "checkpoint.keep": 3,
    "data.validation": 0.1, "data.stratify_by": Ours("final_decision", None),
    "data.packing": Ours("pad", "group_by_length"), "data.chat_template": "llama3",
    "data.sources.0.answer": "decision_and_reason", "data.system_prompt": Ours(
        "You answer questions about medicine from the evidence.", "a longer one"
    ),
}  # fmt: skip

PUBLISHED: dict[str, dict[str, Any]] = {
    "biomed_llama_cpt": BIOMED_CPT,
    **{
        f"biomed_llama_{task}": BIOMED_TASK | {"data.sources.0.format": task}
        for task in ("medqa", "medmcqa", "pubmedqa")
    },
    "biomed_llama_instruct": BIOMED_INSTRUCT,
    "medicalgpt_pt": MEDICALGPT_PT,
    "medicalgpt_sft": MEDICALGPT_SFT,
    "medicalgpt_reward": MEDICALGPT_REWARD,
    "medicalgpt_dpo": MEDICALGPT_DPO,
    "medicalgpt_ppo": MEDICALGPT_PPO,
    "medicalgpt_rloo": MEDICALGPT_RLOO,
    "medicalgpt_grpo": MEDICALGPT_GRPO,
    "clinical_llama_lora_mimic": CLINICAL_MIMIC,
    "clinical_llama_cpt": CLINICAL_CPT,
    "medcare_stage1": MEDCARE_1,
    "medcare_stage2": MEDCARE_2,
    "pubmedqa_qlora": PUBMEDQA,
    "pubmedqa_terms_qlora": PUBMEDQA | {"data.terminology.synonyms.probability": 0.15},
}
for _task, (_rank, _alpha, _dropout, _weights) in CLINICAL_TASKS.items():
    _data = {"data.format": "core", "data.task": _task, "class_weights": _weights}
    _adapter = {"adapter.r": _rank, "adapter.alpha": _alpha, "adapter.dropout": _dropout}
    PUBLISHED[f"clinical_llama_lora_{_task}"] = CLINICAL_LORA | _data | _adapter
    PUBLISHED[f"clinical_baseline_{_task}"] = CLINICAL_BASELINE | _data


def shipped(name: str) -> TrainingRecipe:
    (loaded,) = load_recipes(FOLDER / f"{name}.yaml")
    assert isinstance(loaded.recipe, TrainingRecipe)
    return loaded.recipe


def value_at(recipe: TrainingRecipe, key: str) -> Any:
    return reduce(lambda at, part: at[int(part)] if part.isdigit() else getattr(at, part), key.split("."), recipe)


def commented_keys(name: str) -> set[str]:
    """Last parts of the keys that have a comment beside them, in the recipe or in what it is laid over."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\nrehearsal:")[0]
    base = re.search(r"^base: (\w+)\.yaml", text, re.MULTILINE)
    return set(re.findall(r"^ *(\w+): .*\S +# \S", text, re.MULTILINE)) | (commented_keys(base[1]) if base else set())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_its_published_values(name: str) -> None:
    recipe = shipped(name)
    expected = {key: one.value if isinstance(one, Ours) else one for key, one in PUBLISHED[name].items()}

    assert {key: value_at(recipe, key) for key in expected} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_where_it_departs_from_them(name: str) -> None:
    departures = {key.rpartition(".")[2] for key, one in PUBLISHED[name].items() if isinstance(one, Ours)}

    assert departures <= commented_keys(name)


def test_every_recipe_of_a_training_has_published_values() -> None:
    recipes = [item for path in sorted(FOLDER.glob("*.yaml")) for item in load_recipes(path)]

    assert {item.path.stem for item in recipes if isinstance(item.recipe, TrainingRecipe)} == set(PUBLISHED)


def test_scales_of_medcares_second_adapter_are_those_of_the_first() -> None:
    first, second = PUBLISHED["medcare_stage1"], PUBLISHED["medcare_stage2"]

    assert second["adapter.alpha"].value / second["adapter.r"].value == first["adapter.alpha"] / first["adapter.r"]
    assert second["adapter.base_rank"] == first["adapter.r"] * first["adapter.shared_experts"]
