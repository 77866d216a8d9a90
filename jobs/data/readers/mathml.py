"""MathML as a line of text: `R^2`, `(a+b)/c`, `x_i`. Presentation MathML only (https://www.w3.org/TR/mathml-core/).

Charges of ions are written as those of text with superscripts are: `Ca2+`, `CO3^2-`.
"""

import re

from lxml import etree

from jobs.data.readers.xml_records import Element

NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
MATH = f"{NAMESPACE}math"

_INFIX = {
    "mfrac": ("/",),
    "msup": ("^",),
    "msub": ("_",),
    "munder": ("_",),
    "mover": ("^",),
    "msubsup": ("_", "^"),
    "munderover": ("_", "^"),
}
_JOINED = {"mtable": "; ", "mtr": ", ", "mfenced": ", "}
CHARGE = re.compile(r"\s*[0-9]*\s*[+\u2212\u2013-]\s*")
"""What a superscript of an ion holds."""
_LEFT_OUT = frozenset({"annotation", "annotation-xml", "mphantom", "mprescripts", "none"})


def math_text(math: Element) -> str:
    """Write a formula as text, with spaces only between its entries and words."""
    open_elements: list[list[str]] = [[]]
    for event, node in etree.iterwalk(math, events=("start", "end")):
        if event == "start":
            open_elements.append([])
        else:
            children = open_elements.pop()
            open_elements[-1].append(_composed(node, children))
    return open_elements[0][0]


def _composed(node: Element, children: list[str]) -> str:
    name = node.tag.removeprefix(NAMESPACE)
    if name in _LEFT_OUT:
        return ""
    if not children:
        return " ".join((node.text or "").split())
    if name in ("msup", "msubsup") and len(children) == len(_INFIX[name]) + 1 and CHARGE.fullmatch(children[-1]):
        return _charged(children[0], *children[1:])
    if name in _INFIX and len(children) == len(_INFIX[name]) + 1:
        operands = [children[0] if name != "mfrac" else _grouped(children[0]), *map(_grouped, children[1:])]
        return operands[0] + "".join(sign + operand for sign, operand in zip(_INFIX[name], operands[1:], strict=True))
    text = _JOINED.get(name, "").join(children)
    if name == "msqrt":
        return f"\u221a{_grouped(text)}"
    return f"({text})" if name == "mfenced" else text


def _charged(base: str, *scripts: str) -> str:
    subscript, charge = "".join(scripts[:-1]), scripts[-1]
    if subscript and not subscript.isdecimal():
        return f"{base}_{_grouped(subscript)}^{charge}"
    ion = base + subscript
    is_ambiguous = ion[-1:].isdecimal() or ion.endswith((")", "]"))
    return f"{ion}^{charge}" if is_ambiguous and charge[0].isdecimal() else ion + charge


def _grouped(operand: str) -> str:
    return operand if operand.isalnum() or len(operand) == 1 else f"({operand})"
