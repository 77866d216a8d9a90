"""What a plain YAML scalar means: the YAML 1.2 core schema, with the ambiguous spellings of 1.1 refused.

YAML 1.1, which PyYAML follows, reads `no` as false, `010` as 8, `12:30` as 750 and `1e-5` as text
(https://yaml.org/type/, against https://yaml.org/spec/1.2.2/#103-core-schema). Here `no` is text, `1e-5` is a number,
and what 1.1 and 1.2 read as different numbers has to be written differently.
"""

import re
from typing import TypeAlias

from launcher.recipe.quantities import duration_of_clock

Scalar: TypeAlias = str | int | float | bool | None

MAX_DIGITS = 18
"""Whole numbers of more digits do not fit 64 bits; nothing in a recipe is that large."""

_WORDS: dict[str, Scalar] = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "false": False,
    ".inf": float("inf"),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
_NUMBER_STARTS = frozenset("0123456789+-.")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_OTHER_BASE = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+)")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def resolve(text: str) -> tuple[Scalar, str | None]:
    """Turn the text of an unquoted scalar into a value.

    Returns:
        The value, and what is wrong with the spelling (None if nothing is).
    """
    if text in _WORDS:
        return _WORDS[text], None
    if text[0] not in _NUMBER_STARTS:
        return text, None
    if _WHOLE.fullmatch(text):
        if len(text.lstrip("+-")) > MAX_DIGITS:
            return (
                text,
                f"a whole number of more than {MAX_DIGITS} digits; write fewer, or quotes if it is text",
            )
        return int(text), None
    if complaint := _ambiguity(text):
        return text, complaint
    return (float(text), None) if _FLOAT.fullmatch(text) else (text, None)


def _ambiguity(text: str) -> str | None:
    if len(text) > 2 * MAX_DIGITS:
        return None
    if _LEADING_ZERO.fullmatch(text):
        decimal = str(int(text.replace("_", "")))
        return f'`{text}` is octal in YAML 1.1 and decimal in 1.2; write `{decimal}`, or `"{text}"` for text'
    if _OTHER_BASE.fullmatch(text):
        decimal = str(int(text.replace("_", ""), 0))
        return f'`{text}` is not a decimal number; write `{decimal}`, or `"{text}"` for text'
    if _BASE_60.fullmatch(text):
        found = duration_of_clock(text)
        fix = f"`{found}` for a duration" if found else "a duration such as `12h30min`"
        return f'`{text}` is a number of base 60 in YAML 1.1; write {fix}, or `"{text}"` for text'
    return None
