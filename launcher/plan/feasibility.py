"""Whether a recipe can work on a cluster, said before it waits in a queue. Reads small local files only."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from launcher.adapters import AdapterFolder, is_credentialed, read_adapter
from launcher.cluster import Cluster
from launcher.corpus import read_manifest
from launcher.errors import Fault, LauncherError
from launcher.expansion import EXPANSION
from launcher.load import LoadedRecipe
from launcher.paths import expand, locate
from launcher.plan.clashes import find_clashes
from launcher.plan.files import missing_files
from launcher.plan.shape import model_config, most_tokens, read_json
from launcher.recipe import CptRecipe, MergeRecipe, PrepareRecipe, Recipe
from launcher.recipe.merge import MergedAdapter
from launcher.recipe.molora import Orthogonal
from launcher.recipe.sections import EarlierAdapter
from launcher.recipe.training import TrainingRecipe
from launcher.record import was_rehearsed
from launcher.settings import differing_settings
from launcher.tokens import strangers

Finding: TypeAlias = tuple[str, str]
"""A key, and what is wrong with its value."""
Pending: TypeAlias = Mapping[str, str]
"""Names of what is not there yet, but will be when a recipe starts, and the `data_use` of each."""

_NOTHING: Pending = MappingProxyType({})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def check(recipe: Recipe, cluster: Cluster, recipe_folder: str, pending: Pending = _NOTHING) -> list[Fault]:
    """Find out why a recipe cannot work on a cluster.

    Args:
        recipe: The recipe.
        cluster: Where it is to run.
        recipe_folder: Folder of its file, for `./` values.
        pending: Corpora, tokenizers, models and adapters that are not there yet, but will be when it starts.

    Returns:
        The faults, with the recipe's name for a file; `LoadedRecipe.place` turns it into file and line.
    """
    site = _Site(recipe, cluster, recipe_folder)
    findings = [*site.gpu_findings(), *site.time_findings(), *site.secret_findings(os.environ)]
    if isinstance(recipe, MergeRecipe):
        findings += site.start_findings(recipe, pending)
    elif not isinstance(recipe, TrainingRecipe):
        findings += site.tokenizer_findings("tokenizer", recipe.tokenizer, pending)
    else:
        findings += [
            *site.start_findings(recipe, pending),
            *site.tokenizer_findings("model.tokenizer", recipe.model.tokenizer, pending),
            *site.output_findings(recipe),
            *site.shape_findings(recipe),
            *site.device_findings(recipe),
            *site.tracking_findings(recipe),
        ]
    findings += missing_files(recipe, expand(cluster.roots.data), recipe_folder)
    if isinstance(recipe, PrepareRecipe):
        findings += site.name_findings(recipe)
    if isinstance(recipe, CptRecipe):
        findings += [*site.corpus_findings(recipe, pending), *site.vocabulary_findings(recipe)]
    return [Fault(recipe.name, None, key, message) for key, message in findings]


def check_all(loaded: Sequence[LoadedRecipe], cluster: Cluster, pending: Pending = _NOTHING) -> list[Fault]:
    """Check recipes as `check` does, each fault at its file and line."""
    alone = [
        item.place(fault)
        for item in loaded
        for fault in check(item.recipe, cluster, str(item.path.parent.absolute()), pending)
    ]
    return [*alone, *find_clashes(loaded)]


def hub_ids(recipe: Recipe, cluster: Cluster, recipe_folder: str) -> list[str]:
    """Name the models and tokenizers that are not on this site; the nodes will ask the Hugging Face Hub for them."""
    names = [name for name in _models_of(recipe).values() if _HUB_ID.fullmatch(name)]
    return [name for name in names if not os.path.isabs(locate(name, cluster.roots.models, recipe_folder))]


def _models_of(recipe: Recipe | TrainingRecipe) -> dict[str, str]:
    """Models, adapters and tokenizers that a recipe starts from, by their keys."""
    if isinstance(recipe, MergeRecipe):
        adapters: Sequence[MergedAdapter | EarlierAdapter] = recipe.adapters
        places, key = {"base_model": recipe.base_model}, "adapters"
    elif isinstance(recipe, TrainingRecipe):
        adapters, places, key = recipe.model.adapters, {"model.path": recipe.model.path}, "model.adapters"
        if isinstance(recipe.adapter, Orthogonal):
            places["adapter.start_from"] = recipe.adapter.start_from
    else:
        return {"tokenizer": recipe.tokenizer}
    return places | {f"{key}.{index}.path": adapter.path for index, adapter in enumerate(adapters)}


@dataclass(frozen=True)
class _Site:
    recipe: Recipe
    cluster: Cluster
    recipe_folder: str

    def gpu_findings(self) -> Iterator[Finding]:
        wanted, has = self.recipe.resources, self.cluster.gpus
        if has.per_node and wanted.gpus_per_node > has.per_node:
            yield (
                "resources.gpus_per_node",
                f"{wanted.gpus_per_node} are more than a node of `{self.cluster.name}` has; write at most "
                f"{has.per_node}, and more `nodes`",
            )
        if has.memory and wanted.gpu_memory and wanted.gpu_memory.bytes > has.memory.bytes:
            yield (
                "resources.gpu_memory",
                f"`{wanted.gpu_memory}` is more than a GPU of `{self.cluster.name}` has; write at most `{has.memory}`",
            )

    def time_findings(self) -> Iterator[Finding]:
        time, lead = self.recipe.resources.time, self.cluster.slurm.lead
        if time.seconds <= lead.seconds:
            yield (
                "resources.time",
                f"`{time}` leaves no time to work: runs of `{self.cluster.name}` are stopped {lead} before their "
                "limit; write more, or a shorter `slurm.lead` in the profile",
            )

    def secret_findings(self, environ: Mapping[str, str]) -> Iterator[Finding]:
        known = {*environ, *_names_in(self.cluster.secrets_file)}
        for index, name in enumerate(self.recipe.secrets):
            if name not in known:
                where = self.cluster.secrets_file or "the file that the profile names as `secrets_file`"
                yield (
                    f"secrets.{index}",
                    f"`{name}` is neither in this environment nor in {where}; export it, or write it there",
                )

    def model_findings(self, key: str, name: str) -> Iterator[Finding]:
        located = locate(name, self.cluster.roots.models, self.recipe_folder)
        if os.path.isabs(located):
            if not Path(located).is_dir():
                yield key, f"there is no folder `{located}`; check the name"
        elif not _HUB_ID.fullmatch(name):
            root = expand(self.cluster.roots.models)
            fix = _nearest(name, root) or "put it there, or write a Hugging Face id such as `org/name`"
            yield key, f"`{name}` is not below `{root}`; {fix}"

    def tokenizer_findings(self, key: str, name: str | None, pending: Pending) -> Iterator[Finding]:
        if name is None:
            return
        if name in pending:
            if pending[name] == "credentialed" and self.recipe.data_use == "open":
                yield key, f"`{name}` was made of credentialed text; write `data_use: credentialed`"
            return
        yield from self.model_findings(key, name)
        said = read_json(self._model(name) / EXPANSION)
        if said is None and key == "model.tokenizer" and self._model(name).is_dir():
            yield key, f"`{name}` has no {EXPANSION}; name a tokenizer that a `vocabulary` recipe made"
        if (said or {}).get("data_use") == "credentialed" and self.recipe.data_use == "open":
            yield key, f"`{name}` was made of credentialed text; write `data_use: credentialed`"

    def start_findings(self, recipe: TrainingRecipe | MergeRecipe, pending: Pending) -> Iterator[Finding]:
        """What is wrong with the models and adapters that a recipe starts from."""
        for key, name in _models_of(recipe).items():
            if name not in pending:
                yield from self.model_findings(key, name)
            is_bound = pending[name] == "credentialed" if name in pending else is_credentialed(self._model(name))
            if recipe.data_use == "open" and is_bound:
                yield key, f"`{name}` was made of credentialed data; write `data_use: credentialed`"
        yield from self._adapter_findings(recipe, pending)

    def _adapter_findings(self, recipe: TrainingRecipe | MergeRecipe, pending: Pending) -> Iterator[Finding]:
        if isinstance(recipe, MergeRecipe):
            base, key = recipe.base_model, "adapters"
            wanted = [(one.path, one.trained_on) for one in recipe.adapters]
        else:
            base, key = recipe.model.path, "model.adapters"
            wanted = [(one.path, one.trained_on) for one in recipe.model.adapters]
        here = {place: self._model(path) for place, (path, _) in enumerate(wanted) if path not in pending}
        earlier: list[AdapterFolder] = []
        for place, folder in ((place, folder) for place, folder in here.items() if folder.is_dir()):
            try:
                adapter = read_adapter(folder)
                earlier.append(adapter)
                if isinstance(recipe, MergeRecipe):
                    adapter.require_mergeable(recipe.adapters[place].only)
                else:
                    adapter.require_stackable()
                adapter.require_base(base, str(self._model(base)), wanted[place][1])
                if len(earlier) > place:  # all before it are here
                    adapter.require_beneath(earlier[:-1])
            except LauncherError as error:
                yield f"{key}.{place}.path", str(error)

    def output_findings(self, recipe: TrainingRecipe) -> Iterator[Finding]:
        link = expand(self.cluster.roots.models) / (recipe.output or "")
        if recipe.output and link.exists() and not was_rehearsed(link):
            yield "output", f"there is a model `{recipe.output}` already; write another name, or remove it"

    def name_findings(self, recipe: PrepareRecipe) -> Iterator[Finding]:
        """Whether the name of the corpus to make is taken, as far as that shows before its files are read."""
        folder = expand(self.cluster.roots.corpora) / recipe.corpus
        if not os.path.isdir(folder):
            return
        fix = f"write another name, or remove `{folder}`"
        try:
            differing = differing_settings(read_manifest(folder), recipe)
        except PermissionError:
            yield "corpus", f"`{recipe.corpus}` is there already, and not for you to read; write another name"
        except LauncherError:
            yield "corpus", f"`{recipe.corpus}` is there already, and no whole corpus; {fix}"
        else:
            if differing:
                yield "corpus", f"`{recipe.corpus}` is there already, made otherwise ({'; '.join(differing)}); {fix}"

    def corpus_findings(self, recipe: CptRecipe, pending: Pending) -> Iterator[Finding]:
        for index, corpus in enumerate(recipe.data.corpora):
            key, manifest = f"data.corpora.{index}.name", self._manifest(corpus.name)
            if manifest is None and corpus.name not in pending:
                root = expand(self.cluster.roots.corpora)
                fix = _nearest(corpus.name, root) or "first submit the `prepare` recipe that makes it"
                if os.path.isdir(root / f"{corpus.name}.partial"):
                    fix = "it is not whole yet: write `--after` and the run that makes it"
                yield key, f"there is no corpus `{corpus.name}` in `{root}`; {fix}"
            elif "credentialed" in (pending.get(corpus.name), (manifest or {}).get("data_use")) and (
                recipe.data_use == "open"
            ):
                yield key, f"`{corpus.name}` is credentialed data; write `data_use: credentialed`"

    def shape_findings(self, recipe: TrainingRecipe) -> Iterator[Finding]:
        config = model_config(recipe, self.cluster, self.recipe_folder) or {}
        length, limit = recipe.batch.sequence_length, most_tokens(config)
        if limit and length > limit:
            yield "batch.sequence_length", f"{length} is more than the model's {limit} positions; write at most {limit}"

    def vocabulary_findings(self, recipe: CptRecipe) -> Iterator[Finding]:
        rows = (model_config(recipe, self.cluster, self.recipe_folder) or {}).get("vocab_size")
        too_large = set()
        for index, corpus in enumerate(recipe.data.corpora):
            tokenizer = (self._manifest(corpus.name) or {}).get("tokenizer") or {}
            ids = tokenizer.get("vocab_size")
            if ids and rows and ids > rows:
                too_large.add(index)
                yield (
                    f"data.corpora.{index}.name",
                    f"`{corpus.name}` was made with a tokenizer of {ids} tokens, the model has {rows}; prepare it with "
                    "the model's own tokenizer",
                )
        tokenizer, root = self._model(recipe.model.tokenizer_path), self.cluster.roots.corpora
        folders = [(corpus.name, Path(locate(corpus.name, root, self.recipe_folder))) for corpus in recipe.data.corpora]
        for index, message in strangers(folders, tokenizer if tokenizer.is_absolute() else None):
            if index not in too_large:
                yield f"data.corpora.{index}.name", message

    def device_findings(self, recipe: TrainingRecipe) -> Iterator[Finding]:
        if self.cluster.gpus.device == "cpu" and recipe.model.attention == "flash":
            yield "model.attention", f"`flash` needs GPUs, and `{self.cluster.name}` trains on CPUs; write `sdpa`"
        if self.cluster.gpus.device == "cpu" and recipe.precision.dtype == "fp16":
            yield "precision.dtype", f"`fp16` needs GPUs, and `{self.cluster.name}` trains on CPUs; write `bf16`"

    def tracking_findings(self, recipe: TrainingRecipe) -> Iterator[Finding]:
        if recipe.data_use == "credentialed" and recipe.tracking.mode == "online" and not self.cluster.wandb_base_url:
            yield (
                "tracking.mode",
                "credentialed data must not be tracked at wandb.ai; write `offline` or `disabled`, or name a W&B "
                "server of your own as `wandb_base_url` in the profile",
            )

    def _model(self, name: str) -> Path:
        return Path(locate(name, self.cluster.roots.models, self.recipe_folder))

    def _manifest(self, corpus: str) -> dict[str, Any] | None:
        return read_json(Path(locate(corpus, self.cluster.roots.corpora, self.recipe_folder)) / "manifest.json")


def _nearest(name: str, root: Path) -> str | None:
    """Ask whether a folder of a similar name was meant; None if there is none, or this user may not look."""
    entries = os.listdir(root) if os.access(root, os.R_OK | os.X_OK) else []
    near = difflib.get_close_matches(name, [entry for entry in entries if not entry.endswith(".partial")], n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _names_in(secrets_file: str | None) -> set[str]:
    """Names of the secrets in a file of NAME=value lines; the values are not kept."""
    if secrets_file is None or not expand(secrets_file).is_file():
        return set()
    lines = expand(secrets_file).read_text(encoding="utf-8").splitlines()
    return {line.partition("=")[0].removeprefix("export ").strip() for line in lines if "=" in line}
