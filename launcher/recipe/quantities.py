"""Quantities as people write them: `12h`, `80GB`, `3%`, `2048 sequences`. Each remains text."""

import math
import re
from fractions import Fraction
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from typing_extensions import override

from launcher.recipe.base import RefusedError

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

MAX_CHARACTERS = 40
"""Of a quantity; the numbers in it are then ones that Python computes with."""


class Quantity(str):
    """Text that holds a number and a unit; subclasses say which."""

    pattern: ClassVar[str]
    example: ClassVar[str]

    def __new__(cls, text: str) -> Self:
        """Check the text against the unit's pattern."""
        if len(text) > MAX_CHARACTERS or not re.fullmatch(cls.pattern, text, re.ASCII):
            raise ValueError(f"`{text[:MAX_CHARACTERS]}` cannot be read; write {cls._suggestion(text)}")
        quantity = super().__new__(cls, text)
        if complaint := quantity._complaint():
            raise ValueError(f"`{text}` {complaint}; write {cls.example}")
        return quantity

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._from_any, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(?:{cls.pattern})$"}

    @classmethod
    def _from_any(cls, value: object) -> Self:
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise RefusedError("unit-missing", f"`{value}` has no unit; write {cls.example}")
        raise RefusedError("wrong-type", f"is not {cls.example}; write one")

    @classmethod
    def _suggestion(cls, text: str) -> str:  # noqa: ARG003 - durations look at it
        """Say what to write instead of a text that does not match the pattern."""
        return cls.example

    def _complaint(self) -> str | None:
        """Say what is wrong with a quantity that matches the pattern."""
        return None if re.search("[1-9]", self) else "is zero"

    def _number_and_unit(self) -> tuple[Fraction, str]:
        match = re.match(r"([\d.]+)\s*([A-Za-z%]+)", self)
        assert match, self  # the pattern was checked when the object was made
        return Fraction(match[1]), match[2]  # as a float, 1.1% of 3,000 steps would be 33.000000000000004


class Duration(Quantity):
    """Time, e.g. `90s`, `30min`, `12h`, `1d12h`."""

    pattern = r"(\d+(d|h|min|s))+"
    example = "a duration such as `30min`, `12h` or `1d12h`"

    @classmethod
    @override
    def _suggestion(cls, text: str) -> str:
        found = duration_of_clock(text)
        return f"`{found}`" if found else cls.example

    @property
    def seconds(self) -> int:
        """The duration in seconds."""
        return sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)(d|h|min|s)", self))


def duration_of_clock(text: str) -> str | None:
    """Write Slurm's `[DAYS-]HOURS:MINUTES:SECONDS` as a duration; None if it is something else."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)", text, re.ASCII)
    if match is None or len(text) > MAX_CHARACTERS:
        return None
    parts = zip(match.groups(), ("d", "h", "min", "s"), strict=True)
    return "".join(f"{int(number)}{unit}" for number, unit in parts if number and int(number)) or None


class Size(Quantity):
    """Memory or disk, e.g. `80GB` (10^9 bytes) or `64GiB` (2^30 bytes)."""

    pattern = r"\d+(\.\d+)?(MB|GB|TB|MiB|GiB|TiB)"
    example = "a size such as `80GB` or `64GiB`"

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        number, unit = self._number_and_unit()
        return int(number * _BYTES[unit])


class _Counted(Quantity):
    """A count of something, whole but for epochs; the number may carry k, M, B or T."""

    @property
    def exact(self) -> Fraction:
        """The number, multiples applied, not rounded (`0.5 epochs` -> 1/2)."""
        match = re.match(r"([\d.]+)([kKMBT]?)\s*", self)
        assert match, self
        return Fraction(match[1]) * _MULTIPLES[match[2]]

    @property
    def value(self) -> int:
        """The count, multiples applied (`4M tokens` -> 4,000,000)."""
        return round(self.exact)

    @property
    def unit(self) -> str:
        """What is counted, in the singular (`token`)."""
        return self.split()[-1].removesuffix("s")

    def _complaint(self) -> str | None:
        is_broken = self.exact % 1 and self.unit != "epoch"
        return super()._complaint() or ("is not a whole number" if is_broken else None)


class BatchSize(_Counted):
    """A global batch, e.g. `2048 sequences` or `4M tokens`."""

    pattern = r"\d+(\.\d+)?[kKMBT]? (sequences?|tokens?)"
    example = "a batch such as `2048 sequences` or `4M tokens`"


class Length(_Counted):
    """How long to train, e.g. `1 epoch`, `3000 steps` or `63B tokens`."""

    pattern = r"\d+(\.\d+)?[kKMBT]? (epochs?|steps?|tokens?)"
    example = "a length such as `1 epoch`, `3000 steps` or `63B tokens`"


class PercentOrSteps(Quantity):
    """Part of the training, e.g. `3%` or `100 steps`."""

    pattern = r"\d+(\.\d+)?%|\d+ steps?"
    example = "a share such as `3%` or `100 steps`"

    def _complaint(self) -> str | None:
        number, unit = self._number_and_unit()
        return "is more than 100 %" if unit == "%" and number > 100 else None

    def steps(self, total: int) -> int:
        """Turn the share into steps; a percentage is rounded up, as Trainer does with `warmup_ratio`.

        Args:
            total: Optimizer steps of the whole training.
        """
        number, unit = self._number_and_unit()
        return math.ceil(number * total / 100) if unit == "%" else int(number)


class Interval(Quantity):
    """How often, e.g. `1000 steps` or `30min`."""

    pattern = rf"\d+ steps?|{Duration.pattern}"
    example = "an interval such as `1000 steps` or `30min`"

    @property
    def steps(self) -> int | None:
        """Number of steps, or None for a duration."""
        return int(self.split()[0]) if "step" in self else None

    @property
    def seconds(self) -> int | None:
        """Seconds, or None for a number of steps."""
        return None if "step" in self else Duration(self).seconds
