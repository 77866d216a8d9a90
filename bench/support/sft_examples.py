"""The examples of a run of `kind: sft`, for peers that take them as a dataset."""

from typing import Any

from launcher.run.paths import RunDir


def sft_examples(run: RunDir, recipe: Any, source_name: str, count: int) -> Any:
    """Our examples, in the order in which our job reads them, as TRL wants them."""
    from datasets import Dataset

    from jobs.data.chat.samples import ChatSamples
    from jobs.data.chat.store import open_sequences
    from jobs.data.chat.tokenised_source import finished_source
    from jobs.kinds.sft import _order
    from jobs.models.labels import IGNORED

    source = finished_source(run.examples, source_name)
    assert source is not None
    sources = open_sequences(run.examples, [source], "train")
    samples = ChatSamples(sources, _order(recipe, sources), count)
    rows = [samples[index] for index in range(count)]
    ids = [row["input_ids"].tolist() for row in rows]
    return Dataset.from_dict(
        {"input_ids": ids, "completion_mask": [(row["labels"] != IGNORED).int().tolist() for row in rows]}
    )
