"""Text of XML elements: paragraphs, and in plain characters what MEDLINE and JATS mark up inside a line.

Bold, italic and so on leave no trace. Subscripts and superscripts join their neighbours as in H2O and Ca2+, but powers
are kept (10<sup>6</sup> is `10^6`, not `106`) and words do not run together (virus<sup>mixed</sup>T2 is
`virus^mixed T2`). A superscript that only cites is left out, with the commas of a list of them; citations in line
(`[12]`, `Smith et al., 2001`) stay. So do marks of footnotes go, such as the star of a title.
"""

import re
from dataclasses import dataclass

from lxml import etree

from jobs.data.readers.mathml import CHARGE, MATH, math_text
from jobs.data.readers.xml_records import Element

TEXT_LEVEL = 1_000_000
"""Level of paragraphs that are not headings."""

_SPACES = re.compile(r"[\t\r\n][ \t\r\n]*| [ \t\r\n]+")
_POWER = re.compile(r"\s*[-\u2212\u2013]?[0-9]")
# Not 1st, and not the letter that many write for the sign of degrees.
_WORD = re.compile(r"\s*(?!(?:st|nd|rd|th|o)\s*$)[-\u2212\u2013]?(?:[^\W\d_]|\()")
_FOOTNOTE_MARKS = frozenset("*\u2217\u2020\u2021\u00a7\u00b6#")
_BETWEEN_NOTES = re.compile(r"\s*[,;\u2013\u2212\u2014-][\s,;\u2013\u2212\u2014-]*")
_TITLES = ("article-title", "ArticleTitle")
_TEX_START, _TEX_END = r"\begin{document}", r"\end{document}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SCRIPTS = frozenset({"sub", "sup"})
_RAISED = frozenset({"sup", "xref"})
_NOTES = frozenset({"bibr", "fn", "table-fn", "aff", "corresp", "author-notes"})


@dataclass(frozen=True)
class ElementRoles:
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


_INLINE = ElementRoles(spaced=frozenset({"break", "DispFormula"}))


def text_of(element: Element) -> str:
    """Return the text of an element as one line."""
    if not len(element):
        return squeeze(element.text or "")
    return " ".join(paragraph.text for paragraph in paragraphs_of(element, _INLINE))


def squeeze(text: str) -> str:
    """Make each run of XML's white space one space. Other spaces (no-break, thin) are characters of the text."""
    # Nearly all texts need nothing, and four searches are ten times as fast as the substitution.
    if any(space in text for space in ("  ", "\n", "\t", "\r")):
        text = _SPACES.sub(" ", text)
    return text.strip(" ")


def paragraphs_of(element: Element, layout: ElementRoles) -> list[Paragraph]:
    """Return the text of an element by paragraphs, without empty ones."""
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
    """The paragraphs so far, and the fragments of the present one."""

    def __init__(self, layout: ElementRoles, has_mathml: frozenset[Element]) -> None:
        self._paragraphs: list[Paragraph] = []
        self._layout = layout
        self._has_mathml = has_mathml
        self._fragments: list[str] = []
        self._scripts: list[int] = []
        """Where in the fragments the open subscripts and superscripts start."""
        self._last_subscript = self._last_note = -1
        """Where in the fragments the last of these ended."""
        self._depth = 0
        self._is_after_mark = False
        """A superscript marked with `^` ends here, so a word that follows needs a space."""

    def add(self, text: str | None) -> None:
        if text:
            self._fragments.append(f" {text}" if self._is_after_mark and text[0].isalpha() else text)
            self._is_after_mark = False

    def start(self, node: Element) -> bool:
        """Write what comes before the children of an element; return whether to write them."""
        name = _local_name(node)
        self._depth += 1
        if name in self._layout.blocks:
            self._finish(TEXT_LEVEL)
        if name in self._layout.spaced:
            self.add(" ")
        replacement = "" if name in self._layout.skipped else self._replacement(node, name)
        if replacement == "" and name in _RAISED:
            self._leave_out_note()
        if name in _SCRIPTS:
            self._open_script()
        self.add(node.text if replacement is None else replacement)
        return replacement is None

    def end(self, node: Element) -> None:
        """Write what comes after the children of an element."""
        name = _local_name(node)
        self._depth -= 1
        if name in _SCRIPTS:
            self._close_script(node)
        if name in self._layout.blocks:
            self._finish(self._depth if name in self._layout.headings else TEXT_LEVEL)
        if name in self._layout.spaced:
            self.add(" ")

    def finish(self) -> list[Paragraph]:
        self._finish(TEXT_LEVEL)
        return self._paragraphs

    def _finish(self, level: int) -> None:
        if text := squeeze("".join(self._fragments)):
            self._paragraphs.append(Paragraph(text, level))
        self._fragments.clear()
        self._last_subscript = self._last_note = -1

    def _leave_out_note(self) -> None:
        """Take back what separates a raised note from the one before it."""
        if self._last_note >= 0 and _BETWEEN_NOTES.fullmatch("".join(self._fragments[self._last_note :])):
            del self._fragments[self._last_note :]
        self._last_note = len(self._fragments)

    def _open_script(self) -> None:
        if self._fragments:
            self._fragments[-1] = _without_indent(self._fragments[-1])
        self._scripts.append(len(self._fragments))

    def _close_script(self, node: Element) -> None:
        # Paragraphs do not end inside of a script, but in hostile records they do.
        start = min(self._scripts.pop(), len(self._fragments))
        script = "".join(self._fragments[start:])
        before = self._fragments[start - 1][-1:] if start else ""
        is_subscript = _local_name(node) == "sub"
        is_index = start == self._last_subscript and CHARGE.fullmatch(script) is None  # x_i^2, but the current I_Ca2+
        is_closed = before in (")", "]")
        is_power = (before.isdecimal() or is_closed or is_index) and _POWER.match(script) is not None
        is_word = (before.isalnum() or is_closed) and _WORD.match(script) is not None
        if not is_subscript and (is_power or is_word):
            script, self._is_after_mark = "^" + script.strip(), True
        self._fragments[start:] = [script]
        self._last_subscript = len(self._fragments) if is_subscript else -1

    def _replacement(self, node: Element, name: str) -> str | None:
        """Return what to write in place of an element; None to write it as it is."""
        if node.tag == MATH:
            return math_text(node)
        if name == "tex-math":
            return "" if node.getparent() in self._has_mathml else _tex_body(node.text or "").strip("$ \n")
        if name == "ext-link" and not "".join(node.itertext()).strip():
            return str(node.get(_HREF, ""))
        is_note = (name == "sup" and _is_raised_note(node)) or (name == "xref" and _is_note_in_line(node))
        return "" if is_note else None


def _local_name(node: Element) -> str:
    return str(node.tag.rpartition("}")[2])


def _without_indent(text: str) -> str:
    # A line break at the end, and the spaces around it, come from a pretty printer; NLM writes none inside of text.
    # A regular expression would take quadratic time on spaces.
    newline = text.find("\n", len(text.rstrip()))
    return text if newline < 0 else text[:newline].removesuffix("\r").rstrip(" \t")


def _tex_body(text: str) -> str:
    start = text.find(_TEX_START)
    end = text.rfind(_TEX_END, start + len(_TEX_START)) if start >= 0 else -1
    return text if end < 0 else text[start + len(_TEX_START) : end]


def _is_note(xref: Element) -> bool:
    return xref.get("ref-type") in _NOTES


def _is_raised_note(sup: Element) -> bool:
    if any(_is_note(child) for child in sup.iter("xref")):
        return True
    mark = "".join(sup.itertext()).strip()
    title = next(sup.iterancestors(*_TITLES), None) if mark and _FOOTNOTE_MARKS.issuperset(mark) else None
    return title is not None and "".join(title.itertext()).rstrip(" .\n").endswith(mark)


def _is_note_in_line(xref: Element) -> bool:
    if not _is_note(xref):
        return False
    mark = "".join(xref.itertext()).strip()
    is_mark = mark != "" and _FOOTNOTE_MARKS.issuperset(mark)
    is_in_title = xref.get("ref-type") != "bibr" and any(True for _ in xref.iterancestors(*_TITLES))
    return is_mark or is_in_title or xref.find("sup") is not None
