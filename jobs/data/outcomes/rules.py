"""The rules that give an admission its labels: length of stay, death in hospital, groups of codes."""

import re
from bisect import bisect_left
from collections.abc import Callable
from typing import TypeAlias

from jobs.data.outcomes.sections import Rules

_STAYS = (263_520, 609_120, 1_213_920)
"""Longest stays of the classes but the last one, in seconds: 3, 7 and 14 days after rounding to tenths. CORe's code
rounds as numpy does, ties to even, so 3.05 days are 3.0."""

_CUT = re.compile(
    r"((?:PHYSICAL EXAM|MEDICATION ON ADMISSION):[^\n]*?)"
    r"((?:patient|pt)?\s+(?:had\s|has\s)?(?:expired|died|passed away|deceased))",
    re.IGNORECASE,
)
_TOLD = re.compile(
    r"(?:patient|pt)\s+(?:had\s|has\s)?(?:expired|died|passed away|deceased)"
    r"|he expired|pronounced expired|time of death",
    re.IGNORECASE,
)
"""Patterns of CORe's tasks/mp/mp.py."""
_WORDS = ("expired", "died", "passed away", "deceased", "time of death")
"""What the patterns look for: most notes have none of it, and searching for words is much faster."""

Grouping: TypeAlias = Callable[[str, str], str]
"""Takes a code and the version of its classification; returns the name of its group."""
ICD_VERSIONS = ("9", "10")


def stay_class(seconds: int) -> int:
    """Return the class of a length of stay: at most 3 days, 7 days, 14 days, more."""
    return bisect_left(_STAYS, seconds)


def without_mentions_of_death(text: str) -> str | None:
    """Cut the patient's death out of what is told of examination and medication; None if it is told elsewhere.

    Of each of the two parts, the first mention is cut out, as in CORe's code. A second one counts as told elsewhere.
    """
    small = text.lower()
    if not any(words in small for words in _WORDS):
        return text
    text = _CUT.sub(r"\1", text)
    return None if _TOLD.search(text) else text


def diagnosis_group(code: str, version: str) -> str:
    """Name the group of a diagnosis: three characters, or four of ICD-9's supplements V and E.

    Groups of ICD-10 begin with `10_`, since `E11` and the like would be the start of an E code of ICD-9.
    """
    code = code.replace(".", "")
    if version == "10":
        return f"10_{code[:3]}"
    return code[:4] if code.startswith(("V", "E")) else code[:3]


def procedure_grouping(rules: Rules) -> Grouping:
    """Return what names the group of a procedure: its first three characters.

    `published`: zeros at the start of an ICD-9 code are left out first, so that `0066` is in the group `66`. CORe's
    code reads codes as numbers, and the 711 published groups have names such as `34` and `66` (PROCEDURES_MAP in
    https://github.com/aryopg/clinical_peft). `0331` and `3310` are then both in `331`; `strict` tells them apart.
    """

    def group(code: str, version: str) -> str:
        code = code.replace(".", "")
        if version == "10":
            return f"10_{code[:3]}"
        return str(int(code))[:3] if rules == "published" and code.isdecimal() else code[:3]

    return group
