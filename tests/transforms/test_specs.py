"""Every field of every spec and mapping, given what it cannot be, is one line in plain words."""

from __future__ import annotations

import datetime
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest
import yaml

from tests import jobs
from transforms import specs
from transforms.adapters import mapping
from transforms.config import parse_yaml
from transforms.errors import UsageError
from transforms.simulation.world import SimulationConfig

JARGON = ("Input should", "pydantic", "tuple", "Traceback", " valid ", "None", "True", "dict")
MODELS = {**specs._KINDS, "mapping": mapping.Mapping, "simulation": SimulationConfig}
# What a field of another type is given, none of which any field of the left side may be.
WRONG: dict[Any, list[Any]] = {
    bool: ["maybe", [], {}, 7, None],
    int: ["many", 1.5, [], {}, True, None, datetime.date(2026, 1, 9), float("nan"), -(10**30)],
    float: ["much", [1.0], {}, True, None, datetime.date(2026, 1, 9), float("inf"), -1e300],
    str: [7, True, [], {}, None, datetime.date(2026, 1, 9)],
    datetime.date: [
        "soon",
        5,
        0,
        True,
        [],
        {},
        datetime.datetime(2026, 1, 9, 12, tzinfo=datetime.UTC),
        "2026-13-09",
    ],
    tuple: ["x", 7, True, {}, None, datetime.date(2026, 1, 9)],
    dict: ["x", 7, True, [], None, datetime.date(2026, 1, 9)],
    pydantic.BaseModel: ["x y", 7, True, [], None],
    typing.Literal: ["somthing", 7, True, [], {}, None],
}

# Their values are checked as a whole.
NAMED = (["reward"], ["x"])
# Right after all: a spec is named after its kind, a mapping's field is short for its column.
FINE = (("name", None), ("user_id", "x y"))
# Fields that go with a value of another one.
TYPES = {"alpha": "popularity", "in_batch_share": "mixed"}


def document_of(name: str) -> dict[str, Any]:
    """The least that a document of the model has to say."""
    if name == "mapping":
        time = {"column": "t", "unit": "s"}
        fields = {"event_type": {"value": "play"}, "user_id": {"column": "u"}, "event_time": time}
        return {"name": "acme", "container": "csv", "fields": fields}
    found: dict[str, Any] = {} if name == "simulation" else {"kind": name}
    if name == "retrieval":
        found["negatives"] = {"sources": [{"type": "uniform", "count": 4}]}
    return found


def types_of(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return types_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [each for part in typing.get_args(annotation) for each in types_of(part)]
    return [annotation]


def places(name: str) -> Iterator[tuple[list[Any], Any]]:
    """(place, type) of everything below a model, with one item of each list and mapping."""

    def below(loc: list[Any], kind: Any) -> Iterator[tuple[list[Any], Any]]:
        yield loc, kind
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            for field, info in kind.model_fields.items():
                for each in types_of(info.annotation):
                    yield from below([*loc, field], each)
        elif origin is tuple:
            for each in types_of(args[0]):
                yield from below([*loc, 0], each)
        elif origin is dict:
            some = {"reward": "liked", "surface_window_minutes": "home", "fields": "user_id"}
            for each in types_of(args[1]):
                yield from below([*loc, some.get(loc[-1], "x")], each)

    for field, info in MODELS[name].model_fields.items():
        for each in types_of(info.annotation):
            yield from below([field], each)


def put(document: Any, loc: list[Any], value: Any) -> Any:
    """The document with the value at the place, and what has to be around it."""
    if not loc:
        return value
    part, *rest = loc
    if isinstance(part, int):
        return [put(document[0] if isinstance(document, list) and document else {}, rest, value)]
    whole = document if isinstance(document, dict) else {}
    return {**whole, part: put(whole.get(part, {}), rest, value)}


def wrong_values() -> Iterator[Any]:
    for name in MODELS:
        seen: dict[str, set[Any]] = {}
        found = list(places(name))
        for loc, kind in found:
            seen.setdefault(str(loc), set()).add(typing.get_origin(kind) or kind)
        for loc in {str(loc): loc for loc, _ in found}.values():
            for wrong in wrong_for(seen[str(loc)]):
                if (loc[-1], wrong) in FINE or (wrong == -1e300 and loc[-2:-1] in NAMED):
                    continue
                yield pytest.param(name, loc, wrong, id=f"{name}-{'.'.join(map(str, loc))}-{wrong}")


def wrong_for(kinds: set[Any]) -> list[Any]:
    """Values that are wrong for each of the types."""
    lists = []
    for kind in kinds - {type(None)}:
        is_model = isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)
        lists.append(WRONG[pydantic.BaseModel if is_model else kind])
    return [
        value
        for value in lists[0]
        if all(repr(value) in map(repr, each) for each in lists)
        and not (value is None and type(None) in kinds)
        and not (isinstance(value, str) and str in kinds)
    ]


@pytest.mark.parametrize(("name", "loc", "wrong"), list(wrong_values()))
def test_a_wrong_value_is_one_line_in_plain_words(name, loc, wrong):
    document = put(document_of(name), loc, wrong)
    if loc[-1] in TYPES:
        document = put(document, [*loc[:-1], "type"], TYPES[loc[-1]])
    text = yaml.safe_dump(document, sort_keys=False)
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, MODELS[name], "s.yaml")
    said = str(caught.value)
    (line,) = said.splitlines()
    place = re.escape(".".join(map(str, loc)))
    assert re.match(rf"s\.yaml:\d+: {place}(\.\w+)*: (expected|unknown) .*, got .", line), line
    assert not [word for word in JARGON if word in line], line


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_field_is_answered_with_the_closest_one(name):
    models = [([], MODELS[name])]
    models += [(loc, kind) for loc, kind in places(name) if hasattr(kind, "model_fields")]
    assert len(models) > (7 if name in specs._KINDS else 0)
    for loc, model in models:
        for field in model.model_fields:
            wrong = f"{field}e"
            document = put(document_of(name), [*loc, wrong], 1)
            with pytest.raises(UsageError) as caught:
                parse_yaml(yaml.safe_dump(document), MODELS[name], "s.yaml")
            place = ".".join(map(str, [*loc, wrong]))
            assert f"{place}: unknown field; did you mean {field}?" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("kind: ranking\nsplits:\n  validation_from: 2026-13-09\n",
         "3: splits.validation_from: expected a day as YYYY-MM-DD, got 2026-13-09"),
        ("kind: ranking\nseed: 1\nlabels: {}\nseed: 2\n",
         "2: seed: stands twice, in lines 2 and 4"),
        ("kind: rankin\n", ("1: kind: expected one of ranking, retrieval, sequences, sessions, "
         "got 'rankin'; did you mean ranking?")),
        ("kind: ranking\nfeatures: 7\n", "2: features: expected a list, got 7"),
        ("kind: ranking\nfeatures: al\n",
         "2: features: expected a list of names, or all, got 'al'"),
        ("kind: ranking\nlabels:\n  skip_1_below_ms: 40000\n",
         ("3: labels.skip_1_below_ms: expected at most skip_2_below_ms (30000), for "
         "the levels are nested, got 40000")),
        ("kind: retrieval\nnegatives: {sources: []}\n",
         "2: negatives.sources: expected a list of at least 1 value, got an empty list"),
        ("kind: ranking\nlabels:\n  reward:\n    1: 2.0\n",
         "4: labels.reward.1: expected text as a name; put it in quotes"),
    ],
)  # fmt: skip
def test_a_build_answers_a_wrong_spec_with_its_line(spec, said, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(spec)
    ended = jobs.call(*jobs.build_argv(tmp_path / "store", path, jobs.DAY, jobs.DAY, tmp_path))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"playhead build: {path}:{said}\n"
