"""kind: vocabulary - a tokenizer learns new tokens from source files: count, learn, build, measure, publish.

What is counted is kept in `<output>.partial/` until the tokenizer is renamed into place, so a run that
was stopped or killed goes on with the next source file, or with learning.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from transformers import AutoTokenizer

from jobs.data.expansion.building import expand, save
from jobs.data.expansion.counting import Words
from jobs.data.expansion.learning import NewToken, learn
from jobs.data.expansion.measuring import Meter
from jobs.data.expansion.parts import VocabularyPlan, count_part, heldout_batches, make_plan
from jobs.data.making import code_versions, make_parts, stopped
from jobs.data.parts import Part
from jobs.data.progress import Phases
from jobs.data.tokenize import TextEncoder, load_encoder
from jobs.data.workers import run_tasks
from jobs.runtime.context import Context
from jobs.runtime.durable import staging_path, sync, sync_tree, write_durably
from jobs.runtime.watchdog import WATCHDOG
from launcher.corpus import Tally
from launcher.errors import LauncherError
from launcher.expansion import EXPANSION, Expansion, Measurement, TokenizerIdentity, read_expansion
from launcher.ledger import append_event
from launcher.paths import FINISHED

if TYPE_CHECKING:
    from jobs.runtime.stop import StopFlag

FERTILITY = "fertility.json"
"""In the run's outputs."""
StopWanted = Callable[[], bool]
_TOKENS = TypeAdapter(list[NewToken])


def main(context: Context, stop: "StopFlag") -> int:
    """Make the tokenizer that the recipe describes.

    Returns:
        0 when it is there, 75 when a stop was asked for before.

    Raises:
        LauncherError: sources or base cannot be used, too much is unreadable, or the name is taken.
    """
    plan = make_plan(context)
    is_stop_wanted = partial(stop.wanted, context.run, context.ranks.is_main)
    if not is_published(plan) and not make_tokenizer(plan, context, is_stop_wanted):
        return stopped(context)
    shutil.rmtree(plan.work.parent, ignore_errors=True)  # there if a run was killed just when it had published
    expansion = read_expansion(plan.folder)
    write_durably(context.run.outputs / FERTILITY, expansion.measurement.model_dump_json(indent=1) + "\n")
    print(f"{plan.folder}: {summary(expansion)}", flush=True)
    append_event(context.run.ledger, context.attempt, last_step=len(plan.files), reason="finished", source="vocabulary")
    return FINISHED


def is_published(plan: VocabularyPlan) -> bool:
    """Tell whether this very tokenizer is there already.

    Raises:
        LauncherError: something else is there.
    """
    if not plan.folder.exists():
        return False
    if not (plan.folder / EXPANSION).exists():
        raise LauncherError(f"output: {plan.folder} is there, and no tokenizer that this made; write another name")
    there = read_expansion(plan.folder).recipe_fingerprint
    if there != plan.fingerprint:
        raise LauncherError(
            f"{plan.folder}: holds a tokenizer made from other files or settings (fingerprint {there[:12]}, this "
            f"recipe's is {plan.fingerprint[:12]}); write another name as `output`, or remove that folder"
        )
    return True


def make_tokenizer(plan: VocabularyPlan, context: Context, is_stop_wanted: StopWanted) -> bool:
    """Make the tokenizer and put it in place; tell whether that came to its end before a stop.

    Raises:
        LauncherError: there is no text to learn from, or none to measure on, or nothing in it is common enough.
    """
    parts = make_parts(plan, range(len(plan.files)), count_part, context, is_stop_wanted)
    if len(parts) < len(plan.files):
        return False
    require_documents(parts)
    with Phases(context, len(parts), sum(part.source.size for part in parts)) as phases:
        phases.tell("learning", 0, 2)
        tokens = learn_once(plan, parts, is_stop_wanted)
        if tokens is None:
            return False
        folder = build(plan, tokens, context.model_path(plan.recipe.tokenizer))
        phases.tell("measuring", 1, 2)
        measurement = measure(plan, tokens, folder, is_stop_wanted)
    if measurement is None:
        return False
    expansion = Expansion(
        tokenizer=plan.recipe.output,
        data_use=plan.recipe.data_use,
        recipe_fingerprint=plan.fingerprint,
        code=code_versions(plan, parts),
        base=identity_of(plan.encoder),
        expanded=identity_of(load_encoder(str(folder), plan.recipe.output)),
        parts=tuple(token.parts for token in tokens),
        min_documents=plan.recipe.min_documents,
        measurement=measurement,
        sources=tuple(part.source for part in parts),
    )
    write_durably(folder / EXPANSION, expansion.model_dump_json() + "\n")
    publish(plan, folder)
    return True


def require_documents(parts: Sequence[Part]) -> None:
    """Refuse text of which nothing is left to learn from or to measure on."""
    counts = sum((part.tally for part in parts), start=Tally()).documents
    if not counts["train"]:
        raise LauncherError("share: no document is left to learn from; raise it, or check files and `clean`")
    if not counts["validation"]:
        raise LauncherError("heldout: no document is left to measure on; raise it, or check files and `clean`")


def learn_once(plan: VocabularyPlan, parts: Sequence[Part], is_stop_wanted: StopWanted) -> list[NewToken] | None:
    """Learn new tokens, unless an earlier attempt has; None if a stop was asked for before it began.

    It takes memory and minutes: a process of its own gives the memory back, and this one tells that it is alive.

    Raises:
        LauncherError: nothing is common enough.
    """
    compared = [plan.code, *(part.model_dump_json() for part in parts)]
    stamp = hashlib.sha256("".join(compared).encode()).hexdigest()[:16]
    path = plan.parts / f"learned-{stamp}.json"
    if not path.exists():
        print("learning ...", flush=True)
        cpus = plan.recipe.resources.cpus_per_task
        done = [*run_tasks(lambda _: learn_tokens(plan, path), [0], cpus, is_stop_wanted, WATCHDOG.beat)]
        if not done:
            return None
    tokens = _TOKENS.validate_json(path.read_bytes())
    if not tokens:
        raise LauncherError("min_documents: no part of a word is in documents enough; write less, or take more text")
    return tokens


def learn_tokens(plan: VocabularyPlan, path: Path) -> None:
    """Learn new tokens from the counts of all parts, and keep them."""
    words = Words(plan.recipe.min_documents)
    for number in range(len(plan.files)):
        WATCHDOG.beat()
        words.merge(Words.load(plan.words(number), plan.recipe.min_documents))
    write_durably(path, _TOKENS.dump_json(learn(plan.base, words, plan.recipe)).decode())


def build(plan: VocabularyPlan, tokens: Sequence[NewToken], base: str) -> Path:
    """Write the tokenizer into a folder of this process."""
    folder = staging_path(plan.work / "tokenizer")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700 if plan.recipe.data_use == "credentialed" else 0o777)
    tokenizer = AutoTokenizer.from_pretrained(base)
    save(tokenizer, expand(tokenizer.backend_tokenizer, tokens), folder)
    return folder


def measure(
    plan: VocabularyPlan, tokens: Sequence[NewToken], folder: Path, is_stop_wanted: StopWanted
) -> Measurement | None:
    """Measure both tokenizers on the held-out documents, as they are loaded; None if a stop was asked for meanwhile."""
    expanded = load_encoder(str(folder), plan.recipe.output)
    meter = Meter(plan.encoder, expanded, [token.parts for token in tokens])
    for texts in heldout_batches(plan):
        if is_stop_wanted():
            return None
        WATCHDOG.beat()
        meter.add(texts)
    return meter.measurement()


def identity_of(encoder: TextEncoder) -> TokenizerIdentity:
    """Say which tokenizer it is."""
    record = encoder.record
    return TokenizerIdentity(path=record.path, fingerprint=record.fingerprint, vocab_size=record.vocab_size)


def publish(plan: VocabularyPlan, folder: Path) -> None:
    """Move the tokenizer into place; another run of the same recipe may have been quicker."""
    sync_tree(folder)
    try:
        os.rename(folder, plan.folder)
    except OSError:
        if not is_published(plan):
            raise
    sync(plan.folder.parent)


def summary(expansion: Expansion) -> str:
    """Say in a line what the new tokens are good for."""
    its = expansion.measurement
    new = len(expansion.parts)
    return (
        f"{new:,} new tokens, {expansion.expanded.vocab_size:,} in all; on {its.documents:,} held-out documents "
        f"{its.base.tokens_per_word:.3f} -> {its.expanded.tokens_per_word:.3f} tokens a word, "
        f"{its.base.characters_per_token:.2f} -> {its.expanded.characters_per_token:.2f} characters a token; "
        f"{its.new_share:.1%} of its tokens are new"
    )
