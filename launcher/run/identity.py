"""What a run is: its recipe without where and how fast, and what it reads. Standard library only.

Rank 0 notes it when an attempt starts (identity.json). When the run has finished, the batch process works out the
identity and puts the run into the index of finished runs (`launcher.run.index`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from launcher.run.contents import Content, digest_all, look_at
from launcher.run.files import replace_text
from launcher.run.typed import read_object

_CHARACTERS = 20
"""Of each of the two checksums: 80 bits, enough for any number of runs."""


@dataclass(frozen=True)
class MadeArtifact:
    """What a run makes, and what it is once it has been made."""

    type: str
    """`launcher.recipe.base.ArtifactType`."""
    path: str
    content: Content | None = None

    def is_there(self) -> bool:
        """Tell whether it is still what the run made."""
        return self.content is not None and look_at(self.type, Path(self.path)) == self.content


@dataclass(frozen=True)
class RunIdentity:
    """The two parts of an identity, and what came of the run."""

    recipe: str
    """Checksum of the recipe (`launcher.recipe.identity.recipe_checksum`)."""
    inputs: tuple[tuple[str, Content], ...]
    """What is read, by the keys in the recipe."""
    makes: MadeArtifact | None = None
    is_mixed: bool = False
    """Whether the inputs changed between two attempts, so that the result has no identity."""
    changed: tuple[str, ...] = ()
    """The keys of those that did."""

    def name(self, cache: Path) -> str:
        """Work the identity out.

        Args:
            cache: Folder of checksums of files.

        Raises:
            OSError: A file cannot be read.
        """
        return f"{part_of(self.recipe)}{digest_all(self.inputs, cache)[:_CHARACTERS]}"

    def is_unchanged(self) -> bool:
        """Tell whether the inputs are still what they were when this was noted."""
        return all(content.is_unchanged() for _, content in self.inputs)

    def write(self, path: Path) -> tuple[str, ...]:
        """Write identity.json; a later attempt that finds other inputs says so.

        Returns:
            The keys of the inputs that have changed since an earlier attempt noted them.
        """
        before, now = RunIdentity.read(path), self
        changed = () if before is None else before.differences(self)
        if before is not None:
            keys = dict.fromkeys((*before.changed, *changed))
            now = replace(self, is_mixed=before.is_mixed or bool(changed), changed=tuple(keys))
        replace_text(path, json.dumps(now.as_json(), indent=1) + "\n")
        return changed

    def differences(self, other: "RunIdentity") -> tuple[str, ...]:
        """Return the keys of the inputs that are not the same in both, each once."""
        pairs = zip_longest(self.inputs, other.inputs)
        return tuple(dict.fromkeys(key for ours, theirs in pairs if ours != theirs for key, _ in [ours or theirs]))

    def note_made(self, path: Path) -> "RunIdentity":
        """Write what was made into identity.json, too."""
        if self.makes is None:
            return self
        made = replace(self.makes, content=look_at(self.makes.type, Path(self.makes.path)))
        now = replace(self, makes=made)
        replace_text(path, json.dumps(now.as_json(), indent=1) + "\n")
        return now

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        made = self.makes
        makes = made and {"type": made.type, "path": made.path, "content": made.content and made.content.as_json()}
        inputs = [[key, content.as_json()] for key, content in self.inputs]
        mixed = {"is_mixed": self.is_mixed, "changed": list(self.changed)}
        return {"recipe": self.recipe, "inputs": inputs, "makes": makes, **mixed}

    @classmethod
    def read(cls, path: Path) -> "RunIdentity | None":
        """Read identity.json; None if there is none that can be read."""
        try:
            found = read_object(path)
            inputs = tuple((key, Content.from_json(content)) for key, content in found["inputs"])
            makes, made = found["makes"], None
            if makes:
                content = makes["content"] and Content.from_json(makes["content"])
                made = MadeArtifact(makes["type"], makes["path"], content or None)
            keys = found.get("changed", ())  # older launchers did not say
            changed = tuple(key for key in keys if isinstance(key, str) and key.isprintable())
            return cls(found["recipe"], inputs, made, found["is_mixed"], changed)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None


def describe_changed(keys: Sequence[str]) -> str:
    """Say that inputs of a run changed between two attempts.

    Args:
        keys: Theirs, in the recipe.
    """
    told = ", ".join(f"`{key}`" for key in keys) or "its inputs"
    return f"{told} changed between two attempts: the result comes from both, and `launcher submit` does not reuse it"


def part_of(recipe: str) -> str:
    """The part of an identity that a recipe's checksum decides."""
    return f"{recipe[:_CHARACTERS]}-"
