"""A concept as a source of terms describes it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Concept:
    """A concept and its names."""

    id: str
    """Of the source, with its prefix: `DOID:1612`, `C0024291`, `D001943`."""
    preferred: str
    type: str
    synonyms: list[str] = field(default_factory=list)
