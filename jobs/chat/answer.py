"""One answer, part by part while the model writes it: in the end the text that `kind: generate` would give.

transformers' TextIteratorStreamer keeps a word back until the next one begins, knows no stop strings, and gives other
text where tokens depend on one another. Here everything is decoded again with each token, and what a later token could
change is kept back: half a character, or what may become a stop string.
"""

import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Literal

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from jobs.evaluation.decoding import RowEnds, TokenScores, decoded, first_stop
from jobs.evaluation.generator import generation_settings, padding_of, text_of, without_recommendations
from jobs.evaluation.keyed_noise import item_key
from jobs.evaluation.loaded_model import LoadedModel
from launcher.errors import LauncherError
from launcher.recipe.sections.generation import Decoding

_HALF = "\ufffd"
"""What the first bytes of a character are decoded to."""


class Answer:
    """An answer that is being written. Iterating gives its text, part by part, and can be done once.

    Args:
        model: The model.
        ends: Tokens that end an answer.
        prompt: Token ids of the conversation.
        decoding: How tokens are chosen.
        seed: Of sampling.
        name: Of the answer in the conversation; other names draw other random numbers.
    """

    def __init__(
        self, model: LoadedModel, ends: frozenset[int], prompt: Sequence[int], decoding: Decoding, seed: int, name: str
    ) -> None:
        self._model = model
        self._ends = ends
        self._prompt = prompt
        self._decoding = decoding
        self._scores = TokenScores(decoding, [prompt], [item_key(seed, name)], len(prompt))
        self._row_ends = RowEnds(ends, decoding.stop, model.tokenizer, len(prompt), interrupts=False)
        self._stop = Event()
        self._made: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self._ids: list[int] = []
        self.text = ""
        """What has been written so far."""
        self.finish: Literal["stop", "length", "stopped", "failed"] = "failed"
        """`stop`: the model ended it, or it came to a stop string; `length`: it has as many tokens as it may;
        `stopped`: somebody stopped it."""
        self.seconds = 0.0
        """How long it took."""

    @property
    def tokens(self) -> int:
        """Tokens made so far."""
        return len(self._ids)

    def stop(self) -> None:
        """End it after the next token."""
        self._stop.set()

    def __iter__(self) -> Iterator[str]:
        """Write the answer.

        Raises:
            LauncherError: the memory does not suffice, or the logits are no numbers.
        """
        started = time.perf_counter()
        worker = Thread(target=self._work, daemon=True)
        worker.start()
        try:
            while (made := self._made.get()) is not None:
                if isinstance(made, BaseException):
                    raise made
                self._ids.append(made)
                yield from self._new_part(self._safe_text())
            yield from self._new_part(self._whole_text())
        finally:
            self._stop.set()
            worker.join()
            self.seconds = time.perf_counter() - started
            del self._model  # whoever keeps the answer need not keep the weights

    def _new_part(self, text: str) -> Iterator[str]:
        if len(text) > len(self.text) and text.startswith(self.text):
            part = text[len(self.text) :]
            self.text = text
            yield part

    def _safe_text(self) -> str:
        """Return the text without what the next token may change."""
        ids = [one for one in self._ids if one not in self._ends]
        text = decoded(self._model.tokenizer, ids).rstrip(_HALF)
        text = text[: first_stop(text, self._decoding.stop)]
        begun = [size for stop in self._decoding.stop for size in range(1, len(stop)) if text.endswith(stop[:size])]
        return text[: len(text) - max(begun, default=0)]

    def _whole_text(self) -> str:
        found = text_of(
            self._ids, self._row_ends.stopped.get(0), self._ends, self._decoding.stop, self._model.tokenizer
        )
        is_cut = found.finish == "length" and self.tokens < self._decoding.max_new_tokens
        self.finish = "stopped" if is_cut else found.finish
        return found.text

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            self._generate()
            if self._scores.broken_rows():
                raise LauncherError("the model's logits are not numbers; load it in another `--dtype`")
        except torch.OutOfMemoryError:
            self._made.put(LauncherError("the GPU's memory does not suffice; use /reset, or a smaller /length"))
        except BaseException as error:
            self._made.put(error)
        self._made.put(None)

    def _generate(self) -> None:
        ids = torch.tensor([self._prompt], device=self._model.device)
        with without_recommendations(self._model.bare):
            self._model.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_settings(self._decoding.max_new_tokens, padding_of(self._model.tokenizer)),
                logits_processor=LogitsProcessorList([self._scores]),
                stopping_criteria=StoppingCriteriaList([self._row_ends, _StopAsked(self._stop)]),
                streamer=_Tokens(self._made),
            )


class _Tokens(BaseStreamer):
    """Passes each new token on; `generate` gives the prompt first."""

    def __init__(self, made: "SimpleQueue[int | BaseException | None]") -> None:
        self._made = made
        self._is_prompt = True

    def put(self, value: Any) -> None:
        if not self._is_prompt:
            self._made.put(int(value))
        self._is_prompt = False

    def end(self) -> None:
        """Do nothing: the thread says when it is done."""


class _StopAsked(StoppingCriteria):
    def __init__(self, stop: Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)
