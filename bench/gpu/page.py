"""The report as one page without scripts or other files. Standard library only."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { --ink: #1d2329; --soft: #59636e; --paper: #ffffff; --rule: #d5dae0; --ours: #0072b2; --peer: #8a8f96;
  --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa4af; --paper: #15191e; --rule: #353c45; --ours: #56b4e9; --peer: #8d959e;
    --bad: #f0837a; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 60rem; color: var(--soft); }
p.warning { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, td.text { text-align: left; }
td.text { white-space: normal; min-width: 14rem; }
td.bad { color: var(--bad); }
svg { width: 9rem; height: .8rem; display: block; }
rect.ours { fill: var(--ours); } rect.peer { fill: var(--peer); }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""No script, no request, should a name ever get past the escaping."""
_WENT = ("passed", "failed", "not_run")
"""How tests went (`bench/gpu/checks.py`)."""
Rows = Sequence[Sequence[str]]


def page(report: dict[str, Any]) -> str:
    """Make the page of a report."""
    done = {one["name"]: one for one in report["measurements"]}
    parts = [
        *_head(report, done), *_speed(done), *_memory(done), *_collectives(done), *_saves(done), *_others(done),
        *_tests(done), *_missing(done)
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>GPU report</title>'
        f"<style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(report: dict[str, Any], done: dict[str, Any]) -> Iterator[str]:
    machine = done.get("machine", {}).get("result", {})
    gpus = machine.get("gpus") or []
    names = ", ".join(f"{one['name']} ({_size(one['memory'])})" for one in gpus) or "no GPU"
    yield "<h1>GPU report</h1>"
    when, cores = escape(report["when"]), machine.get("cores", "?")
    yield f"<p>{when} UTC, {report['seconds']:.0f} s. {escape(names)}, {cores} cores.</p>"
    if report["smallest"]:
        yield '<p class="warning">Tiny stand-ins on CPUs: the report works, and no number means anything.</p>'
    if machine:
        versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
        product = machine["product"]
        yield f"<p>{escape(versions)}.</p><p>A product of {product['side']} x {product['side']} matrices in "
        yield f"{product['dtype']} reaches "
        yield f"{product['flops'] / 1e12:.3g} TFLOP/s; copies move {machine['copy_bytes_per_second'] / 1e9:,.3g} GB/s, "
        yield "read and written.</p>"


def _speed(done: dict[str, Any]) -> Iterator[str]:
    rows = [one for one in done.values() if "tokens_per_second" in one["result"]]
    if not rows:
        return
    most: dict[str, float] = {}
    for one in rows:
        shape = one["name"].split()[0]
        most[shape] = max(most.get(shape, 0), one["result"]["tokens_per_second"])
    yield "<h2>Speed</h2>"
    head = ("training", "tokens/s", "", "MFU", "step", "peak memory", "of its peer", "losses apart")
    yield _table(head, [_speed_row(one, done, most[one["name"].split()[0]]) for one in rows])
    yield "<p>Tokens are those that are no padding, of all GPUs together. MFU counts the model's own arithmetic, and "
    yield "attention as if each sequence were one document. Of its peer: tokens/s divided by those of the same "
    yield "training by bare torch or TRL; losses that lie far apart would mean that it is not the same.</p>"


def _speed_row(one: dict[str, Any], done: dict[str, Any], most: float) -> list[str]:
    found = one["result"]
    peers = [
        other
        for name, other in done.items()
        if name.startswith(f"{one['name']}: ") and "tokens_per_second" in other["result"]
    ]
    ratio = f"{found['tokens_per_second'] / peers[0]['result']['tokens_per_second']:.3f}" if peers else ""
    apart = f"{_apart(found['losses'], peers[0]['result']['losses']):.1g}" if peers else ""
    kind = "peer" if ": " in one["name"] else "ours"
    width = 100 * found["tokens_per_second"] / most
    rect = f'<rect class="{kind}" width="{width:.1f}" height="8"/>'
    bar = f'<svg viewBox="0 0 100 8" preserveAspectRatio="none">{rect}</svg>'
    mfu = "" if found["mfu"] is None else f"{found['mfu']:.1%}"
    step = f"{1000 * found['step_seconds']:.0f} ms"
    return [
        escape(one["name"]),
        f"{found['tokens_per_second']:,.0f}",
        bar,
        mfu,
        step,
        _size(found["memory"]),
        ratio,
        apart,
    ]


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=False))


def _memory(done: dict[str, Any]) -> Iterator[str]:
    rows = []
    for one in done.values():
        planned = one["result"].get("planned")
        if planned:
            traced = done.get(f"{one['name']}: trace", {}).get("result", {}).get("memory")
            measured, held, plan = one["result"]["memory"], one["result"]["held"], planned["allocated"]
            rows.append(
                [escape(one["name"]), _size(measured), _size(plan), f"{plan / measured:.2f}",
                 _size(traced) if traced else "", f"{traced / measured:.2f}" if traced else "",
                 _size(held) if held else "", _size(planned["memory"])]
            )  # fmt: skip
    if rows:
        yield "<h2>Memory against plan and trace</h2>"
        head = (
            "training",
            "allocated",
            "plan",
            "of measured",
            "trace",
            "of measured",
            "held by the driver",
            "plan, all",
        )
        yield _table(head, rows)
        yield "<p>Plan and trace are bytes of tensors of one rank. What the driver holds includes CUDA's and NCCL's "
        yield "own and what torch keeps for later; the plan adds 2 GB for these. On CPUs measured is all of a "
        yield "process.</p>"


def _collectives(done: dict[str, Any]) -> Iterator[str]:
    found = done.get("all-reduce", {}).get("result")
    if found:
        yield f"<h2>All-reduce by {escape(found['backend'])} among {found['ranks']} ranks</h2>"
        yield _table(
            ("bytes", "time", "bus bandwidth"),
            [
                [
                    _size(row["bytes"]),
                    f"{1e3 * row['seconds']:.3g} ms",
                    f"{row['bus_bytes_per_second'] / 1e9:,.3g} GB/s",
                ]
                for row in found["rows"]
            ],
        )


def _saves(done: dict[str, Any]) -> Iterator[str]:
    rows = []
    for one in done.values():
        if "save_seconds" in one["result"]:
            size, seconds = one["result"]["checkpoint_bytes"], one["result"]["save_seconds"]
            rows.append([escape(one["name"]), _size(size), f"{seconds:.3g} s", f"{size / seconds / 1e9:.3g} GB/s"])
    if rows:
        yield "<h2>The first save</h2>"
        yield _table(("training", "checkpoint", "training waits", "rate"), rows)


def _others(done: dict[str, Any]) -> Iterator[str]:
    halving, machine = done.get("halving", {}).get("result"), done.get("machine", {}).get("result", {})
    if halving:
        yield "<h2>A micro batch that does not fit</h2><p>"
        yield f"{halving['from']} sequences became {halving['to']} in {halving['attempts']} attempts.</p>"
    if flash := machine.get("flash"):
        yield "<h2>Attention of torch</h2>"
        rows = [[escape(name), f"{1e3 * seconds:.3g} ms"] for name, seconds in flash.items()]
        yield _table(("kernel", "forward"), rows)


def _tests(done: dict[str, Any]) -> Iterator[str]:
    parts = [one["result"] for one in done.values() if "passed" in one["result"]]
    if parts:
        passed, failed, not_run = ([name for part in parts for name in part[key]] for key in _WENT)
        yield f"<h2>Tests on a GPU</h2><p>{len(passed)} passed.</p>"
        rows = [["failed", name] for name in failed] + [["not run", name] for name in not_run]
        if rows:
            yield _table(("", "test"), [[kind, f"\0{escape(name)}"] for kind, name in rows])


def _missing(done: dict[str, Any]) -> Iterator[str]:
    rows = [
        [escape(one["name"]), escape(one["status"]), f"\0{escape(one['why'])}"]
        for one in sorted(done.values(), key=lambda one: one["status"] != "failed")
        if one["status"] != "measured"
    ]
    yield "<h2>What was not measured</h2>"
    yield _table(("measurement", "", "why"), rows) if rows else "<p>Nothing: all was measured.</p>"


def _table(head: Sequence[str], rows: Rows) -> str:
    """Make a table; a cell that begins with a null byte is text that may wrap."""
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    if text.startswith("\0"):
        return f'<td class="text">{text[1:]}</td>'
    return f'<td class="bad">{text}</td>' if text == "failed" else f"<td>{text}</td>"


def _size(number: float) -> str:
    """Bytes as people read them, in powers of ten as `launcher plan` does."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"
