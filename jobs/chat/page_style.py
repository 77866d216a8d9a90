"""How the page of `launcher chat --web` looks, with the fonts that the browser has."""

import gradio as gr

CSS = """
#page { align-items: stretch; }
#answers { flex-wrap: nowrap; }
#answers > .column { gap: 0; }
#answers .answers { height: calc(100dvh - 8.5rem) !important; min-height: 14rem; }
#answers .top-panel { display: none; }
#answers .placeholder-content, #answers .placeholder { padding: 2rem; text-align: center; }
#asking { align-items: end; gap: 0.5rem; }
#asking button { height: 2.6rem; font-weight: 500; }
.summary { min-height: 1.3rem; font-size: 0.8rem; color: var(--body-text-color-subdued); }
.summary .fault { color: #b91c1c; }
.dark .summary .fault { color: #f87171; }
@media (max-width: 700px) {
  #page, #answers { flex-direction: column; }
  #answers .answers { height: calc(100dvh - 13rem) !important; }
  #answers.sides-2 .answers { height: calc(50dvh - 8.5rem) !important; }
  #asking { flex-wrap: wrap; }
  #question { flex-basis: 100%; }
}
"""


def theme() -> gr.themes.Base:
    """Return gradio's plain theme without fonts of other servers."""
    return gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size="sm",
    )
