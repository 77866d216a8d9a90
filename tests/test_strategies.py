"""What is on record about strategies is complete, agrees with what validation refuses, and is what the docs show."""

import pytest

from tests.strategies import STRATEGIES, VARIANTS, Variant, read_results, table, written_table

NOT_TRIED = {
    "all weights": ["hybrid_shard"],
    "lora": ["hybrid_shard"],
    "lora, rslora": ["hybrid_shard"],
    "lora, dora": ["hybrid_shard"],
    "lora, pissa": ["hybrid_shard"],
    "lora, 4 bits": ["hybrid_shard"],
    "lora on adapters": ["hybrid_shard"],
    "ia3": ["hybrid_shard"],
    "oft": ["hybrid_shard"],
    "adaption_prompt": ["full_shard", "hybrid_shard", "zero2", "zero3"],
    "prefix": ["ddp", "zero2", "zero3"],
    "prompt": ["ddp", "zero2", "zero3"],
    "p_tuning": ["ddp", "zero2", "zero3"],
}
"""What was not run on a Slurm so far; the docs say so."""


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_validation_allows_was_seen_to_resume_equal_and_the_rest_is_refused(
    variant: Variant, strategy: str
) -> None:
    seen = read_results().get(variant.name, {}).get(strategy)

    if strategy in NOT_TRIED.get(variant.name, []):
        assert seen is None
    else:
        assert seen is not None
        assert seen["outcome"] == ("refused" if variant.is_refused(strategy) else "equal")


def test_nothing_else_is_on_record() -> None:
    assert {*read_results()} <= {variant.name for variant in VARIANTS}


def test_the_docs_show_what_is_on_record() -> None:
    assert written_table() == table(read_results())
