"""What libyaml's and PyYAML's syntax errors mean, and what to write instead."""

import yaml

MAX_DEPTH = 64
"""Levels of a document; libyaml has a limit of its own, which a scan for a key may reach before this one."""
TOO_DEEP = f"more than {MAX_DEPTH} levels deep; no recipe needs that"

_MEANINGS = (
    # (part of the problem, part of the context, whether the context's line tells more, what it means)
    ("", "flow mapping", True, "`{` is not closed, or a comma is missing after an entry; close it with `}`"),
    ("", "flow sequence", True, "`[` is not closed, or a comma is missing after an item; close it with `]`"),
    ("", "quoted scalar", True, "the quoted text is not closed, or has an unknown `\\` escape; check its quotes"),
    ("mapping values are not allowed", "", False, "`: ` inside a value, or a wrong indent; put the text in quotes"),
    ("", "simple key", True, "a `:` is missing after the key; write `key: value`"),
    ("expected key", "", False, "not indented like the lines above it; line the keys up"),
    ("", "block", False, "not indented like the lines above it; line the keys up"),
    ("start any token", "", False, "the value starts with a character that YAML reserves; put it in quotes"),
)


def explain_syntax_error(error: yaml.MarkedYAMLError, text: str) -> tuple[int | None, str]:
    """Find the line (1-based) and the meaning of a YAML syntax error."""
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else None
    lines = text.split("\n")
    if line is not None and line < len(lines) and "\t" in _indent(lines[line]):
        return line + 1, "a tab indents this line; write spaces"
    problem, context = error.problem or "", error.context or ""
    for in_problem, in_context, at_context, meaning in _MEANINGS:
        if in_problem in problem and in_context in context:
            if at_context and error.context_mark:
                line = error.context_mark.line
            return None if line is None else line + 1, f"not YAML: {meaning}"
    return None if line is None else line + 1, f"not YAML: {problem or 'cannot be read'}; check indent and quotes"


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
