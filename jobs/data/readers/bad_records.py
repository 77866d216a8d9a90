"""Bad records by reason: what many have in common, and some examples of each."""

import re
from collections import Counter
from collections.abc import Iterable

EXAMPLES = 5
"""Bad records that are named for each reason."""

_NUMBER = re.compile(r"(?<![\w-])(?:0x[0-9a-f]++|[0-9]++(?:,[0-9]{3})*+)(?! MiB)")


def reason_of(what: str) -> str:
    """Return what many bad records have in common: what is wrong, without the numbers in it."""
    return _NUMBER.sub("N", what)


def some_of_each(entries: Iterable[str]) -> list[str]:
    """Return the first bad records for each reason, of entries like `file:line: what is wrong`."""
    named, shown = Counter[str](), []
    for entry in entries:
        reason = reason_of(entry.partition(": ")[2])
        named[reason] += 1
        if named[reason] <= EXAMPLES:
            shown.append(entry)
    return shown
