"""The style of the page that `launcher compare --html` writes."""

STYLE = """
:root { --ink: #1d2329; --soft: #59636e; --paper: #ffffff; --rule: #d5dae0; --plain: #35566f; --better: #1a7f37;
  --worse: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa4af; --paper: #15191e; --rule: #353c45; --plain: #8fb8d8; --better: #57c27a;
    --worse: #f2837b; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; break-after: avoid; }
table.scores { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scores th, .scores td { padding: .15rem .5rem; text-align: left; vertical-align: middle; }
.scores thead th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--rule); }
.scores tr.task th { padding-top: 1.2rem; font-weight: 400; color: var(--soft); }
.scores tr.task b { color: var(--ink); }
.scores tbody th[scope=row] { font-weight: 400; min-width: 9rem; overflow-wrap: anywhere; }
.scores td.score, .scores td.difference, .scores td.p, .scores td.detectable { white-space: nowrap; }
.scores td.difference, .scores td.p, .scores td.detectable, .scores td.seeds,
.scores thead th:nth-child(n+4) { text-align: right; }
.scores td.plot, .scores tr.axis td:last-child { width: 38%; padding: 0 1rem; }
b.better { color: var(--better); }
b.worse { color: var(--worse); }
svg { display: block; width: 100%; height: 24px; overflow: visible; }
svg line { stroke: var(--plain); stroke-width: 2; vector-effect: non-scaling-stroke; }
svg line.tick { stroke: var(--rule); stroke-width: 1; }
svg line.baseline { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
svg line.better { stroke: var(--better); }
svg line.worse { stroke: var(--worse); }
svg line.dot { stroke-width: 10; stroke-linecap: round; }
svg line.small { stroke-width: 5; opacity: .6; }
.labels { position: relative; height: 1.2rem; color: var(--soft); font-size: .8rem; }
.labels span { position: absolute; transform: translateX(-50%); }
p.small, li, dl { color: var(--soft); font-size: .9rem; }
p.small { margin: .3rem 0; }
table + p.small { margin-top: 1.5rem; }
dt { color: var(--ink); margin-top: .6rem; }
dd { margin: 0 0 0 1rem; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media screen and (max-width: 46rem) {
  .scores thead { display: none; }
  .scores, .scores tbody { display: block; }
  .scores tr { display: flex; flex-wrap: wrap; column-gap: 1rem; padding: .3rem 0; }
  .scores tr.axis { padding: 0; }
  .scores th, .scores td { padding: 0; }
  .scores tbody th[scope=row], .scores tr.task th { width: 100%; }
  .scores td.plot, .scores tr.axis td:last-child { width: 100%; order: 1; padding: 0 1.2rem; }
  .scores tr.axis td:first-child { display: none; }
  .scores td.p:not(:empty)::before, .scores td.detectable:not(:empty)::before, .scores td.seeds::before {
    content: attr(data-name) " "; color: var(--soft); }
}
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 13px; }
  tbody { break-inside: avoid; }
  dt { break-after: avoid; }
  .scores td.plot, .scores tr.axis td:last-child { width: 30%; }
  svg line { print-color-adjust: exact; }
}
"""
