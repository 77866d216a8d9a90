"""The frame of every page that a command writes: one file that asks for nothing else."""

from collections.abc import Iterable
from html import escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: a browser runs no script and loads nothing, should a name ever get past the escaping."""


def html_page(title: str, style: str, parts: Iterable[str], head: str = "") -> str:
    """Write a page.

    Args:
        title: What it is about, as text.
        style: Its style sheet.
        parts: What stands below the title, which is HTML already.
        head: More for its head, which is HTML already.
    """
    lines = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{head}',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>',
        f"<style>{style}</style></head><body><main><h1>{escape(title)}</h1>",
    ]
    return "\n".join([*lines, *filter(None, parts), "</main></body></html>\n"])
