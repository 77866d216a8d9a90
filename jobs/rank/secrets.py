"""Secrets: from the site's file into this process's environment, and nowhere else."""

import os
from collections.abc import Iterable

from launcher.errors import RunError
from launcher.run.paths import expand
from launcher.run.secrets_file import SecretsFileError, read_secrets


def load_secrets(secrets_file: str | None, wanted: Iterable[str]) -> None:
    """Put the secrets that a recipe names into `os.environ`, and no others.

    Args:
        secrets_file: The cluster profile's file of `NAME=value` lines, mode 0600.
        wanted: Names that the recipe needs.

    Raises:
        RunError: The file is missing or others may read it, or a secret is missing. The message has no value.
    """
    names = tuple(wanted)
    if secrets_file is not None and names:
        try:
            found = read_secrets(expand(secrets_file))
        except SecretsFileError as error:
            raise RunError(str(error)) from None
        os.environ.update({name: found[name] for name in names if name in found})
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        where = f"`{secrets_file}`" if secrets_file else "the cluster profile's `secrets_file`"
        listed = ", ".join(f"`{name}`" for name in missing)
        raise RunError(f"secrets: {listed} not set on {os.uname().nodename}; write NAME=value into {where}")
