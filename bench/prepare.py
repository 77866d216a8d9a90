"""How fast `kind: prepare` makes a corpus, beside what could be the limit and what people use.

Real abstracts, no text twice, from JSON lines on disk to packed shards, checksummed and published (read, clean,
split, tokenise, write, finalise), in one process and in two. Peers, on the same text with the same 32,000-entry BPE:
(a) tokenizers' `encode_batch` on text already in memory: the ceiling; (b) `datasets.map` with `group_texts`, as in
transformers' run_clm example; (c) datatrove's DocumentTokenizer alone, on documents already in memory.
Each measurement is a fresh process, imports and loading of the tokenizer not counted; cases take turns.

    python bench/prepare.py [--text FILE.jsonl.zst] [--rounds 5] [--json] [--smallest]

`--text` is Pile-style JSON lines; the default is the 12,910 abstracts of ../shared/data where they are at hand. Without
them the smallest form runs, on the 500 that come with the launcher: too little to judge anything.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.unmeasured import not_measured

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "recipes" / "assets" / "pubmed_abstracts.jsonl.zst"
MORE = ROOT.parent / "shared" / "data" / "pubmed" / "pile" / "pubmed_abstracts.jsonl.zst"
FILES = 2
"""Source files that the text is spread over: one for each worker. Real ones are larger than this text."""
LENGTH = 2048
VOCABULARY = 32_000
BARS = {"encode_batch": 0.85, "datasets.map": 1.3, "DocumentTokenizer": 1.0}
"""Least times the peer's tokens/s."""


def main() -> int:
    options = _parse()
    if options.case:
        print(json.dumps(CASES[options.case](Path(options.folder), options.processes)))
        return 0
    results: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        _spread(Path(options.text), Path(folder))
        for turn in options.turns:
            for workers in options.workers:
                for case in sorted(CASES, reverse=bool(turn % 2)):
                    measured = _measure(case, Path(folder), workers)
                    if turn:
                        results.setdefault((case, workers), []).append(measured)
    return _report(results, options)


def _spread(source: Path, folder: Path) -> None:
    """Write the text as several files of JSON lines, and train a tokenizer on it."""
    import zstandard
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    with zstandard.open(source, "rt", encoding="utf-8") as file:
        lines = list(file)
    for number in range(FILES):
        (folder / f"{number}.jsonl").write_text("".join(lines[number::FILES]), encoding="utf-8")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>").save_pretrained(folder / "tokenizer")


def _measure(case: str, folder: Path, workers: int) -> float:
    """Tokens per second of one case in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="out-") as out:
        for path in [*folder.glob("*.jsonl"), folder / "tokenizer"]:
            (Path(out) / path.name).symlink_to(path)
        command = [sys.executable, __file__, "--case", case, "--folder", out, "--processes", str(workers)]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(workers), "HF_HUB_OFFLINE": "1", "HF_HOME": out}
        environment["TOKENIZERS_PARALLELISM"] = "true" if workers > 1 and case == "encode_batch" else "false"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case}: {done.stderr[-3000:]}")
        said = json.loads(done.stdout.splitlines()[-1])
    return float(said["tokens"] / said["seconds"])


def prepare(folder: Path, workers: int) -> dict[str, float]:
    """Our job, from files to the published corpus."""
    from jobs.data.corpus.file_list import corpus_file_list
    from jobs.kinds.prepare import main as run
    from tests.support.prepare_runs import make_context

    context = make_context(
        folder,
        tokenizer="./tokenizer",
        validation=0.001,
        clean={"exact_duplicates": "drop", "min_characters": 10},
        resources={"cpus_per_task": workers, "time": "1h"},
    )
    corpus_file_list(context)
    started = time.perf_counter()
    run(context)
    seconds = time.perf_counter() - started
    counts = json.loads((folder / "corpora" / "corpus" / "manifest.json").read_text())["counts"]
    return {"seconds": seconds, "tokens": sum(counts["tokens"].values())}


def encode_batch(folder: Path, workers: int) -> dict[str, float]:
    """(a) Nothing but the tokenizer, on text in memory."""
    del workers  # RAYON_NUM_THREADS says it
    from tokenizers import Tokenizer

    tokenizer, texts = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")), list(_texts(folder))
    started = time.perf_counter()
    tokens = sum(
        len(encoding.ids) + 1
        for start in range(0, len(texts), 1000)
        for encoding in tokenizer.encode_batch(texts[start : start + 1000])
    )
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


def datasets_map(folder: Path, workers: int) -> dict[str, float]:
    """(b) As in transformers' examples/pytorch/language-modeling/run_clm.py: tokenise, concatenate, cut into blocks."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    datasets.disable_progress_bars()

    def tokenize(examples: dict[str, list[str]]) -> dict[str, Any]:
        return dict(tokenizer([text + "</s>" for text in examples["text"]]))

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, Any]:
        joined = {key: [item for row in rows for item in row] for key, rows in examples.items()}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        result = {key: [row[i : i + LENGTH] for i in range(0, total, LENGTH)] for key, row in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    started = time.perf_counter()
    files = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    raw = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(folder / "cache"))
    processes = workers if workers > 1 else None
    tokenized = raw.map(tokenize, batched=True, num_proc=processes, remove_columns=raw.column_names)
    grouped = tokenized.map(group_texts, batched=True, num_proc=processes)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": len(grouped) * LENGTH}


def document_tokenizer(folder: Path, workers: int) -> dict[str, float]:
    """(c) datatrove's tokeniser and writer, on documents in memory, spread over its own executor's processes."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.tokens import DocumentTokenizer

    documents = [Document(text, str(number)) for number, text in enumerate(_texts(folder))]

    def share(_: None, rank: int, world_size: int) -> Iterator[Document]:
        yield from documents[rank::world_size]

    writer = DocumentTokenizer(
        str(folder / "out"),
        tokenizer_name_or_path=str(folder / "tokenizer" / "tokenizer.json"),
        eos_token="</s>",
        shuffle_documents=False,
    )
    executor = LocalPipelineExecutor(
        [share, writer], tasks=workers, workers=workers, logging_dir=str(folder / "logs"), start_method="fork"
    )
    started = time.perf_counter()
    executor.run()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": sum(path.stat().st_size for path in (folder / "out").glob("*.ds")) / 2}


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


CASES = {
    "prepare": prepare,
    "encode_batch": encode_batch,
    "datasets.map": datasets_map,
    "DocumentTokenizer": document_tokenizer,
}


def _report(results: dict[tuple[str, int], list[float]], options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for workers in options.workers:
        ours = statistics.median(results["prepare", workers])
        rows.append({"case": "prepare", "workers": workers, "tokens_per_second": ours})
        for peer, bar in BARS.items():
            theirs = statistics.median(results[peer, workers])
            row = {"case": peer, "workers": workers, "tokens_per_second": theirs, "ratio": ours / theirs}
            rows.append({**row, "least": bar, "holds": ours / theirs >= bar})
    if options.json:
        print(json.dumps({"rounds": options.rounds, "text": Path(options.text).name, "rows": rows}, indent=1))
    else:
        print(
            f"medians of {options.rounds} processes, {os.cpu_count()} CPUs, {Path(options.text).name}, {date.today()}"
        )
        for row in rows:
            line = f"{row['workers']} workers  {row['case']:18s} {row['tokens_per_second'] / 1e6:6.2f} M tokens/s"
            if "ratio" in row:
                judged = "not judged" if options.smallest else "holds" if row["holds"] else "MISSED"
                line += f"   prepare is {row['ratio']:5.2f} x that; {judged}: {row['least']}"
            print(line)
    if options.is_too_short:
        return not_measured(f"{SHIPPED.name} is too short to judge by; `--text FILE` names more text")
    return 0 if options.smallest or all(row.get("holds", True) for row in rows) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    parser.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    return _choose_size(parser.parse_args())


def _choose_size(options: argparse.Namespace) -> argparse.Namespace:
    options.is_too_short = not (options.text or options.smallest or options.case or MORE.exists())
    options.smallest |= options.is_too_short
    options.text = options.text or (SHIPPED if options.smallest else MORE)
    options.workers = (2,) if options.smallest else (1, 2)
    options.rounds = 1 if options.smallest else options.rounds
    # The first turn, number 0, fills caches and does not count.
    options.turns = range(1 if options.smallest else 0, options.rounds + 1)
    return options


if __name__ == "__main__":
    sys.exit(main())
