"""The page of `launcher chat --web`: Gradio on 127.0.0.1 with a password, which keeps nothing.

Answers are shown as they are, without Markdown, and escaped, since Gradio 6.31 shows HTML even without Markdown: an
image in an answer would make the browser fetch what the model wants. The page may load from its own server only.
"""

import html
import os
import secrets
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr

from jobs.chat.directions import ADDRESS, USER, directions
from jobs.chat.model import ChatModel
from jobs.chat.page_session import PageSession, PageSessions
from jobs.chat.page_style import CSS, theme
from jobs.chat.settings import ChatSettings
from launcher.errors import LauncherError
from launcher.recipe.sections.chat import ChatRequest

_POLICY = (
    b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; frame-ancestors 'none'; "
    b"form-action 'self'"
)
"""Content-Security-Policy: nothing from or to any other place."""
_FILES = ("/assets/", "/static/", "/gradio_api/assets/")
"""Gradio's own files, which a browser may keep."""


def serve(models: Sequence[ChatModel], settings: ChatSettings, request: ChatRequest) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        models: One, or two that answer side by side.
        settings: How they answer at the start.
        request: Says which port, and how the node is reached.

    Raises:
        LauncherError: the port is taken.
    """
    password, over = secrets.token_urlsafe(12), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    page = build(models, settings)
    try:
        _launch(page, password, request.port)
    except OSError:  # gradio's own message names variables of its own
        which = f"port {request.port} is" if request.port else "all ports from 7860 to 7959 are"
        raise LauncherError(f"--port: {which} taken on `{os.uname().nodename}`; write another") from None
    for line in directions(page.server_port, password, request.login_host):
        print(line, flush=True)
    over.wait()
    page.close(verbose=False)


def _launch(page: gr.Blocks, password: str, port: int | None) -> None:
    # gradio asks its own server whether it is up, which must not go through a site's proxy.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), ADDRESS]))
    page.queue(default_concurrency_limit=1, api_open=False).launch(
        server_name=ADDRESS,
        server_port=port,
        auth=(USER, password),
        auth_message=f"The user is `{USER}`. The password is shown where the page was started.",
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=1,  # nothing is uploaded
        theme=theme(),
        css=CSS,
        app_kwargs={"middleware": [(_OnlyFromHere, (), {})], "docs_url": None, "redoc_url": None},
    )


class _OnlyFromHere:
    """Tells browsers to load nothing from elsewhere, and to keep no copy of what is said."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer")]
                headers = message["headers"]
                if not scope["path"].startswith(_FILES):
                    headers = [pair for pair in headers if pair[0].lower() != b"cache-control"]
                    more.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, *more]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


def build(models: Sequence[ChatModel], settings: ChatSettings) -> gr.Blocks:
    """Build the page."""
    sessions = PageSessions(models)
    titles = " and ".join(model.title for model in models)
    with gr.Blocks(title=titles, analytics_enabled=False, fill_width=True) as page, gr.Row(elem_id="page"):
        with gr.Column(scale=5, min_width=340, elem_id="conversation"):
            with gr.Row(elem_id="answers", elem_classes=f"sides-{len(models)}"):
                sides = [_side(model) for model in models]
            with gr.Row(elem_id="asking"):
                question = gr.Textbox(
                    placeholder="Your question", show_label=False, lines=1, max_lines=8, autofocus=True, scale=8,
                    elem_id="question", container=False,
                )  # fmt: skip
                buttons = [
                    gr.Button("Send", variant="primary", min_width=80, elem_id="send"),
                    gr.Button("Stop", min_width=80, elem_id="stop"),
                    gr.Button("Reset", min_width=80, elem_id="reset"),
                ]
        with gr.Column(scale=1, min_width=270, elem_id="controls"):
            controls = _controls(models, settings)
        shown = [part for side in sides for part in side]
        _connect(sessions, settings, question, buttons, controls, shown)

        def forget(request: gr.Request) -> None:
            sessions.close(request.session_hash)

        page.unload(forget)
    return page


def _side(model: ChatModel) -> tuple[gr.Chatbot, gr.HTML]:
    with gr.Column(min_width=320):
        chatbot = gr.Chatbot(
            label=model.title,
            buttons=[],
            render_markdown=False,
            feedback_options=None,
            height="100%",
            allow_file_downloads=False,
            elem_classes="answers",
            placeholder=model.note or "Ask something.",
        )
        return chatbot, gr.HTML("", elem_classes="summary", padding=False)


def _controls(models: Sequence[ChatModel], settings: ChatSettings) -> list[gr.components.Component]:
    """Make the controls: those of `_SETTINGS` in their order, then adapter and system prompt of each model."""
    made: list[gr.components.Component] = [
        gr.Slider(0, 2, settings.temperature, step=0.05, label="Temperature", info="0: the most likely token"),
        gr.Number(settings.max_new_tokens, label="Length", info="tokens of an answer at most", minimum=1, precision=0),
    ]
    for model in models:
        of = f" of {model.title}" if len(models) > 1 else ""
        made.append(gr.Dropdown(model.choices, value=model.choice, label=f"Adapter{of}"))
        made.append(
            gr.Textbox(
                model.first_system_prompt or "",
                label=f"System prompt{of}",
                lines=2,
                max_lines=6,
                interactive=model.has_system_prompt,
                placeholder="none" if model.has_system_prompt else "the chat template accepts none",
            )
        )
    with gr.Accordion("More", open=False):
        made[2:2] = [
            gr.Slider(0.05, 1, settings.top_p, step=0.05, label="Top-p", info="not used at temperature 0"),
            gr.Slider(1, 2, settings.repetition_penalty, step=0.05, label="Repetition penalty", info="1: off"),
            gr.Number(settings.seed, label="Seed", minimum=0, precision=0),
        ]
    return made


_SETTINGS = ("temperature", "max_new_tokens", "top_p", "repetition_penalty", "seed")


def _connect(
    sessions: PageSessions,
    settings: ChatSettings,
    question: gr.Textbox,
    buttons: Sequence[gr.Button],
    controls: Sequence[gr.components.Component],
    shown: Sequence[gr.components.Component],
) -> None:
    """Say what happens when something is typed or pressed."""
    send, stop, reset = buttons

    def ask(text: str, request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        if not text.strip():
            yield [text, *_views(sessions.of(request.session_hash))]
            return
        session = sessions.of(request.session_hash)
        try:
            per_model = values[len(_SETTINGS) :]
            chosen = settings.changed(**dict(zip(_SETTINGS, values, strict=False)))
            for _ in session.ask(text, chosen, per_model[0::2], per_model[1::2]):
                yield ["", *_views(session)]
        except LauncherError as error:
            # Not gr.Error, which hides the conversation behind the word `Error`.
            shown = _views(session)
            yield [text, shown[0], f'<span class="fault">{html.escape(str(error))}</span>', *shown[2:]]

    def end(request: gr.Request) -> None:
        sessions.of(request.session_hash).stop()

    def start_anew(request: gr.Request) -> list[Any]:
        session = sessions.of(request.session_hash)
        session.reset()
        return ["", *_views(session)]

    gr.on(
        [question.submit, send.click], ask, [question, *controls], [question, *shown],
        show_progress="hidden", api_visibility="private", trigger_mode="once",
    )  # fmt: skip
    stop.click(end, None, None, show_progress="hidden", api_visibility="private", queue=False)
    reset.click(start_anew, None, [question, *shown], show_progress="hidden", api_visibility="private", queue=False)


def _views(session: PageSession) -> list[Any]:
    """Return what is shown now: for each model its conversation, and how the last answer ended."""
    texts = [
        [turn | {"content": html.escape(turn["content"], quote=False)} for turn in one] for one in session.messages()
    ]
    return [part for pair in zip(texts, session.summaries(), strict=True) for part in pair]
