"""Stands in for vLLM 0.33 in tests: the part of its interface that we use, computed by plain transformers.

Arguments are those of the real classes, and what they refuse is refused. Each load and each call is noted in the file
$FAKE_VLLM_NOTES. $FAKE_VLLM_FAILS says what goes wrong: `no model`, `no memory`, `little memory`, `end`,
`error`, `abort`, `refusal`, `wait`, or `memory taken 0.75`, where a larger share of the memory is not free.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

FAILS = os.environ.get("FAKE_VLLM_FAILS", "")
NOISE = '{"texts": [], "error": "this is what vLLM prints"}'
os.write(1, f"{NOISE}\n".encode())


def note(**what: Any) -> None:
    """Write down what happened."""
    with open(os.environ["FAKE_VLLM_NOTES"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": os.getpid(), **what}) + "\n")


class VLLMClientError(Exception):
    """As vLLM's, which is no ValueError."""


class VLLMValidationError(VLLMClientError):
    """As vLLM's."""


@dataclass
class SamplingParams:
    """As vLLM's, which takes more."""

    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2 or not 0 < self.top_p <= 1 or self.top_k < -1 or self.max_tokens < 1:
            raise VLLMValidationError("a sampling parameter is out of range")
        if 0 < self.temperature < 0.01 or self.seed == -1:
            raise AssertionError("vLLM would take another value")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise OverflowError("seed does not fit into 64 bits")


class LLM:
    """As vLLM's; texts are made one by one."""

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        max_model_len: int | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        max_loras: int = 1,
        generation_config: str = "auto",
        gpu_memory_utilization: float = 0.92,
    ) -> None:
        found = {name: value for name, value in locals().items() if name != "self"}
        names = ("PYTHONPATH", "RANK", "CUDA_VISIBLE_DEVICES", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS")
        is_beside_worker = find_spec("generation_batches") is not None
        environment = {name: os.environ.get(name) for name in names}
        note(load=found, environment=environment, is_beside_worker=is_beside_worker)
        sys.stdout.write(f"{NOISE}\n")
        subprocess.run(["echo", NOISE], check=True)
        if FAILS == "no model":
            raise ValueError("Model architectures ['Planted'] are not supported")
        if FAILS == "little memory":
            raise ValueError("No available memory for the cache blocks. Planted")
        if FAILS.startswith("memory taken") and gpu_memory_utilization > (free := float(FAILS.split()[-1])):
            raise ValueError(
                f"Free memory on device ({80 * free}/80 GiB) on startup is less than desired GPU memory utilization "
                f"({gpu_memory_utilization}, {80 * gpu_memory_utilization} GiB). Planted"
            )
        if FAILS == "no memory":
            raise RuntimeError("CUDA out of memory: Planted")
        if max_lora_rank not in (1, 8, 16, 32, 64, 128, 256, 320, 512):
            raise ValueError("max_lora_rank is none of those that there are")
        self._arguments = found
        self._model: Any = None
        self._tokenizer: Any = None

    def generate(
        self, prompts: Any, sampling_params: Any, *, use_tqdm: bool = True, lora_request: Any = None
    ) -> list[Any]:
        """Write texts."""
        if len(prompts) != len(sampling_params):
            raise ValueError("The lengths of prompts and params must be the same")
        note(batch=len(prompts), seeds=[one.seed for one in sampling_params], sampling=vars(sampling_params[0]))
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
            os.kill(os.getpid(), number)  # as Slurm sends them to all processes of a step
        os.write(1, f"{NOISE}\n".encode())
        if use_tqdm:
            sys.stderr.write("Processed prompts: Planted\n")
        _fail()
        if FAILS == "abort":
            return [_output([3], "abort") for _ in prompts]
        self._load(lora_request)
        pairs = zip(prompts, sampling_params, strict=True)
        return [self._write(one["prompt_token_ids"], params) for one, params in pairs]

    def _load(self, lora_request: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if self._model is not None:
            return
        dtype = getattr(torch, self._arguments["dtype"])
        self._model = AutoModelForCausalLM.from_pretrained(self._arguments["model"], dtype=dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(self._arguments["tokenizer"])
        if lora_request:
            from peft import PeftModel

            assert self._arguments["enable_lora"]
            self._model = PeftModel.from_pretrained(self._model, lora_request.lora_path)
            assert self._model.active_peft_config.r <= self._arguments["max_lora_rank"]

    def _write(self, prompt: list[int], params: SamplingParams) -> Any:
        import torch

        assert len(prompt) < self._arguments["max_model_len"], "the prompt is too long"
        made: list[int] = []
        random = torch.Generator().manual_seed(params.seed or 0)
        ends = {*params.stop_token_ids, self._tokenizer.eos_token_id}
        while len(made) < params.max_tokens and len(prompt) + len(made) < self._arguments["max_model_len"]:
            with torch.no_grad():
                logits = self._model(torch.tensor([prompt + made])).logits[0, -1].float().clone()
            made.append(_choose(logits, {*prompt, *made}, params, random))
            text = self._tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if made[-1] in ends or any(one in text for one in params.stop):
                return _output(made, "stop")
        return _output(made, "length")


def _fail() -> None:
    if FAILS == "error":
        raise RuntimeError("EngineCore encountered an issue: Planted")
    if FAILS == "refusal":
        raise VLLMValidationError("the prompt is too long: Planted")
    if FAILS == "end":
        os._exit(9)
    if FAILS == "wait":
        signal.pause()


def _choose(logits: Any, seen: set[int], params: SamplingParams, random: Any) -> int:
    import torch

    for token in seen:
        logits[token] *= params.repetition_penalty if logits[token] < 0 else 1 / params.repetition_penalty
    if params.temperature == 0:
        return int(logits.argmax())
    if params.top_k > 0:
        logits[logits < logits.topk(params.top_k).values[-1]] = -torch.inf
    return int(torch.multinomial((logits / params.temperature).softmax(-1), 1, generator=random))


def _output(ids: list[int], reason: str) -> Any:
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason=reason)])
