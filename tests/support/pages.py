"""Reading pages that commands write."""

from collections import Counter
from html.parser import HTMLParser

_VOID = {"meta"}
_ADDRESSES = ("src", "href", "srcset", "data", "action")


class PageReader(HTMLParser):
    """Reads a page and insists that tags are closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.urls: list[str | None] = []
        self.labels: list[str | None] = []
        """What is said of pictures to those who cannot see them."""
        self.classes: Counter[str | None] = Counter()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag, its addresses, class and label."""
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in _ADDRESSES]
        self.labels += [value for name, value in attrs if name == "aria-label"]
        self.classes.update(value for name, value in attrs if name == "class")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close a tag."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)
