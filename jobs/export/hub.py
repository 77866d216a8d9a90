"""Uploads an export to the Hugging Face Hub: private, unless the recipe says that everybody may read it."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from launcher.errors import LauncherError
from launcher.recipe.kinds.export import ExportRecipe


def push(recipe: ExportRecipe, folder: Path, api: HfApi) -> str | None:
    """Upload a folder if the recipe says so; return the address of the commit.

    What is there already is not sent again, so an upload that was interrupted can be repeated.

    Args:
        recipe: Says where.
        folder: A published export.
        api: The Hub's client; it takes the token from `HF_TOKEN`.

    Raises:
        LauncherError: it is refused: by the recipe's data, by what is there already, or by the Hub.
    """
    where = recipe.push_to_hub
    if where is None:
        return None
    if recipe.data_use == "credentialed":
        raise LauncherError("push_to_hub: what was made of credentialed data must not leave the site; leave it out")
    try:
        api.create_repo(where, private=not recipe.public, exist_ok=True)
        if not recipe.public and not api.repo_info(where).private:
            raise LauncherError(
                f"push_to_hub: everybody can read `{where}`; make it private, name another, or write `public: true`"
            )
        return str(api.upload_folder(repo_id=where, folder_path=folder, commit_message="Upload an export"))
    except OfflineModeIsEnabled as error:
        raise LauncherError(
            f"push_to_hub: this node works offline (HF_HUB_OFFLINE); {_by_hand(where, folder)}"
        ) from error
    except LocalTokenNotFoundError as error:
        raise LauncherError("push_to_hub: HF_TOKEN holds no token; put it into the profile's `secrets_file`") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status not in (401, 403):
            raise
        raise LauncherError(
            f"push_to_hub: the Hub refuses to write to `{where}` ({status}); check the rights of HF_TOKEN, or "
            f"{_by_hand(where, folder)}"
        ) from error


def _by_hand(where: str, folder: Path) -> str:
    return f"upload it from a login node: `hf upload {where} {folder} --private`"
