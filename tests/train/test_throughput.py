"""FLOPs and peaks, against numbers that others printed."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from jobs.train.throughput import ModelCost, cost_of
from launcher.gpus import LINK_BYTES, MEMORY_BYTES, PEAK_FLOPS, POWER_WATTS, look_up, peak_flops


@pytest.mark.parametrize(
    ("gpu", "dtype", "peak"),
    [
        ("Tesla V100-SXM2-32GB", "fp16", 125e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200", "bf16", 989e12),
    ],
)
def test_peaks_are_the_data_sheets_dense_ones(gpu: str, dtype: str, peak: float) -> None:
    assert peak_flops(gpu, dtype, tf32=True) == peak


def test_fp32_counts_against_the_tf32_peak_only_where_tf32_is_on() -> None:
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32", tf32=True) == 156e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32", tf32=False) is None


def test_unknown_devices_and_formats_have_no_peak() -> None:
    assert peak_flops("NVIDIA Fantasy 9000", "bf16", tf32=True) is None
    assert peak_flops("Tesla V100-SXM2-32GB", "bf16", tf32=True) is None


@pytest.mark.parametrize("table", [PEAK_FLOPS, LINK_BYTES, MEMORY_BYTES, POWER_WATTS])
def test_longer_names_are_looked_up_before_the_shorter_ones_they_contain(table: dict[str, object]) -> None:
    names = list(table)

    assert all(
        names.index(longer) < names.index(short) for short in names for longer in names if short in longer != short
    )


@pytest.mark.parametrize(
    ("gpu", "peak", "link", "watts"),
    [
        ("NVIDIA H100 NVL", 835e12, 64e9, 400),
        ("h100_nvl", 835e12, 64e9, 400),
        ("h100-nvl", 835e12, 64e9, 400),
        ("h100_pcie", 756e12, 64e9, 350),
        ("nvidia_h100_80gb_hbm3", 989e12, 450e9, 700),
        ("h100_nvlink", 989e12, 450e9, 700),
        ("NVIDIA A100-PCIE-40GB", 312e12, 32e9, 300),
        ("NVIDIA A100 80GB PCIe", 312e12, 32e9, 300),
        ("a100-sxm4-80gb", 312e12, 300e9, 400),
        ("Tesla V100-PCIE-32GB", None, 16e9, 250),
        ("h200-nvl", 835e12, 450e9, 600),
        ("nvidia rtx a1000", None, None, None),
    ],
)
def test_a_gpu_is_known_by_its_words_however_a_site_joins_them(
    gpu: str, peak: float | None, link: float | None, watts: float | None
) -> None:
    found = peak_flops(gpu, "bf16", tf32=True), look_up(LINK_BYTES, gpu), look_up(POWER_WATTS, gpu)

    assert found == (peak, link, watts)


@pytest.mark.parametrize("gpu", ["a100_1g.10gb", "a100_3g_20gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "h100-mig"])
def test_a_part_of_a_gpu_is_not_taken_for_a_whole_one(gpu: str) -> None:
    assert look_up(PEAK_FLOPS, gpu) is look_up(LINK_BYTES, gpu) is look_up(POWER_WATTS, gpu) is None


def test_every_gpu_with_a_peak_has_a_link_a_memory_and_a_power() -> None:
    assert [
        name for name in PEAK_FLOPS for table in (LINK_BYTES, MEMORY_BYTES, POWER_WATTS) if not look_up(table, name)
    ] == []


def test_mfu_agrees_with_llm_foundrys_published_measurement() -> None:
    # llm-foundry, scripts/train/benchmarking: MPT-7B on 8 A100-80GB, sequence length 2048, 4,641 tokens/s per
    # GPU, 64.2 % MFU. MPT-7B: 6.65 B parameters, 32 layers, width 4096.
    cost = ModelCost(parameters=6_650_000_000, layers=32, hidden=4096, sequence_length=2048)

    assert cost.mfu(8 * 4641, 312e12, gpus=8) == pytest.approx(0.642, abs=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_only_looked_up_costs_nothing(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip

    cost = cost_of(LlamaForCausalLM(config), sequence_length=8)

    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16
    assert cost.parameters == 2 * layer + 16 + 64 * 16
    assert cost.flops_per_token == 6 * cost.parameters + 12 * 2 * 16 * 8


HEADS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("auto", "kind", "special"),
    [
        (AutoModelForCausalLM, "qwen3", {"head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": True}),
        (AutoModelForCausalLM, "llama", {"tie_word_embeddings": False}),
        (AutoModelForSequenceClassification, "llama", {"tie_word_embeddings": True, "pad_token_id": 0}),
    ],
)
def test_the_cost_of_a_token_is_what_torch_counts(auto: Any, kind: str, special: dict[str, Any]) -> None:
    config = AutoConfig.for_model(kind, vocab_size=512, attn_implementation="eager", **HEADS, **special)
    model, tokens = auto.from_config(config), torch.ones((2, 24), dtype=torch.long)

    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False).logits.sum().backward()

    # No gradient flows to embeddings that are looked up, and heads see one token of each text.
    assert cost_of(model, 24).flops_per_token == pytest.approx(counter.get_total_flops() / tokens.numel(), rel=0.03)
