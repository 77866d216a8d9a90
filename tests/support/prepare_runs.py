"""Running `prepare` in tests: a run directory, a recipe, and a task that is not under Slurm."""

import bz2
import gzip
import json
import lzma
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from jobs.data.sampling.corpus_reader import CorpusReader, open_corpus
from jobs.kinds.prepare import main
from jobs.rank.context import Context
from jobs.rank.ranks import Ranks
from launcher.artifacts.corpus_manifest import Split
from launcher.cluster import Cluster, Roots
from launcher.recipe import Recipe
from launcher.recipe.kinds.prepare import PrepareRecipe
from launcher.run.paths import RunDir
from launcher.run.record import CorpusShare, RunRecord, fingerprint

ASSETS = Path(__file__).parents[2] / "recipes" / "assets"
ABSTRACTS = ASSETS / "pubmed_abstracts.jsonl.zst"


def make_context(folder: Path, **changes: object) -> Context:
    """A task of a prepare whose corpora lie in `folder`/corpora and whose recipe lies in `folder`."""
    fields = {
        "kind": "prepare",
        "name": "prepare",
        "corpus": "corpus",
        "sources": [{"format": "pile", "files": "./*.jsonl*", "license": "MIT"}],
        "tokenizer": "stories260k",
        "validation": 0.1,
        "resources": {"cpus_per_task": 2, "time": "1h"},
    }
    return context_of(folder, PrepareRecipe.model_validate_json(json.dumps(fields | changes)))


def prepare(folder: Path, **changes: object) -> CorpusReader:
    """Carry out a prepare; return the corpus."""
    main(make_context(folder, **changes))
    return open_corpus(folder / "corpora" / "corpus")


def make_tokenizer(folder: Path, size: int = 300, template: str | None = None) -> None:
    """A tokenizer of a word per id, with EOS `<|end|>`, in transformers' format."""
    words = {f"w{i}": i for i in range(1, size - 1)} | {"<unk>": 0}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|end|>"])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<|end|>", size - 1)]
        )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def context_of(folder: Path, recipe: Recipe, models: Path = ASSETS) -> Context:
    """A task of a recipe that lies in `folder`."""
    roots = Roots(data=str(folder), corpora=str(folder / "corpora"), models=str(models), runs=str(folder))
    record = RunRecord(
        id="abc123",
        name=recipe.name,
        kind=recipe.kind,
        fingerprint=fingerprint(recipe.model_dump(mode="json")),
        created=0.0,
        code_hash="hash",
        code_commit=None,
        recipe_folder=str(folder),
        wandb_id="",
        cluster=Cluster(name="test", executor="local", roots=roots).model_dump(mode="json"),
    )
    run = RunDir(folder / "run")
    run.root.mkdir(exist_ok=True)
    run.recipe.write_text(recipe.model_dump_json())
    record.write(run.record)
    return Context(run, recipe, record, attempt=0, ranks=Ranks(0, 1, 0, 1, 0))


class Group:
    """The runs of one `prepare` in several tasks."""

    def __init__(self, folder: Path, tasks: int, **changes: object) -> None:
        """Keywords change the recipe."""
        self.folder, self.tasks = folder, tasks
        context = make_context(folder, tasks=tasks, **changes)
        self.last = replace(context, record=replace(context.record, group="abc123"))
        """What the run knows that completes the corpus."""

    def share(self, index: int) -> Context:
        """What one of the runs knows that work for it."""
        run = self.last.run.share(index)
        run.root.mkdir(parents=True, exist_ok=True)
        record = replace(self.last.record, id=run.root.name, share=CorpusShare(index, self.tasks))
        run.recipe.write_text(self.last.run.recipe.read_text())
        record.write(run.record)
        return replace(self.last, run=run, record=record)

    @property
    def corpus(self) -> Path:
        """The corpus they make."""
        return self.folder / "corpora" / "corpus"

    @property
    def work(self) -> Path:
        """Where they make it."""
        return self.folder / "corpora" / "corpus.partial"


def write_pile(path: Path, documents: Iterable[object]) -> Path:
    """Write documents (or whole records) as JSON lines, compressed as the name says."""
    records = [{"text": document} if isinstance(document, str) else document for document in documents]
    return write_source(path, "".join(json.dumps(record) + "\n" for record in records).encode())


def write_source(path: Path, content: bytes) -> Path:
    """Write a source file, compressed as its name says."""
    by_suffix = {".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    compress = by_suffix.get(path.suffix.lower(), bytes)
    path.write_bytes(compress(content))
    return path


def abstracts() -> list[str]:
    """The texts of the shipped abstracts."""
    with zstandard.open(ABSTRACTS, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def documents_of(corpus: CorpusReader, split: Split) -> list[list[int]]:
    """All documents of a corpus, as token ids."""
    documents: list[list[int]] = []
    for shard in corpus.manifest.shards[split]:
        ids = np.fromfile(corpus.folder / shard.name, dtype=corpus.manifest.dtype)
        ends = np.fromfile(corpus.folder / f"{shard.name}.index", dtype="<u8")
        documents += [part.tolist() for part in np.split(ids, ends[:-1].astype(int))]
    return documents
