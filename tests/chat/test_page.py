"""`launcher chat --web` in a browser, as a person uses it."""

import re
from pathlib import Path

import pexpect
import pytest

from tests.support.browser import Browser, browser
from tests.support.chat_programs import ChatHome, listening_addresses, writable_files
from tests.support.checkouts import interrupt

MARKER = "zebrafinch"
LOCALHOST = "0100007F"
"""127.0.0.1 as the kernel writes it."""
WATCH = """
window.seen = new Set();
new MutationObserver(() => document.querySelectorAll('[data-testid=bot]').forEach(
    (one, side) => seen.add(side + one.innerText))).observe(
    document.body, {subtree: true, childList: true, characterData: true});
"""
FAULT = "document.querySelector('.summary .fault')"
FITS = f"""(({{left, right, top, bottom}}) => left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight)(
    {FAULT}.getBoundingClientRect())"""
"""Whether all of a reason lies within the window."""
IS_RED = f"(([red, green]) => red > 1.5 * green)(getComputedStyle({FAULT}).color.match(/[0-9]+/g).map(Number))"


@pytest.mark.slow
def test_two_models_are_compared_on_a_page_that_keeps_nothing(tmp_path: Path) -> None:
    home = ChatHome.make(tmp_path / "site")
    with home.chat("--web", "--compare", "lora", "--length", "30") as terminal, browser(tmp_path / "browser") as page:
        terminal.expect(r"ssh -N -L (\d+):127\.0\.0\.1:\1 \w+@\S+\s")
        address = found(terminal, r"then open: +(http://127\.0\.0\.1:\d+)\s")
        user, password = found(terminal, r"user: +(\w+)\s"), found(terminal, r"password: +(\S{16,})\s")
        terminal.expect("Ctrl-C ends the page")
        assert listening_addresses(terminal.pid) == {LOCALHOST}

        page.look(1200, 800, dark=False)
        page.open(address)
        log_in(page, user, "wrong")
        page.wait_for("document.body.innerText.includes('Incorrect')", "a refusal")
        assert page.evaluate(f"fetch('{address}/config').then(answer => answer.status)") == 401
        log_in(page, user, password)
        page.wait_for("document.querySelector('#question textarea') !== null", "the page")

        page.evaluate(WATCH)
        page.type("#question textarea", f"Once <img src='http://example.com/x'> a {MARKER}")
        page.press_enter()
        answers = wait_for_answers(page, "30 tokens")
        assert answers[0] != answers[1]
        for side, answer in enumerate(answers):
            parts = {seen[1:] for seen in page.evaluate("[...seen]") if seen.startswith(str(side))}
            assert len([part for part in parts if part != answer and answer.startswith(part)]) > 3
        assert f"Once <img src='http://example.com/x'> a {MARKER}" in page.text()
        assert page.evaluate("document.querySelectorAll('#answers img').length") == 0

        assert_reasons_are_told(page)
        page.type("#controls input[type=number][min='1']", "450")
        page.type("#question textarea", "And then?")
        page.click("#send")
        page.wait_for("document.querySelectorAll('[data-testid=bot]').length == 4", "a second answer")
        page.click("#stop")
        wait_for_answers(page, "stopped")
        page.click("#reset")
        page.wait_for("document.querySelectorAll('[data-testid=bot]').length == 0", "an empty page")

        assert [one for one in page.requested if not one.startswith((address, "data:", "blob:", "about:"))] == []
        assert listening_addresses(terminal.pid) == {LOCALHOST}
        assert writable_files(terminal.pid) == []
        interrupt(terminal, pexpect.EOF)
    assert home.files_with(MARKER, *answers) == []


def found(terminal: "pexpect.spawn[str]", pattern: str) -> str:
    """Wait for a line of the program, and return a part of it."""
    terminal.expect(pattern)
    assert isinstance(terminal.match, re.Match)
    return str(terminal.match.group(1))


def log_in(page: Browser, user: str, password: str) -> None:
    """Fill in gradio's form."""
    page.type("input[type=password]", password)
    page.type("input:not([type=password])", user)
    page.click("button")


def assert_reasons_are_told(page: Browser) -> None:
    """Ask what cannot be asked: the page says why, where it can be read, and the question stays to be mended."""
    for question, reason in ((f"{MARKER} </s>", "control tokens"), (f"{MARKER} " * 400, "write less")):
        page.type("#question textarea", question)
        page.click("#send")
        page.wait_for(f"{FAULT}?.innerText.includes('{reason}')", f"why `{reason}` was not asked")
        assert page.evaluate("document.querySelector('#question textarea').value") == question
        assert page.evaluate("document.querySelectorAll('[data-testid=bot]').length") == 2
        assert page.evaluate(FITS)
        for dark in (True, False):
            page.look(1200, 800, dark)
            page.wait_for(f"document.body.classList.contains('dark') == {str(dark).lower()}", "other colours")
            assert page.evaluate(IS_RED)


def wait_for_answers(page: Browser, said: str) -> list[str]:
    """Wait until both models have answered, and return the newest answers."""
    ends = "[...document.querySelectorAll('.summary.prose')].map(one => one.innerText)"
    page.wait_for(f"{ends}.filter(one => one.includes('{said}')).length == 2", "the end of the answers")
    sides = "[...document.querySelectorAll('#answers .answers')]"
    last = "[...side.querySelectorAll('[data-testid=bot]')].pop().innerText"
    answers: list[str] = page.evaluate(f"{sides}.map(side => {last})")
    return answers
