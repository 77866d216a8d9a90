"""What every section of every recipe obeys, values that are refused everywhere, and what recipes read and make."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from launcher.errors import FaultCode

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Scale = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Direction: TypeAlias = Literal["minimize", "maximize"]
"""Which values of a metric are better."""


class Section(BaseModel):
    """A part of a recipe: frozen, strict, no unknown keys."""

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Keys that say where, how fast or for whom. They change nothing but rounding, and are no part of a run's identity
    (`launcher.recipe.identity`)."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, defer_build=True, serialize_by_alias=True
    )

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Self:
        if conflicts := [*self._conflicts()]:
            raise ConflictError(conflicts)
        return self

    def _conflicts(self) -> Iterable[str]:
        """Name keys that contradict each other: `KEY: what is wrong; what to write`."""
        return ()


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the keys that recipes write: `async` cannot be a field's name in Python."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


class RefusedError(ValueError):
    """A value that its key cannot have."""

    def __init__(self, code: FaultCode, message: str) -> None:
        self.code = code
        super().__init__(message)


class ConflictError(ValueError):
    """Several keys contradict each other; each message is `KEY: what is wrong; what to write`."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = tuple(messages)
        super().__init__("; ".join(self.messages))


def likeness(one: str, other: str) -> float:
    """Say how alike two names are, from 0 to 1; case makes no difference."""
    return difflib.SequenceMatcher(None, one.casefold(), other.casefold()).ratio()


def nearest_first(wrong: str, known: Iterable[str]) -> str:
    """Write the names that there are one after another, those most like a wrong one first."""
    return ", ".join(f"`{name}`" for name in sorted(known, key=lambda name: -likeness(name, wrong)))


def refuse_site_path(value: str) -> str:
    """Refuse absolute paths, since a recipe says what and the cluster profile says where; and what names nothing."""
    if not value.strip():
        raise ValueError("is empty; write a name below the cluster profile's roots, or leave the key out")
    if value.startswith(("/", "~")):
        raise RefusedError(
            "site-path",
            f"`{value}` is a path that only one site has; write a name below the cluster profile's roots, or a "
            "path that starts with `./` (relative to this file)",
        )
    return value


def refuse_bad_name(value: str) -> str:
    """Refuse what cannot name an environment variable; the value is not repeated, since it may be a secret."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("is not the name of an environment variable; write a name such as `WANDB_API_KEY`")
    return value


def refuse_bad_folder(name: str) -> str:
    """Refuse what cannot name a folder below one of the profile's roots."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"`{name}` cannot name a folder; write letters, digits, `.`, `_` and `-`")
    return name


Name = Annotated[str, AfterValidator(refuse_site_path)]
"""What names a model, corpus or files: below one of the profile's roots, or relative to the recipe."""
FolderName = Annotated[str, AfterValidator(refuse_bad_folder)]
VariableName = Annotated[str, AfterValidator(refuse_bad_name)]

ArtifactType: TypeAlias = Literal["model", "adapter", "tokenizer", "corpus", "scores", "tables", "terminology"]


@dataclass(frozen=True)
class Artifact:
    """What a recipe makes for other recipes."""

    type: ArtifactType
    name: str
    """Name by which they find it, below the profile's `roots.corpora`, `roots.models` or `roots.data`."""
    files: tuple[str, ...] = field(default=(), compare=False)
    """Of tables: the names of the files that will be in the folder."""


@dataclass(frozen=True)
class Input:
    """What a recipe reads: one for each name in it that has to exist."""

    key: str
    """Dotted path in the recipe."""
    type: ArtifactType | Literal["files", "preferences"]
    name: str
    """As the recipe says it: a name below one of the profile's roots, `./...`, a glob or a Hugging Face id."""
    format: Literal["any", "dataset", "expansion", "causal"] = "any"
    """`dataset`: files of a Hugging Face dataset on disk. `expansion`: a tokenizer that a `vocabulary` recipe made.
    `causal`: a model that predicts each token from those before it."""


@dataclass(frozen=True)
class TableInput(Input):
    """Tables with a row of column names, which must have these columns."""

    columns: tuple[tuple[str, str], ...] = ()
    """Key and name of each column."""
    fix: str = "write a name that is there"
    """What to do if one is missing."""


@dataclass(frozen=True)
class TermsInput(Input):
    """An index of terms."""

    needs_counts: bool = False
    """Whether it must have counted mentions in text."""


@dataclass(frozen=True)
class AdapterInput(Input):
    """An adapter that is applied to a base model, after those before it in the recipe."""

    base: str = ""
    """The model as the recipe names it."""
    trained_on: str | None = None
    """What the recipe says that the adapter calls its base."""
    merged: Literal["all", "attention", "with head", "if possible"] | None = None
    """What of it is merged into the model; `with head`: all, and it may bring a head that classifies; `if possible`:
    all, or it is used as it is; None: it stays beside the
    weights, active together with others."""
    is_alone: bool = False
    """Whether it is the only adapter of its base, and brings a head that rewards; others in the recipe are no part of
    this."""
