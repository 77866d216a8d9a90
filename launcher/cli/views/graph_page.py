"""The page that `launcher graph --output FILE.html` writes: the drawing, and a row for each stage; no other file."""

from collections.abc import Sequence
from html import escape

from launcher.cli.views.graph_view import GraphNode, draw_svg
from launcher.cli.views.html_page import html_page

_STYLE = """
:root { --ink: #1d2329; --soft: #59636e; --paper: #ffffff; --rule: #d5dae0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa4af; --paper: #15191e; --rule: #353c45; }
}
body { margin: 0; color: var(--ink); background: var(--paper); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
.drawing { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 1.5rem; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
p { color: var(--soft); font-size: .9rem; }
@media screen and (max-width: 46rem) { th:nth-child(n+5), td:nth-child(n+5) { display: none; } }
"""
_COLUMNS = ("stage", "kind", "state", "time", "run", "waits for")


def page(title: str, nodes: Sequence[GraphNode], refresh: int | None = None) -> str:
    """Make the page.

    Args:
        title: The pipeline.
        nodes: Each after those that it waits for.
        refresh: Seconds after which a browser reads the file again; None: it does not. A page that is opened as a file
            may not read others, so the page itself is written anew.
    """
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    note = f"<p>Written again every {refresh} s until the pipeline is over.</p>" if refresh else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    rows = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(node))}</tr>" for node in nodes)
    parts = [
        f'<div class="drawing">{draw_svg(nodes)}</div>',
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}",
    ]
    return html_page(title, _STYLE, parts, again)


def _cells(node: GraphNode) -> tuple[str, ...]:
    return node.name, node.kind, node.state, node.detail, node.run, ", ".join(node.awaits)
