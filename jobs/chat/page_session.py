"""What one tab of a browser talks about: held in memory, gone when the tab is closed or the program ends."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Lock, Thread

from jobs.chat.dialogue import Dialogue
from jobs.chat.model import ChatModel
from jobs.chat.settings import ChatSettings
from jobs.data.chat.formats import Message
from launcher.errors import LauncherError

_MORE, _OVER = "more", "over"


class PageSession:
    """The dialogues of one tab.

    Answers are written by a thread of their own, which ends whether or not the browser still listens; so no tab that
    is closed keeps the models.

    Args:
        models: Who answers.
    """

    def __init__(self, models: Sequence[ChatModel]) -> None:
        self._dialogues = [Dialogue(model) for model in models]
        self._under_way = [""] * len(models)
        self._question: str | None = None
        self._worker: Thread | None = None
        self._events: SimpleQueue[Exception | str] = SimpleQueue()

    def ask(
        self, question: str, settings: ChatSettings, choices: Sequence[str], system_prompts: Sequence[str]
    ) -> Iterator[None]:
        """Ask all models at once; gives something whenever there is more to show.

        Args:
            question: What the user says.
            settings: How to answer.
            choices: The adapter of each model.
            system_prompts: What each model is told first.

        Raises:
            LauncherError: it cannot be asked.
        """
        self.stop()
        for dialogue, prompt in zip(self._dialogues, system_prompts, strict=True):
            dialogue.set_system_prompt(prompt.strip())
        self._question, self._under_way = question, [""] * len(self._dialogues)
        self._events = SimpleQueue()
        self._worker = Thread(target=self._work, args=(question, settings, choices, self._events), daemon=True)
        self._worker.start()
        yield None
        while (event := self._events.get()) != _OVER:
            if isinstance(event, Exception):
                raise event
            yield None
        yield None

    def stop(self) -> None:
        """End what is being answered, and wait until it has ended."""
        while self._worker and self._worker.is_alive():
            for dialogue in self._dialogues:
                dialogue.stop()
            self._worker.join(0.1)

    def reset(self) -> None:
        """Start anew."""
        self.stop()
        for dialogue in self._dialogues:
            dialogue.reset()

    def messages(self) -> list[list[Message]]:
        """Return what each model's side shows."""
        return [[*dialogue.turns, *self._unfinished(place)] for place, dialogue in enumerate(self._dialogues)]

    def summaries(self) -> list[str]:
        """Say of each model how its newest answer ended; empty before that."""
        return [dialogue.summary() if dialogue.answer and dialogue.turns else "" for dialogue in self._dialogues]

    def _unfinished(self, place: int) -> list[Message]:
        if self._question is None:
            return []
        return [
            {"role": "user", "content": self._question},
            {"role": "assistant", "content": self._under_way[place] or "\N{HORIZONTAL ELLIPSIS}"},
        ]

    def _work(
        self,
        question: str,
        settings: ChatSettings,
        choices: Sequence[str],
        events: "SimpleQueue[Exception | str]",
    ) -> None:
        try:
            with ExitStack() as stack:
                for dialogue, choice in zip(self._dialogues, choices, strict=True):
                    stack.enter_context(dialogue.model.using(choice))
                for _ in self._answer(question, settings):
                    events.put(_MORE)
        except Exception as error:  # raised where the page waits
            self._question = None
            events.put(error)
        self._question = None
        events.put(_OVER)

    def _answer(self, question: str, settings: ChatSettings) -> Iterator[None]:
        """Write the answers of all models side by side."""
        answers = dict(enumerate(dialogue.ask(question, settings) for dialogue in self._dialogues))
        while answers:
            for place in [*answers]:
                try:
                    self._under_way[place] += next(answers[place])
                except StopIteration:
                    del answers[place]
                yield None


class PageSessions:
    """The sessions of all tabs, by gradio's name for each."""

    def __init__(self, models: Sequence[ChatModel]) -> None:
        self._models = models
        self._sessions: dict[str, PageSession] = {}
        self._lock = Lock()

    def of(self, name: str | None) -> PageSession:
        """Return the session of a tab, which is made when it is first asked for."""
        if name is None:
            raise LauncherError("this page is for browsers")
        with self._lock:
            return self._sessions.setdefault(name, PageSession(self._models))

    def close(self, name: str | None) -> None:
        """Forget the session of a tab."""
        with self._lock:
            session = self._sessions.pop(name or "", None)
        if session:
            session.stop()
