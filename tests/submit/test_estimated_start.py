"""When Slurm would start a job, as its versions say it."""

import pytest

from launcher.slurm.queue import estimate_in_words


@pytest.mark.parametrize("between", ["", " a"], ids=["22.05.8", "26.05.5"])
def test_each_version_is_understood(between: str) -> None:
    where = "using 2 processors on nodes a100-01 in partition gpu"
    printed = f"sbatch: Job 90 to start at 2026-01-02T03:04:05{between} {where}\n"

    assert estimate_in_words(printed) == "would start Fri 02 Jan 03:04 on a100-01 (partition gpu)"


def test_another_form_is_shown_as_it_is() -> None:
    assert estimate_in_words("sbatch: tomorrow, perhaps\n") == "sbatch: tomorrow, perhaps"
