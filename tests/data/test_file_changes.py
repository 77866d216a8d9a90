"""How files differ from earlier ones: told by their names, and by folders where that is needed."""

import pytest

from jobs.data.corpus.task_split import changes


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"/x/a.csv": 1}, {"/y/a.csv": 1}, []),
        ({"/x/a.csv": 1}, {"/y/a.csv": 1, "/y/b.csv": 2}, ["new: `b.csv`"]),
        ({"/x/1/a.csv": 1, "/x/2/a.csv": 2}, {"/y/1/a.csv": 3, "/y/2/a.csv": 2}, ["of another size: `1/a.csv`"]),
        ({"/x/1/a.csv": 1, "/x/2/a.csv": 2}, {"/x/2/a.csv": 2}, ["gone: `1/a.csv`"]),
        ({"/x/2/a.csv": 2}, {"/x/1/a.csv": 2, "/x/2/a.csv": 2}, ["new: `1/a.csv`"]),
        (
            {"/x/1/n/a.csv": 1, "/x/2/n/a.csv": 2},
            {"/x/1/n/a.csv": 1, "/x/2/n/a.csv": 3},
            ["of another size: `2/n/a.csv`"],
        ),
        ({"/a.csv": 1, "/x/a.csv": 1}, {"/a.csv": 2, "/x/a.csv": 1}, ["of another size: `/a.csv`"]),
        ({}, {"/x/a.csv": 1}, ["new: `a.csv`"]),
    ],
)
def test_files_of_one_name_are_told_apart_by_their_folders(
    before: dict[str, int], now: dict[str, int], said: list[str]
) -> None:
    assert changes(before, now) == said
