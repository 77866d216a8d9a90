"""Which ranks wait in which collective: what torch's flight recorder wrote, and what it is read as."""

import json
from pathlib import Path
from typing import Any

from launcher.run.collectives import KEPT, collectives_file, find_waiting, newest_entries


def entry(number: int, has_ended: bool = True, name: str = "nccl:all_reduce", group: int = 0) -> dict[str, Any]:
    return {
        "pg_id": group,
        "process_group": [str(group), "default_pg" if group == 0 else "undefined"],
        "collective_seq_id": number,
        "profiling_name": name,
        "retired": has_ended,
        "state": "completed" if has_ended else "scheduled",
    }


def described(folder: Path, world_size: int) -> list[str]:
    return [str(one) for one in find_waiting(folder, world_size)]


def write(folder: Path, *ranks: list[dict[str, Any]]) -> None:
    for rank, entries in enumerate(ranks):
        collectives_file(folder, rank).write_text(json.dumps({"entries": entries}))


def test_the_rank_that_did_not_come_to_it_is_named(tmp_path: Path) -> None:
    waiting = [entry(56), entry(57, has_ended=False)]
    write(tmp_path, waiting, waiting, [entry(56)], waiting)

    assert described(tmp_path, 4) == [
        "ranks 0-1, 3 wait in nccl all reduce number 57 of group 0 (default_pg), which rank 2 did not come to"
    ]


def test_all_ranks_that_are_in_a_collective_are_said_to_wait(tmp_path: Path) -> None:
    write(tmp_path, *[[entry(9), entry(10, has_ended=False)]] * 2)

    assert described(tmp_path, 2) == ["ranks 0-1 wait in nccl all reduce number 10 of group 0 (default_pg)"]


def test_groups_are_told_apart_and_those_that_are_done_are_left_out(tmp_path: Path) -> None:
    done, open_ = entry(3), entry(4, has_ended=False, name="gloo:broadcast", group=1)
    write(tmp_path, [done, open_], [done, entry(3, group=1)])

    assert described(tmp_path, 2) == [
        "rank 0 waits in gloo broadcast number 4 of group 1, which rank 1 did not come to"
    ]


def test_without_files_or_with_torn_ones_nothing_is_said(tmp_path: Path) -> None:
    assert described(tmp_path / "missing", 4) == []

    for content in ("", "[]", "{}", '{"entries": [{}]}', '{"entries": 3}'):
        collectives_file(tmp_path, 0).write_text(content)
        assert described(tmp_path, 1) == []


def test_the_newest_of_each_group_are_kept() -> None:
    entries = [entry(number, group=number % 2) for number in range(100)]

    kept = newest_entries(entries)

    assert [one["collective_seq_id"] for one in kept] == [*range(100 - 2 * KEPT, 100)]
