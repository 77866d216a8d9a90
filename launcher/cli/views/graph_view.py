"""The stages of a pipeline as a drawing: in the terminal, or as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 190, 46, 70, 26, 20
_COLOURS = {"finished": "#d7f0dd", "running": "#d6e6fb", "failed": "#f8d7d7", "lost": "#f8d7d7", "stopped": "#f3e8c8"}


@dataclass(frozen=True)
class GraphNode:
    """One stage."""

    name: str
    kind: str
    awaits: tuple[str, ...]
    state: str = ""
    detail: str = ""
    """How long it took, or that it was finished before."""
    run: str = ""
    """Id of its run."""


def draw_text(nodes: Sequence[GraphNode]) -> list[str]:
    """Draw stages as a tree: each below the last of those that it waits for, with the others named beside it.

    Args:
        nodes: Each after those that it waits for.
    """
    order = {node.name: place for place, node in enumerate(nodes)}
    below: dict[str | None, list[GraphNode]] = {}
    for node in nodes:
        below.setdefault(max(node.awaits, key=order.__getitem__, default=None), []).append(node)
    lines: list[str] = []
    above: dict[str | None, set[str]] = {None: set()}
    """Each stage with all that it comes after."""
    for node in nodes:
        above[node.name] = {node.name, *(name for one in node.awaits for name in above[one])}

    def draw(node: GraphNode, lead: str, branch: str, rest: str) -> None:
        others = sorted(set(node.awaits) - above[_parent(node, order)], key=order.__getitem__)
        also = f"  (also after {', '.join(others)})" if others else ""
        state = f"  {node.state}" if node.state else ""
        detail = f" ({node.detail})" if node.detail else ""
        lines.append(f"{lead}{branch}{node.name} [{node.kind}]{state}{detail}{also}")
        children = below.get(node.name, [])
        for place, child in enumerate(children):
            is_last = place == len(children) - 1
            draw(child, lead + rest, "└─ " if is_last else "├─ ", "   " if is_last else "│  ")

    for root in below.get(None, []):
        draw(root, "", "", "")
    return lines


def _parent(node: GraphNode, order: dict[str, int]) -> str | None:
    return max(node.awaits, key=order.__getitem__, default=None)


def draw_svg(nodes: Sequence[GraphNode]) -> str:
    """Draw stages as boxes in columns, each column behind what its stages wait for."""
    column: dict[str, int] = {}
    rows: dict[int, int] = {}
    at: dict[str, tuple[int, int]] = {}
    for node in nodes:
        column[node.name] = max((column[name] + 1 for name in node.awaits), default=0)
        row = rows.get(column[node.name], 0)
        rows[column[node.name]] = row + 1
        x = _MARGIN + column[node.name] * (_WIDTH + _GAP_X)
        at[node.name] = x, _MARGIN + row * (_HEIGHT + _GAP_Y)
    width = max(x for x, _ in at.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in at.values()) + _HEIGHT + _MARGIN
    lines = [_arrow(at[name], at[node.name]) for node in nodes for name in node.awaits]
    boxes = [_box(node, *at[node.name]) for node in nodes]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
    head += f'role="img" aria-label="{len(nodes)} stages, each to the right of those that it waits for">'
    return "\n".join([head, *lines, *boxes, "</svg>"]) + "\n"


def _box(node: GraphNode, x: int, y: int) -> str:
    colour, middle = _COLOURS.get(node.state, "#f2f2f2"), x + _WIDTH // 2
    below = " · ".join(filter(None, [node.kind, node.detail or node.state]))
    tip = " · ".join(filter(None, [node.name, node.kind, node.state, node.detail, node.run]))
    return (
        f"<g><title>{escape(tip)}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{colour}" stroke="#666"/>'
        f'<text x="{middle}" y="{y + 20}" text-anchor="middle" font-size="14">{escape(node.name)}</text>'
        f'<text x="{middle}" y="{y + 37}" text-anchor="middle" font-size="11" fill="#555">{escape(below)}</text></g>'
    )


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT // 2, end[0], end[1] + _HEIGHT // 2
    middle = (x1 + x2) // 2
    return f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}" fill="none" stroke="#888"/>'
