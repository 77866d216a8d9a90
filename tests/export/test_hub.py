"""Uploading an export: with a client that only notes what it is asked for, and with the Hub's own one."""

import shlex
import socket
from threading import Event
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from jobs.export.hub import push
from launcher.errors import LauncherError
from tests.support.export_runs import export_recipe
from tests.support.hub_server import hub_server
from tests.support.stops import stopped_after

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


@pytest.mark.parametrize("where", ["", "run/outputs"])
def test_a_folder_that_says_that_it_is_credentialed_stays_whatever_the_recipe_says(tmp_path, where):
    folder = tmp_path / where
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "manifest.json").write_text('{"data_use": "credentialed"}')
    api = NotingApi()

    with pytest.raises(LauncherError, match="must not leave the site"):
        push(export_recipe(**UPLOAD), folder, api)
    assert api.calls == []


def refusal(status, said=None):
    request = httpx.Request("POST", "https://huggingface.co")
    return HfHubHTTPError("refused", response=httpx.Response(status, request=request), server_message=said)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(403), r"refuses to write to `me/it` \(403\)"),
        (refusal(400, "no such type"), r"refuses to write to `me/it` \(400: no such type\).*hf upload me/it"),
        (refusal(404), r"refuses to write to `me/it` \(404\)"),
        (refusal(409), r"refuses to write to `me/it` \(409\)"),
        (OfflineModeIsEnabled("off"), "hf upload me/it"),
        (HFValidationError("Cannot have -- or .."), r"the Hub allows no such name: Cannot have -- or \.\."),
    ],
)
def test_what_will_not_go_away_says_what_to_do(tmp_path, fault, message):
    with pytest.raises(LauncherError, match=message):
        push(export_recipe(**UPLOAD), tmp_path, NotingApi(fault=fault))


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_hub_that_has_trouble_is_a_failure_to_try_again(tmp_path, status):
    with pytest.raises(HfHubHTTPError):
        push(export_recipe(**UPLOAD), tmp_path, NotingApi(fault=refusal(status)))


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("is_public", [False, True])
def test_the_hubs_own_client_makes_the_repository_and_sends_the_folder(tmp_path, is_public, is_there):
    (tmp_path / "model").mkdir()
    files = {"README.txt": b"read", "model/weights.bin": bytes(range(256))}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    with hub_server(private=not is_public if is_there else None) as hub:
        told = push(export_recipe(**UPLOAD, public=is_public), tmp_path, HfApi(hub.address, token="hf_invented"))

    assert (hub.private, hub.files, hub.tokens) == (not is_public, files, {"Bearer hf_invented"})
    assert told.startswith(f"{hub.address}/me/it/")


@pytest.mark.usefixtures("online")
def test_the_hubs_own_client_sends_nothing_to_a_repository_that_is_public(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"secret")

    with hub_server(private=False) as hub, pytest.raises(LauncherError, match="everybody can read `me/it`"):
        push(export_recipe(**UPLOAD), tmp_path, HfApi(hub.address, token="hf_invented"))

    assert hub.files == {}


@pytest.mark.parametrize(("is_public", "option"), [(False, "--private"), (True, "--no-private")])
@pytest.mark.usefixtures("online")
def test_a_node_without_internet_says_how_to_upload_by_hand(tmp_path, is_public, option):
    folder = tmp_path / "with space"
    folder.mkdir()
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        api = HfApi(endpoint=f"http://127.0.0.1:{nobody_listens.getsockname()[1]}", token="hf_invented")

        with pytest.raises(LauncherError, match=r"does not reach the Hub \(.*Connection refused.*\)") as refused:
            push(export_recipe(**UPLOAD, public=is_public), folder, api)

    command = str(refused.value).split("`")[1]
    assert shlex.split(command) == ["hf", "upload", "me/it", str(folder), option]


def test_a_connection_that_breaks_during_an_upload_is_a_failure_to_try_again(tmp_path):
    api = NotingApi()
    broken = HfHubHTTPError.__mro__[1]("broken")  # of the package that the Hub's client uses
    api.upload_folder = raising(broken)

    with pytest.raises(type(broken), match="broken"):
        push(export_recipe(**UPLOAD), tmp_path, api)


def raising(fault):
    def call(**_):
        raise fault

    return call


def test_a_stop_does_not_wait_for_an_upload(tmp_path):
    may_end = Event()
    api = NotingApi()
    api.upload_folder = lambda **_: may_end.wait()

    with stopped_after(0):
        push(export_recipe(**UPLOAD), tmp_path, api)
    may_end.set()
