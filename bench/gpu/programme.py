"""What is measured, in the order of importance: what comes late is what is left out if time runs short."""

from collections.abc import Iterator, Sequence

from bench.gpu.measurement import JOBS, Measurement
from bench.gpu.trainings import Training

SPEED, MEMORY, MORE, SEVERAL, LARGE, TESTS = (
    "speed", "memory by plan and trace", "saves, formats and halving", "several GPUs", "speed, 7B", "tests on a GPU"
)  # fmt: skip
TRL = (*JOBS, "trl", "datasets")
QLORA = (*JOBS, "bitsandbytes")
PYTEST = (*JOBS, "pytest", "pytest_timeout", "hypothesis")
TRACED: Sequence[Training] = (Training("cpt", recomputes="selective"), Training("lora", packing="bfd"))
"""Variants whose memory is traced, beside the plain training."""


def programme(gpus: int) -> list[Measurement]:
    """Return all measurements for a machine with so many GPUs."""
    first = [
        Measurement("machine", "machine", "bench.gpu.device", seconds=60, needs=("torch",), gpus=0),
        Measurement(
            "1B files", "machine", "bench.gpu.assets", ("1B",), seconds=90, needs=("torch", "safetensors", "orjson")
        ),
    ]
    plain = [*_speed("1B"), *_tests("first", 90), _trace(Training("cpt")), *_several(), *_more()]
    return [*first, *plain, *_traced(), *_variants("1B"), *_tests("others", 240), *_large(gpus)]


def _ours(one: Training, group: str, seconds: float = 45) -> Measurement:
    needs = QLORA if one.stage == "qlora" else JOBS
    files = f"{one.shape} files"
    return Measurement(one.name, group, "bench.gpu.our_job", (one.write(),), seconds, needs, one.gpus, (files,))


def peer_name(one: Training) -> str:
    """Name of the measurement of the same training by others."""
    return f"{one.name}: {'bare torch' if one.stage == 'cpt' else 'TRL'}"


def _peer(one: Training, group: str) -> Measurement:
    module, needs = ("bench.gpu.bare_loop", JOBS) if one.stage == "cpt" else ("bench.gpu.trl_peer", TRL)
    needs += ("bitsandbytes",) * (one.stage == "qlora")
    return Measurement(peer_name(one), group, module, (one.write(),), 45, needs, 1, (one.name,))


def _trace(one: Training) -> Measurement:
    return Measurement(
        f"{one.name}: trace", MEMORY, "bench.gpu.traced", (one.write(),), 60, JOBS, one.gpus, (one.name,)
    )


def _tests(which: str, seconds: float) -> Iterator[Measurement]:
    yield Measurement(f"tests, {which}", TESTS, "bench.gpu.checks", (which,), seconds, PYTEST, gpus=0, only="cuda")


def _speed(shape: str) -> Iterator[Measurement]:
    """Ours and, where there is one, the peer, one after the other: both see the same machine."""
    for stage in ("cpt", "lora", "sft", "qlora"):
        yield _ours(one := Training(stage, shape), SPEED)
        yield _peer(one, SPEED)


def _traced() -> Iterator[Measurement]:
    for one in TRACED:
        yield _ours(one, SPEED)
        yield _trace(one)


def _variants(shape: str) -> Iterator[Measurement]:
    yield _ours(compiled := Training("cpt", shape, compile=True), SPEED, 75)
    yield _peer(compiled, SPEED)
    yield _ours(Training("cpt", shape, compile=True, recomputes="selective"), SPEED, 75)
    for stage in ("sft", "lora"):
        plain = Training(stage, shape, packing="bfd")
        if plain not in TRACED:
            yield _ours(plain, SPEED)
        yield _ours(Training(stage, shape, packing="bfd", compile=True), SPEED, 75)
        yield _ours(Training(stage, shape, packing="bfd", recomputes="selective"), SPEED)
    yield _ours(Training("qlora", shape, recomputes="selective"), SPEED)


def _several() -> Iterator[Measurement]:
    yield Measurement("all-reduce", SEVERAL, "bench.gpu.collectives", seconds=40, needs=("torch",), gpus=2)
    yield _ours(Training("cpt", gpus=2, strategy="ddp"), SEVERAL)
    yield _ours(sharded := Training("cpt", gpus=2, strategy="full_shard"), SEVERAL)
    yield _trace(sharded)
    yield _ours(Training("cpt", gpus=2, strategy="full_shard", compile=True), SEVERAL, 75)


def _more() -> Iterator[Measurement]:
    for saves in ("wait", "behind"):
        yield _ours(Training("cpt", saves=saves), MORE, 90)
    yield Measurement("halving", MORE, "bench.gpu.halving", seconds=75, after=("1B files",))
    flex = Training("cpt", attention="flex", compile=True)
    for one in (Training("cpt", dtype="fp16"), Training("cpt", attention="flash"), flex):
        needs = (*JOBS, "flash_attn") if one.attention == "flash" else JOBS
        yield Measurement(one.name, MORE, "bench.gpu.our_job", (one.write(),), 75, needs, 1, ("1B files",), "cuda")


def _large(gpus: int) -> Iterator[Measurement]:
    yield Measurement(
        "7B files", "machine", "bench.gpu.assets", ("7B",), seconds=90, needs=("torch", "safetensors", "orjson")
    )
    for stage in ("lora", "qlora"):
        yield _ours(Training(stage, "7B"), LARGE, 75)
        yield _peer(Training(stage, "7B"), LARGE)
    whole = Training("cpt", "7B", recomputes="selective")
    yield _ours(
        whole if gpus < 2 else Training("cpt", "7B", recomputes="selective", gpus=2, strategy="full_shard"), LARGE, 90
    )
