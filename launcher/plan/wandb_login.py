"""Where W&B's key is found on this machine; never what it is."""

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from launcher.cluster import Cluster
from launcher.run.home import NoHomeError, expand_home
from launcher.run.wandb_server import BEHIND_DEFAULT, DEFAULT_SERVER


def wandb_host(cluster: Cluster, environ: Mapping[str, str]) -> str:
    """Name the W&B server that runs are sent to, with its port if it has one."""
    server = cluster.wandb_base_url or {**environ, **cluster.environment}.get("WANDB_BASE_URL") or DEFAULT_SERVER
    return urlsplit(server).netloc.rpartition("@")[2] or server


def netrc_with(host: str, environ: Mapping[str, str]) -> Path | None:
    """Find the file that `wandb login` wrote; None if it does not know the server."""
    try:
        path = expand_home(environ.get("NETRC") or "~/.netrc")
        known = netrc.netrc(str(path)).hosts
    except (OSError, NoHomeError, netrc.NetrcParseError):
        return None
    names = (host, BEHIND_DEFAULT) if host == urlsplit(DEFAULT_SERVER).netloc else (host,)
    return path if any(name in known for name in names) else None
