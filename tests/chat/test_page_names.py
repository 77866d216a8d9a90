"""Titles and adapters that look like markup, on the page that Gradio serves."""

import json
import subprocess
import sys
from typing import Any

import pytest
from lxml import etree

from tests.support.checkouts import ROOT

HOSTILE = '</title></style><script>alert(1)</script>"><img src=x onerror=alert(1)>'


def served(name: str) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
    """Serve the page of a model of this name; return its elements with their attributes, and what else came."""
    argv = [sys.executable, "-m", "tests.support.served_chat_page", name]
    found = json.loads(subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    root = etree.fromstring(found["text"].encode(), etree.HTMLParser())
    return [(str(one.tag), *sorted(one.attrib)) for one in root.iter() if isinstance(one.tag, str)], found


@pytest.mark.slow
def test_no_markup_of_the_chat_page_comes_from_a_name() -> None:
    plain, _ = served("name")
    elements, found = served(HOSTILE)

    assert elements == plain
    assert "alert(1)" in found["text"] and HOSTILE not in found["text"]
    assert "default-src 'self'" in found["policy"] and "connect-src 'self'" in found["policy"]
