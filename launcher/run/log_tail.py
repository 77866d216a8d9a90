"""Reading a log while it grows. Standard library only."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Tail:
    """The lines of a file that were not read yet."""

    path: Path
    offset: int = 0
    """Bytes read so far."""

    def read(self) -> list[str]:
        """Read the whole lines that are new; none while there is no file.

        The file is opened anew each time, which is what makes NFS ask the server for its size.
        """
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        return split_lines(whole)


def split_lines(content: bytes) -> list[str]:
    r"""Split a log at \n, \r and \r\n; `str.splitlines` would also split at U+2028, U+0085, a form feed and others."""
    return [line.decode("utf-8", errors="replace") for line in content.splitlines()]
