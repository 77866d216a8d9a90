"""Whether an export is close enough to the original: the bars of its format, or those of the recipe."""

import torch

from jobs.export.inputs import ExportPlan
from jobs.models.merge.logit_check import LogitDifference
from launcher.errors import LauncherError
from launcher.recipe.kinds.export import BARS, Bar

ROUNDING = 16
"""Logits of weights rounded to 16 bits may be off by so many units in the last place of the largest one, as in
`jobs.kinds.merge`."""
ROUNDED_AGREEMENT = 0.95
"""Least agreement of weights rounded to 16 bits."""


def bar_of(plan: ExportPlan, largest_logit: float) -> Bar:
    """Return the bar, its difference in logits.

    Args:
        plan: What is made.
        largest_logit: Of the original.
    """
    recipe, usual = plan.recipe, BARS[plan.recipe.format]
    is_quantised = recipe.format not in ("safetensors", "onnx")
    difference = usual.difference * (largest_logit if is_quantised else 1)
    agreement = usual.agreement
    if plan.dtype != torch.float32 and not is_quantised:
        difference += ROUNDING * torch.finfo(plan.dtype).eps * largest_logit
        agreement = ROUNDED_AGREEMENT
    wanted = recipe.tolerance, recipe.agreement
    return Bar(*(usual if own is None else own for own, usual in zip(wanted, (difference, agreement), strict=True)))


def judge(plan: ExportPlan, found: LogitDifference) -> Bar:
    """Refuse an export that differs too much from the original; return the bar.

    Raises:
        LauncherError: it does; the message says by how much.
    """
    bar, name = bar_of(plan, found.largest_logit), plan.recipe.format
    print(
        f"{name}: logits up to {found.largest_logit:.3g} differ by {found.largest:.2g} at most (limit "
        f"{bar.difference:.2g}), and {found.same_choice:.2%} of the most probable choices are the same (limit "
        f"{bar.agreement:.2%})",
        flush=True,
    )
    fix = "that format cannot hold its numbers: write another `format` or `dtype`"
    found.require_numbers("model.path: the original", f"format: as `{name}` the model", fix)
    if found.largest > bar.difference:
        raise LauncherError(
            f"format: as `{name}` the model differs by {found.largest:.2g} in a logit, more than {bar.difference:.2g}; "
            "nothing was published. If that is enough for your use, write at least that as `tolerance`"
        )
    if found.same_choice < bar.agreement:
        raise LauncherError(
            f"format: as `{name}` the model makes the same choice in {found.same_choice:.2%} of places, less than "
            f"{bar.agreement:.2%}; nothing was published. If that is enough for your use, write at most that as "
            "`agreement`"
        )
    return bar
