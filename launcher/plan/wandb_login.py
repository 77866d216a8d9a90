"""Where W&B's key is found on this machine; never what it is."""

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from launcher.cluster import Cluster
from launcher.run.home import NoHomeError, expand_home

_PUBLIC = ("api.wandb.ai", "api.forge.coreweave.com")
"""Names of W&B's public server: `wandb login` writes the second one since 0.31, and reads both."""


def wandb_host(cluster: Cluster, environ: Mapping[str, str]) -> str:
    """Name the W&B server that runs are sent to."""
    named = {**environ, **cluster.environment}.get("WANDB_BASE_URL", f"https://{_PUBLIC[0]}")
    server = cluster.wandb_base_url or named
    return urlsplit(server).hostname or server


def netrc_with(host: str, environ: Mapping[str, str]) -> Path | None:
    """Find the file that `wandb login` wrote; None if it does not know the server."""
    try:
        path = expand_home(environ.get("NETRC") or "~/.netrc")
        known = netrc.netrc(str(path)).hosts
    except (OSError, NoHomeError, netrc.NetrcParseError):
        return None
    return path if any(name in known for name in (_PUBLIC if host in _PUBLIC else (host,))) else None
