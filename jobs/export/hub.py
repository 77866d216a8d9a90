"""Uploads an export to the Hugging Face Hub: private, unless the recipe says that everybody may read it."""

import shlex
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined] # `HTTPError`, of whichever package it uses
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from jobs.rank.transfer import transfer
from launcher.artifacts.adapter_folder import is_credentialed
from launcher.errors import LauncherError
from launcher.recipe.kinds.export import ExportRecipe

_TRY_AGAIN = (408, 429)
"""Answers below 500 after which the same request may succeed later: too slow, too often."""


def push(recipe: ExportRecipe, folder: Path, api: HfApi) -> str | None:
    """Upload a folder if the recipe says so; return the address of the commit.

    What is there already is not sent again, so an upload that was interrupted can be repeated.

    Args:
        recipe: Says where.
        folder: A published export.
        api: The Hub's client; it takes the token from `HF_TOKEN`.

    Raises:
        LauncherError: it is refused for good: by the recipe's data or the folder's, by what is there already, or by the
            Hub; or the Hub cannot be reached.
        StopRequested: a stop was asked for before all was sent.
    """
    if recipe.push_to_hub is None:
        return None
    if recipe.data_use == "credentialed" or is_credentialed(folder):
        raise LauncherError("push_to_hub: what was made of credentialed data must not leave the site; leave it out")
    try:
        return transfer(partial(_upload, recipe, recipe.push_to_hub, folder, api))
    except OfflineModeIsEnabled as error:
        raise LauncherError(
            f"push_to_hub: this node works offline (HF_HUB_OFFLINE); {_by_hand(recipe, folder)}"
        ) from error
    except LocalTokenNotFoundError as error:
        raise LauncherError("push_to_hub: HF_TOKEN holds no token; put it into the profile's `secrets_file`") from error
    except HFValidationError as error:
        raise LauncherError(f"push_to_hub: the Hub allows no such name: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _TRY_AGAIN or not 400 <= status < 500:
            raise
        said = f": {error.server_message}" if error.server_message else ""
        raise LauncherError(
            f"push_to_hub: the Hub refuses to write to `{recipe.push_to_hub}` ({status}{said}); check the name and the "
            f"rights of HF_TOKEN, or {_by_hand(recipe, folder)}"
        ) from error


def _upload(recipe: ExportRecipe, where: str, folder: Path, api: HfApi) -> str:
    try:
        api.create_repo(where, private=not recipe.public, exist_ok=True)
    except HfHubHTTPError:
        raise
    except HTTPError as error:  # a connection that breaks later worked before, and may work again
        raise LauncherError(
            f"push_to_hub: this node does not reach the Hub ({error}); {_by_hand(recipe, folder)}"
        ) from error
    if not recipe.public and not api.repo_info(where).private:
        raise LauncherError(
            f"push_to_hub: everybody can read `{where}`; make it private, name another, or write `public: true`"
        )
    return str(api.upload_folder(repo_id=where, folder_path=folder, commit_message="Upload an export"))


def _by_hand(recipe: ExportRecipe, folder: Path) -> str:
    visible = "--no-private" if recipe.public else "--private"
    return f"upload it from a login node: `hf upload {recipe.push_to_hub} {shlex.quote(str(folder))} {visible}`"
