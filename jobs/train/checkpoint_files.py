"""Which files of a checkpoint a run cannot resume without, by strategy."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatch


def required_files(uses_fsdp: bool, zero_stage: int | None, scales_loss: bool, adapted: bool = False) -> list[str]:
    """Name what a run cannot resume without: weights, optimizer, schedule, position and random state.

    Trainer itself resumes without an optimizer or schedule file, silently, from zero moments.

    Args:
        uses_fsdp: Whether FSDP2 writes the checkpoint.
        zero_stage: DeepSpeed's stage, if it does.
        scales_loss: Whether the loss is scaled (fp16); DeepSpeed keeps the scale in its own files.
        adapted: Whether an adapter is trained, so that a checkpoint holds nothing else.
    """
    files = ["trainer_state.json", "scheduler.pt", "rng_state{suffix}.pth"]
    if zero_stage is not None:
        return [*files, "latest", "global_step*/*model_states.pt", "global_step*/*_pp_rank_{rank}_*optim_states.pt"]
    if scales_loss:
        files.append("scaler.pt")
    if uses_fsdp:
        return [*files, "pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"]
    return [*files, "adapter.safetensors" if adapted else "model*.safetensors", "optimizer.pt"]


def first_absent(files: Collection[str], required: Sequence[str], world_size: int) -> str | None:
    """Return the first required file that is not among the files; None if all are.

    Args:
        files: Paths below the checkpoint.
        required: Patterns; `{rank}` stands for each rank that saved, `{suffix}` for `_RANK`, which Trainer
            leaves out where there is but one.
        world_size: Number of ranks that saved.
    """
    for pattern in required:
        for rank in range(world_size):
            wanted = pattern.format(rank=rank, suffix=f"_{rank}" if world_size > 1 else "")
            if not any(fnmatch(name, wanted) for name in files):
                return wanted
    return None
