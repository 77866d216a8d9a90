"""What is on record about strategies agrees with what validation refuses, and is what the docs show."""

import pytest

from tests.support.strategy_table import STRATEGIES, VARIANTS, Variant, read_results, table, written_table


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_validation_allows_was_seen_to_resume_equal_and_the_rest_is_refused(
    variant: Variant, strategy: str
) -> None:
    seen = read_results()[variant.name][strategy]

    assert seen["outcome"] == ("refused" if variant.is_refused(strategy) else "equal")


def test_nothing_else_is_on_record() -> None:
    assert {*read_results()} == {variant.name for variant in VARIANTS}


def test_the_docs_show_what_is_on_record() -> None:
    assert written_table() == table(read_results())
