"""Which of two source files is newer: their names say so, whatever folder or source of the recipe they are in.

NLM numbers MEDLINE's files (`pubmed26n1335.xml.gz`): each year begins with a baseline of all citations, and the numbers
of its updates continue those of the baseline. PMC's archives have the date of their release
(`oa_comm_xml.incr.2025-06-19.tar.gz`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from jobs.data.dedup.document_keys import Keys
from launcher.errors import LauncherError
from launcher.recipe.sections.text_sources import Source

SourcePath: TypeAlias = tuple[Path, Source]
Release: TypeAlias = tuple[int, ...]
_Claims: TypeAlias = dict[int, set[int]]
"""What each file says of a version of a citation: hashes of texts, or one of the numbers below."""

_NAMES = {
    "medline": re.compile(r"(?:pubmed|medline)([0-9]{2})n([0-9]{4,})(?![0-9])", re.IGNORECASE),
    "pmc": re.compile(r".*?(?<![0-9])(20[0-9]{2})-([0-9]{2})-([0-9]{2})(?![0-9])"),
}
_FILTERED, _WITHDRAWN = 0, 1
_CLAIM = np.dtype([("identity", "<u8"), ("version", "<u4"), ("file", "<u4"), ("content", "<u8")])


def release_of(path: Path, source: Source) -> Release | None:
    """Return what sorts a file among those of its format, older ones first; None if its name does not tell."""
    match = _NAMES[source.format].match(path.name) if source.format in _NAMES else None
    return tuple(map(int, match.groups())) if match else None


def in_order_of_release(sources: Sequence[SourcePath]) -> tuple[SourcePath, ...]:
    """Sort the files whose names tell their release, format by format; all others keep their places."""
    result = list(sources)
    for format in _NAMES:
        places = [place for place, one in enumerate(sources) if one[1].format == format and release_of(*one)]
        older_first = sorted(places, key=lambda place: (release_of(*sources[place]) or (), place))
        for place, taken in zip(places, older_first, strict=True):
            result[place] = sources[taken]
    return tuple(result)


def require_order(sources: Sequence[SourcePath], keys: Sequence[Keys]) -> None:
    """Refuse MEDLINE files that disagree on a version of a citation, if their names do not tell which is newer.

    Args:
        sources: The source files.
        keys: Of the documents of each.

    Raises:
        LauncherError: names two such files and the citation.
    """
    releases = {number: release_of(*one) for number, one in enumerate(sources) if one[1].format == "medline"}
    known = Counter(releases.values())
    doubtful = {number for number, release in releases.items() if release is None or known[release] > 1}
    for identity, version, claims in _disagreements({number: keys[number] for number in releases}, doubtful):
        for one, other in combinations(claims, 2):
            is_clear = None not in (releases[one], releases[other]) and releases[one] != releases[other]
            if claims[one] != claims[other] and not is_clear:
                raise LauncherError(
                    f"sources: `{sources[one][0]}` and `{sources[other][0]}` hold different contents of PMID "
                    f"{identity}, version {version}, and their names do not tell which is newer; name them as NLM does "
                    "(`pubmed26n0001.xml.gz`; the higher number is newer), or leave one of them out"
                )


def _disagreements(keys: dict[int, Keys], doubtful: set[int]) -> Iterator[tuple[int, int, _Claims]]:
    """Give the versions of citations that several files have something to say about, doubtful ones among them."""
    if not doubtful or len(keys) < 2:
        return
    tables = {number: _claims_of(one, number) for number, one in keys.items()}
    asked = np.unique(np.concatenate([tables[number]["identity"] for number in sorted(doubtful)]))
    claims = np.unique(np.concatenate([table[np.isin(table["identity"], asked)] for table in tables.values()]))
    is_other = (np.diff(claims["identity"]) != 0) | (np.diff(claims["version"]) != 0)
    edges = [0, *(np.flatnonzero(is_other) + 1).tolist(), len(claims)]
    for first, last in pairwise(edges):
        group = claims[first:last].tolist()
        if last - first > 1 and group[0][2] != group[-1][2]:
            said: _Claims = {}
            for _, _, file, content in group:
                said.setdefault(file, set()).add(content)
            yield group[0][0], group[0][1], said


def _claims_of(keys: Keys, number: int) -> NDArray[np.void]:
    """List what a file says: a row for each document that has an identity, and for each withdrawal."""
    contents = np.full(len(keys.identified), _FILTERED, "<u8")
    _, written, identified = np.intersect1d(keys.ordinals, keys.identified, assume_unique=True, return_indices=True)
    contents[identified] = keys.texts[written]
    claims = np.empty(len(keys.identities) + len(keys.deleted), _CLAIM)
    claims["identity"] = np.concatenate([keys.identities, keys.deleted])
    claims["version"] = np.concatenate([keys.versions, keys.deleted_versions])
    claims["file"] = number
    claims["content"] = np.concatenate([contents, np.full(len(keys.deleted), _WITHDRAWN, "<u8")])
    return claims
