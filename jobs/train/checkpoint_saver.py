"""Saves checkpoints: while training waits, or from a copy in the host's memory while it goes on.

Either way the same functions write the same files, and `CheckpointStore.publish` makes a checkpoint of them. In the
background one thread of each rank does so, one checkpoint at a time, and its messages to the other ranks have a group
of their own.

torch's `async_save` is the same two parts, a stager that copies and a thread that saves. Its thread saves one state
dict. A checkpoint here consists of several, and of other files where weights are not sharded, and is published after
them: one thread has to do it all, in the same order on every rank.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any, TypeAlias

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.rank.host_memory import available_memory
from jobs.rank.process_group import RankGroup
from jobs.rank.watchdog import WATCHDOG
from jobs.train.checkpoint import CheckpointStore

SPARE = 2**30
"""Bytes that a copy must leave free on a node."""
_LOOK_SECONDS = 1.0

Write: TypeAlias = Callable[[Any, RankGroup], None]
"""Writes a part of a checkpoint; the group is that of the thread it is called in."""


class CheckpointSaver(TrainerCallback):
    """Saves one checkpoint after another. All methods are collectives but `put` and `put_shards`.

    Args:
        store: Where checkpoints go.
        in_background: Whether training may go on while they are written.
    """

    def __init__(self, store: CheckpointStore, in_background: bool) -> None:
        self.store = store
        """Where checkpoints go."""
        self._stages = 0
        self._behind = store.among(store.group.for_another_thread(self._note_stage)) if in_background else None
        # Ordinary memory. Pinned memory would be copied to faster, but a checkpoint would say that tensors are pinned.
        self._stager = DefaultStager(StagingOptions(False, False, False, False)) if in_background else None
        self._held = 0
        self._parts: list[tuple[Any, Write]] | None = None
        self._flight: _Flight | None = None

    @contextmanager
    def saving(self, step: int, best: int | None, goes_on: bool) -> Iterator[Path]:
        """Save as a checkpoint what is written into a folder, or put, in a `with` block.

        A save that is under way is waited for: one that somebody asked for, or of the best weights, is never left out.

        Args:
            step: The step.
            best: Step of the best checkpoint so far.
            goes_on: Whether training goes on after it. If not, it is published at the end of the block.

        Raises:
            Exception: it cannot be written, or the one before it could not. Older checkpoints are unchanged.
        """
        if self._flight and self._flight.is_under_way:
            why = "a longer `checkpoint.interval` avoids that" if goes_on else "then the last one is saved"
            self._say(f"step {step}: waits for checkpoint {self._flight.step}, which is still being written; {why}")
        self.finish()
        began = monotonic()
        try:
            folder = self.store.open_staging(f"checkpoint-{step}")
            self._parts = [] if goes_on and self._behind else None
            yield folder
            # Whether this rank has put anything must not count: with `ddp` rank 0 alone does, and all ranks go one way.
            if self._parts is not None and self._has_room(step, [state for state, _ in self._parts]):
                self._depart(folder, step, best, began)
            else:
                self._write([*(self._parts or [])], self.store, folder, step, best)
        except Exception as error:
            self._give_up(step, error)
            raise
        finally:
            self._parts = None

    def put(self, state: Any, write: Callable[[Any], None]) -> None:
        """Have a part of a checkpoint written, or at once where nothing is to be done in the background.

        Args:
            state: Tensors, in dictionaries and lists. Training may change them after the `with` block.
            write: Writes such a state into the checkpoint's folder, from this thread or another.
        """
        self._put(state, lambda state, _: write(state))

    def put_shards(self, state: dict[str, Any], folder: Path) -> None:
        """Have this rank's shards written into a folder of the checkpoint, in torch's distributed format."""
        folder.mkdir(exist_ok=True)
        self._put(state, partial(_write_shards, folder))

    def finish(self) -> None:
        """Wait until nothing is being saved any more.

        Raises:
            Exception: what was being saved could not be.
        """
        seen = self._stages
        while self._flight and not self._flight.has_ended(_LOOK_SECONDS):
            if self._stages != seen:  # another stage of it is done on all ranks
                seen = self._stages
                WATCHDOG.heartbeat()
        self._arrive()

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """End training if a save in the background has failed, as a save that it waits for would."""
        if self._flight and not self._flight.is_under_way:
            self._arrive()

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Leave nothing half done."""
        self.finish()

    def _put(self, state: Any, write: Write) -> None:
        if self._parts is None:
            write(state, self.store.group)
        else:
            self._parts.append((state, write))

    def _depart(self, folder: Path, step: int, best: int | None, began: float) -> None:
        """Copy what there is, and have it written by another thread."""
        assert self._behind is not None and self._stager is not None and self._parts is not None
        copies = [(self._stager.stage(state), write) for state, write in self._parts]
        self._held = size_of([state for state, _ in self._parts])
        waited = monotonic() - began
        self._flight = _Flight(step, waited, partial(self._write, copies, self._behind, folder, step, best))

    def _write(
        self, parts: list[tuple[Any, Write]], store: CheckpointStore, folder: Path, step: int, best: int | None
    ) -> None:
        for state, write in parts:
            write(state, store.group)
        store.publish(folder, step, best)

    def _arrive(self) -> None:
        flight, self._flight = self._flight, None
        if flight is None:
            return
        if flight.error is not None:
            self._give_up(flight.step, flight.error)
            raise flight.error
        self._say(
            f"checkpoint {flight.step}: training waited {flight.waited:.2f} s, published {flight.seconds:.2f} s later"
        )

    def _give_up(self, step: int, error: Exception) -> None:
        # The end of this process ends the other ranks; none of them has published anything.
        self.store.discard_staging()
        error.add_note(f"the checkpoint of step {step} was not saved; older checkpoints are unchanged")

    def _has_room(self, step: int, states: list[Any]) -> bool:
        """Tell whether copies of all ranks fit into the memory of each node; that of earlier copies is used again."""
        own = (socket.gethostname(), max(0, size_of(states) - self._held), available_memory())
        nodes: dict[str, list[tuple[int, int]]] = {}
        for name, needed, available in self.store.group.collect(own):
            nodes.setdefault(name, []).append((needed, available))
        for name, ranks in nodes.items():
            needed, available = sum(one for one, _ in ranks), min(one for _, one in ranks)
            if needed and needed + SPARE > available:
                copy = f"a copy takes {needed / 1e9:.1f} GB on {name}, which has {available / 1e9:.1f} GB left"
                self._say(f"checkpoint {step}: {copy}, so training waits while it is written")
                return False
        return True

    def _note_stage(self) -> None:
        self._stages += 1

    def _say(self, line: str) -> None:
        if self.store.group.is_main:
            print(line, flush=True)


class _Flight:
    """A checkpoint that is being written by a thread of its own."""

    def __init__(self, step: int, waited: float, work: Callable[[], None]) -> None:
        self.step = step
        self.waited = waited
        """Seconds that training waited for the copy."""
        self.seconds = 0.0
        """That the rest took, once it has ended."""
        self.error: Exception | None = None
        """Why it could not be saved."""
        self._work = work
        self._thread = Thread(target=self._carry_out, name=f"checkpoint of step {step}", daemon=True)
        self._thread.start()

    @property
    def is_under_way(self) -> bool:
        return self._thread.is_alive()

    def has_ended(self, patience: float) -> bool:
        """Wait for the end at most so many seconds; tell whether it has come."""
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _carry_out(self) -> None:
        began = monotonic()
        try:
            self._work()
        except Exception as error:  # raised again where training looks for it
            self.error = error
        self.seconds = monotonic() - began


def size_of(states: Any) -> int:
    """Count the bytes of all tensors of a state, shared memory once; of a sharded tensor this rank's part."""
    tensors = (one.to_local() if isinstance(one, DTensor) else one for one in pytree.tree_leaves(states))
    storages = [one.untyped_storage() for one in tensors if isinstance(one, torch.Tensor)]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def _write_shards(folder: Path, state: dict[str, Any], group: RankGroup) -> None:
    save(state, storage_writer=FileSystemWriter(folder), planner=DefaultSavePlanner(), process_group=group.control)
