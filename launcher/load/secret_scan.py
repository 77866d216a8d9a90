"""Find what looks like a secret in files that will be copied into run directories."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from launcher.errors import Fault
from launcher.load.yaml_tree import Path, YamlNode, join_path

ADVICE = (
    "looks like a secret; put it into the environment or the profile's `secrets_file` and name it under `secrets`, "
    "and revoke it if this file was shared"
)

# Prefixes that issuers chose so that scanners find them:
# https://huggingface.co/docs/hub/security-tokens, https://docs.wandb.ai, https://platform.openai.com,
# https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats,
# https://docs.npmjs.com/about-access-tokens, https://pypi.org/help/#apitoken, https://cloud.google.com/docs/authentication,
# https://www.rfc-editor.org/rfc/rfc7519 (tokens of three parts that begin with `{"` in base64),
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html; who knows the address of a webhook can
# write into its channel: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
# https://developers.mattermost.com/integrate/webhooks/incoming, https://docs.rocket.chat/docs/integrations
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|local-[A-Za-z0-9]{40}|wandb_v\d_[A-Za-z0-9_]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{20,}"
    r"|xapp-[A-Za-z0-9-]{20,}|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|hooks\.slack\.com/services/[A-Za-z0-9/]+|discord(?:app)?\.com/api/webhooks/[A-Za-z0-9/_-]+"
    r"|[a-z0-9.-]+\.webhook\.office\.com/[A-Za-z0-9/@_-]+|api\.telegram\.org/bot\d+:[A-Za-z0-9_-]+"
    r")|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
    r"|(?<=/hooks/)(?:[a-z0-9]{26}|[A-Za-z0-9]{17,24}/[A-Za-z0-9]{40,})(?![A-Za-z0-9])"
)
_KEYISH = r"(?:\b|_|-)key|token(?!i[sz])|secret|passw|credential"
# W&B's older keys are 40 hexadecimal digits, Azure's 32, AWS's secret keys 40 characters of base64.
_DIGITS = r"[0-9a-f]{32,}|[0-9A-F]{32,}"
_END = r"(?![A-Za-z0-9/+])"
_OPAQUE = rf"(?:{_DIGITS}|(?=[A-Za-z0-9/+]*[A-Z])(?=[A-Za-z0-9/+]*[0-9])[A-Za-z0-9+][A-Za-z0-9/+]{{39}}){_END}"
_KEYISH_NAME = re.compile(_KEYISH, re.IGNORECASE)
_OPAQUE_VALUE = re.compile(_OPAQUE)
_KEYISH_LINE = re.compile(rf"(?i:{_KEYISH})\w*[\"']?\s*[:=]\s*[\"']?({_OPAQUE})")
# With some words between, as in "my key for wandb is ...", unless they say that it identifies something.
_KEYISH_WORDS = re.compile(
    r"(?i:\b(?:api[_-]?)?(?:keys?|token|secret|password|credentials?)\b)"
    r"(?:(?!(?i:commit|revision|checksum|sha|md5|hash|digest|fingerprint))[^\n]){1,40}?"
    rf"(?<![A-Za-z0-9/+])((?:{_DIGITS}){_END})"
)
# People choose passwords, and choose short ones: under such a name any word is one, in a comment if it has a digit.
_PASSED = r"passw(?:or)?d?|passphrase"
_PASSED_NAME = re.compile(rf"(?:{_PASSED})$", re.IGNORECASE)
_PASSED_VALUE = re.compile(r"(?!(?i:null|none|true|false)$)[^\s$<{]\S{3,}")
_PASSED_LINE = re.compile(
    rf"(?i:{_PASSED})[\"']?\s*[:=]\s*[\"']?((?=[^\s\"']*\d)[^\s\"'$<{{][^\s\"']{{3,}})[\"']?\s*$", re.MULTILINE
)


def find_leaks(text: str, roots: Sequence[YamlNode], file: str) -> tuple[list[Fault], frozenset[str]]:
    """Find what looks like a secret in the values and the comments of a file.

    Args:
        text: The whole text.
        roots: The trees of its documents.
        file: What to call the file.

    Returns:
        The faults, and the secrets themselves, for `mask`.
    """
    found = {node.origin.line: (secret, path) for path, node, secret in _secrets_in_values(roots)}
    for secret, offset in _secrets_in_text(text):
        found.setdefault(text.count("\n", 0, offset) + 1, (secret, ()))
    faults = [
        Fault(file, line, join_path(path), f"`{shorten(secret)}` {ADVICE}", "secret")
        for line, (secret, path) in found.items()
    ]
    return faults, frozenset(secret for secret, _ in found.values())


def mask(fault: Fault, secrets: Iterable[str]) -> Fault:
    """Remove secrets from a fault that quotes the user's text."""

    def masked(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, shorten(secret))
        return _TOKEN.sub(lambda match: shorten(match[0]), text)

    return replace(fault, file=masked(fault.file), key=masked(fault.key), message=masked(fault.message))


def shorten(secret: str) -> str:
    """Keep only as much of a secret as its owner needs to recognise it."""
    return f"{secret[:4]}…"


def _secrets_in_values(roots: Sequence[YamlNode]) -> Iterator[tuple[Path, YamlNode, str]]:
    for root in roots:
        for path, node in _scalars(root, ()):
            if secret := _secret_in(path, node.text):
                yield path, node, secret


def _scalars(node: YamlNode, path: Path) -> Iterator[tuple[Path, YamlNode]]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _scalars(child, (*path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _scalars(child, (*path, index))
    else:
        yield path, node


def _secret_in(path: Path, text: str) -> str | None:
    if token := _TOKEN.search(text):
        return token[0]
    name = next((key for key in reversed(path) if isinstance(key, str)), "")
    is_key = _OPAQUE_VALUE.fullmatch(text) and _KEYISH_NAME.search(name)
    is_password = _PASSED_VALUE.fullmatch(text) and _PASSED_NAME.search(name)
    return text if is_key or is_password else None


def _secrets_in_text(text: str) -> Iterator[tuple[str, int]]:
    for match in _TOKEN.finditer(text):
        yield match[0], match.start()
    for pattern in (_KEYISH_LINE, _KEYISH_WORDS, _PASSED_LINE):
        for match in pattern.finditer(text):
            yield match[1], match.start(1)
