"""Running `prepare` in tests: a run directory, a recipe, and a task that is not under Slurm."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import zstandard

from jobs.data.corpus import Corpus
from jobs.runtime.context import Context, Ranks
from launcher.cluster import Cluster, Roots
from launcher.corpus import Split
from launcher.paths import RunDir
from launcher.recipe import Recipe
from launcher.recipe.prepare import PrepareRecipe
from launcher.record import RunRecord, Share, fingerprint

ASSETS = Path(__file__).parent.parent / "recipes" / "assets"
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
        record = replace(self.last.record, id=run.root.name, share=Share(index, self.tasks))
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
    compress = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(content))
    return path


def abstracts() -> list[str]:
    """The texts of the shipped abstracts."""
    with zstandard.open(ABSTRACTS, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def documents_of(corpus: Corpus, split: Split) -> list[list[int]]:
    """All documents of a corpus, as token ids."""
    documents: list[list[int]] = []
    for shard in corpus.manifest.shards[split]:
        ids = np.fromfile(corpus.folder / shard.name, dtype=corpus.manifest.dtype)
        ends = np.fromfile(corpus.folder / f"{shard.name}.index", dtype="<u8")
        documents += [part.tolist() for part in np.split(ids, ends[:-1].astype(int))]
    return documents
