"""submitit's private hooks that the executors override: when one moves, this fails before a submission does."""

import inspect

import pytest
import submitit

from launcher.slurm.executor import RecipeExecutor


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("owner", "hook", "expected"),
    [
        (submitit.SlurmExecutor, "_submit_command", ["self", "command"]),
        (submitit.SlurmExecutor, "_make_submission_command", ["self", "submission_file_path"]),
        (submitit.SlurmExecutor, "_get_job_id_from_submission_command", ["string"]),
        (submitit.SlurmExecutor, "_internal_process_submissions", ["self", "delayed_submissions"]),
        (submitit.SlurmExecutor, "affinity", []),
    ],
)
def test_a_hook_has_the_signature_that_is_overridden(owner: type, hook: str, expected: list[str]) -> None:
    assert parameters(getattr(owner, hook)) == expected


def test_the_command_is_a_property_and_the_job_class_an_attribute() -> None:
    assert isinstance(inspect.getattr_static(submitit.SlurmExecutor, "_submitit_command_str"), property)
    assert issubclass(submitit.SlurmExecutor.job_class, submitit.Job)


def test_a_job_is_made_from_a_folder_and_an_id() -> None:
    assert parameters(submitit.SlurmJob.__init__)[:3] == ["self", "folder", "job_id"]


def test_every_method_of_submitit_reaches_the_overridden_hooks() -> None:
    """`submit`, `map_array`, `submit_array` and `batch` all end in `_internal_process_submissions`."""
    for method in (submitit.Executor.submit, submitit.Executor.map_array, submitit.Executor.submit_array):
        assert "_internal_process_submissions" in inspect.getsource(method)
    assert "_internal_process_submissions" in vars(RecipeExecutor)


@pytest.mark.parametrize(
    ("printed", "job_id"),
    [
        ("1234\n", "1234"),
        ("1234;cluster2\n", "1234"),
        ("lua: job 3 of your quota of 10\nWelcome!\n1234\n", "1234"),
        (b"1234\nthis job costs 12 credits\n", "1234"),
    ],
)
def test_the_job_id_is_found_between_site_banners(printed: str | bytes, job_id: str) -> None:
    assert RecipeExecutor._get_job_id_from_submission_command(printed) == job_id
