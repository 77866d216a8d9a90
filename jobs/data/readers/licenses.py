"""The licence of a JATS article, by a short name: a manifest counts documents by them."""

import re
from collections.abc import Iterator

from jobs.data.readers.markup import squeeze
from jobs.data.readers.xml_records import Element

_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = "{http://www.niso.org/schemas/ali/1.0/}license_ref"
_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)(?:/(\d\.\d))?", re.IGNORECASE)
_WORDS = re.compile(
    r"creative commons (?:(attribution)([a-z /-]{0,60}?) ?(?:licen[cs]e|[\d(.,;])|(public domain)|(?:cc0|zero))",
    re.IGNORECASE,
)
_TERMS = (("NC", "non"), ("ND", "deriv"), ("SA", "share"))
_PUBLIC_DOMAIN = {"zero": "CC0-1.0", "mark": "CC-PDM-1.0"}
_LONGEST = 40


def license_of(meta: Element) -> str:
    """Name the licence of an article from its `article-meta`.

    Creative Commons licences have SPDX names (https://spdx.org/licenses/), without a version where the article gives
    none (`CC-BY-NC`). Others have the article's `license-type`, which may be empty.
    """
    stated = " ".join(_statements(meta))
    types = [node.get("license-type", "") for node in meta.iterfind(".//license")]
    return _by_url(stated) or _by_words(stated) or squeeze("".join(types[:1]))[:_LONGEST]


def _statements(meta: Element) -> Iterator[str]:
    """Give everything in an article's head that may name its licence, links before words."""
    # Before version 2.3 of the document type these are in the head itself, later in the permissions.
    nodes = [node for tag in ("license", _REFERENCE, "copyright-statement") for node in meta.iterfind(f".//{tag}")]
    for node in nodes:
        yield from (link.get(_HREF, "") for link in node.iter())
    for node in nodes:
        yield squeeze("".join(node.itertext()))


def _by_url(text: str) -> str:
    url = _URL.search(text)
    if not url:
        return ""
    kind, name, version = url[1].lower(), url[2].lower(), url[3]
    if kind == "publicdomain":
        return _PUBLIC_DOMAIN.get(name, "CC-PDDC")
    return "-".join(filter(None, ("CC", name.upper(), version)))


def _by_words(text: str) -> str:
    words = _WORDS.search(text)
    if not words:
        return ""
    if words[1]:
        return "-".join(["CC-BY", *(term for term, word in _TERMS if word in words[2].lower())])
    return "CC-PDDC" if words[3] else "CC0-1.0"
