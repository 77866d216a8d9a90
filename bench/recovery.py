"""What a preemption costs: steps that are computed again, and seconds until the first new one, beside three peers.

Each trains the tiny Llama on one rank of a dev cluster and saves every 20 steps. Between two saves a job of a higher
priority takes its node, as Slurm does by default: SIGTERM, 10 s of grace, SIGKILL, and back into the queue. The peers
are submitit's example of a callable with `checkpoint()`, Lightning with its SLURMEnvironment, and transformers' Trainer
with `save_steps`.

    python bench/recovery.py [--rounds 3] [--json] [--smallest]

Lightning is installed into an environment of its own, which finds torch and transformers here. `--smallest` is one
round with ours and Trainer.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.peers import peer_environment
from bench.support.unmeasured import UnmeasuredError, not_measured
from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.machine import missing_programs
from launcher.run.ledger import read_json_lines

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "recipes" / "assets" / "stories260k"
SAVE_EVERY, PREEMPT_AT, STEPS = 20, 30, 400
SEQUENCES, TOKENS = 4, 256
OURS, SUBMITIT, LIGHTNING, TRAINER = "launcher", "submitit", "Lightning", "Trainer"
MOST = 1.5
"""Most times the seconds of the fastest peer."""
PATIENCE = 600
SETTINGS = (
    *("resources.nodes=1", "resources.gpus_per_node=1", "parallel.strategy=full_shard", "tracking.mode=disabled"),
    *(f"batch.global_batch={SEQUENCES} sequences", f"batch.micro_batch={SEQUENCES}", f"batch.sequence_length={TOKENS}"),
    *(f"schedule.length={STEPS} steps", f"checkpoint.interval={SAVE_EVERY} steps"),
)
Cost: TypeAlias = tuple[int, float] | None
GONE_SECONDS = 20
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUE")
"""States of a job that is in the queue, or on its way back into it."""


def main() -> int:
    options = _parse()
    if options.peer:
        PROGRAMS[options.peer](options.folder)
        return 0
    if missing := missing_programs(accounting=False):
        code = not_measured(f"a dev cluster needs {', '.join(missing)}")
        return 0 if options.smallest else code
    try:
        lightning = Path() if options.smallest else _lightning()
    except UnmeasuredError as error:
        return not_measured(error)
    costs: dict[str, list[Cost]] = {}
    with _cluster() as cluster:
        _launcher(cluster, "submit", "recipes/prepare_pile_pubmed.yaml", "--rehearse", "--yes", "--wait")
        for _ in range(options.rounds):
            for name in (OURS, TRAINER) if options.smallest else (OURS, SUBMITIT, LIGHTNING, TRAINER):
                costs.setdefault(name, []).append(_preempt_once(cluster, name, lightning))
    return _report(costs, options)


@contextmanager
def _cluster() -> Iterator[DevCluster]:
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    cluster = DevCluster(folder)
    try:
        cluster.up(Shape(nodes=1, gpus=1))
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder)


def _preempt_once(cluster: DevCluster, name: str, lightning: Path) -> Cost:
    """Preempt one training; return the steps that it did again, and the seconds until the first new one.

    None if its job ended and nothing queued it again: then a person has to notice.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cluster.layout.folder))
    job, steps = _submit_ours(cluster) if name == OURS else _submit_peer(cluster, name, folder, lightning)
    _wait(lambda: _last(_rows(steps)) >= PREEMPT_AT, f"step {PREEMPT_AT} of {name}")
    began = time.time()
    cluster.preempt(job)

    gone: list[float] = []

    def is_gone() -> bool:
        """Tell whether the job has been out of the queue for some seconds: Slurm may be about to put it back."""
        state = cluster.slurm("squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T")
        if state.startswith(ALIVE):
            gone.clear()
        else:
            gone.append(time.monotonic())
        return bool(gone) and gone[-1] - gone[0] > GONE_SECONDS

    def new_step() -> float | None:
        rows = _rows(steps)
        before = _last([row for row in rows if row["attempt"] == 0])
        return next((row["time"] for row in rows if row["attempt"] > 0 and row["step"] > before), None)

    _wait(lambda: new_step() or is_gone(), f"a new step of {name}")
    again = new_step()
    if again is None:
        return None
    rows = _rows(steps)
    before = _last([row for row in rows if row["attempt"] == 0])
    cluster.slurm("scancel", job)
    _wait(lambda: not cluster.slurm("squeue", "--noheader"), f"the end of {name}")
    return sum(row["attempt"] > 0 and row["step"] <= before for row in rows), again - began


def _submit_ours(cluster: DevCluster) -> tuple[str, Path]:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    argv = ("submit", "recipes/biomed_llama_cpt.yaml", "--rehearse", *words, "--yes", "--json", "--rerun")
    [run] = json.loads(_launcher(cluster, *argv))["runs"]
    return run["job"], Path(run["folder"]) / "metrics.jsonl"


def _launcher(cluster: DevCluster, *arguments: str) -> str:
    environment = {**os.environ, "LAUNCHER_CLUSTER": str(cluster.profile), "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", "launcher", *arguments]
    return subprocess.run(argv, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def _submit_peer(cluster: DevCluster, name: str, folder: Path, lightning: Path) -> tuple[str, Path]:
    steps = folder / "steps.jsonl"
    program = [str(lightning if name == LIGHTNING else sys.executable), __file__, "--folder", str(folder), "--peer"]
    if name == SUBMITIT:
        environment = {**cluster.environment(), "HF_HUB_OFFLINE": "1"}
        argv = [*program, SUBMITIT]
        told = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        return told.split()[-1], steps
    script = folder / "job.sh"
    script.write_text(f"#!/bin/sh\nHF_HUB_OFFLINE=1 exec srun --unbuffered {' '.join([*program, name])}\n")
    options = ("--ntasks=1", "--gres=gpu:1", "--requeue", "--time=20", "--signal=SIGUSR1@90", "--open-mode=append")
    return cluster.slurm("sbatch", "--parsable", *options, f"--output={folder}/log", str(script)), steps


def _lightning() -> Path:
    """Python of an environment with Lightning, which finds torch and transformers where they are installed."""
    specs = [find_spec(name) for name in ("torch", "transformers")]
    folders = [Path(spec.origin).parents[1] for spec in specs if spec and spec.origin]
    return peer_environment("bench-recovery", ["lightning==2.6.6"], sees=folders) / "python"


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_json_lines(path) if "step" in row]


def _last(rows: list[dict[str, Any]]) -> int:
    return max((row["step"] for row in rows), default=0)


def _wait(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE} s in vain for {what}")
        time.sleep(0.1)
    return value


def _note_step(folder: Path, step: int) -> None:
    row = {"step": step, "time": time.time(), "attempt": int(os.environ.get("SLURM_RESTART_COUNT", "0"))}
    with (folder / "steps.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL)


def _tokens() -> Any:
    import torch

    return torch.randint(3, 500, (SEQUENCES * STEPS, TOKENS), generator=torch.Generator().manual_seed(0))


def submit_submitit(folder: Path) -> None:
    """Submit a callable as submitit's example is: it saves now and then, and `checkpoint()` queues it again."""
    import submitit

    class Training:
        def __call__(self, folder: Path) -> None:
            import torch

            model, tokens, state = _model(), _tokens(), folder / "state.pt"
            optimizer, done = torch.optim.AdamW(model.parameters(), lr=1e-4), 0
            if state.exists():
                saved = torch.load(state)
                model.load_state_dict(saved["model"])
                optimizer.load_state_dict(saved["optimizer"])
                done = saved["step"]
            for step in range(done + 1, STEPS + 1):
                batch = tokens[(step - 1) * SEQUENCES : step * SEQUENCES]
                model(input_ids=batch, labels=batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                _note_step(folder, step)
                if step % SAVE_EVERY == 0:
                    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(saved, folder / "state.part")
                    (folder / "state.part").rename(state)

        def checkpoint(self, folder: Path) -> Any:
            return submitit.helpers.DelayedSubmission(Training(), folder)

    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="slurm")
    executor.update_parameters(timeout_min=20, slurm_gres="gpu:1", slurm_additional_parameters={"requeue": True})
    print(executor.submit(Training(), folder).job_id)


def train_lightning(folder: Path) -> None:
    """Train with Lightning, which knows that it is in a Slurm job."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.model(input_ids=batch, labels=batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            _note_step(folder, trainer.global_step)

    saver = ModelCheckpoint(dirpath=folder / "saved", every_n_train_steps=SAVE_EVERY, save_last=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=folder,
        callbacks=[saver, Clock()],
        plugins=[SLURMEnvironment(auto_requeue=True)],
    )
    last = folder / "saved" / "last.ckpt"
    trainer.fit(
        Module(),
        torch.utils.data.DataLoader(_tokens(), batch_size=SEQUENCES),
        ckpt_path=last if last.exists() else None,
    )


def train_trainer(folder: Path) -> None:
    """Train with transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    class Clock(TrainerCallback):
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            _note_step(folder, state.global_step)

    out = folder / "saved"
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=SEQUENCES,
        learning_rate=1e-4,
        save_steps=SAVE_EVERY,
        save_total_limit=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in _tokens()]
    trainer = Trainer(model=_model(), args=arguments, train_dataset=data, callbacks=[Clock()])
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)) if out.exists() else None)


PROGRAMS = {SUBMITIT: submit_submitit, LIGHTNING: train_lightning, TRAINER: train_trainer}


def _report(costs: dict[str, list[Cost]], options: argparse.Namespace) -> int:
    back = {name: [cost for cost in its if cost is not None] for name, its in costs.items()}
    redone = {name: [steps for steps, _ in its] for name, its in back.items()}
    lost = {name: its.count(None) for name, its in costs.items()}
    seconds = {name: statistics.median(time for _, time in its) for name, its in back.items() if its}
    if options.json:
        print(json.dumps({"date": str(date.today()), "redone": redone, "lost": lost, "seconds": seconds}))
    else:
        print(f"{date.today()}: one preemption between two saves that are {SAVE_EVERY} steps apart")
        for name, its in costs.items():
            print(f"  {name:<10} {_describe(its, redone[name], seconds.get(name))}")
    if options.smallest:
        return 0
    fastest = min((value for name, value in seconds.items() if name != OURS), default=math.inf)
    ratio = seconds.get(OURS, math.inf) / fastest
    is_held = not any(redone[OURS]) and not lost[OURS] and ratio <= MOST
    beside = f"{ratio:.2f} times the fastest, at most {MOST}" if fastest < math.inf else "no peer's job came back"
    print(f"{'holds' if is_held else 'MISSED'}: no job is lost and no step is done again; {beside}")
    return int(not is_held)


def _describe(costs: list[Cost], redone: list[int], seconds: float | None) -> str:
    lost = f"lost: {costs.count(None)} of {len(costs)}"
    if seconds is None:
        return f"{lost}: its job ended, and nothing queued it again"
    again = f"steps done again: {', '.join(map(str, redone)):<12}"
    return f"{again} first new step after {seconds:5.1f} s (median)   {lost}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="one round with ours and Trainer; nothing is judged")
    parser.add_argument("--peer", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smallest:
        options.rounds = 1
    return options


if __name__ == "__main__":
    sys.exit(main())
