"""Translate pydantic's errors: one fault for each key, at its line, with the fix last."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from launcher.errors import Fault, FaultCode
from launcher.load.yaml_scalars import MAX_DIGITS
from launcher.load.yaml_tree import Path, YamlNode, join_path
from launcher.recipe.base import ConflictError, keys_of
from launcher.recipe.field_docs import field_texts

Model = TypeVar("Model", bound=BaseModel)

_FEW = 4
"""Choices that can be listed."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "`true` or `false`",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a section (lines of `key: value`)",
    "model_type": "a section (lines of `key: value`)",
    "greater_than": "a number greater than {gt:.12g}",
    "greater_than_equal": "a number of at least {ge:.12g}",
    "less_than": "a number less than {lt:.12g}",
    "less_than_equal": "a number of at most {le:.12g}",
    "too_short": "at least {min_length} item",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} character",
    "string_too_long": "at most {max_length} characters",
}
_SPELLED_BOOLEANS = {
    **dict.fromkeys(("yes", "on", "y", "True", "TRUE", "Yes", "YES", "On", "ON"), "true"),
    **dict.fromkeys(("no", "off", "n", "False", "FALSE", "No", "NO", "Off", "OFF"), "false"),
}


def validate(model: type[Model], root: YamlNode) -> Model | list[Fault]:
    """Build a model from a tree, or return all its faults."""
    try:
        # JSON, because strict models take lists for tuples only from there.
        return model.model_validate_json(json.dumps(plain(root)))
    except ValidationError as error:
        return _translate(error.errors(include_url=False), model, root)


def plain(node: YamlNode) -> Any:
    """Strip a tree of its origins."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def fault_at(root: YamlNode, path: Path, message: str, code: FaultCode) -> Fault:
    """Make a fault of a key in a tree; a missing key gets the line of the section around it."""
    _, node = _walk(root, path)
    origin, key = node.origin, join_path(path)
    if origin.line is None and origin.file in (f"--set {origin.section}{key}", f"--sweep {key}"):
        key = ""
    visible = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], message)
    return Fault(origin.file, origin.line, f"{origin.section}{key}" if key else "", visible, code)


def _translate(errors: Sequence[ErrorDetails], model: type[BaseModel], root: YamlNode) -> list[Fault]:
    by_path: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        path, node = _walk(root, error["loc"])
        if node.is_refused or _is_filled(node, error):
            continue
        if error["type"] == "missing":
            path = (*path, error["loc"][-1])
        if error["type"].startswith("union_tag"):
            path = (*path, error["ctx"]["discriminator"].strip("'"))
        by_path.setdefault(path, []).append(error)
    return [fault for path, found in by_path.items() for fault in _explain(path, found, model, root)]


def _is_filled(node: YamlNode, error: ErrorDetails) -> bool:
    # pydantic does not count items that have faults.
    return error["type"] == "too_short" and isinstance(node.value, dict | list) and bool(node.value)


def _explain(path: Path, errors: Sequence[ErrorDetails], model: type[BaseModel], root: YamlNode) -> list[Fault]:
    error, node = errors[0], _walk(root, path)[1]
    if error["type"] == "extra_forbidden":
        return [fault_at(root, path, f"unknown key; {_known_keys(path, model, root)}", "unknown-key")]
    if error["type"] == "missing":
        return [fault_at(root, path, _missing(path, model, root), "missing-key")]
    if error["type"].startswith("union_tag"):
        code: FaultCode = "missing-key" if error["type"] == "union_tag_not_found" else "unknown-name"
        return [fault_at(root, path, _unknown_format(error, node, _formats(path, model, root)), code)]
    if error["type"] == "value_error":
        raised = error["ctx"]["error"]
        if isinstance(raised, ConflictError):
            return [_explain_conflict(message, path, root) for message in raised.messages]
        return [fault_at(root, path, str(raised), getattr(raised, "code", "invalid-value"))]
    return [fault_at(root, path, _unexpected(node, errors), _code_of(error["type"]))]


def _code_of(kind: str) -> FaultCode:
    if kind == "literal_error":
        return "unknown-name"
    return "wrong-type" if kind.endswith(("_type", "_parsing", "_from_float")) else "out-of-range"


def _explain_conflict(message: str, section: Path, root: YamlNode) -> Fault:
    key, _, rest = message.partition(": ")
    return fault_at(root, (*section, *key.split(".")), rest, "conflict")


def _walk(root: YamlNode, path: Iterable[str | int]) -> tuple[Path, YamlNode]:
    # pydantic's labels for the branches of a union are not in the tree.
    node, done = root, []
    for key in path:
        if isinstance(node.value, dict) and key in node.value:
            node = node.value[str(key)]
        elif isinstance(node.value, list) and str(key).isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
        else:
            continue
        done.append(key)
    return tuple(done), node


def _unexpected(node: YamlNode, errors: Sequence[ErrorDetails]) -> str:
    expected = " or ".join(dict.fromkeys(_expectation(error) for error in errors))
    told, kind = shown(node), errors[0]["type"]
    if kind == "string_type" and node.text:
        return f'`{node.text}` is not text; write `"{node.text}"`'
    if kind == "bool_type" and node.text in _SPELLED_BOOLEANS:
        return f"`{node.text}` is text in YAML 1.2; write `{_SPELLED_BOOLEANS[node.text]}`"
    if kind == "literal_error" and isinstance(node.value, str):
        return _unknown_choice(node, [choice for error in errors for choice in _choices(error)], expected)
    if kind.startswith("int") and (digits := re.sub(r"(?<=\d)[_,](?=\d{3})", "", node.text)).isdecimal():
        expected = f"`{digits}` without quotes" if digits == node.text else f"`{digits}`"
        expected = f"a whole number of at most {MAX_DIGITS} digits" if len(digits) > MAX_DIGITS else expected
    if kind.startswith("float") and (percent := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", node.text)):
        expected = f"`{float(percent[1]) / 100:.12g}`"
    if kind in ("model_type", "dict_type") and node.text == "true":
        expected += ", or `{}` for the defaults"
    if kind == "tuple_type" and node.text:
        expected = f"a list: `[{node.text}]`"
    return f"{told} is not valid here; write {expected}"


def _unknown_format(error: ErrorDetails, node: YamlNode, formats: Sequence[str]) -> str:
    if error["type"] == "union_tag_not_found":
        return f"required, but missing; write {_either(formats)}"
    return _unknown_choice(node, formats, _either(formats))


def _unknown_choice(node: YamlNode, choices: Sequence[str], expected: str) -> str:
    # Of few choices all are written, unless one is very much like it: `gpu` is more like `cpu` than like `cuda`.
    nearest = difflib.get_close_matches(node.text, choices, n=1, cutoff=0.6 if len(choices) > _FEW else 0.8)
    fix = f"did you mean `{nearest[0]}`?" if nearest else f"write {expected}"
    return f"{shown(node)} is not known; {fix}"


def _either(choices: Iterable[str]) -> str:
    *most, last = (f"`{choice}`" for choice in choices)
    return f"{', '.join(most)} or {last}" if most else last


def shown(node: YamlNode) -> str:
    """Say what a value is; a single one is quoted as it was written."""
    match node.value:
        case dict():
            return "a section" if node.value else "an empty section"
        case list():
            return "a list" if node.value else "an empty list"
        case None:
            return "an empty value"
        case bool():
            return f"the boolean `{node.text}`"
    return f"`{node.text}`"


def _expectation(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return _either(_choices(error))
    if error["type"] == "too_short" and error["ctx"]["field_type"] == "Dictionary":
        return f"at least {error['ctx']['min_length']} line of `key: value`"
    template = _EXPECTED.get(error["type"])
    return template.format(**error.get("ctx", {})) if template else error["msg"].lower()


def _choices(error: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", error["ctx"]["expected"]) if "expected" in error.get("ctx", {}) else []


def _missing(path: Path, model: type[BaseModel], root: YamlNode) -> str:
    section, name = section_at(model, path[:-1], root), path[-1]
    if isinstance(name, int) or section is None:
        return "an item is missing; write one more"
    description = re.split(r"(?<!e\.g)\.(?: |$)", field_texts(section).get(name, "").split("\n")[0])[0]
    return f"required, but missing ({description[:1].lower()}{description[1:]}); write `{name}: ...`"


def _known_keys(path: Path, model: type[BaseModel], root: YamlNode) -> str:
    section, name = section_at(model, path[:-1], root), str(path[-1])
    for outer, info in model.model_fields.items():
        if len(path) == 1 and any(name in keys_of(inner) for inner in sections_in(info.annotation)):
            return f"did you mean `{outer}.{name}`?"
    known = list(keys_of(section)) if section else []
    if nearest := difflib.get_close_matches(name, known, n=1):
        return f"did you mean `{nearest[0]}`?"
    return f"known keys: {', '.join(f'`{key}`' for key in known)}"


def section_at(model: type[BaseModel], path: Path, root: YamlNode) -> type[BaseModel] | None:
    """Find the model of a section by its path; in a union of formats, the one that the tree names."""
    choices, is_named = [model], False
    for place, key in enumerate(path):
        if is_named:  # a section of a name that the recipe chooses: a stage of a pipeline
            is_named = False
        elif isinstance(key, str):
            section = _chosen(choices, _walk(root, path[:place])[1])
            known = section.model_fields if section else {}
            choices = sections_in(known[key].annotation) if key in known else []
            is_named = key in known and get_origin(known[key].annotation) is dict
    return _chosen(choices, _walk(root, path)[1])


def _formats(path: Path, model: type[BaseModel], root: YamlNode) -> list[str]:
    *section, key = (key for key in path if isinstance(key, str))
    within = section_at(model, tuple(section[:-1]), root)
    assert within is not None, path
    return [_tag_value(choice, key) for choice in sections_in(within.model_fields[section[-1]].annotation)]


def _chosen(choices: Sequence[type[BaseModel]], node: YamlNode) -> type[BaseModel] | None:
    if len(choices) > 1:
        key = next(key for key in choices[0].model_fields if all(_is_tag(choice, key) for choice in choices))
        named = node.value.get(key) if isinstance(node.value, dict) else None
        return next((choice for choice in choices if named and _tag_value(choice, key) == named.value), None)
    return next(iter(choices), None)


def _is_tag(section: type[BaseModel], key: str) -> bool:
    # The discriminator of a union has one value in each of its models.
    annotation = section.model_fields[key].annotation if key in section.model_fields else None
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def _tag_value(section: type[BaseModel], key: str) -> str:
    return str(get_args(section.model_fields[key].annotation)[0])


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Find the models inside an annotation such as `tuple[Corpus, ...]` or `Mail | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_in(part)]
