"""Means over seeds, their differences, and what is said below them, as people read them."""

from collections.abc import Iterator

from launcher.cli.views.score_wording import MARK, error_text, number
from launcher.scores.scored_model import ScoredModel
from launcher.scores.seeds import GroupedComparison, GroupedScore


def mean_text(row: GroupedScore, sign: str = "±") -> str:
    """`0.8333 ±0.0577`: with the standard deviation over seeds, if there is one."""
    return number(row.spread.mean) + error_text(row.spread.standard_deviation, row.spread.mean, sign)


def difference_of_means_text(row: GroupedScore, sign: str = "±") -> str:
    """`+0.5000 ±0.0471`: with its standard error; `baseline` for the group of the baseline."""
    its = row.difference
    if its is None:
        return "baseline"
    return ("+" if its.value >= 0 else "") + number(its.value) + error_text(its.standard_error, its.value, sign)


def p_of_means_text(row: GroupedScore) -> str:
    """`0.031`, `<0.001`; `-` if there is no test."""
    if row.difference is None:
        return ""
    p = row.difference.p
    return "-" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def members(found: GroupedComparison) -> Iterator[str]:
    """Say which models each group has."""
    for group in found.groups:
        yield f"{group.label}: {', '.join(map(_named, group.models))}"


def explanation_of_means(found: GroupedComparison, sign: str = "±") -> list[str]:
    """Say what the numbers of a comparison are, as far as it has them."""
    lines = [f"{sign} one standard deviation over seeds; of differences the standard error."]
    if found.tests:
        count = f"{found.tests} difference{'s' * (found.tests != 1)}"
        lines.append("p: Welch's t test over the seeds.")
        lines.append(f"{MARK} significant at 5 % after Holm's correction for {count}; no mark: not shown to differ.")
    return lines


def _named(model: ScoredModel) -> str:
    seeds = [str(one.seed) for one in model.scores.trainings if one.seed is not None]
    return f"{model.label} (seed {', '.join(seeds)})" if seeds else f"{model.label} (seed not known)"
