"""The docs and the shipped specs say what the spec's models say: every key, type and default."""

import pathlib
import re
import typing

import pydantic
import pytest
import yaml

from transforms import labels, specs
from transforms.timeline import DAY_US

ROOT = pathlib.Path(specs.__file__).parents[1]
PAGES = {
    page: (ROOT / "docs" / f"{page}.md").read_text("utf-8") for page in ("datasets", *specs._KINDS)
}
SHIPPED = sorted((ROOT / "specs").glob("*.yaml"))


def fields_of(model, path=""):
    """(path, field) of a model's fields, and of those of the models in it."""
    for name, field in model.model_fields.items():
        yield path + name, field
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                yield from fields_of(kind, f"{path}{name}.")


def is_of_leaf(field):
    return not (
        isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel)
    )


def shared_keys():
    """Keys that all kinds share, with the default of each as Python."""
    for path, field in fields_of(specs.DatasetSpec):
        if is_of_leaf(field) and path not in ("kind", "name"):
            yield path, field.get_default()


@pytest.mark.parametrize(("path", "default"), list(shared_keys()))
def test_every_shared_key_is_in_the_table_with_its_default(path, default):
    rows = re.findall(
        rf"^\| `{re.escape(path)}` \| (\w+) \| (.*?) \| .+ \|$", PAGES["datasets"], re.M
    )
    ((kind, said),) = rows
    wanted = list(default) if isinstance(default, tuple) else default
    assert yaml.safe_load(said) == wanted
    if wanted is not None and wanted != "all":
        kinds = {int: "integer", float: "number", str: "text", bool: "flag", dict: "map"}
        assert kind in (kinds.get(type(wanted), "list"), "number" if type(wanted) is int else None)


def test_the_table_has_no_other_keys():
    keys = set(re.findall(r"^\| `([a-z_.0-9]+)` \| \w+ \| .*? \| .+ \|$", PAGES["datasets"], re.M))
    assert keys == {path for path, _ in shared_keys()} | {"kind", "name"}


@pytest.mark.parametrize("kind", specs._KINDS)
def test_every_key_of_a_kind_is_on_its_page(kind):
    own = {path for path, _ in fields_of(specs._KINDS[kind])}
    own -= {path for path, _ in fields_of(specs.DatasetSpec)}
    for path in own:
        name = path.split(".")[-1]
        assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", PAGES[kind]), path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_label_of_a_shipped_spec_can_be_known(path):
    spec = specs.load_spec(str(path))
    assert spec.labels.horizon_us >= labels.RETURN_US
    room_days = spec.splits.validation_days
    assert room_days is None or room_days * DAY_US > spec.label_reach_us


def test_what_the_ranking_spec_shows_is_the_default():
    text = (ROOT / "specs" / "ranking.yaml").read_text("utf-8")
    commented = re.sub(r"^# (?=(?:gates|exposure):|  \w+:)", "", text, flags=re.M)
    shown = yaml.safe_load(commented)
    assert {"gates", "exposure"} <= shown.keys()
    made = specs.RankingSpec.model_validate(shown)
    assert made == specs.RankingSpec(kind="ranking")
    for group in ("gates", "exposure", "labels", "splits", "sessions", "attribution", "output"):
        assert shown[group].keys() == type(getattr(made, group)).model_fields.keys()
