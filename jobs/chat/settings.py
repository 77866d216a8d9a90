"""How answers are written, changed one by one while people talk."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import ValidationError

from launcher.errors import LauncherError
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.generation import Decoding


@dataclass(frozen=True)
class ChatSettings:
    """Settings of answers, each as `decoding` in a recipe has it."""

    temperature: float
    top_p: float
    top_k: int | None
    repetition_penalty: float
    max_new_tokens: int
    stop: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, request: ChatRequest) -> "ChatSettings":
        """Return those to start with."""
        return cls(**request.decoding.model_dump(), seed=request.seed)

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen. At temperature 0 nothing is sampled, and what belongs to sampling is left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "seed"}
        if self.temperature == 0:
            values |= {"top_p": 1.0, "top_k": None}
        return Decoding(**values)

    def changed(self, **values: Any) -> "ChatSettings":
        """Return other settings.

        Raises:
            LauncherError: a value is not allowed; says what is.
        """
        made = replace(self, **values)
        for name, (field, _) in NUMBERS.items():
            if field != "top_k" and getattr(made, field) is None:  # a box of the page that was cleared
                raise LauncherError(f"{name}: there is no number; write one")
        try:
            # Also what is not in use at temperature 0.
            Decoding(top_p=made.top_p, top_k=made.top_k, temperature=made.temperature or 1.0)
            made.decoding  # noqa: B018 - raises if they do not fit
        except ValidationError as error:
            raise LauncherError(_describe(error)) from None
        if not 0 <= made.seed < 2**32:
            raise LauncherError(f"seed: `{made.seed}` is not from 0 to {2**32 - 1}")
        return made

    def changed_to(self, name: str, text: str) -> "ChatSettings":
        """Return other settings, one of them from what somebody typed.

        Raises:
            LauncherError: it is no number, or not allowed.
        """
        field, convert = NUMBERS[name]
        try:
            value = None if (field, text) == ("top_k", "all") else convert(text)
        except ValueError:
            kind = "a whole number" if convert is int else "a number"
            raise LauncherError(f"{name}: `{text}` is not {kind}") from None
        return self.changed(**{field: value})

    def lines(self) -> list[str]:
        """Write all that are numbers, by the names of the commands."""
        shown = {name: getattr(self, field) for name, (field, _) in NUMBERS.items()}
        unused = " (not in use at temperature 0)" if self.temperature == 0 else ""
        said = {"top_p": unused, "top_k": unused, "seed": unused}
        return [f"{name} {_shown(value)}{said.get(name, '')}" for name, value in shown.items()]


NUMBERS: Mapping[str, tuple[str, type[float] | type[int]]] = {
    "temperature": ("temperature", float),
    "length": ("max_new_tokens", int),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "penalty": ("repetition_penalty", float),
    "seed": ("seed", int),
}
"""Settings that are numbers: field and type, by the name that people type."""


def _shown(value: float | None) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _describe(error: ValidationError) -> str:
    typed = {field: name for name, (field, _) in NUMBERS.items()}
    fault = error.errors(include_url=False)[0]
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    name = str(fault["loc"][0])
    return f"{typed.get(name, name)}: `{fault['input']}`: {message[0].lower()}{message[1:]}"
