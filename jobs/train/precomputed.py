"""Log-probabilities of all pairs under the reference, computed once in a run and kept in its directory.

They are computed in blocks of so many pairs. A finished block is on disk, so a stop costs one block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from jobs.rank.atomic_files import staging_path
from jobs.rank.process_group import RankGroup
from jobs.rank.stop_flag import STOP, StopRequested
from jobs.train.reference import ReferenceModel

_BLOCK = 4096
_KEY = "log_probs"


class PrecomputedLogProbs:
    """The log-probabilities, by the pair's place among all pairs of the run.

    Args:
        folder: Where they are kept.
        pairs: All pairs, each at its place.
        collator: Makes a batch of them.
        batch: Pairs in a forward pass on one rank.
        group: All ranks.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Dataset[Any],
        collator: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
        batch: int,
        group: RankGroup,
    ) -> None:
        self._folder = folder
        self._pairs: Any = pairs
        self._collator = collator
        self._batch = batch
        self._group = group
        self._table: Tensor | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to compute. A collective."""
        return self._group.from_main(all(self._file(start).exists() for start in self._starts))

    def log_probs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of each answer of a batch: of all chosen ones, then of all rejected ones."""
        if self._table is None:
            # Rank 0's word instead of the files: other nodes may not see them yet.
            blocks = [load_file(self._file(start))[_KEY] for start in self._starts] if self._group.is_main else []
            self._table = self._group.from_main(torch.cat(blocks) if blocks else torch.empty(0))
        rows = self._table[inputs["place"].cpu()]
        return rows.T.reshape(-1).to(inputs["place"].device)

    def compute(self, reference: ReferenceModel, placed: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        """Compute what is missing. A collective.

        Args:
            reference: Computes it.
            placed: Puts a batch where the model is.

        Raises:
            StopRequested: some rank was asked to stop.
        """
        missing = self._group.from_main([start for start in self._starts if not self._file(start).exists()])
        for number, start in enumerate(missing, 1):
            count = min(_BLOCK, len(self._pairs) - start)
            found = torch.empty(count, 2)
            for ours in self._group.collect(dict(self._computed(start, count, reference, placed))):
                for place, row in ours.items():
                    found[place] = row
            self._keep(start, found)
            if self._group.is_main:
                print(f"reference: {number:,} of {len(missing):,} blocks of {_BLOCK:,} pairs computed", flush=True)

    def _computed(
        self, start: int, count: int, reference: ReferenceModel, placed: Callable[[Any], Any]
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute this rank's part of a block, in as many forward passes as every other rank's."""
        width = self._batch * self._group.world_size
        for first in range(0, count, width):
            if any(self._group.any(STOP.is_requested())):
                raise StopRequested
            own = range(first + self._batch * self._group.rank, first + self._batch * (self._group.rank + 1))
            places = [min(place, count - 1) for place in own]
            batch = self._collator([self._pairs[start + place] for place in places])
            chosen, rejected = reference.log_probs(placed(batch)).float().cpu().chunk(2)
            yield from zip(places, torch.stack((chosen, rejected), dim=1), strict=True)

    def _keep(self, start: int, found: Tensor) -> None:
        if self._group.is_main:
            path = self._file(start)
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = staging_path(path)
            save_file({_KEY: found}, staged)
            staged.replace(path)
        self._group.barrier()

    @property
    def _starts(self) -> range:
        return range(0, len(self._pairs), _BLOCK)

    def _file(self, start: int) -> Path:
        return self._folder / f"pairs-{start:09}.safetensors"
