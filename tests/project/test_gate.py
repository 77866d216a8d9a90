"""What `make test` and `make long` are made of: how long a test may take, and what becomes of one that fails."""

from pathlib import Path

import pytest

from tests.conftest import pytest_collection_modifyitems

TESTS = Path(__file__).parents[1]


def collected(request: pytest.FixtureRequest, name: str) -> list[pytest.Item]:
    """The tests of a file as they are when they start."""
    module = pytest.Module.from_parent(request.session, path=TESTS / name)
    items = [item for item in module.collect() if isinstance(item, pytest.Item)]
    pytest_collection_modifyitems(items)
    return items


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("slurm/test_chaos.py", 3 * 3600),
        ("slurm/test_chaos_faults.py", 1800),
        ("slurm/test_pipeline_histories.py", 3 * 3600),
        ("slurm/test_reproduce.py", 0),
    ],
)
def test_a_long_test_has_the_limit_that_it_names_or_else_none(
    request: pytest.FixtureRequest, name: str, seconds: int
) -> None:
    limits = [item.get_closest_marker("timeout") for item in collected(request, name)]

    assert limits
    assert {limit and limit.args[0] for limit in limits} == {seconds}
