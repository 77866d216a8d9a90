"""Uploading an export, with a client that only notes what it is asked for."""

from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from jobs.export.hub import push
from launcher.errors import LauncherError
from tests.support.export_runs import export_recipe

UPLOAD = {"push_to_hub": "me/it", "secrets": ["HF_TOKEN"]}


class NotingApi:
    """The three calls of the Hub's client."""

    def __init__(self, is_private=True, fault=None):
        self.calls, self.is_private, self.fault = [], is_private, fault

    def create_repo(self, name, **options):
        if self.fault:
            raise self.fault
        self.calls.append((name, options))

    def repo_info(self, name):  # noqa: ARG002 - as the client has it
        return SimpleNamespace(private=self.is_private)

    def upload_folder(self, **options):
        self.calls.append(options)
        return "https://huggingface.co/me/it/commit/1"


def test_nothing_is_uploaded_unless_the_recipe_says_so(tmp_path):
    api = NotingApi()

    assert push(export_recipe(), tmp_path, api) is None
    assert api.calls == []


@pytest.mark.parametrize("is_public", [False, True])
def test_a_repository_is_private_unless_the_recipe_says_public(tmp_path, is_public):
    api = NotingApi(is_private=not is_public)

    assert push(export_recipe(**UPLOAD, public=is_public), tmp_path, api) == "https://huggingface.co/me/it/commit/1"
    assert api.calls[0] == ("me/it", {"private": not is_public, "exist_ok": True})
    assert (api.calls[1]["repo_id"], api.calls[1]["folder_path"]) == ("me/it", tmp_path)


def test_a_private_export_does_not_go_to_a_repository_that_is_public(tmp_path):
    api = NotingApi(is_private=False)

    with pytest.raises(LauncherError, match="everybody can read `me/it`"):
        push(export_recipe(**UPLOAD), tmp_path, api)
    assert len(api.calls) == 1


def test_credentialed_data_stays_whatever_the_recipe_says(tmp_path):
    open_recipe = export_recipe(**UPLOAD)
    closed = open_recipe.model_copy(update={"data_use": "credentialed"})
    api = NotingApi()

    with pytest.raises(LauncherError, match="must not leave the site"):
        push(closed, tmp_path, api)
    assert api.calls == []


def refusal(status):
    request = httpx.Request("POST", "https://huggingface.co")
    return HfHubHTTPError("refused", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("fault", "message"),
    [(refusal(403), r"refuses to write to `me/it` \(403\)"), (OfflineModeIsEnabled("off"), "hf upload me/it")],
)
def test_what_will_not_go_away_says_what_to_do(tmp_path, fault, message):
    with pytest.raises(LauncherError, match=message):
        push(export_recipe(**UPLOAD), tmp_path, NotingApi(fault=fault))


def test_a_hub_that_has_trouble_is_a_failure_to_try_again(tmp_path):
    with pytest.raises(HfHubHTTPError):
        push(export_recipe(**UPLOAD), tmp_path, NotingApi(fault=refusal(503)))
