"""Whether a model may have been trained on what it is asked: what the manifests of its corpora say about each file.

An export's manifest names the corpora of its training and its base model; a corpus' manifest lists the evaluation files
with which its documents share no run of words (`clean.decontaminate`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.rank.context import Context
from launcher.artifacts.adapter_folder import read_object
from launcher.artifacts.corpus_manifest import MANIFEST, Manifest, file_sha256, read_manifest
from launcher.artifacts.scores import ScoredFile, TaskScores
from launcher.errors import LauncherError
from launcher.recipe.sections.evaluated_model import EvaluatedModel

_GENERATIONS = 20
"""So many models, each trained from the next, are followed."""


@dataclass(frozen=True)
class TrainingData:
    """What a model and its adapters were trained on, as their manifests name it."""

    corpora: dict[str, Manifest]
    """Those that are on this site."""
    manifests: dict[str, str]
    """SHA-256 of their manifests."""
    others: tuple[str, ...]
    """Names of which no corpus is here: data of fine-tunings, or corpora of another site."""

    def notes(self, scores: TaskScores) -> tuple[str, ...]:
        """Say of each file of a task, and each corpus, whether one was kept out of the other."""
        if scores.type in ("classification", "judgements"):  # of any model's predictions
            return ()
        found = [note for file in scores.files for note in self._of_file(file, scores)]
        others = [f"trained on `{name}`, which is no corpus here: not checked for this task" for name in self.others]
        return (*found, *others)

    def _of_file(self, file: ScoredFile, scores: TaskScores) -> Iterator[str]:
        path = Path(file.path)
        for name, corpus in self.corpora.items():
            if path.name == MANIFEST:
                yield from self._of_corpus(name, file, str(scores.settings.get("split")))
                continue
            same = next((one for one in corpus.decontamination if one.sha256 == file.sha256), None)
            alike = next((one for one in corpus.decontamination if Path(one.path).name == path.name), None)
            if same:
                dropped = f"{same.documents:,} documents were dropped for it"
                yield f"trained on `{name}`, which was decontaminated against {path.name} ({dropped})"
            elif alike:
                what = f"a file {path.name} of other content"
                yield f"trained on `{name}`, which was decontaminated against {what}, not against this one"
            else:
                yield f"trained on `{name}`, which was not decontaminated against {path.name}"

    def _of_corpus(self, name: str, file: ScoredFile, split: str) -> Iterator[str]:
        if self.manifests[name] != file.sha256:
            yield f"trained on `{name}`; whether it shares documents with {Path(file.path).parent.name} was not checked"
        elif split == "train":
            yield f"trained on this split of `{name}`"
        else:
            yield f"trained on `{name}`, whose `{split}` split was held out"


def training_data(context: Context, section: EvaluatedModel | None) -> TrainingData:
    """Find what the manifests of a model and its adapters name, and those of the models that they were trained from.

    Args:
        context: Knows where models and corpora are.
        section: The recipe's; None: no model.
    """
    names = [section.path, *(one.path for one in section.adapters)] if section else []
    corpora: dict[str, Manifest] = {}
    manifests: dict[str, str] = {}
    others: dict[str, None] = {}
    for name in _all_trained_on(context, names):
        folder = context.corpus_path(name)
        try:
            corpora[name] = read_manifest(folder)
            manifests[name] = file_sha256(folder / MANIFEST)
        except (LauncherError, OSError):
            others[name] = None
    return TrainingData(corpora, manifests, tuple(others))


def _all_trained_on(context: Context, models: Sequence[str]) -> list[str]:
    waiting, seen, found = list(models), set[str](), dict[str, None]()
    while waiting and len(seen) < _GENERATIONS:
        name = waiting.pop(0)
        manifest = read_object(Path(context.model_path(name)) / MANIFEST) or {}
        seen.add(name)
        found |= dict.fromkeys(str(one) for one in manifest.get("corpora") or ())
        base = manifest.get("base_model")
        if isinstance(base, str) and base not in seen:
            waiting.append(base)
    return [*found]
