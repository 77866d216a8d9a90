"""Tables for LaTeX, with the package booktabs."""

from collections.abc import Iterable, Sequence

from launcher.cli.views.score_wording import MARK

SIGN = r"\pm "
"""For a cell's `±`."""
_ESCAPED = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], comments: Iterable[str]) -> str:
    """Write a table.

    Args:
        heads: Of the columns; the first one is that of the names.
        rows: A name and its cells, which are LaTeX already.
        comments: Lines below the table.
    """
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_escape, heads)) + r" \\", r"\midrule"]
    lines += [" & ".join([_escape(name), *cells]) + r" \\" for name, cells in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {line}" for line in comments)])


def cell(text: str | None, is_marked: bool) -> str:
    r"""Write a score with its error, as `0.2512 \pm 0.0125`, in a cell; None: there is none."""
    if text is None:
        return "--"
    mark = rf"^{{{MARK}}}" if is_marked else ""
    value, _, error = text.replace(",", "{,}").partition(" ")
    return f"${value}{mark}{error and f' {error}'}$"


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(char, char) for char in text)
