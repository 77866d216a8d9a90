"""Whether people can read the pages: contrast of what is drawn, and texts of pictures. `python docs/contrast.py SITE`.

A colour pair passes with a ratio of 4.5, that of WCAG 2.2 (AA) for text (https://www.w3.org/TR/WCAG22/#contrast-minimum).
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from typing_extensions import override

LEAST = 4.5
_VARIABLE = re.compile(r"(--[\w-]+):\s*(#[0-9a-fA-F]{3,6})\b")


def contrast(one: str, other: str) -> float:
    """Return the ratio of two colours' luminances: 1 for the same, 21 for black on white."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    red, green, blue = (_linear(int(digits[place : place + 2], 16) / 255) for place in (0, 2, 4))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def palettes(style: str) -> Iterator[dict[str, str]]:
    """Yield the colours that a style sheet names: those for light pages, and with the others for dark ones."""
    light, _, dark = style.partition("prefers-color-scheme: dark")
    named = dict(_VARIABLE.findall(light))
    yield named
    if dark:
        yield named | dict(_VARIABLE.findall(dark))


def weak_pairs(style: str, pairs: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the texts that are too near to what they stand on.

    Args:
        style: The style sheet.
        pairs: Names of colours of text, by the name of the colour behind them.
    """
    for scheme, colours in zip(("light", "dark"), palettes(style), strict=False):
        for behind, texts in pairs.items():
            for text in texts:
                ratio = contrast(colours[text], colours[behind])
                if ratio < LEAST:
                    yield f"{scheme}: {text} on {behind}: {ratio:.2f}"


class _Pictures(HTMLParser):
    """Finds pictures without a text."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img" and not (values.get("alt") or "").strip():
            self.silent.append(values.get("src") or "?")


def silent_pictures(site: Path) -> list[str]:
    """Name the pictures of a built site that have no text for those who cannot see them."""
    found = []
    for page in sorted(site.rglob("*.html")):
        reader = _Pictures()
        reader.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.relative_to(site)}: {name}" for name in reader.silent]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(silent_pictures(Path(sys.argv[1]))) or 0)
