"""`python -m jobs.chat`: the program behind `launcher chat`, on a node or on this machine.

What to do is in the environment, which other users of the machine cannot read, unlike the words of a command line.
Exit codes: 0; 2 for what the user can mend.
"""

import os
import resource
import sys

from pydantic import ValidationError

from jobs.rank.library_messages import hide_harmless_messages
from jobs.rank.required_packages import require_extras
from launcher.errors import LauncherError
from launcher.recipe.sections.chat import ChatRequest
from launcher.run.batch_process import CHAT_VARIABLE


def main() -> int:
    """Load the models and talk; return the exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold what was said
    hide_harmless_messages()
    try:
        request = ChatRequest.model_validate_json(os.environ.pop(CHAT_VARIABLE))
        _talk(request)
    except (LauncherError, ValidationError) as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return 0


def _talk(request: ChatRequest) -> None:
    quantised = any(subject.model.quantization for subject in request.subjects)
    extras = ["data", "train", *(["quantization"] if quantised else []), *(["chat"] if request.web else [])]
    require_extras("launcher chat --web" if request.web else "launcher chat", extras)
    import torch

    from jobs.chat.dialogue import Dialogue
    from jobs.chat.model import ChatModel
    from jobs.chat.settings import ChatSettings
    from jobs.chat.terminal import Terminal

    count = torch.cuda.device_count() if request.device == "cuda" else 0
    models = []
    for place, subject in enumerate(request.subjects):
        device = torch.device("cuda", place % count) if count else torch.device("cpu")
        print(f"loading {subject.title} ...", flush=True)
        models.append(ChatModel(subject, device, request.seed))
        print(f"{subject.title}: {models[-1].description}, adapter `{models[-1].choice}`", flush=True)
        if models[-1].note:
            print(f"{subject.title}: {models[-1].note}", flush=True)
    if request.data_use == "credentialed":
        print("made of credentialed data: nothing that is said here is written to a file", flush=True)
    settings = ChatSettings.of(request)
    if request.web:
        from jobs.chat.page import serve

        serve(models, settings, request)
        return
    print("/help lists the commands; Ctrl-C stops an answer; Ctrl-D leaves", flush=True)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    Terminal([Dialogue(model) for model in models], settings, colours).run()


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # taking the interpreter down with torch takes seconds
