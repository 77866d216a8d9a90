"""Runs vLLM for `jobs.evaluation.vllm_engine`, in the Python of a site's vLLM installation.

That Python has none of our packages, and other versions of torch and transformers: this file is run by its path and
imports the standard library and vllm only. It was written for the interface of vLLM 0.33.0.

It reads JSON lines from stdin and answers each with one on stdout. The first names the model, its answer is
`{"ready": true}`. Each further one is a batch: `{"prompts": [{"ids": [...], "seed": N}], "sampling": {...}}`, its
answer `{"texts": [{"ids": [...], "finish": "stop" or "length"}]}`. An answer `{"error": ..., "message": ...,
"is_refusal": ..., "memory": ...}` is the last one. Whatever vLLM prints goes to stderr.

`python vllm_worker.py versions` prints the versions of vLLM and what it computes with, and imports none of them.
"""

import json
import os
import signal
import sys
from importlib.metadata import version
from typing import IO, Any

LIBRARIES = ("vllm", "torch", "transformers", "tokenizers")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Slurm sends these to all processes of a step. The rank decides what follows; it ends this process itself."""
_REFUSALS = (ValueError, TypeError, ImportError, NotImplementedError)
"""What vLLM raises for a model, an adapter or a setting that it cannot use, as opposed to a failure."""
_REFUSAL = "VLLMClientError"
"""Its own class for a request that it cannot serve; a ValueError before vLLM 0.33, and none since."""
_SETTINGS = {
    # The engine in this process: it cannot outlive it, no signal reaches it, and its scheduler's order does not depend
    # on the timing of another process (https://docs.vllm.ai/en/latest/usage/reproducibility.html).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    """Answer requests until stdin ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    requests, answers = take_pipes()
    os.environ.update(_SETTINGS)
    try:
        model, adapter = load(json.loads(requests.readline()))
        answer(answers, {"ready": True})
        for line in requests:
            answer(answers, {"texts": write_texts(model, adapter, json.loads(line))})
    except Exception as error:
        memory = memory_fault(error)
        is_refusal = _is_refusal(error) and memory != "taken"
        found = {"error": type(error).__name__, "message": str(error), "is_refusal": is_refusal, "memory": memory}
        answer(answers, found)
        raise SystemExit(1) from None


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, _REFUSALS) or any(one.__name__ == _REFUSAL for one in type(error).__mro__)


def take_pipes() -> tuple[IO[str], IO[str]]:
    """Take stdin and stdout for the protocol; what any code or library prints goes to stderr from now on."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def answer(answers: IO[str], content: dict[str, Any]) -> None:
    """Write one line."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def memory_fault(error: Exception) -> str | None:
    """Tell what is wrong with a GPU's memory, by vLLM's messages.

    Returns:
        `taken`: other processes have it; `little`: the model leaves too little for one text; None: something else.
    """
    message = str(error)
    if "Free memory on device" in message and "less than desired" in message:
        return "taken"
    return "little" if "cache blocks" in message or "KV cache memory" in message else None


def load(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Load the model; return vLLM's `LLM`, and the request that applies an adapter, if there is one.

    Args:
        settings: `model` and `tokenizer` (folders), `dtype`, `max_model_len`, `seed`, `memory_share` (of
            the GPU's memory) and, if there is an adapter, `adapter` (its folder) and `rank`.
    """
    import vllm
    from vllm.lora.request import LoRARequest

    adapter = settings.get("adapter")
    with_adapter = {"enable_lora": True, "max_lora_rank": settings["rank"], "max_loras": 1} if adapter else {}
    model = vllm.LLM(
        model=settings["model"],
        tokenizer=settings["tokenizer"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        seed=settings["seed"],
        gpu_memory_utilization=settings["memory_share"],
        trust_remote_code=False,
        # What the publisher recommends is not used.
        generation_config="vllm",
        **with_adapter,
    )
    return model, LoRARequest("adapter", 1, adapter) if adapter else None


def write_texts(model: Any, adapter: Any, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the texts of a batch; the progress bar on stderr tells the rank that there is progress."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": one["ids"]} for one in batch["prompts"]]
    sampling = [SamplingParams(n=1, seed=one["seed"], **batch["sampling"]) for one in batch["prompts"]]
    found = model.generate(prompts, sampling, use_tqdm=True, lora_request=adapter)
    return [{"ids": list(one.outputs[0].token_ids), "finish": one.outputs[0].finish_reason} for one in found]


if __name__ == "__main__":
    if sys.argv[1:] == ["versions"]:
        print(json.dumps({name: version(name) for name in LIBRARIES}))
    else:
        main()
