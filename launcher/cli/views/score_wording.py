"""Scores, differences and what is said below them, as people read them."""

import math

from launcher.artifacts.scores import EvaluationScores, Score
from launcher.scores.comparison import ComparedScore, Comparison
from launcher.scores.differences import PairedDifference

MARK = "*"
"""Stands at significant differences."""
_HEADLINES = 4
"""Tasks that one line tells of."""


def number(value: float | None) -> str:
    """`0.2512`, `12.35`, `1,234`; `-` if there is none."""
    return "-" if value is None else f"{value:,.{_decimals(value)}f}"


def score_text(score: Score, sign: str = "±") -> str:
    """`0.2512 ±0.0125`: with one standard error."""
    return number(score.value) + error_text(score.standard_error, score.value, sign)


def difference_text(difference: PairedDifference | None, sign: str = "±") -> str:
    """`+0.0500 ±0.0125`; of perplexities, in percent of the baseline's: `-8.50% ±0.40%`."""
    if difference is None:
        return ""
    value, error = difference.value, difference.standard_error
    if difference.is_log_ratio:
        said = "" if error is None else f" {sign}{100 * math.exp(value) * error:.2f}%"
        return f"{100 * math.expm1(value):+.2f}%{said}"
    return f"{value:+,.{_decimals(value)}f}{error_text(error, value, sign)}"


def detectable_text(difference: PairedDifference | None) -> str:
    """`0.0350`, or `1.20%` of a perplexity; `-` if it is not known."""
    if difference is None:
        return ""
    found = difference.detectable
    if found is None or not difference.is_log_ratio:
        return number(found)
    return f"{100 * math.expm1(found):.2f}%"


def p_text(row: ComparedScore) -> str:
    """`0.031`, `<0.001`; `-` if there is no test."""
    if row.difference is None:
        return ""
    p = row.difference.p
    return "-" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def headlines(scores: EvaluationScores) -> str:
    """Say the headlines on one line: `medqa acc 0.2500, pubmedqa acc 0.3000`; those of the first tasks, if many."""
    found = {name: (task.headline, task.scores.get(task.headline)) for name, task in scores.tasks.items()}
    said = [f"{name} {metric} {number(score.value)}" for name, (metric, score) in found.items() if score]
    more = f", {len(said) - _HEADLINES} more: `launcher compare {scores.run}`" if len(said) > _HEADLINES else ""
    return ", ".join(said[:_HEADLINES]) + more


def items_text(rows: list[ComparedScore]) -> str:
    """`40 items`, `500 items in 100 groups`."""
    score = rows[0].score
    groups = f" in {score.clusters:,} groups" if score.clusters else ""
    return f"{score.n:,} item{'s' * (score.n != 1)}{groups}"


def explanation(found: Comparison, sign: str = "±") -> list[str]:
    """Say what the numbers of a comparison are, as far as it has them."""
    lines = [f"{sign} one standard error."]
    differences = [row.difference for row in found.rows if row.difference is not None]
    if not differences:
        return lines
    lines[0] = f"{sign} one standard error; of differences the paired one, over the same items or groups of items."
    if any(one.is_log_ratio for one in differences):
        lines.append("Differences of perplexities are in percent of the baseline's.")
    tests = {one.test for one in differences if one.p is not None}
    lines.append(f"p: {' and '.join(words for test, words in _TESTS.items() if test in tests) or 'no test'}.")
    lines.append("detectable: the true difference that a test at 5 % finds with 80 % power, 2.80 standard errors.")
    count = f"{found.tests} difference{'s' * (found.tests != 1)}"
    lines.append(f"{MARK} significant at 5 % after Holm's correction for {count}; no mark: not shown to differ.")
    return lines


_TESTS = {
    "mcnemar": "McNemar's exact test (items that are right or wrong)",
    "t": "paired t test (other scores, or items in groups)",
}


def error_text(error: float | None, value: float | None, sign: str) -> str:
    """` ±0.0125`, with as many digits as the value has; nothing if it is not known."""
    return "" if error is None else f" {sign}{error:,.{_decimals(value or 0.0)}f}"


def _decimals(value: float) -> int:
    return 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
