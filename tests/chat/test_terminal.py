"""`launcher chat` on a terminal, as a person uses it."""

import signal
from pathlib import Path
from typing import Any

import pexpect
import pytest

from jobs.chat.dialogue import Dialogue
from jobs.chat.settings import ChatSettings
from jobs.chat.terminal import Terminal, _shown
from jobs.evaluation.loaded_model import load_weights
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.generation import Decoding
from tests.support.chat_programs import ChatHome, writable_files
from tests.support.chat_subjects import chat_model, subject
from tests.support.checkouts import interrupt

MARKER = "zebrafinch"
PROMPT = "you> .{0,20}$"


def test_what_could_steer_a_terminal_is_not_shown() -> None:
    assert _shown("a\x1b[2J\tb\nc\x07\x9b") == "a\ufffd[2J\tb\nc\ufffd\ufffd"


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_while_an_adapter_is_loaded_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], presses: int
) -> None:
    model, left = chat_model(), [presses]

    def load(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            signal.raise_signal(signal.SIGINT)
        return load_weights(*arguments)

    monkeypatch.setattr("jobs.chat.model.load_weights", load)
    lines = iter(["/adapter lora", "Once upon a time", "/adapter", "/adapter lora", "/leave"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    request = ChatRequest(subjects=(subject(),), decoding=Decoding(max_new_tokens=4))
    before = signal.getsignal(signal.SIGINT)
    try:
        Terminal([Dialogue(model)], ChatSettings.of(request), colours=False).run()
    finally:
        signal.signal(signal.SIGINT, before)

    told = capsys.readouterr().out.splitlines()
    assert told[0] == "stopped"
    assert told[2].startswith("(4 tokens")
    assert told[3:5] == [
        "stories: adapter `none`; there are also `lora`",
        "stories: adapter `lora`; there are also `none`",
    ]


@pytest.mark.slow
def test_a_conversation_leaves_nothing_behind(tmp_path: Path) -> None:
    home = ChatHome.make(tmp_path)
    with home.chat("--length", "24", "--adapter", "lora") as terminal:
        terminal.expect("llama: fp32 on cpu, chat template `plain`, adapter `none`")
        terminal.expect("no chat template, so `plain` is used")
        terminal.expect("made of credentialed data: nothing that is said here is written to a file")
        ask(terminal, f"Once upon a time a {MARKER}", r"llama> .*\(24 tokens, \d+ a second; cut off there\)")
        ask(terminal, "/adapter lora", "adapter `lora`; there are also `none`")
        ask(terminal, "/length 400", "length 400")
        ask(terminal, "/temperature 0.9", r"temperature 0\.9")
        # Parts of the answer are here long before it ends.
        terminal.expect(PROMPT)
        terminal.sendline("Once upon a time")
        terminal.expect(r"llama> .*\w{2,} \w{2,} \w{2,}")
        terminal.sendintr()
        terminal.expect(r"\((\d+) tokens, \d+ a second; stopped\)")
        assert terminal.match is not None
        assert not isinstance(terminal.match, type)
        assert int(terminal.match.group(1)) < 400
        # A text of several lines is pasted, as terminals mark it.
        ask(terminal, "/length 4", "length 4")
        ask(terminal, f"\x1b[200~first {MARKER}\nsecond line\x1b[201~", r"llama> .*\(4 tokens")
        ask(terminal, "/history", f"(?s)a {MARKER}.*you: first {MARKER}\r\nsecond line\r\nllama: ")
        ask(terminal, "/system Be kind.", "system prompt: Be kind.")
        ask(terminal, "/reset", "the conversation starts anew")
        ask(terminal, "/history", "system: Be kind.\r\nnothing was said yet")
        ask(terminal, "/temprature", "there is no command `/temprature`; there are `temperature`")
        terminal.expect(PROMPT)
        assert writable_files(terminal.pid) == []
        terminal.send(f"half a {MARKER}")
        terminal.expect(f"half a {MARKER}")
        terminal.sendintr()  # clears it
        terminal.expect(PROMPT)
        interrupt(terminal, pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 0
    assert home.files_with(MARKER) == []
    assert {path.name for path in tmp_path.iterdir()} == {"cluster.yaml", "home", "models", "tmp"}


def ask(terminal: "pexpect.spawn[str]", line: str, expected: str) -> None:
    """Type a line once it is asked for, and wait for what is said to it."""
    terminal.expect(PROMPT)
    terminal.sendline(line)
    terminal.expect(expected)


@pytest.mark.slow
def test_two_models_answer_one_after_the_other(tmp_path: Path) -> None:
    home = ChatHome.make(tmp_path)
    with home.chat("--length", "12", "--compare", "lora", "--template", "alpaca") as terminal:
        terminal.expect("llama: fp32 on cpu, chat template `alpaca`, adapter `none`")
        terminal.expect("lora: fp32 on cpu, chat template `alpaca`, adapter `lora`")
        ask(terminal, "Once upon a time", r"(?s)llama> (.*?)\r\n\S*\(12 tokens.*lora> (.*?)\r\n\S*\(12 tokens")
        assert terminal.match is not None
        assert not isinstance(terminal.match, type)
        assert terminal.match.group(1) != terminal.match.group(2)
        ask(terminal, "/again", r"(?s)llama> .*lora> .*\(12 tokens")
        terminal.expect(PROMPT)
        terminal.sendeof()
        terminal.expect(pexpect.EOF)
