"""What everybody will be able to read is asked about before it is queued."""

from types import SimpleNamespace
from typing import Any

import pytest
import typer

from launcher.cli import submit
from launcher.errors import LauncherError
from launcher.recipe import ExportRecipe


def plan(**changes: Any) -> Any:
    fields = {"kind": "export", "name": "it", "model": {"path": "m"}, "format": "safetensors"}
    upload = {"push_to_hub": "me/it", "secrets": ("HF_TOKEN",), "resources": {"time": "1h"}}
    recipe = ExportRecipe.model_validate({**fields, **upload, **changes}, strict=False)
    return SimpleNamespace(recipes=[SimpleNamespace(recipe=recipe)])


def test_a_private_upload_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: pytest.fail("asked"))

    submit._ask_if_public(plan())


def test_a_public_one_asks_and_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text, **_: asked.append(text))

    submit._ask_if_public(plan(public=True))

    assert asked == ["it: everybody will be able to read huggingface.co/me/it; submit?"]


def test_without_a_terminal_only_yes_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    with pytest.raises(LauncherError, match="confirm it with `--yes`"):
        submit._ask_if_public(plan(public=True))
