"""A prepare that is killed anywhere between its first file and its last leaves nothing that changes the corpus."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.data.corpus import merge_shards as merge
from jobs.data.corpus.file_list import corpus_file_list
from jobs.data.corpus.source_file import process_file
from jobs.kinds.prepare import main
from jobs.rank.context import Context
from tests.support.kill_at_point import Killed
from tests.support.prepare_runs import Group, abstracts, files_of, make_context, write_pile

CLEAN = {"exact_duplicates": "drop", "near_duplicates": {"buckets": 2, "hashes": 3}}
RESOURCES = {"cpus_per_task": 2, "time": "1h"}


@dataclass(frozen=True)
class Start:
    """Where every attempt of these tests starts: three files, two of which an earlier try has read."""

    folder: Path
    expected: dict[str, bytes]
    """Files of the corpus that an attempt makes which nobody kills."""

    def restore(self) -> None:
        """Undo what attempts did."""
        for name in ("corpora", "run"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "before", self.folder / "corpora")


def prepare(context: Context) -> None:
    main(context)


def whole(folder: Path) -> Context:
    """What the only run knows that makes the corpus."""
    return make_context(folder, clean=CLEAN, resources=RESOURCES)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    folder = tmp_path_factory.mktemp("killed")
    texts = abstracts()
    for number in range(2):
        copies = [texts[0], f"{texts[1]} Copyright {number}."]
        write_pile(folder / f"{number}.jsonl", texts[5 * number + 10 : 5 * number + 14] + copies)
    earlier = corpus_file_list(whole(folder))
    earlier.work.mkdir(parents=True)
    for number in range(2):
        process_file(earlier, number)
    shutil.move(folder / "corpora", folder / "before")
    write_pile(folder / "2.jsonl", texts[20:24])
    start = Start(folder, expected={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "SHARD_TOKENS", 4_000)
        start.restore()
        prepare(whole(folder))
        start.expected.update(files_of(folder / "corpora"))
        yield start


@pytest.mark.slow
@pytest.mark.parametrize("sampled", range(6))
def test_it_makes_the_same_bytes(start: Start, sampled: int) -> None:
    start.restore()
    points = Killed(lambda: prepare(whole(start.folder)), 0).points
    assert points > 60

    for point in range(1 + sampled * points // 18, points, points // 3):
        start.restore()
        killed = [Killed(lambda: prepare(whole(start.folder)), each) for each in (point, 1 + point // 2)]
        prepare(whole(start.folder))

        assert not killed[0].came_to_its_end
        assert files_of(start.folder / "corpora") == start.expected


@pytest.mark.slow
@pytest.mark.parametrize("point", [3, 8, 13, 18])
def test_so_do_several_tasks(start: Start, point: int) -> None:
    start.restore()
    group = Group(start.folder, 2, clean=CLEAN, resources=RESOURCES)

    killed = [
        Killed(lambda context=context: prepare(context), each)
        for context, each in ((group.share(0), point), (group.share(1), point // 2), (group.last, 4 * point))
    ]
    prepare(group.last)

    assert not any(one.came_to_its_end for one in killed)
    assert files_of(start.folder / "corpora") == start.expected
