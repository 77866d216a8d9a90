"""Every key of a recipe that names something says in docs/names.md where the name is looked up."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from launcher.recipe import KINDS
from launcher.recipe.quantities import Duration, Quantity

PAGE = Path(__file__).parents[2] / "docs" / "names.md"


def leaves(annotation: Any) -> Iterator[Any]:
    """Give the types that a field's values can be made of."""
    if get_origin(annotation) is Literal:
        return
    inner = get_args(annotation)
    for one in inner[:1] if get_origin(annotation) is Annotated else inner:
        yield from leaves(one)
    if not inner:
        yield annotation


def text_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Give the keys whose values hold text that is no quantity and not one of a few words: `sources.*.files`."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        types = {one for one in leaves(field.annotation) if isinstance(one, type)}
        for one in types:
            if issubclass(one, BaseModel):
                repeats = ".*" if get_origin(field.annotation) is tuple else ""
                yield from text_keys(one, f"{key}{repeats}.")
        if any(issubclass(one, str) and not issubclass(one, Quantity) for one in types):
            yield key


def all_text_keys() -> set[str]:
    return {key for model in KINDS.values() for key in text_keys(model)}


FREE = {
    "adapter.init_text": "text that a prompt starts from",
    "clean.terminology.masking.placeholder": "text that is written",
    "corpus": "the name of what is made",
    "count_in.*.license": "noted, and compared with nothing",
    "data.sources.*.license": "noted, and compared with nothing",
    "data.sources.*.name": "the name that the source gets",
    "data.system_prompt": "text",
    "data.terminology.masking.placeholder": "text that is written",
    "data.chat.system_prompt": "text",
    "data.name": "the name that the questions get",
    "decoding.stop": "text",
    "description": "text",
    "during.tasks.*.answer.forced": "text",
    "during.tasks.*.chat.system_prompt": "text",
    "during.tasks.*.decoding.stop": "text",
    "during.tasks.*.name": "the name that the scores get",
    "during.tasks.*.source.license": "noted, and compared with nothing",
    "during.tasks.*.system_prompt": "text",
    "name": "the name that the run gets",
    "output": "the name of what is made",
    "push_to_hub": "the repository that is made if there is none",
    "rehearsal": "a part of a recipe, checked as one",
    "rewards.*.after": "text that completions are searched for",
    "rewards.*.label": "the name that the reward gets",
    "rewards.*.pattern": "a regular expression; completions may match it or not",
    "rewards.*.system_prompt": "text",
    "sources.*.license": "noted, and compared with nothing",
    "sweep.grid": "keys and values, checked in the recipe of each point",
    "sweep.list": "keys and values, checked in the recipe of each point",
    "sweep.random.keys": "keys and values, checked in the recipe of each point",
    "sweep.zip": "keys and values, checked in the recipe of each point",
    "tasks.*.answer.forced": "text",
    "tasks.*.chat.system_prompt": "text",
    "tasks.*.decoding.stop": "text",
    "tasks.*.name": "the name that the task gets",
    "tasks.*.source.license": "noted, and compared with nothing",
    "tasks.*.system_prompt": "text",
    "terms.*.license": "noted, and compared with nothing",
    "terms.*.type": "the name that a placeholder gives its concepts",
    "tracking.entity": "only W&B knows its users, and says so itself",
    "tracking.project": "W&B makes it",
    "tracking.tags": "W&B makes them",
}
"""Keys whose text names nothing that has to exist, and why."""


def table() -> dict[str, tuple[str, str]]:
    """Each key of the table, where it is looked up and what the error says."""
    rows = re.findall(r"^\| (`.*?`) \| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {key: (where, said) for keys, where, said in rows for key in re.findall("`(.*?)`", keys)}


def test_each_key_that_names_something_is_in_the_table() -> None:
    assert all_text_keys() - FREE.keys() == table().keys(), "write it into docs/names.md, or say above why not"
    assert FREE.keys() <= all_text_keys()


def test_the_table_says_of_each_key_where_it_is_looked_up() -> None:
    for key, (where, said) in table().items():
        assert re.match(r"(validate|node)\b", where), key
        assert len(said) > 10, key


class Inner(BaseModel):
    of_words: Literal["a", "b"]
    words: tuple[str, ...] = ()
    by_name: dict[Annotated[str, "a name"], float] = {}


class Outer(BaseModel):
    inner: tuple[Annotated[Inner, "one of them"], ...]
    time: Duration
    some: Annotated[str, "a name"] | None = None
    number: int = 0


def test_the_walk_finds_text_wherever_it_is() -> None:
    assert sorted(text_keys(Outer)) == ["inner.*.by_name", "inner.*.words", "some"]
