"""Style sheet of graft's HTML pages."""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root { --paper: #fbfbf9; --card: #fff; --ink: #1d211f; --soft: #5d6662; --line: #dfe3e0; --leaf: #2e7d4f;
  --error: #b3261e; --warning: #8a5a00; --note: #35618e; }
@media (prefers-color-scheme: dark) { :root { --paper: #141715; --card: #1d211f; --ink: #e8ebe9; --soft: #a2aca7;
  --line: #343b37; --leaf: #6cc48f; --error: #ff8a80; --warning: #f0b95a; --note: #8fbbe8; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 78rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; line-height: 1.35; margin: 0 0 .25rem; overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; color: var(--soft); max-width: 46rem; }
a { color: inherit; text-underline-offset: .2em; }
a:focus-visible { outline: 3px solid var(--leaf); outline-offset: 3px; border-radius: 2px; }
nav ul, ul.cases { list-style: none; margin: 0; padding: 0; }
nav { margin: 1.5rem 0 2.5rem; }
nav li { padding: .35rem 0 .35rem .8rem; border-left: .3rem solid var(--tone); margin-bottom: .3rem; }
.error { --tone: var(--error); } .warning { --tone: var(--warning); } .note { --tone: var(--note); }
section { border-top: 1px solid var(--line); padding: 1.5rem 0; }
.tag { color: var(--tone); font-size: .8rem; font-weight: 700; letter-spacing: .04em; text-transform: uppercase;
  margin-right: .4rem; }
nav .tag { display: inline-block; min-width: 5.2rem; }
@media (max-width: 40rem) { nav .tag { display: block; } }
ul.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; }
ul.cases:has(.pair) { grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
ul.cases > li { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem; }
li > div { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: .6rem; }
li > p { margin: .4rem 0 0; font-size: .85rem; color: var(--tone); }
figure { margin: 0; min-width: 0; }
img, .none { display: block; width: 100%; height: 8.5rem; object-fit: contain; background: var(--paper);
  border-radius: .3rem; }
.none { display: grid; place-items: center; color: var(--soft); font-size: 2rem; }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .4rem; }
figcaption b { overflow-wrap: anywhere; } figcaption i { color: var(--soft); }
figcaption span { display: block; color: var(--soft); font-size: .78rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; max-width: 46rem; font-size: .9rem; }
th { text-align: left; font-weight: 500; padding: .2rem .8rem .2rem 0; overflow-wrap: anywhere; max-width: 16rem; }
td { text-align: right; padding: .2rem .8rem .2rem 0; font-variant-numeric: tabular-nums; }
td:last-child { width: 55%; padding-right: 0; }
.bar { background: var(--leaf); height: .7rem; border-radius: .2rem; min-width: 2px; }
.good { color: var(--leaf); font-size: 1.1rem; }
"""
