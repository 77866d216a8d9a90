"""What every section of every recipe obeys, and values that are refused wherever they stand."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Scale = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ConflictError(ValueError):
    """Several keys contradict each other; each message is `KEY: what is wrong; what to write`."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = tuple(messages)
        super().__init__("; ".join(self.messages))


def refuse_site_path(value: str) -> str:
    """Refuse absolute paths: a recipe says what, the cluster profile says where."""
    if value.startswith(("/", "~")):
        raise ValueError(
            f"`{value}` is a path of one site; write a name below the cluster profile's roots, or a "
            "path that starts with `./` (relative to this file)"
        )
    return value


def refuse_bad_name(value: str) -> str:
    """Refuse what cannot name a variable of the environment; a secret's value pasted for its name is not repeated."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("is not the name of an environment variable; write a name such as `WANDB_API_KEY`")
    return value


def refuse_bad_folder(name: str) -> str:
    """Refuse what cannot name a folder below one of the profile's roots."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"`{name}` cannot name a folder; write letters, digits, `.`, `_` and `-`")
    return name


FolderName = Annotated[str, AfterValidator(refuse_bad_folder)]
VariableName = Annotated[str, AfterValidator(refuse_bad_name)]
