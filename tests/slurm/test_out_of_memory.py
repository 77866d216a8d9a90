"""A micro batch that one of two ranks has no room for, on a real Slurm."""

import pytest

from launcher.devcluster import DevCluster
from tests.slurm.site import ONE_RANK_A_NODE, Site, joined_losses, logs_text
from tests.support.memory_limits import make_tight_model

pytestmark = pytest.mark.slurm


def test_a_micro_batch_that_does_not_fit_is_halved_in_the_same_job(devcluster: DevCluster) -> None:
    site = Site(devcluster)
    site.prepare_corpus()
    make_tight_model(devcluster.layout.folder / "models" / "tight", fits=2, rank=1)
    tight = ("model.path=tight", "model.trust_remote_code=true", "batch.micro_batch=4", "schedule.length=12 steps")
    run = site.submit_rehearsal(*ONE_RANK_A_NODE, *tight)

    first, second = site.wait_until_finished(run)

    assert (first.reason, first.action, first.max_micro_batch) == ("does_not_fit", "restart", 2), logs_text(run)
    assert f"(rank 1 on {first.nodes[1]}: a micro batch of 4 does not fit: CUDA out of memory" in first.message
    assert (second.job_id, second.restart_count, second.micro_batch) == (first.job_id, first.restart_count, 2)
    assert sorted(joined_losses(run)) == list(range(1, 13))
    assert "micro batch too large  restart" in site.launcher("status", run.root)
