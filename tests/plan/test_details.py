"""`launcher plan`: time, traffic, cost and other ways to run a training, against sums worked out here by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.load import load_recipes
from launcher.plan.alternatives import find_alternatives
from launcher.plan.details import GPU_HOURS_PER_FAILURE, detail_shape
from launcher.plan.forecast import usable_memory
from launcher.plan.memory import estimate_memory
from launcher.plan.model_shape import ModelShape, read_shape
from launcher.plan.step_time import USUAL_NETWORK, estimate_step
from launcher.plan.traffic import estimate_traffic
from launcher.plan.utilisation import UNTUNED, expected_mfu
from launcher.recipe.kinds.cpt import CptRecipe
from launcher.recipe.quantities import Size
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B
from tests.support.training_runs import ASSETS

PARAMETERS = 6_738_415_616
GPUS = {"type": "a100", "memory": "80GB", "network": "13GB", "price": 1.5}


@pytest.fixture
def llama() -> ModelShape:
    found = read_shape(LLAMA_7B)
    assert found is not None
    return found


@pytest.fixture
def site(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(gpus=GPUS)


def biomed(**changes: object) -> CptRecipe:
    (loaded,) = load_recipes(
        ASSETS.parent / "biomed_llama_cpt.yaml", [f"{key}={value}" for key, value in changes.items()]
    )
    assert isinstance(loaded.recipe, CptRecipe)
    return loaded.recipe


def sent(recipe: CptRecipe, shape: ModelShape) -> dict[str, tuple[str, int]]:
    return {one.name: (one.level, one.bytes) for one in estimate_traffic(recipe, shape)}


def test_hybrid_shard_gathers_inside_a_node_and_reduces_shards_between_nodes(llama: ModelShape) -> None:
    messages = sent(biomed(), llama)

    gathered = 64 * 2 * PARAMETERS * 3 // 4  # 64 micro batches, once each: the weights stay gathered until the backward
    assert messages["all-gather of weights"] == ("inside a node", pytest.approx(gathered, rel=1e-6))
    assert messages["reduce-scatter of gradients"] == ("inside a node", 64 * (PARAMETERS * 4 * 3 // 4))
    reduced = 2 * (PARAMETERS * 4 // 4) * 7 // 8
    assert messages["all-reduce of sharded gradients"] == ("between nodes", pytest.approx(reduced, rel=1e-6))


def test_full_shard_gathers_twice_and_over_the_network(llama: ModelShape) -> None:
    recipe = biomed(**{"parallel": "{strategy: full_shard, reshard_after_forward: true}"})

    level, size = sent(recipe, llama)["all-gather of weights"]
    gathered = 2 * PARAMETERS - 32000 * 4096 - 4096  # the last norm and matrix once

    assert (level, size) == ("between nodes", pytest.approx(64 * 2 * gathered * 31 / 32, rel=1e-6))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [  # in each of 64 micro batches, in fp32; weights in bf16, twice a micro batch or once a step
        (
            "zero2",
            {
                "all-reduce of gradients": 64 * 2 * 4 * PARAMETERS * 31 / 32,
                "all-gather of updated weights": 2 * PARAMETERS * 31 / 32,
            },
        ),
        (
            "zero3",
            {
                "all-gather of weights": 64 * 2 * 2 * PARAMETERS * 31 / 32,
                "reduce-scatter of gradients": 64 * 4 * PARAMETERS * 31 / 32,
            },
        ),
    ],
)
def test_deepspeed_reduces_gradients_in_fp32_after_each_micro_batch(
    llama: ModelShape, strategy: str, expected: dict[str, float]
) -> None:
    messages = sent(biomed(parallel=f"{{strategy: {strategy}, reshard_after_forward: true}}"), llama)

    assert {name: size for name, (_, size) in messages.items()} == pytest.approx(expected, rel=1e-9)
    assert {level for level, _ in messages.values()} == {"between nodes"}


def test_a_rank_alone_sends_nothing(llama: ModelShape) -> None:
    assert (
        estimate_traffic(
            biomed(
                **{
                    "parallel": "{strategy: ddp, reshard_after_forward: true}",
                    "resources.nodes": 1,
                    "resources.gpus_per_node": 1,
                }
            ),
            llama,
        )
        == ()
    )


def test_the_published_run_fits_and_takes_about_a_week(llama: ModelShape, site: Cluster) -> None:
    steps = 63_000_000_000 // 2048 // 2048 + 1
    found = detail_shape(biomed(), llama, site, steps)

    assert found.memory is not None and found.memory.total <= usable_memory(Size("80GB"))
    assert found.days == pytest.approx(7, rel=0.15)
    assert found.steps == 15_021
    assert found.tokens == steps * 2048 * 2048
    assert found.gpu_hours == pytest.approx(found.days * 24 * 32)
    assert found.price == pytest.approx(found.gpu_hours * 1.5)
    assert found.megawatt_hours == pytest.approx(found.gpu_hours * 400 / 1e6)
    assert found.checkpoint_bytes == 12 * PARAMETERS


def test_a_step_takes_as_long_as_computing_or_sending(llama: ModelShape, make_cluster: Callable[..., Cluster]) -> None:
    recipe = biomed(**{"parallel": "{strategy: full_shard}"})
    slow = estimate_step(recipe, llama, make_cluster(gpus=GPUS))
    usual = estimate_step(recipe, llama, make_cluster(gpus={"type": "a100"}))
    assert slow is not None and usual is not None

    total = sum(one.bytes for one in slow.traffic)
    assert slow.sending["between nodes"] == pytest.approx(total / 13e9)
    assert slow.seconds == max(slow.computing, slow.sending["between nodes"])
    assert usual.sending["between nodes"] == pytest.approx(total / USUAL_NETWORK)
    flops = 2048 * 2048 * (6 * (PARAMETERS - 32000 * 4096) + 12 * 32 * 4096 * 2048)
    assert slow.computing == pytest.approx(flops / (312e12 * slow.mfu * 32))


@pytest.mark.parametrize("strategy", ["full_shard", "ddp", "zero2", "zero3"])
def test_a_ring_over_all_ranks_has_the_network_of_a_node(llama: ModelShape, site: Cluster, strategy: str) -> None:
    found = estimate_step(biomed(parallel=f"{{strategy: {strategy}, reshard_after_forward: true}}"), llama, site)

    assert found is not None
    assert leaving_a_node([range(32)], 4) == 1
    assert found.sending == {"between nodes": pytest.approx(sum(one.bytes for one in found.traffic) / 13e9)}


@pytest.mark.parametrize(("nodes", "shard"), [(8, 4), (8, 2), (8, 8), (8, 16), (3, 6), (6, 8), (3, 3)])
def test_groups_of_hybrid_shard_share_the_network_of_a_node(
    llama: ModelShape, site: Cluster, nodes: int, shard: int
) -> None:
    changes = {"parallel": f"{{strategy: hybrid_shard, shard: {shard}}}", "resources.nodes": nodes}
    changes["batch.global_batch"] = f"{32 * 4 * nodes} sequences"
    groups = [range(first, first + shard) for first in range(0, 4 * nodes, shard)]
    replicas = [range(place, 4 * nodes, shard) for place in range(shard)]

    found = estimate_step(biomed(**changes), llama, site)

    assert found is not None
    seconds = 0.0
    for one in found.traffic:
        leaving = leaving_a_node(replicas if "sharded" in one.name else groups, 4)
        assert one.level == ("between nodes" if leaving else "inside a node"), one.name
        seconds += one.bytes * leaving / 13e9
    assert found.sending["between nodes"] == pytest.approx(seconds)


def leaving_a_node(groups: list[range], per_node: int) -> int:
    """Follow the ring of each group of ranks, and count the ranks of a node that send to another node."""
    senders = [
        rank // per_node
        for ranks in groups
        for rank, following in zip(ranks, [*ranks[1:], ranks[0]], strict=True)
        if rank // per_node != following // per_node
    ]
    return max(map(senders.count, senders), default=0)


def test_a_rank_sends_no_faster_than_its_own_link(llama: ModelShape, make_cluster: Callable[..., Cluster]) -> None:
    found = estimate_step(
        biomed(**{"parallel": "{strategy: full_shard}"}), llama, make_cluster(gpus=GPUS | {"network": "900GB"})
    )

    assert found is not None
    assert found.sending["between nodes"] == pytest.approx(sum(one.bytes for one in found.traffic) / 300e9)


def test_the_interval_between_checkpoints_is_youngs(llama: ModelShape, site: Cluster) -> None:
    found = detail_shape(biomed(), llama, site, 100)

    save = 12 * PARAMETERS / 1e9
    assert found.save_seconds == pytest.approx(save)
    assert found.best_interval == pytest.approx((2 * save * GPU_HOURS_PER_FAILURE * 3600 / 32) ** 0.5)
    assert found.step is not None
    assert found.wanted_lead == pytest.approx(found.step.seconds + save + 60)


@pytest.mark.parametrize(
    ("parallel", "share"),
    [
        ("{strategy: hybrid_shard}", 1),  # 4 ranks of a node hold one copy of everything
        ("{strategy: full_shard}", 1 / 8),
        ("{strategy: ddp, reshard_after_forward: true}", 1),  # rank 0 alone has a copy
    ],
)
def test_saves_beside_training_cost_the_copy_and_need_ram_for_it(
    llama: ModelShape, site: Cluster, parallel: str, share: float
) -> None:
    found = detail_shape(biomed(**{"checkpoint.async": "true", "parallel": parallel}), llama, site, steps=100)

    save = 12 * PARAMETERS / 1e9
    ranks = 1 if "ddp" in parallel else 4
    stall = 12 * PARAMETERS * share / ranks / 2e9
    assert found.copied == pytest.approx(12 * PARAMETERS * share)
    assert found.stall_seconds == pytest.approx(stall)
    assert found.best_interval == pytest.approx((2 * stall * GPU_HOURS_PER_FAILURE * 3600 / 32) ** 0.5)
    assert found.step is not None
    assert found.wanted_lead == pytest.approx(found.step.seconds + 2 * save + 60)


def test_a_save_never_begins_before_the_one_before_it_is_done(llama: ModelShape, site: Cluster) -> None:
    settings = {"checkpoint.async": "true", "parallel": "{strategy: full_shard}", "resources.nodes": 4096}
    settings["batch.global_batch"] = "65536 sequences"

    found = detail_shape(biomed(**settings), llama, site, steps=100)

    assert found.save_seconds is not None and found.stall_seconds is not None
    assert found.best_interval == found.save_seconds
    assert (2 * found.stall_seconds * GPU_HOURS_PER_FAILURE * 3600 / (4 * 4096)) ** 0.5 < found.save_seconds


def test_on_40_gb_other_ways_are_found_and_each_fits(llama: ModelShape, make_cluster: Callable[..., Cluster]) -> None:
    site, room = make_cluster(gpus=GPUS | {"memory": "40GB"}), usable_memory(Size("40GB"))
    recipe = biomed(**{"resources.nodes": 2})
    estimate = estimate_memory(recipe, llama)
    assert estimate is not None and estimate.total > room

    ways = find_alternatives(recipe, llama, site, room)

    assert {way.strategy for way in ways if way.nodes == 2} == {"full_shard", "zero2", "zero3"}
    assert all(way.memory <= room for way in ways)
    assert [way.gpu_hours_per_step for way in ways] == sorted(way.gpu_hours_per_step for way in ways)
    assert len([way for way in ways if way.nodes == 8]) == 1
    for way in ways:
        changes = {
            "resources.nodes": way.nodes,
            "parallel": f"{{strategy: {way.strategy}, reshard_after_forward: true}}",
        }
        again = biomed(**changes, **{"model.activation_checkpointing": way.recomputes}).sized(way.micro_batch)
        check = estimate_memory(again, llama)
        assert check is not None and check.total == way.memory


@pytest.mark.parametrize(
    ("gpu", "length", "recomputes", "mfu"),
    [
        ("a100", 2048, "none", 0.6),
        ("a100", 2048, "full", 0.5),
        ("a100", 2048, "selective", 60 / 102),  # a tenth of what "full" takes longer
        ("h100", 2048, "none", 0.42),
        ("a100", 16384, "full", 0.45),
    ],
)
def test_utilisation_follows_the_benchmark(
    llama: ModelShape, gpu: str, length: int, recomputes: str, mfu: float
) -> None:
    assert expected_mfu(llama, gpu, length, recomputes) == pytest.approx(mfu * UNTUNED)


def test_the_memory_of_a_gpu_is_more_than_its_name_says() -> None:
    assert usable_memory(Size("80GB")) == pytest.approx(79.1 * 2**30, rel=0.01)  # an A100, by torch
    assert usable_memory(Size("40GB")) == pytest.approx(39.4 * 2**30, rel=0.01)
    assert usable_memory(Size("141GB")) == pytest.approx(139.8 * 2**30, rel=0.01)  # an H200


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "huggyllama" / "llama-7b"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(LLAMA_7B))
    path = tmp_path / "cluster.yaml"
    roots = ", ".join(f"{name}: {tmp_path / name}" for name in ("runs", "corpora", "models", "data"))
    path.write_text(f"name: here\nroots: {{{roots}}}\ngpus: {json.dumps(GPUS)}\n")
    return path


def test_the_command_shows_the_published_run(profile: Path, golden: Callable[[str, str], None]) -> None:
    recipe = str(ASSETS.parent / "biomed_llama_cpt.yaml")
    shown, _ = launcher(
        "plan", recipe, "--cluster", str(profile), "--set", "schedule.length=63B tokens", environ={"COLUMNS": "80"}
    )

    assert all(len(line) <= 80 for line in shown.splitlines())
    golden("plan.txt", "\n".join(line.rstrip() for line in shown.splitlines()) + "\n")


def test_the_command_tells_what_a_save_beside_training_needs(profile: Path) -> None:
    recipe = str(ASSETS.parent / "biomed_llama_cpt.yaml")
    shown, _ = launcher("plan", recipe, "--cluster", str(profile), "--set", "checkpoint.async=true")

    words = " ".join(shown.split())
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "RAM to save 80.9 GB of a node" in words
    assert (
        "80.9 GB, training waits 10.1 s for a copy, which is written in 1 min at 1 GB/s; every 2 h 59 min loses least"
        in words
    )
    assert "to finish a step and save twice (one may be under way)" in words


def test_the_command_prints_json(profile: Path) -> None:
    recipe = str(ASSETS.parent / "biomed_llama_cpt.yaml")
    [one] = json.loads(launcher("plan", recipe, "--cluster", str(profile), "--json", "--rows", "2")[0])["recipes"]

    assert one["details"]["parameters"] == PARAMETERS
    assert one["details"]["days"] is None  # the corpus is not there, so the number of steps is not known
    assert len(one["fits"]) == 2


def test_what_trains_nothing_and_unknown_models_are_told(profile: Path) -> None:
    recipes = [str(ASSETS.parent / name) for name in ("prepare_pmc.yaml", "clinical_baseline_mor.yaml")]
    shown, _ = launcher("plan", *recipes, "--cluster", str(profile))

    assert "prepare-pmc: `kind: prepare` trains nothing" in shown
    assert "config.json of `bio-clinicalbert` is not on this machine" in shown
