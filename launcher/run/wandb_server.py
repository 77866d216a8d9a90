"""W&B's own servers, which no data that is not open may reach. Standard library only."""

from urllib.parse import urlsplit

DEFAULT_SERVER = "https://api.forge.coreweave.com"
"""Where W&B's client goes if nobody names a server, since 0.31; `https://api.wandb.ai` lies behind it."""
BEHIND_DEFAULT = "api.wandb.ai"
"""Its client also takes a key that was written down for this name, by `wandb login` of older versions."""
PUBLIC_DOMAINS = ("wandb.ai", "wandb.io", "forge.coreweave.com")
"""Domains of W&B's public cloud, and of parts of it that are reserved for one customer."""


def is_public_wandb(url: str) -> bool:
    """Tell whether a W&B server is run by W&B itself."""
    host = "." + host_of(url).rstrip(".").lower()
    return host.endswith(tuple(f".{domain}" for domain in PUBLIC_DOMAINS))


def host_of(url: str) -> str:
    """Return the name of a server's machine."""
    return urlsplit(url).hostname or url
