"""How fast samples are read in random order from a mixture, beside datatrove's dataset and datasets/arrow.

Samples of 2,048 tokens from two corpora (our own format is datatrove's `.ds`; the peers read one of the same size),
position of each token in its document included where the peer can. Then the same corpus a thousand times larger, as
sparse files of 50 billion tokens in shards as `prepare` makes them: opening it must take about as long, and reading it
as much memory. Its samples come from pages that were never read before, which is slower, but not by magnitudes.

    python bench/read.py [--rounds 5] [--tokens 40000000] [--json] [--smallest]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

LENGTH = 2048
READS = 4000
DOCUMENT = 4000
"""Tokens of a document; the average article of PubMed Central has about twice as many, an abstract a tenth."""
HUGE, SMALLEST_HUGE = 50_000_000_000, 1_500_000_000
BARS = {"datatrove": 2.0}
"""Least times the peer's samples/s."""
SMALL, LARGE = "ours, one corpus", "ours, the huge corpus"
GROWTH_BARS = {"start_seconds": 5.0, "memory_mib": 4.0, "seconds_per_sample": 8.0}
"""At most so many times the small corpus's, with a thousand times as many tokens: twice what was measured, about."""


def main() -> int:
    options = _parse()
    if options.case:
        print(json.dumps(_read(options.case, Path(options.folder))))
        return 0
    seen: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        _write(folder, options.tokens, options.huge)
        for turn in options.turns:
            for case in sorted(CASES, reverse=bool(turn % 2)):
                command = [sys.executable, __file__, "--case", case, "--folder", name]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{case}: {done.stderr[-3000:]}")
                if turn:
                    seen.setdefault(case, []).append(json.loads(done.stdout.splitlines()[-1]))
    return _report(seen, options)


def _write(folder: Path, tokens: int, huge: int) -> None:
    """Two corpora, an Arrow copy of one, and the huge one, whose files have holes instead of tokens."""
    import numpy as np
    from datasets import Dataset, Features, Sequence, Value

    from tests.support.corpora import make_corpus

    rng = np.random.default_rng(0)
    for corpus in ("first", "second"):
        documents = rng.integers(0, 32_000, (tokens // 2 // DOCUMENT, DOCUMENT), dtype=np.uint16)
        make_corpus(folder / corpus, [list(part) for part in np.array_split(documents, 4)])
    whole = np.concatenate([np.fromfile(path, np.uint16) for path in sorted((folder / "first" / "train").glob("*.ds"))])
    rows = whole[: len(whole) // LENGTH * LENGTH].reshape(-1, LENGTH).astype(np.int32)
    features = Features({"input_ids": Sequence(Value("int32"), length=LENGTH)})
    Dataset.from_dict({"input_ids": rows}, features=features).save_to_disk(folder / "arrow")
    _write_huge(folder, huge)


def _write_huge(folder: Path, huge: int) -> None:
    import numpy as np

    from jobs.data.corpus.merge_shards import SHARD_TOKENS

    manifest = json.loads((folder / "first" / "manifest.json").read_text())
    shards, per_shard = [], SHARD_TOKENS // DOCUMENT
    tokens = per_shard * DOCUMENT
    ends = np.arange(1, per_shard + 1, dtype="<u8") * DOCUMENT
    (folder / "huge" / "train").mkdir(parents=True)
    count = -(-huge // tokens)
    for number in range(count):
        name = f"train/{number:05d}.ds"
        with (folder / "huge" / name).open("wb") as file:
            file.truncate(tokens * 2)
        ends.tofile(folder / "huge" / f"{name}.index")
        shards.append({**manifest["shards"]["train"][0], "name": name, "tokens": tokens, "documents": per_shard})
    manifest["corpus"], manifest["shards"]["train"] = "huge", shards
    manifest["counts"]["tokens"]["train"] = count * tokens
    manifest["counts"]["documents"]["train"] = count * per_shard
    (folder / "huge" / "manifest.json").write_text(json.dumps(manifest))


def _read(case: str, folder: Path) -> dict[str, float]:
    """Open, read one sample, then many in random order; imports are not counted."""
    import random

    opened = CASES[case](folder)
    before = _memory()
    started = time.perf_counter()
    length, read = opened()
    read(0)
    first = time.perf_counter()
    order = random.Random(1).choices(range(length), k=READS)
    for index in order[: READS // 10]:
        read(index)
    warm = time.perf_counter()
    for index in order[READS // 10 :]:
        read(index)
    seconds = time.perf_counter() - warm
    return {
        "start_seconds": first - started,
        "samples_per_second": (READS - READS // 10) / seconds,
        "memory_mib": _memory() - before,
    }


def _memory() -> float:
    """Anonymous memory in MiB: pages of mapped files belong to the kernel's cache."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Opened = Callable[[], tuple[int, Callable[[int], Any]]]


def ours(folder: Path, *names: str) -> Opened:
    """Our samples: windows of a mixture, in a computed order."""
    from jobs.data.sampling.corpus_reader import open_corpora
    from jobs.data.sampling.dataset import Samples
    from jobs.data.sampling.mixture import Mixture
    from jobs.data.sampling.sequences import cut

    def open_samples() -> tuple[int, Callable[[int], Any]]:
        pieces = cut(open_corpora([folder / name for name in names], "open"), "packed", "train", LENGTH)
        count = sum(map(len, pieces))
        samples = Samples(pieces, Mixture([(0, [Fraction(1)] * len(names))]), LENGTH, 1, count)
        return count, samples.__getitem__

    return open_samples


def datatrove(folder: Path) -> Opened:
    """datatrove's own dataset of the same files, with positions, shuffled."""
    from datatrove.utils.dataset import DatatroveFolderDataset

    def open_folder() -> tuple[int, Callable[[int], Any]]:
        data = DatatroveFolderDataset(
            str(folder / "first" / "train"), LENGTH - 1, token_size=2, shuffle=True, return_positions=True
        )
        return len(data), data.__getitem__

    return open_folder


def datatrove_without_positions(folder: Path) -> Opened:
    """The same without positions, which it finds by reading the index from its start."""
    from datatrove.utils.dataset import DatatroveFolderDataset

    def open_folder() -> tuple[int, Callable[[int], Any]]:
        data = DatatroveFolderDataset(str(folder / "first" / "train"), LENGTH - 1, token_size=2, shuffle=True)
        return len(data), data.__getitem__

    return open_folder


def arrow(folder: Path) -> Opened:
    """datasets, with torch tensors; it knows no positions."""
    from datasets import load_from_disk

    def open_dataset() -> tuple[int, Callable[[int], Any]]:
        data = load_from_disk(folder / "arrow").with_format("torch")
        return len(data), data.__getitem__

    return open_dataset


CASES: dict[str, Callable[[Path], Opened]] = {
    "ours": lambda folder: ours(folder, "first", "second"),
    SMALL: lambda folder: ours(folder, "first"),
    LARGE: lambda folder: ours(folder, "huge"),
    "datatrove": datatrove,
    "datatrove, no positions": datatrove_without_positions,
    "datasets/arrow": arrow,
}


def _report(seen: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> int:
    medians = {
        case: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for case, rows in seen.items()
    }
    speed = medians["ours"]["samples_per_second"]
    ratios = {case: speed / row["samples_per_second"] for case, row in medians.items() if not case.startswith("ours")}
    growth = _growth(medians)
    missed = [case for case, bar in BARS.items() if ratios[case] < bar]
    missed += [key for key, bar in GROWTH_BARS.items() if growth[key] > bar]
    failed = int(bool(missed) and not options.smallest)
    if options.json:
        facts = {
            "rounds": options.rounds,
            "tokens": options.tokens,
            "cases": medians,
            "ratios": ratios,
            "growth": growth,
        }
        print(json.dumps(facts))
        return failed
    tokens = f"{options.tokens / 1e6:g} M tokens"
    print(f"medians of {options.rounds} processes, {tokens}, {os.cpu_count()} CPUs, {date.today()}")
    for case, row in medians.items():
        start, memory = row["start_seconds"] * 1000, row["memory_mib"]
        line = f"{case:24s} {row['samples_per_second']:9,.0f} samples/s  start {start:6.1f} ms  {memory:6.1f} MiB"
        if case in ratios:
            line += f"   ours is {ratios[case]:.2f} x that"
        if case in BARS:
            line += f"; {_judged(case in missed, options)}: at least {BARS[case]}"
        print(line)
    for key, bar in GROWTH_BARS.items():
        large = f"{options.huge / 1e9:g} B tokens: {growth[key]:.1f} x the {key}"
        print(f"{large}; {_judged(key in missed, options)}: at most {bar}")
    return failed


def _judged(is_missed: bool, options: argparse.Namespace) -> str:
    return "not judged" if options.smallest else "MISSED" if is_missed else "holds"


def _growth(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many times a small corpus's costs the large one's are."""
    small, large = medians[SMALL], medians[LARGE]
    growth = {key: large[key] / max(small[key], 1e-9) for key in ("start_seconds", "memory_mib")}
    return {**growth, "seconds_per_sample": small["samples_per_second"] / large["samples_per_second"]}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.huge = SMALLEST_HUGE if options.smallest else HUGE
    if options.smallest:
        options.rounds, options.tokens = 1, 400_000
    # The first turn, number 0, fills caches and does not count.
    options.turns = range(1 if options.smallest else 0, options.rounds + 1)
    return options


if __name__ == "__main__":
    sys.exit(main())
