"""What several tests need: a cluster profile, recipes, hostile paths, fake Slurm commands, golden files."""

import gc
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from launcher.cluster import Cluster
from launcher.recipe import Recipe, read_recipe
from tests.support.fake_slurm import FakeSlurm

gc.disable()  # until everything is collected: modules are no garbage, and looking for some takes a third of that time
# Nor do tests hear of where they run: in a Slurm job, under torchrun, in a hook of git, on a narrow terminal.
_HERE = re.compile(
    r"(SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SINFO|SACCT|SCANCEL|SCONTROL|LAUNCHER|WANDB|TORCHELASTIC|ACCELERATE|MASTER)_\w+"
    r"|((LOCAL_|NODE_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|GIT_(DIR|WORK_TREE|INDEX_FILE)|HF_TOKEN)"
    r"|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|TOKENIZERS_PARALLELISM|RAYON_NUM_THREADS"
)
for name in filter(_HERE.fullmatch, list(os.environ)):
    del os.environ[name]
os.environ["TERM"] = "xterm"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # servers of tests are on this machine
# No test may reach for a model hub; several processes share few cores. Both reach the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Shells start what runs in the background with Ctrl-C ignored, and processes that tests start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, and no limits of time; `--hypothesis-profile=search` looks for others.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.register_profile("search", _UNHURRIED, max_examples=500, print_blob=True)
settings.register_profile("repeatable", _UNHURRIED, derandomize=True)
settings.load_profile("repeatable")

_NOBODY = 65534
STARTS_FIRST = (
    "slurm/test_story.py",
    "slurm/test_rehearsals.py",
    "project/test_bench.py",
    "slurm/test_hang.py",
    "slurm/test_batch.py",
    "train/test_learning.py",
    "slurm/test_prepare_array.py",
    "slurm/test_watch.py",
    "slurm/test_accidents.py",
    "slurm/test_medcare.py",
    "slurm/test_wandb.py",
    "kinds/test_rl.py",
    "train/test_rl_resume.py",
    "train/test_medcare_training.py",
    "train/test_zero_checkpoint.py",
    "train/test_two_step.py",
    "kinds/test_cpt.py",
    "data/test_medline.py",
)
"""The files of tests that take minutes, the longest first: started last, one would keep a single worker busy."""
SEED = 20
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most of what is repeated in every strategy to `make long`, and put what takes long first."""
    for item in items:
        strategy = getattr(item, "callspec", None) and item.callspec.params.get("strategy")  # type: ignore[attr-defined]
        if strategy in ("ddp", "hybrid_shard", "zero2") and item.get_closest_marker("slow"):
            item.add_marker("long")
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(0))
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).as_posix()
    return STARTS_FIRST.index(name) if name in STARTS_FIRST else len(STARTS_FIRST)


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and only in what tests make."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let random weights be the same whatever ran before: which tests a worker gets differs from run to run."""
    random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Leave no process group behind, nor the place in it that `jobs.rank.process_group` exports for libraries."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    if "torch.distributed" in sys.modules and sys.modules["torch.distributed"].is_initialized():
        sys.modules["torch.distributed"].destroy_process_group()


@pytest.fixture
def hostile_path(tmp_path: Path) -> Path:
    """A folder whose name holds what shells, Slurm, globs and `str.splitlines` treat specially."""
    folder = tmp_path / 'it\'s a "path" %j; $(touch pwned) [x] \u2029\x85'
    folder.mkdir()
    return folder


@pytest.fixture
def make_cluster(tmp_path: Path) -> Callable[..., Cluster]:
    """Make a cluster profile with its roots in the test's folder; keywords replace keys of the profile."""
    (tmp_path / "models" / "tokenizer").mkdir(parents=True, exist_ok=True)
    (tmp_path / "models" / "tokenizer" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "abstracts.jsonl").touch()

    def make(**changes: Any) -> Cluster:
        roots = {name: str(tmp_path / name) for name in ("runs", "data", "corpora", "models")}
        return Cluster.model_validate_json(json.dumps({"name": "test", "roots": roots} | changes))

    return make


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A folder that everybody can reach, while this process is somebody who may only do what its mode says."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, _NOBODY, -1)
            os.seteuid(_NOBODY)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """Make a small `prepare` recipe that works with `make_cluster`'s profiles; keywords replace its keys."""

    def make(**changes: Any) -> Recipe:
        fields: dict[str, Any] = {
            "kind": "prepare",
            "name": "abstracts",
            "corpus": "abstracts",
            "sources": [{"format": "pile", "files": "abstracts.jsonl"}],
            "tokenizer": "tokenizer",
            "resources": {"cpus_per_task": 2, "time": "10min"},
        }
        return read_recipe(json.dumps(fields | changes))

    return make


@pytest.fixture
def make_cpt() -> Callable[..., Recipe]:
    """Make a small `cpt` recipe, valid by itself; keywords replace its keys."""

    def make(**changes: Any) -> Recipe:
        fields: dict[str, Any] = {
            "kind": "cpt",
            "name": "pretrain",
            "model": {"path": "model"},
            "data": {"corpora": [{"name": "abstracts"}]},
            "batch": {"global_batch": "16 sequences", "sequence_length": 64},
            "optim": {"lr": 1e-3},
            "schedule": {"length": "10 steps"},
            "resources": {"time": "10min"},
        }
        return read_recipe(json.dumps(fields | changes))

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only an administrator can mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # at once, also while a killed process is there


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Limit how large files can become: writes beyond it fail as on a full disk, the last one in its middle."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Fake Slurm commands, first on PATH, and no Slurm setting in the environment."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    fake = FakeSlurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    return fake


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/NAME; with --update-golden write it there."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing; write it with `pytest --update-golden` and review it"
        assert text == path.read_text(encoding="utf-8")

    return compare
