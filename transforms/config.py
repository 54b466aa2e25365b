"""Typed configuration from YAML: one way to read it, one form of error.

An error names the file and line, the field, what was expected and what was got, and every error of
the file is reported at once:

    ranking.yaml:7: labels.completion_cap: expected a number of at least 1, got 'big'

A validator of a model may say `field: ...`, or `field.part: ...`, a line for each mistake: they are
reported at that place.
"""

from __future__ import annotations

import collections
import datetime
import pathlib
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import pydantic
import yaml

from transforms.errors import UsageError, closest

ModelT = TypeVar("ModelT", bound="StrictModel")
_Loc = tuple[Any, ...]

_MAX_GOT = 60
# `field: message`, also `labels.reward: message`.
_NAMED = re.compile(r"(\w+(?:\.\w+)*): (.*)")

_FIELDS = "a mapping of fields"
_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    datetime.date: "a day as YYYY-MM-DD",
    tuple: "a list",
    dict: "a mapping of names to values",
}
# pydantic's name of an error -> what it calls the bound, and what we do.
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "of at most"),
}


class StrictModel(pydantic.BaseModel):
    """Base of all configuration models: unknown fields are errors, values are immutable."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Mistake(NamedTuple):
    """`loc` is the place, names and indices from the root; `text` what was expected and got."""

    loc: _Loc
    text: str


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
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None and _has_alias(root):
            # A few of them, one inside the other, stand for more values than there is memory.
            raise UsageError(f"{name}: has an alias (*name); write the value out")
        mistakes = [] if root is None else list(_misread(loader, root, model))
        data = None if root is None or mistakes else loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{name}{line}: not valid YAML: {_first_line(error)}") from None
    except RecursionError:
        raise UsageError(f"{name}: not valid YAML: nested too deeply") from None
    except (ValueError, AttributeError, TypeError, LookupError):  # of a scalar: !!int x, !!bool x
        raise UsageError(
            f"{name}: not valid YAML: a date, number or tagged value that is none"
        ) from None
    if not mistakes and not isinstance(data, dict):
        raise UsageError(f"{name}: expected {_FIELDS}, got {_got(data)}")
    if not mistakes:
        try:
            return model.model_validate(data)
        except pydantic.ValidationError as error:
            mistakes = list(_found(model, error.errors()))
    lines = [(_line_of(root, mistake.loc), mistake) for mistake in mistakes]
    lines.sort(key=lambda line: line[0])
    raise UsageError("\n".join(f"{name}:{n}: {_path(m.loc)}: {m.text}" for n, m in lines))


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


# --- what YAML takes without a word, or as an exception of its own -------------------------------


def _children(node: yaml.Node) -> Iterator[tuple[Any, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def _nodes(root: yaml.Node) -> Iterator[tuple[_Loc, yaml.Node]]:
    """Every node with its place, the root first."""
    left: collections.deque[tuple[_Loc, yaml.Node]] = collections.deque([((), root)])
    while left:
        loc, node = left.popleft()
        yield loc, node
        left.extend(((*loc, part), child) for part, child in _children(node))


def _has_alias(root: yaml.Node) -> bool:
    """Whether a node stands in two places."""
    seen, left = {id(root)}, [root]
    while left:
        value = left.pop().value
        parts = value if isinstance(value, list) else []
        for part in parts:
            for child in part if isinstance(part, tuple) else (part,):
                if id(child) in seen:
                    return True
                seen.add(id(child))
                left.append(child)
    return False


def _misread(
    loader: yaml.SafeLoader, root: yaml.Node, model: type[StrictModel]
) -> Iterator[_Mistake]:
    """Keys that stand twice, of which YAML keeps the last; values such as 2026-13-09, of which it
    knows the type, but not what they mean; and values that pydantic takes for what they are not:
    true for 1, a number for the seconds of a day."""
    for loc, node in _nodes(root):
        if isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                line = key.start_mark.line + 1
                if key.value in first:
                    text = f"stands twice, in lines {first[key.value]} and {line}"
                    yield _Mistake((*loc, key.value), text)
                first.setdefault(key.value, line)
        elif isinstance(node, yaml.ScalarNode):
            kinds = _at(model, loc)
            kind = node.tag.rpartition(":")[2]
            unknown = [datetime.date] if kind == "timestamp" else []
            expected = _expected_of(kinds or unknown) or f"a valid {kind}"
            try:
                value = loader.construct_object(node)
            except (ValueError, KeyError, AttributeError, OverflowError):
                yield _Mistake(loc, f"expected {expected}, got {node.value}")
                continue
            is_no_number = isinstance(value, bool) and not {bool, str} & set(kinds)
            if (is_no_number and {int, float} & set(kinds)) or (
                kinds == [datetime.date] and value is not None and not _is_day(value)
            ):
                yield _Mistake(loc, f"expected {expected}, got {_got(value)}")


def _is_day(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None
    return type(value) is datetime.date


# --- what pydantic found -------------------------------------------------------------------------


def _found(model: type[StrictModel], errors: Any) -> Iterator[_Mistake]:
    """One for each place of the document, and each line of what a validator said of it."""
    # A mistake in a part may show in the whole once more ("expected at least 1 item").
    inner = {item["loc"][:length] for item in errors for length in range(1, len(item["loc"]))}
    seen = set()
    for item in errors:
        loc = _document_loc(model, item["loc"])
        if item["loc"] in inner or loc in seen:  # a value of several types was tried as each
            continue
        seen.add(loc)
        if item["type"] == "value_error":
            yield from _of_validator(model, loc, item)
        else:
            yield _Mistake(loc, _described(model, loc, item))


def _of_validator(model: type[StrictModel], loc: _Loc, item: Any) -> Iterator[_Mistake]:
    names = _fields_at(model, loc)
    if isinstance(item["input"], dict):
        names |= item["input"].keys()
    for line in item["msg"].removeprefix("Value error, ").splitlines():
        named = _NAMED.fullmatch(line)
        parts = named.group(1).split(".") if named else [""]
        if named and parts[0] in names:
            yield _Mistake((*loc, *parts), named.group(2))
        else:
            yield _Mistake(loc, line)


def _described(model: type[StrictModel], loc: _Loc, item: Any) -> str:
    kind, got, limit = item["type"], _got(item.get("input")), item.get("ctx", {})
    kinds = _at(model, loc)
    expected = _expected_of(kinds)
    if kind == "missing":
        return "expected a value, got nothing"
    if kind == "extra_forbidden":
        fields = sorted(_fields_at(model, loc[:-1]))
        close = closest(str(loc[-1]), fields)
        hint = f"did you mean {close}?" if close else f"expected one of {', '.join(fields)}"
        return f"unknown field; {hint}"
    if kind == "invalid_key" or item["loc"][-1] == "[key]":
        return "expected text as a name; put it in quotes"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = limit[name]
        expected = f"{expected} {words} {bound:{'g' if isinstance(bound, float) else ','}}"
    elif kind in ("too_short", "too_long"):
        words = "at least" if kind == "too_short" else "at most"
        number = limit["min_length" if kind == "too_short" else "max_length"]
        expected = f"{expected} of {words} {number} {'value' if number == 1 else 'values'}"
    elif kind == "string_pattern_mismatch":
        expected = f"text that matches {limit['pattern']}"
    elif kind == "finite_number":
        expected = "a finite number"
    elif kind == "literal_error":
        close = closest(str(item["input"]), limit["expected"].split("'"))
        got += f"; did you mean {close}?" if close else ""
    return f"expected {expected}, got {got}"


def _got(value: Any) -> str:
    """A value as its file has it, short."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = value.isoformat() if isinstance(value, datetime.date) else repr(value)
    return text if len(text) <= _MAX_GOT else f"{text[: _MAX_GOT - 3]}..."


def _path(loc: _Loc) -> str:
    return ".".join(str(part) for part in loc) or "(whole file)"


# --- places --------------------------------------------------------------------------------------


def _members(annotation: Any) -> list[Any]:
    """The types that a value may have, null left out."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [each for part in typing.get_args(annotation) for each in _members(part)]
    return [] if annotation is type(None) else [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _below(kinds: list[Any], part: Any) -> list[Any]:
    """Types of a part of a value; none if it has no such part."""
    found: list[Any] = []
    for kind in kinds:
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if _is_model(kind):
            if part in kind.model_fields:
                found += _members(kind.model_fields[part].annotation)
        elif origin is dict:
            found += _members(args[1])
        elif origin in (tuple, list) and isinstance(part, int):
            found += _members(args[0])
    return found


def _at(model: type[StrictModel], loc: _Loc) -> list[Any]:
    kinds: list[Any] = [model]
    for part in loc:
        kinds = _below(kinds, part)
    return kinds


def _fields_at(model: type[StrictModel], loc: _Loc) -> set[str]:
    return {name for kind in _at(model, loc) if _is_model(kind) for name in kind.model_fields}


def _expected_of(kinds: list[Any]) -> str:
    """The types of a value in plain words."""
    words = []
    for kind in kinds:
        plain = typing.get_origin(kind) or kind
        if plain is typing.Literal:
            words.append(f"one of {', '.join(map(str, typing.get_args(kind)))}")
        else:
            words.append(_FIELDS if _is_model(plain) else _TYPES.get(plain, "another value"))
    return " or ".join(dict.fromkeys(words))


def _document_loc(model: type[StrictModel], loc: _Loc) -> _Loc:
    """The place without what pydantic adds: `[key]`, and which of several types was tried."""
    kinds: list[Any] = [model]
    found: _Loc = ()
    for index, part in enumerate(loc):
        below = [] if part == "[key]" else _below(kinds, part)
        is_unknown_field = index == len(loc) - 1 and any(map(_is_model, kinds))
        if below or (is_unknown_field and part != "[key]"):
            found, kinds = (*found, part), below
    return found


def _line_of(root: yaml.Node | None, loc: _Loc) -> int:
    """1-based line of the deepest part of `loc` that the document has."""
    node, line = root, 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
