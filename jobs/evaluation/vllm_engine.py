"""Texts by vLLM, which runs as a process of its own in another Python (`jobs.evaluation.vllm_worker`)."""

import time
from collections.abc import Sequence
from typing import Any

from jobs.evaluation.generator import (
    GeneratedText,
    GenerationRequest,
    batches_for,
    ends_of,
    requests_digest,
    text_of,
)
from jobs.evaluation.keyed_noise import item_key
from jobs.evaluation.outlined_model import OutlinedModel
from jobs.evaluation.report import digest
from jobs.evaluation.vllm_process import MemoryTakenError, VllmProcess
from launcher.errors import LauncherError
from launcher.recipe.kinds.generate import GenerateRecipe

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
MEMORY_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the GPU's memory to ask for: near vLLM's default (0.92 in 0.33), and less where others use some of it."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `max_lora_rank` that vLLM 0.33 accepts, besides 1."""


class VllmEngine:
    """Writes texts in batches that are cut beforehand.

    Args:
        model: The model's files, and what its configuration says.
        requests: Of all items.
        recipe: Says how tokens are chosen, and how much is computed at once.
        process: Runs vLLM; started when the first batch is generated.
        end_of_turn: A token that ends a text, besides those that the model and its tokenizer name.

    Raises:
        LauncherError: vLLM cannot apply the adapter, or a stop string holds a special token and more.
    """

    def __init__(
        self,
        model: OutlinedModel,
        requests: Sequence[GenerationRequest],
        recipe: GenerateRecipe,
        process: VllmProcess,
        end_of_turn: int | None = None,
    ) -> None:
        self._model = model
        self._requests = requests
        self._recipe = recipe
        self._process = process
        self._ends = ends_of(model, end_of_turn, recipe.decoding.stop)
        self._settings = _settings(model, requests, recipe)
        self.batches = batches_for(requests, recipe.decoding, recipe.tokens_per_batch)
        self.tokens = 0
        """Tokens that this process has made so far."""
        self.seconds = 0.0
        """How long that took."""

    @property
    def identity(self) -> str:
        """Equal for the same model, prompts, decoding and batches; texts may differ nevertheless."""
        recipe = self._recipe
        settings = (recipe.decoding.model_dump(mode="json"), recipe.seed, recipe.tokens_per_batch, sorted(self._ends))
        return digest("vllm", self._model.identity, requests_digest(self._requests), *settings)

    def generate(self, numbers: Sequence[int]) -> list[GeneratedText]:
        """Write the texts of a batch.

        Args:
            numbers: Of the requests.

        Raises:
            LauncherError: vLLM refuses the model, the adapter or a setting.
            RuntimeError: it failed, or its process ended.
            StopRequested: its process ended after a request to stop.
        """
        if not self._process.is_started:
            self._start()
        started = time.perf_counter()
        answer = self._process.ask(self._batch([self._requests[number] for number in numbers]))
        texts = [self._text(**one) for one in answer["texts"]]
        if len(texts) != len(numbers):
            raise RuntimeError(f"vLLM wrote {len(texts)} texts for {len(numbers)} prompts")
        self.tokens += sum(len(text.ids) for text in texts)
        self.seconds += time.perf_counter() - started
        return texts

    def _start(self) -> None:
        """Start the process, with less memory each time that it finds too little of it free."""
        for share, next_share in zip(MEMORY_SHARES, (*MEMORY_SHARES[1:], None), strict=True):
            try:
                self._process.start(self._settings | {"memory_share": share})
                return
            except MemoryTakenError:
                if next_share is None:
                    raise
                self._process.close()
                print(
                    f"engine: other processes use the GPU's memory; vLLM is started again with {next_share:.0%} of it",
                    flush=True,
                )

    def close(self) -> None:
        """End vLLM's process."""
        self._process.close()

    def _batch(self, requests: Sequence[GenerationRequest]) -> dict[str, Any]:
        decoding = self._recipe.decoding
        # Seeds are signed 64-bit numbers in vLLM, and -1 means none.
        prompts = [{"ids": [*one.ids], "seed": item_key(self._recipe.seed, one.id) >> 1} for one in requests]
        sampling = {
            "temperature": decoding.temperature,
            "top_k": decoding.top_k or 0,
            "top_p": decoding.top_p,
            "repetition_penalty": decoding.repetition_penalty,
            "max_tokens": decoding.max_new_tokens,
            "stop_token_ids": sorted(self._ends),
            "stop": [*decoding.stop],
        }
        return {"prompts": prompts, "sampling": sampling}

    def _text(self, ids: Sequence[int], finish: str) -> GeneratedText:
        if finish not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a text with `{finish}`, before it was complete")
        stopped = len(ids) if finish == "stop" else None
        return text_of(ids, stopped, self._ends, self._recipe.decoding.stop, self._model.tokenizer)


def _settings(model: OutlinedModel, requests: Sequence[GenerationRequest], recipe: GenerateRecipe) -> dict[str, Any]:
    """Return what the worker is told about the model.

    vLLM reserves memory for one text of `max_model_len` tokens at least, so that is no more than the longest one needs.
    """
    longest = max((len(one.ids) for one in requests), default=0) + recipe.decoding.max_new_tokens
    settings = {
        "model": str(model.files.base),
        "tokenizer": str(model.files.tokenizer),
        "dtype": DTYPES[recipe.model.dtype],
        "max_model_len": longest,
        "seed": recipe.seed,
    }
    for adapter in model.files.adapters:
        adapter.require_plain_lora("vllm")
        rank = next((one for one in RANKS if one >= adapter.rank), None)
        if rank is None:
            raise LauncherError(
                f"model.adapters.0.path: `{adapter.folder.name}` has rank {adapter.rank}, and vLLM applies at most "
                f"{RANKS[-1]}; merge it into the model first (`kind: merge`), or write `engine: transformers`"
            )
        settings |= {"adapter": str(adapter.folder), "rank": rank}
    return settings
