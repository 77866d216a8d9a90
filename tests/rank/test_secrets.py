"""Secrets come from a private file into the process, and only those that the recipe names."""

import os
from pathlib import Path

import pytest

from jobs.rank.secrets import load_secrets
from launcher.errors import RunError

NAME = "LAUNCHER_TEST_TOKEN"


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")  # so that what the test sets is taken away again
    monkeypatch.delenv(NAME)


def secrets_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "secrets"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("line", [f"{NAME}=v=1", f"export {NAME}=v=1", f"{NAME}='v=1'", f'  {NAME} = "v=1" '])
def test_a_named_secret_is_read_however_the_line_is_written(tmp_path: Path, line: str) -> None:
    load_secrets(secrets_file(tmp_path, f"# tokens\n\n{line}\n"), [NAME])

    assert os.environ[NAME] == "v=1"


def test_a_secret_may_hold_any_character_but_a_line_feed(tmp_path: Path) -> None:
    load_secrets(secrets_file(tmp_path, f"{NAME}=a\u2029b\x85c\x0cd\n"), [NAME])

    assert os.environ[NAME] == "a\u2029b\x85c\x0cd"


def test_a_secret_that_the_recipe_does_not_name_stays_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "")

    load_secrets(secrets_file(tmp_path, f"{NAME}=one\nLAUNCHER_TEST_OTHER=two\n"), [NAME])

    assert "LAUNCHER_TEST_OTHER" not in os.environ


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "from the environment")

    load_secrets(None, [NAME])

    assert os.environ[NAME] == "from the environment"


def test_a_missing_secret_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"`{NAME}` not set on .*; write NAME=value into `.*secrets`"):
        load_secrets(secrets_file(tmp_path, "OTHER=hidden-value\n"), [NAME])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(RunError, match=rf"others may read this secrets file \(mode {mode:04o}\); run `chmod 600"):
        load_secrets(secrets_file(tmp_path, f"{NAME}=x\n", mode), [NAME])


def test_a_malformed_line_is_told_by_its_number_and_never_shown(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"secrets:2: not a `NAME=value` line$") as caught:
        load_secrets(secrets_file(tmp_path, "OTHER=x\nhidden-value\n"), [NAME])

    assert "hidden-value" not in str(caught.value)


def test_a_recipe_without_secrets_does_not_touch_the_file(tmp_path: Path) -> None:
    load_secrets(str(tmp_path / "not there"), [])
