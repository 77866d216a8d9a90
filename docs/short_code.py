"""An mkdocs hook that keeps `--options`, keys and short commands on one line.

Browsers may break text behind every hyphen, so `--rehearse` would become `--` and `rehearse` at the end of a line.
"""

import re
from typing import Any

LONGEST = 24
"""Characters that fit into a line of a phone, also in a table. What is longer may be broken."""
_SHORT = re.compile(rf"<code>([^<\n]{{1,{LONGEST}}})</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Mark what is short; style.css does the rest."""
    return _SHORT.sub(r'<code class="whole">\1</code>', html)
