"""Typed configuration from YAML: one way to read it, one form of error.

An error names the file and line, the field, what was expected and what was got, and every error of
the file is reported at once:

    ranking.yaml:7: labels.completion_cap: expected a number >= 1, got 'big'
"""

from __future__ import annotations

import pathlib
from typing import Any, TypeVar

import pydantic
import yaml

from transforms.errors import UsageError

_SHOWN_CHARACTERS = 200

ModelT = TypeVar("ModelT", bound="StrictModel")


class StrictModel(pydantic.BaseModel):
    """Base of all configuration models: unknown fields are errors, values are immutable."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse_yaml(text: str, model: type[ModelT], name: str) -> ModelT:
    """Validates `text` against `model`.

    Args:
      text: a YAML document with a mapping at its root.
      model: the model class.
      name: what to call the document in errors, usually its file name.

    Raises:
      UsageError: with one line for each problem.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            # A few of them, one inside the other, stand for more values than there is memory.
            raise UsageError(f"{name}: has an alias (*name); write the value out")
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{name}{line}: not valid YAML: {_first_line(error)}") from None
    except RecursionError:
        raise UsageError(f"{name}: not valid YAML: nested too deeply") from None
    except (ValueError, AttributeError, TypeError, LookupError):  # of 2026-99-99, !!int x, !!bool x
        raise UsageError(
            f"{name}: not valid YAML: a date, number or tagged value that is none"
        ) from None
    if not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise UsageError(f"{name}: expected a mapping of fields, got {got}")
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        found = error.errors()
        # A mistake in a part may show in the whole once more ("expected at least 1 item").
        inner = {item["loc"][:length] for item in found for length in range(1, len(item["loc"]))}
        lines = [
            f"{name}:{_line_of(root, item['loc'])}: {_describe(item)}"
            for item in found
            if item["loc"] not in inner
        ]
        raise UsageError("\n".join(lines)) from None


def load_yaml(path: str, model: type[ModelT]) -> ModelT:
    """`parse_yaml` of a local file."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text; is it a YAML file?") from None
    return parse_yaml(text, model, path)


def _first_line(error: Exception) -> str:
    problem = getattr(error, "problem", None) or str(error)
    return problem.splitlines()[0]


def _describe(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    kind, got = item["type"], item.get("input")
    if kind == "missing":
        return f"{where}: expected a value, got nothing"
    if kind == "extra_forbidden":
        return f"{where}: unknown field; check the spelling, or remove it"
    message = item["msg"]
    for prefix in ("Value error, ", "Input should be "):
        message = message.removeprefix(prefix)
    if kind == "value_error":
        return f"{where}: {message}" if item["loc"] else message
    shown = repr(got)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}..."
    return f"{where}: expected {message}, got {shown}"


def _line_of(root: yaml.Node | None, loc: tuple[Any, ...]) -> int:
    """1-based line of the deepest part of `loc` that the document has."""
    node, line = root, 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                continue  # pydantic adds union tags to loc; the document does not have them
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
