"""The dev cluster as its users meet it: real daemons, real jobs, real preemptions and node failures."""

from pathlib import Path

import pytest

from launcher.devcluster import DevCluster

pytestmark = pytest.mark.slurm


def test_an_array_of_two_nodes_with_two_tasks_each_runs(devcluster: DevCluster, tmp_path: Path) -> None:
    script = f"srun --output={tmp_path}/%j-%t.txt bash -c 'echo $SLURM_ARRAY_TASK_ID $SLURM_PROCID $SLURMD_NODENAME'"
    devcluster.slurm(
        *("sbatch", "--wait", "--array=0-1", "--nodes=2", "--ntasks-per-node=2", "--gres=gpu:a100:2"),
        *(f"--output={tmp_path}/batch-%a.txt", f"--wrap={script}"),
    )

    said = sorted(path.read_text().split() for path in tmp_path.glob("[0-9]*.txt"))

    assert [(element, rank) for element, rank, _ in said] == [(str(e), str(r)) for e in range(2) for r in range(4)]
    assert len({node for element, _, node in said if element == "0"}) == 2
