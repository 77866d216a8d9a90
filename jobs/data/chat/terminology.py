"""Change the terms of conversations that are trained on."""

from collections import Counter
from collections.abc import Sequence

from jobs.data.chat.formats import Message
from jobs.data.terminology.text_steps import TextSteps


class ConversationTerms:
    """Normalises the turns of user and assistant, each by itself; masks and varies terms in those of the user only.

    A model must not learn to answer with placeholders, and a system prompt is the same in training and in use.
    """

    def __init__(self, steps: TextSteps) -> None:
        self._steps = steps
        self.counts = Counter[str]()
        """What was changed and left, and conversations that were changed as `documents`."""

    def change(self, messages: Sequence[Message]) -> list[Message]:
        """Change a conversation."""
        changed = [self._change_one(message) for message in messages]
        self.counts["documents"] += changed != list(messages)
        self.counts = +self.counts
        return changed

    def _change_one(self, message: Message) -> Message:
        if message["role"] == "system":
            return message
        done = self._steps.run(message["content"], augments=message["role"] == "user")
        self.counts += done.counts
        return message | {"content": done.text}
