"""Text of XML elements: paragraphs, and in plain characters what MEDLINE and JATS mark up inside a line.

Bold, italic and so on leave no trace. Subscripts and superscripts join their neighbours as in H2O and Ca2+,
but a power stays one: 10<sup>6</sup> is `10^6`, not `106`; and words do not run together:
virus<sup>mixed</sup>T2 is `virus^mixed T2`. A superscript that only cites is left out, since it would join
the word before it; citations in line (`[12]`, `Smith et al., 2001`) are part of the sentence.
"""

import re
from dataclasses import dataclass

from lxml import etree

from jobs.data.readers.mathml import MATH, math_text
from jobs.data.readers.xml import Element

TEXT_LEVEL = 1_000_000
"""Level of paragraphs that are no headings."""

_SPACES = re.compile(r"[\t\r\n][ \t\r\n]*| [ \t\r\n]+")
_POWER = re.compile(r"\s*[-\u2212\u2013]?[0-9]")
# Not 1st, and not the letter that many write for the sign of degrees.
_WORD = re.compile(r"\s*(?!(?:st|nd|rd|th|o)\s*$)(?:[^\W\d_]|\()")
_TEX_START, _TEX_END = r"\begin{document}", r"\end{document}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SCRIPTS = frozenset({"sub", "sup"})
_NOTES = frozenset({"bibr", "fn", "table-fn", "aff", "corresp", "author-notes"})


@dataclass(frozen=True)
class Layout:
    """Names of elements that matter for the layout of a text."""

    skipped: frozenset[str] = frozenset()
    """Left out with everything in them."""
    blocks: frozenset[str] = frozenset()
    """Paragraphs of their own."""
    headings: frozenset[str] = frozenset()
    """Blocks that are headings of what follows."""
    spaced: frozenset[str] = frozenset()
    """Set off by spaces."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, without line breaks."""

    text: str
    level: int = TEXT_LEVEL
    """Of a heading: how deep it lies."""


_INLINE = Layout(spaced=frozenset({"break", "DispFormula"}))


def text_of(element: Element) -> str:
    """Text of an element as one line."""
    if not len(element):
        return squeeze(element.text or "")
    return " ".join(paragraph.text for paragraph in paragraphs_of(element, _INLINE))


def squeeze(text: str) -> str:
    """Make each run of XML's white space one space. Other spaces (no-break, thin) are characters of the text."""
    # Nearly all texts need nothing, and four searches are ten times as fast as the substitution.
    if any(space in text for space in ("  ", "\n", "\t", "\r")):
        text = _SPACES.sub(" ", text)
    return text.strip(" ")


def paragraphs_of(element: Element, layout: Layout) -> list[Paragraph]:
    """Text of an element by paragraphs, those without text left out."""
    writer = _Writer(layout, frozenset(math.getparent() for math in element.iter(MATH)))
    # Not by recursion: a hostile record nests deeper than Python calls.
    walk = etree.iterwalk(element, events=("start", "end"))
    for event, node in walk:
        if event == "end":
            writer.end(node)
            if node is not element:
                writer.add(node.tail)
        elif not writer.start(node):
            walk.skip_subtree()
    return writer.finish()


class _Writer:
    """The paragraphs so far, and the pieces of the present one."""

    def __init__(self, layout: Layout, has_mathml: frozenset[Element]) -> None:
        self._paragraphs: list[Paragraph] = []
        self._layout = layout
        self._has_mathml = has_mathml
        self._pieces: list[str] = []
        self._scripts: list[int] = []
        """Where in the pieces the open subscripts and superscripts start."""
        self._depth = 0
        self._is_after_mark = False
        """A superscript that was marked ends here; the next word has to stand apart."""

    def add(self, text: str | None) -> None:
        """Write text as it stands."""
        if text:
            self._pieces.append(f" {text}" if self._is_after_mark and text[0].isalpha() else text)
            self._is_after_mark = False

    def start(self, node: Element) -> bool:
        """Write what stands before the children of an element; whether they are to be written."""
        name = _local_name(node)
        self._depth += 1
        if name in self._layout.blocks:
            self._finish(TEXT_LEVEL)
        if name in self._layout.spaced:
            self.add(" ")
        replacement = "" if name in self._layout.skipped else self._replacement(node, name)
        if name in _SCRIPTS:
            self._open_script()
        self.add(node.text if replacement is None else replacement)
        return replacement is None

    def end(self, node: Element) -> None:
        """Write what stands behind the children of an element."""
        name = _local_name(node)
        self._depth -= 1
        if name in _SCRIPTS:
            self._close_script(node)
        if name in self._layout.blocks:
            self._finish(self._depth if name in self._layout.headings else TEXT_LEVEL)
        if name in self._layout.spaced:
            self.add(" ")

    def finish(self) -> list[Paragraph]:
        """Return all paragraphs."""
        self._finish(TEXT_LEVEL)
        return self._paragraphs

    def _finish(self, level: int) -> None:
        if text := squeeze("".join(self._pieces)):
            self._paragraphs.append(Paragraph(text, level))
        self._pieces.clear()

    def _open_script(self) -> None:
        if self._pieces:
            self._pieces[-1] = _without_indent(self._pieces[-1])
        self._scripts.append(len(self._pieces))

    def _close_script(self, node: Element) -> None:
        # Paragraphs do not end inside of a script, but in hostile records they do.
        start = min(self._scripts.pop(), len(self._pieces))
        script = "".join(self._pieces[start:])
        before = self._pieces[start - 1][-1:] if start else ""
        is_closed = before in (")", "]")
        is_power = (before.isdecimal() or is_closed) and _POWER.match(script) is not None
        is_word = (before.isalnum() or is_closed) and _WORD.match(script) is not None
        if _local_name(node) == "sup" and (is_power or is_word):
            script, self._is_after_mark = "^" + script.strip(), True
        self._pieces[start:] = [script]

    def _replacement(self, node: Element, name: str) -> str | None:
        """What to write in place of an element; None if it is to be written as it is."""
        if node.tag == MATH:
            return math_text(node)
        if name == "tex-math":
            return "" if node.getparent() in self._has_mathml else _tex_body(node.text or "").strip("$ \n")
        if name == "ext-link" and not "".join(node.itertext()).strip():
            return str(node.get(_HREF, ""))
        is_raised_note = (name == "sup" and any(_is_note(child) for child in node.iter("xref"))) or (
            name == "xref" and _is_note(node) and node.find("sup") is not None
        )
        return "" if is_raised_note else None


def _local_name(node: Element) -> str:
    return str(node.tag.rpartition("}")[2])


def _without_indent(text: str) -> str:
    """Leave out a line break at the end, and the spaces around it: a pretty printer's, NLM writes none inside of text.

    Not by an expression: it would look at a run of spaces once a space.
    """
    newline = text.find("\n", len(text.rstrip()))
    return text if newline < 0 else text[:newline].removesuffix("\r").rstrip(" \t")


def _tex_body(text: str) -> str:
    """What a TeX document typesets; all of it if that is not marked."""
    start = text.find(_TEX_START)
    end = text.rfind(_TEX_END, start + len(_TEX_START)) if start >= 0 else -1
    return text if end < 0 else text[start + len(_TEX_START) : end]


def _is_note(xref: Element) -> bool:
    return xref.get("ref-type") in _NOTES
