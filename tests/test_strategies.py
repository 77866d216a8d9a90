"""What is on record about strategies agrees with what validation refuses, and is what the docs show."""

import pytest

from tests.strategies import STRATEGIES, VARIANTS, Variant, read_results, table, written_table

NOT_TRIED = {
    (variant.name, "hybrid_shard")
    for variant in VARIANTS
    if variant.name not in ("molora", "orthogonal") and not variant.is_refused("hybrid_shard")
}
"""What was not run on a Slurm so far; the docs say so."""


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_validation_allows_was_seen_to_resume_equal_and_the_rest_is_refused(
    variant: Variant, strategy: str
) -> None:
    seen = read_results().get(variant.name, {}).get(strategy)

    if (variant.name, strategy) in NOT_TRIED:
        assert seen is None
    else:
        assert seen is not None
        assert seen["outcome"] == ("refused" if variant.is_refused(strategy) else "equal")


def test_nothing_else_is_on_record() -> None:
    assert {*read_results()} == {variant.name for variant in VARIANTS}


def test_the_docs_show_what_is_on_record() -> None:
    assert written_table() == table(read_results())
