"""kind: vocabulary - a tokenizer learns new tokens from source files: count, learn, build, measure, publish.

What is counted is kept in `<output>.partial/` until the tokenizer is renamed into place, so a run that
was stopped or killed goes on with the next source file, or with learning.
"""

import hashlib
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter
from transformers import AutoTokenizer

from jobs.data.corpus.name_check import check_names
from jobs.data.corpus.progress import Phases
from jobs.data.corpus.source_file import ProcessedFile
from jobs.data.corpus.source_files import code_versions, process_files
from jobs.data.vocabulary.building import expand, save
from jobs.data.vocabulary.counting import WordCounts
from jobs.data.vocabulary.learning import NewToken, learn
from jobs.data.vocabulary.measuring import Meter
from jobs.data.vocabulary.source_file import VocabularyFileList, count_file, heldout_batches, vocabulary_file_list
from jobs.models.tokenizer import TextEncoder, load_encoder
from jobs.rank.atomic_files import staging_path, sync_tree, write_durably
from jobs.rank.context import Context
from jobs.rank.publish import is_in_place, put_in_place
from jobs.rank.stop_flag import STOP, noting_stop
from jobs.rank.watchdog import WATCHDOG
from jobs.rank.worker_pool import run_tasks
from launcher.artifacts.corpus_manifest import Tally
from launcher.artifacts.tokenizer_manifest import EXPANSION, Expansion, Measurement, TokenizerIdentity, read_expansion
from launcher.errors import LauncherError
from launcher.run.ledger import append_event

FERTILITY = "fertility.json"
"""In the run's outputs."""
_TOKENS = TypeAdapter(list[NewToken])


def main(context: Context) -> None:
    """Make the tokenizer that the recipe describes.

    Raises:
        LauncherError: sources or base cannot be used, too much is unreadable, or the name is taken.
        StopRequested: a stop was asked for before the tokenizer was there.
    """
    plan = vocabulary_file_list(context)
    if not _is_published(plan):
        with noting_stop(context):
            _make_tokenizer(plan, context)
    shutil.rmtree(plan.work.parent, ignore_errors=True)  # there if a run was killed just when it had published
    expansion = read_expansion(plan.folder)
    write_durably(context.run.outputs / FERTILITY, expansion.measurement.model_dump_json(indent=1) + "\n")
    print(f"{plan.folder}: {_summary(expansion)}", flush=True)
    append_event(
        context.run.ledger, context.attempt, last_step=len(plan.sources), reason="finished", source="vocabulary"
    )


def _is_published(plan: VocabularyFileList) -> bool:
    """Tell whether this very tokenizer is there already; anything else there is an error."""

    def describe_other() -> str | None:
        if not (plan.folder / EXPANSION).exists():
            return "holds no tokenizer that `kind: vocabulary` made"
        there, wanted = read_expansion(plan.folder).recipe_fingerprint, plan.fingerprint
        if there == wanted:
            return None
        prints = f"fingerprint {there[:12]}, this recipe's is {wanted[:12]}"
        return f"holds a tokenizer made from other files or settings ({prints})"

    return is_in_place(plan.folder, "output", describe_other)


def _make_tokenizer(plan: VocabularyFileList, context: Context) -> None:
    parts = process_files(plan, range(len(plan.sources)), count_file, context)
    check_names(plan, parts)
    _require_documents(parts)
    with Phases(context, len(parts), sum(part.source.size for part in parts)) as phases:
        phases.report("learning", 0, 2)
        tokens = _learn_once(plan, parts)
        folder = _build(plan, tokens, context.model_path(plan.recipe.tokenizer))
        phases.report("measuring", 1, 2)
        measurement = _measure(plan, tokens, folder)
    expansion = Expansion(
        tokenizer=plan.recipe.output,
        data_use=plan.recipe.data_use,
        recipe_fingerprint=plan.fingerprint,
        code=code_versions(plan, parts),
        base=identity_of(plan.encoder),
        expanded=identity_of(load_encoder(str(folder), plan.recipe.output)),
        parts=tuple(token.parts for token in tokens),
        min_documents=plan.recipe.min_documents,
        only_inside=sum(not token.occurs for token in tokens),
        measurement=measurement,
        sources=tuple(part.source for part in parts),
    )
    write_durably(folder / EXPANSION, expansion.model_dump_json() + "\n")
    sync_tree(folder)
    put_in_place(folder, plan.folder, partial(_is_published, plan))


def _require_documents(parts: Sequence[ProcessedFile]) -> None:
    counts = sum((part.tally for part in parts), start=Tally()).documents
    if not counts["train"]:
        raise LauncherError("share: no document is left to learn from; raise it, or check files and `clean`")
    if not counts["validation"]:
        raise LauncherError("heldout: no document is left to measure on; raise it, or check files and `clean`")


def _learn_once(plan: VocabularyFileList, parts: Sequence[ProcessedFile]) -> list[NewToken]:
    """Learn new tokens, unless an earlier attempt has, in a process of its own that gives its memory back."""
    compared = [plan.code, *(part.model_dump_json() for part in parts)]
    stamp = hashlib.sha256("".join(compared).encode()).hexdigest()[:16]
    path = plan.parts / f"learned-{stamp}.json"
    if not path.exists():
        print("learning ...", flush=True)
        cpus = plan.recipe.resources.cpus_per_task
        for _ in run_tasks(lambda _: _learn_tokens(plan, path), [0], cpus, WATCHDOG.heartbeat):
            pass
    tokens = _TOKENS.validate_json(path.read_bytes())
    if not tokens:
        what = "no part of a word occurs in that many documents"
        raise LauncherError(f"min_documents: {what}; write a smaller number, or add text")
    return tokens


def _learn_tokens(plan: VocabularyFileList, path: Path) -> None:
    words = WordCounts(plan.recipe.min_documents)
    for number in range(len(plan.sources)):
        WATCHDOG.heartbeat()
        words.merge(WordCounts.load(plan.words(number), plan.recipe.min_documents))
    write_durably(path, _TOKENS.dump_json(learn(plan.base, words, plan.recipe)).decode())


def _build(plan: VocabularyFileList, tokens: Sequence[NewToken], base: str) -> Path:
    """Write the tokenizer into a staging folder."""
    folder = staging_path(plan.work / "tokenizer")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700 if plan.recipe.data_use == "credentialed" else 0o777)
    tokenizer = AutoTokenizer.from_pretrained(base)
    save(tokenizer, expand(tokenizer.backend_tokenizer, tokens), folder)
    return folder


def _measure(plan: VocabularyFileList, tokens: Sequence[NewToken], folder: Path) -> Measurement:
    """Measure both tokenizers on the held-out documents."""
    expanded = load_encoder(str(folder), plan.recipe.output)
    meter = Meter(plan.encoder, expanded, [token.parts for token in tokens])
    for texts in heldout_batches(plan):
        STOP.raise_if_requested()
        WATCHDOG.heartbeat()
        meter.add(texts)
    return meter.measurement()


def identity_of(encoder: TextEncoder) -> TokenizerIdentity:
    """Return what identifies a tokenizer."""
    record = encoder.record
    return TokenizerIdentity(path=record.path, fingerprint=record.fingerprint, vocab_size=record.vocab_size)


def _summary(expansion: Expansion) -> str:
    """Say in a line what the new tokens bring."""
    its = expansion.measurement
    new = len(expansion.parts)
    inside = f"; {expansion.only_inside:,} occur only inside of longer ones" if expansion.only_inside else ""
    return (
        f"{new:,} new tokens, {expansion.expanded.vocab_size:,} in all; "
        f"on {its.documents:,} held-out documents "
        f"{its.base.tokens_per_word:.3f} -> {its.expanded.tokens_per_word:.3f} tokens a word, "
        f"{its.base.characters_per_token:.2f} -> {its.expanded.characters_per_token:.2f} characters a token; "
        f"{its.new_share:.1%} of its tokens are new{inside}"
    )
