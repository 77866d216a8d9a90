"""Serves the chat page of a model with a given name, and prints what a browser would get, as JSON.

A program of its own, since Gradio leaves threads and event loops behind:
`python -m tests.support.served_chat_page NAME`.
"""

import json
import sys

import httpx

from jobs.chat.directions import USER
from jobs.chat.page import _launch, build
from jobs.chat.settings import ChatSettings
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.generation import Decoding
from tests.support.chat_subjects import chat_model, subject


def main(name: str) -> None:
    """Serve, ask and print."""
    settings = ChatSettings.of(ChatRequest(subjects=(subject(),), decoding=Decoding(max_new_tokens=4)))
    page = build([chat_model(title=name, adapters={name: ()}, choice=name)], settings)
    _launch(page, "password", None)
    with httpx.Client(base_url=f"http://127.0.0.1:{page.server_port}", trust_env=False) as browser:
        browser.post("/login", data={"username": USER, "password": "password"}).raise_for_status()
        answer = browser.get("/")
    page.close(verbose=False)
    sys.stdout.write(json.dumps({"text": answer.text, "policy": answer.headers["content-security-policy"]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
