"""Harmless words of libraries stay out of the logs of ranks; what explains an error does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training_runs import ASSETS

_LOAD = """
import logging, sys
from jobs.rank.library_messages import hide_harmless_messages
hide_harmless_messages()
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification
settings = {"vocab_size": int(sys.argv[2])} if sys.argv[2:] else {}
AutoModelForSequenceClassification.from_pretrained(sys.argv[1], **settings)
"""
_KERNEL = """
import logging
from jobs.rank.library_messages import hide_harmless_messages
hide_harmless_messages()
logging.basicConfig()
logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no such package")
logger.warning("something else")
"""


def printed(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_head_and_unused_weights_are_no_table_in_the_log() -> None:
    assert json.loads((ASSETS / "stories260k" / "config.json").read_text())["vocab_size"] != 99

    assert "LOAD REPORT" not in printed(_LOAD, ASSETS / "stories260k")
    assert "LOAD REPORT" in printed(_LOAD, ASSETS / "stories260k", "99")  # shapes differ: the table is the error's


def test_a_kernel_that_nobody_asked_for_is_not_missed() -> None:
    said = printed(_KERNEL)

    assert "kernels-community" not in said and "something else" in said
