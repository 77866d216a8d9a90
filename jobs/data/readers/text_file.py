"""Small files that people write: lists of classes, numbers to leave out, evaluation sets."""

from pathlib import Path

from jobs.data.readers.source_stream import EncodingError, without_bom
from launcher.errors import LauncherError


def decoded(path: Path, content: bytes) -> str:
    """Decode the content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        LauncherError: it is in another encoding; names the line and the byte.
    """
    try:
        content = without_bom(content)
        return content.decode()
    except EncodingError as error:
        raise LauncherError(f"{path}:1: {error}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise LauncherError(f"{path}:{line}: {what}") from None


def read_text_file(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        LauncherError: it is in another encoding; names the line and the byte.
    """
    return decoded(path, path.read_bytes())
