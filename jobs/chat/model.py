"""A model that one talks to: its adapters can be exchanged, its chat template turns conversations into prompts."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from traceback import clear_frames

import torch

from jobs.chat.answer import Answer
from jobs.chat.settings import ChatSettings
from jobs.data.chat.formats import Message
from jobs.data.chat.render import Renderer
from jobs.data.chat.templates import chat_template
from jobs.evaluation.generator import ends_of
from jobs.evaluation.loaded_model import DTYPES, LoadedModel, load_weights
from jobs.models.folder import TOKENIZER_CONFIG, load_tokenizer, local_folder
from launcher.artifacts.adapter_folder import read_adapter
from launcher.errors import LauncherError
from launcher.recipe.base import nearest_first
from launcher.recipe.sections.chat import ChatSubject

_FALLBACK = (
    "the tokenizer has no chat template, so `plain` is used: a question, a space, the answer, as a model that only "
    "continues text expects it; name another with --template"
)


class ChatModel:
    """One model in memory.

    Weights are loaded as `kind: generate` loads them, adapters merged in fp32: another adapter loads them again.

    Args:
        subject: What to load.
        device: Where to.
        seed: For libraries that draw random numbers while they load.

    Raises:
        LauncherError: it cannot be loaded.
    """

    def __init__(self, subject: ChatSubject, device: torch.device, seed: int) -> None:
        self._subject = subject
        self._device = device
        self._seed = seed
        self._in_use = Lock()
        self._loaded: LoadedModel | None = None
        self.title = subject.title
        self._load(subject.choice)

    @property
    def choices(self) -> list[str]:
        """Names of the adapters that can be chosen."""
        return [*self._subject.adapters]

    @property
    def has_system_prompt(self) -> bool:
        """Whether the chat template accepts one."""
        try:
            self._renderer.prompt_ids([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
        except ValueError:
            return False
        return True

    @property
    def first_system_prompt(self) -> str | None:
        """The one that the recipe has."""
        return self._subject.system_prompt

    @property
    def description(self) -> str:
        """Number format, device and chat template."""
        quantization = self._subject.model.quantization
        bits = f"{quantization.bits} bits, " if quantization else ""
        return f"{bits}{self._subject.model.dtype} on {self._device}, chat template `{self._template}`"

    @contextmanager
    def using(self, choice: str) -> Iterator[None]:
        """Have the model to oneself, with an adapter.

        Raises:
            LauncherError: there is no such adapter.
        """
        with self._in_use:
            self.use(choice)
            yield

    def use(self, choice: str) -> None:
        """Exchange the adapter. Where that fails or is interrupted, the one before stays.

        Raises:
            LauncherError: there is no such adapter, or it cannot be loaded.
        """
        if choice not in self._subject.adapters:
            names = nearest_first(choice, self.choices)
            raise LauncherError(f"{self.title}: there is no adapter `{choice}`; there are {names}")
        if choice != self.choice:
            before = self.choice
            try:
                self._load(choice)
            except BaseException as error:  # also Ctrl-C
                clear_frames(error.__traceback__)  # they hold what was loaded until then, and its memory is needed
                self._load(before)
                raise

    def answer(self, messages: Sequence[Message], settings: ChatSettings, name: str) -> tuple[Answer, int]:
        """Prepare an answer to the last of some messages.

        Args:
            messages: Of the conversation; a system prompt first, if there is one.
            settings: How to answer.
            name: Of the answer in the conversation.

        Returns:
            The answer, and how many of the oldest messages had to be left out so that it fits into the model's
            positions.

        Raises:
            ValueError: a message cannot be a part of a prompt; says why and does not quote it.
        """
        if self._loaded is None:  # somebody pressed Ctrl-C twice while the adapter was exchanged
            self._load(self.choice)
        assert self._loaded is not None
        decoding = settings.decoding
        limit = self._loaded.max_length - decoding.max_new_tokens
        head, turns = ([messages[0]], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
        ids = self._renderer.prompt_ids([*head, *turns])
        left_out = 0
        while len(ids) > limit and len(turns) - left_out > 2:
            left_out += 2
            ids = self._renderer.prompt_ids([*head, *turns[left_out:]])
        if len(ids) > limit:
            raise ValueError(
                f"has {len(ids)} tokens; with {decoding.max_new_tokens} for the answer they are more than the model's "
                f"{self._loaded.max_length} positions: write less, or use a smaller length"
            )
        return Answer(self._loaded, self._ends, array("I", ids), decoding, settings.seed, name), left_out

    def _load(self, choice: str) -> None:
        subject = self._subject
        self._loaded = None  # its memory is needed
        base = local_folder(subject.base, "model")
        adapters = [read_adapter(local_folder(one, "adapter")) for one in subject.adapters[choice]]
        weights = load_weights(subject.model, base, adapters, self._device, self._seed)
        folders = [base, *(one.folder for one in adapters)]
        beside = next((one for one in reversed(folders) if (one / TOKENIZER_CONFIG).is_file()), base)
        tokenizer = load_tokenizer(local_folder(subject.tokenizer, "tokenizer") if subject.tokenizer else beside)
        loaded = LoadedModel(weights.eval(), tokenizer, self._device, DTYPES[subject.model.dtype])
        own = isinstance(tokenizer.chat_template, str)
        self._template = subject.template or ("tokenizer" if own else "plain")
        self.note = "" if subject.template or own else _FALLBACK
        self._renderer = Renderer(tokenizer, chat_template(tokenizer, self._template, "template"))
        self._ends = ends_of(loaded, self._renderer.end_of_turn)
        self.choice, self._loaded = choice, loaded  # last, so that what is loaded is complete
