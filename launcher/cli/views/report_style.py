"""The style of the page that `launcher report --html` writes."""

# Colours of curves: Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/),
# darkened or lightened where a background needs it.
STYLE = (
    """
:root { --ink: #1d2329; --soft: #59636e; --paper: #ffffff; --rule: #d5dae0; --c0: #0072b2; --c1: #c14f00; --c2: #00795a;
  --c3: #b3568a; --c4: #8a6d00; --c5: #2f8fc4; --c6: #5b5b5b; --c7: #7a3fb0; --queued: #c9ced4; --starting: #f0c75e;
  --useful: #1a9850; --redone: #e0704a; --saving: #4f8fd0; --evaluating: #9d7fd0; --lost: #b3261e; --idle: #eceff2; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa4af; --paper: #15191e; --rule: #353c45; --c0: #56b4e9; --c1: #f0933f;
    --c2: #2cc59c; --c3: #e294bf; --c4: #e6d04a; --c5: #9ad0f0; --c6: #b8b8b8; --c7: #bd93ea; --queued: #4a525c;
    --starting: #caa13a; --useful: #36b06b; --redone: #e58461; --saving: #5f9ddb; --evaluating: #a88bd8;
    --lost: #e0554b; --idle: #262c33; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; break-after: avoid; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; break-after: avoid; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 60rem; }
p.soft, dd.soft { color: var(--soft); font-size: .9rem; }
p.restricted { border-left: 4px solid var(--lost); padding-left: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td:not(.text) { white-space: nowrap; }
td.text, td:first-child { overflow-wrap: break-word; max-width: 26rem; white-space: normal; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.2rem 2rem; }
figure.chart { margin: 0; padding: 0 .6rem 1.3rem 3.6rem; position: relative; break-inside: avoid; }
figure.chart.wide { grid-column: 1 / -1; }
figcaption { font-weight: 600; margin: 0 0 .4rem -3.6rem; overflow-wrap: anywhere; }
figure.chart svg { display: block; width: 100%; height: 180px; overflow: visible; }
figure.chart .up { position: absolute; left: 0; width: 3.2rem; height: 180px; }
.up span { position: absolute; right: 0; transform: translateY(-50%); }
.along { position: relative; height: 1.2rem; }
.along span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.up, .along { color: var(--soft); font-size: .78rem; }
svg line.tick { stroke: var(--rule); stroke-width: 1; vector-effect: non-scaling-stroke; }
svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
svg polygon.area { stroke: none; opacity: .22; }
"""
    + "".join(
        f".c{place} {{ stroke: var(--c{place}); }} polygon.c{place} {{ fill: var(--c{place}); }}\n"
        for place in range(8)
    )
    + """svg .dash1 { stroke-dasharray: 6 3; }
svg .dash2 { stroke-dasharray: 2 3; }
ul.legend { list-style: none; margin: .3rem 0 .9rem; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.legend li { overflow-wrap: anywhere; }
.legend svg.key { width: 1.6rem; height: .6rem; margin-right: .4rem; }
.bars { display: grid; grid-template-columns: minmax(5rem, 14rem) 1fr; gap: .1rem 1rem; align-items: center;
  padding-right: 2rem; }
.bars b { font-weight: 400; overflow-wrap: anywhere; font-size: .9rem; }
.bars svg { display: block; width: 100%; height: 26px; }
.bars .along { margin-bottom: .8rem; }
svg line.start { stroke: var(--ink); stroke-width: 1; vector-effect: non-scaling-stroke; }
"""
    + "".join(
        f"rect.{kind} {{ fill: var(--{kind}); }}\n"
        for kind in ("queued", "starting", "useful", "redone", "saving", "evaluating", "lost", "idle")
    )
    + """pre { background: color-mix(in srgb, var(--rule) 30%, transparent); padding: .7rem;
  font-size: .82rem; margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .3rem 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0 .2rem; }
@media screen and (max-width: 46rem) {
  .charts { grid-template-columns: 1fr; }
  .bars { grid-template-columns: 1fr; }
}
@media print {
  @page { margin: 14mm; }
  main { max-width: none; padding: 0; }
  html { font-size: 11px; }
  body { font-size: 11px; }
  th, td { padding: .15rem .35rem; }
  td.text { overflow-wrap: break-word; }
  figure.chart svg, figure.chart .up { height: 120px; }
  .charts { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; }
  tr, .bars { break-inside: avoid; }
  svg rect, svg polygon, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
