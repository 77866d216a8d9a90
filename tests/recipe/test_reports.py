"""What recipes say that their runs report, and which values are better."""

from typing import Any

import pytest

from launcher.recipe.sections.search import Search, find_metric
from tests.support.submissions import MakeRecipe

MMLU = {"type": "choice", "name": "anatomy", "format": "mmlu", "files": "mmlu/test/*.csv"}
QUESTIONS = {"type": "generate", "name": "medqa", "format": "medqa", "files": "medqa/*.jsonl"}


def search(metric: str, **changes: Any) -> Search:
    return Search(space={"optim.lr": (1e-3,)}, trials=1, metric=metric, **changes)


def test_pretraining_reports_its_loss_and_what_held_out_text_says(make_cpt: MakeRecipe) -> None:
    held_out = {"validation_loss", "token_perplexity", "byte_perplexity"}
    assert dict(make_cpt().reports) == dict.fromkeys(["loss", *held_out], "minimize")
    assert [*make_cpt(evaluation=None).reports] == ["loss"]
    two = make_cpt(data={"corpora": [{"name": "a"}, {"name": "b"}]})
    assert {"validation_loss/a", "byte_perplexity/b"} < two.reports.keys()


def test_tasks_during_training_are_named_as_their_rows_are(make_cpt: MakeRecipe) -> None:
    reports = make_cpt(during={"tasks": [MMLU, QUESTIONS]}, parallel={"strategy": "ddp"}).reports

    assert reports["anatomy/acc_norm"] == "maximize"
    assert reports["medqa/*"] is None
    assert find_metric("medqa/exact_match", reports) == "medqa/*"
    assert find_metric("medq/exact_match", reports) is None


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        (search("a"), None),
        (search("b", direction="maximize"), None),
        (search("c"), "metric: `c` is not reported by this recipe; write one of `a`, `b`, `t/*`"),
        (
            search("a", direction="maximize"),
            "direction: `a` is the better the lower; write `minimize`, or leave it out",
        ),
        (search("t/x"), "direction: is not known for `t/x`; write `minimize` or `maximize`"),
        (search("t/x", direction="minimize"), None),
    ],
)
def test_a_metric_has_to_be_reported_and_its_direction_known(wanted: Search, fault: str | None) -> None:
    assert wanted.metric_fault({"a": "minimize", "b": "maximize", "t/*": None}) == fault


def test_a_kind_without_metrics_cannot_be_searched() -> None:
    assert search("loss").metric_fault({}) == "metric: this kind of recipe reports no metric; name another recipe"
