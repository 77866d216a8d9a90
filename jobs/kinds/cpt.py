"""kind: cpt - continued pretraining of a causal language model on prepared corpora."""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from jobs.data.sampling.corpus_reader import CorpusReader, open_corpora
from jobs.data.sampling.dataset import Samples, flattening_collator, packed_collator
from jobs.data.sampling.heldout import held_out_text
from jobs.data.sampling.mixture import describe_mixture, mixture_of
from jobs.data.sampling.sequences import cut, describe_loss
from jobs.models.build import build_causal_lm, check_fits, weights_dtype
from jobs.models.embeddings import new_tokens
from jobs.rank.context import Context
from jobs.rank.process_group import wait_for_main
from jobs.train.heldout_loss import HeldOutLoss, row_losses
from jobs.train.perplexity import Perplexity
from jobs.train.run import TrainingRun, training_run
from launcher.artifacts.token_ids import count_ids
from launcher.recipe import CptRecipe
from launcher.recipe.kinds.cpt import PerplexityEvaluation


def main(context: Context) -> None:
    """Train until the recipe's length is reached, and export the model.

    Raises:
        StopRequested: a stop was asked for before the end, and everything is saved.
    """
    with training_run(context, CptRecipe) as run:
        if run.is_exported:
            return
        recipe, data, batch = run.recipe, run.recipe.data, run.recipe.batch

        names = [corpus.name for corpus in data.corpora]
        tokenizer = Path(context.model_path(recipe.model.tokenizer_path))
        corpora = open_corpora([context.corpus_path(name) for name in names], recipe.data_use, tokenizer)
        pieces = cut(corpora, data.packing, "train", batch.sequence_length)
        sizes = list(map(len, pieces))
        steps = batch.steps(recipe.schedule.length, recipe.samples_in_epoch(sizes))
        mixture, total = mixture_of(data, sizes, steps, batch.sequences), steps * batch.sequences
        samples = Samples(pieces, mixture, batch.sequence_length, recipe.seed, total)

        is_flash = recipe.model.attention == "flash"
        epoch = recipe.samples_in_epoch(sizes)
        run.begin(steps, epoch, per_device_eval_batch_size=1 if is_flash else batch.least_micro_batch)
        run.print(describe_mixture(tuple(names), sizes, mixture, total), describe_loss(data, pieces))
        path, expansion = context.model_path(recipe.model.path), new_tokens(context, recipe)
        model = build_causal_lm(recipe.model, path, recipe.seed, weights_dtype(recipe), expansion)
        check_fits(model, batch, recipe.virtual_tokens, (corpus.manifest for corpus in corpora), count_ids(tokenizer))

        collator = flattening_collator if is_flash else packed_collator
        evaluation = _evaluation(run, recipe.evaluation, corpora, epoch)
        during = []
        if recipe.during:
            from jobs.kinds.during import evaluation_during  # needs the extra `eval`

            during = evaluation_during(run, recipe.during, epoch)
        callbacks = [*evaluation.pop("callbacks", ()), *during]
        adapted = run.adapt(model, new_tokens=expansion)
        trainer = run.trainer(adapted, samples, collator, callbacks=callbacks, **evaluation)
        run.train(trainer, during)
        run.export(trainer, names)


def _evaluation(
    run: TrainingRun[CptRecipe], wanted: PerplexityEvaluation | None, corpora: Sequence[CorpusReader], epoch: Fraction
) -> dict[str, Any]:
    """Return what the Trainer needs to evaluate held-out text; nothing if there is none. A collective."""
    if wanted is None:
        return {}
    batch, samples = run.recipe.batch, None if wanted.samples == "all" else wanted.samples
    text = held_out_text(corpora, run.recipe.data.packing, batch.sequence_length, samples)
    if text is None:
        run.print("no corpus has held-out text, so there are no evaluations; `prepare` keeps some with `validation`")
        return {}
    sizes = [0.0] * len(text.names)
    wait_for_main(run.group, partial(text.count_bytes, sizes))
    return {
        "callbacks": [HeldOutLoss(batch.steps(wanted.interval, epoch))],
        "eval_dataset": text,
        "preprocess_logits_for_metrics": row_losses,
        "compute_metrics": Perplexity(text.names, text.sources, run.group.from_main(sizes)),
    }
