"""Parameters of published configurations: those that the papers and systems name, counted on models that peft built."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from jobs.models.adapters.build import adapted
from jobs.train.throughput import count_parameters
from launcher.load import load_recipes
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.adapter import Lora

RECIPES = Path(__file__).parents[2] / "recipes"

# The config.json of huggyllama/llama-7b, minlik/chinese-llama-plus-7b-merged, Meta-Llama-3-8B and Qwen1.5-7B.
LLAMA_7B = LlamaConfig(tie_word_embeddings=False)
CHINESE_7B = LlamaConfig(vocab_size=49953, tie_word_embeddings=False)
LLAMA_3_8B = LlamaConfig(
    vocab_size=128256, intermediate_size=14336, num_key_value_heads=8, tie_word_embeddings=False
)  # fmt: skip
QWEN_7B = Qwen2Config(
    vocab_size=151936, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, tie_word_embeddings=False,
)  # fmt: skip
QV, QKVO = ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")


def shipped(name: str) -> Lora:
    """The adapter of a recipe that comes with the launcher."""
    (loaded,) = load_recipes(RECIPES / f"{name}.yaml")
    assert isinstance(loaded.recipe, TrainingRecipe)
    assert isinstance(loaded.recipe.adapter, Lora)
    return loaded.recipe.adapter


def lora(r: int, targets: tuple[str, ...]) -> Lora:
    return Lora(method="lora", r=r, targets=targets)


@pytest.mark.parametrize(
    ("config", "section", "trainable", "base"),
    [
        # Clinical LLaMA-LoRA (https://arxiv.org/abs/2307.03042), table 2: 8.39M, and with rank 4 for PMC-LLaMA 2.10M.
        (LLAMA_7B, shipped("clinical_llama_lora_mimic"), 8_388_608, 6_738_415_616),
        (LLAMA_7B, lora(4, QV), 2_097_152, 6_738_415_616),
        # Their best adapters of the tasks, ranks 8, 16, 16, 8 and 2, without the head.
        (LLAMA_7B, shipped("clinical_llama_lora_mor"), 4_194_304, 6_738_415_616),
        (LLAMA_7B, shipped("clinical_llama_lora_los"), 8_388_608, 6_738_415_616),
        (LLAMA_7B, shipped("clinical_llama_lora_pmv"), 8_388_608, 6_738_415_616),
        (LLAMA_7B, shipped("clinical_llama_lora_diag"), 4_194_304, 6_738_415_616),
        (LLAMA_7B, shipped("clinical_llama_lora_proc"), 1_048_576, 6_738_415_616),
        # PubMedQA by QLoRA: the values of Llama 3 8B are four times narrower than its queries. Its README says Llama 2.
        (LLAMA_3_8B, shipped("pubmedqa_qlora"), 6_815_744, 8_030_261_248),
        (LLAMA_7B, shipped("pubmedqa_qlora"), 8_388_608, 6_738_415_616),
        # MedicalGPT: rank 8 on all of attention, of a LLaMA with 17,953 Chinese tokens more.
        (CHINESE_7B, shipped("medicalgpt_sft"), 8_388_608, 6_738_415_616 + 2 * 4096 * 17_953),
        # MedCare's attention LoRA of stage 1: four square matrices of 4,096 in 32 layers.
        (QWEN_7B, lora(16, QKVO), 16_777_216, 7_721_324_544),
    ],
)
def test_published_configurations_train_as_many_parameters_as_published(
    config: PreTrainedConfig, section: Lora, trainable: int, base: int
) -> None:
    with torch.device("meta"):
        model = adapted(AutoModelForCausalLM.from_config(config), section, 1, "CAUSAL_LM", steps=20)

    assert count_parameters(model) == (trainable, trainable + base)
