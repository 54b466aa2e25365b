"""Errors of a configuration name file and line, field, what was expected and what was got."""

from typing import Annotated, Literal

import pydantic
import pytest

from transforms.config import StrictModel, load_yaml, parse_yaml
from transforms.errors import PlayheadError, UsageError


class Labels(StrictModel):
    completion_cap: float = pydantic.Field(1.0, ge=1)
    horizon_days: int = 1


class Recency(StrictModel):
    kind: Literal["recency"]
    half_life_hours: float


class Counts(StrictModel):
    kind: Literal["counts"]
    windows_days: tuple[int, ...]


class Spec(StrictModel):
    name: str
    labels: Labels = Labels()
    features: tuple[Annotated[Recency | Counts, pydantic.Field(discriminator="kind")], ...] = ()

    @pydantic.model_validator(mode="after")
    def _named(self):
        if self.name == "forbidden":
            raise ValueError("name: expected another name")
        return self


def errors_of(text):
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, Spec, "spec.yaml")
    return str(caught.value).splitlines()


def test_a_valid_document():
    spec = parse_yaml(
        "name: a\nlabels: {horizon_days: 2}\nfeatures:\n- {kind: counts, windows_days: [1, 7]}\n",
        Spec,
        "spec.yaml",
    )
    assert spec.labels == Labels(horizon_days=2)
    assert spec.features == (Counts(kind="counts", windows_days=(1, 7)),)
    with pytest.raises(pydantic.ValidationError):
        spec.name = "b"


def test_a_wrong_value_names_line_field_expected_and_got():
    (line,) = errors_of("name: a\nlabels:\n  horizon_days: 1\n  completion_cap: 0.5\n")
    assert line.startswith("spec.yaml:4: labels.completion_cap: expected ")
    assert line.endswith("expected a number of at least 1, got 0.5")


def test_a_wrong_type_quotes_the_value():
    (line,) = errors_of("name: a\nlabels:\n  completion_cap: big\n")
    assert line.startswith("spec.yaml:3: labels.completion_cap: expected a number")
    assert line.endswith("got 'big'")


def test_an_unknown_field_is_named_at_its_own_line():
    (line,) = errors_of("name: a\nlabels:\n  horizon_days: 1\n  horizon_dayz: 2\n")
    assert line == "spec.yaml:4: labels.horizon_dayz: unknown field; did you mean horizon_days?"


def test_a_missing_field_points_at_the_mapping_that_lacks_it():
    assert errors_of("labels: {}\n") == ["spec.yaml:1: name: expected a value, got nothing"]
    (line,) = errors_of(
        "name: a\nfeatures:\n- kind: recency\n  half_life_hours: 1\n- kind: recency\n"
    )
    assert line.startswith("spec.yaml:5: features.1.")
    assert line.endswith("half_life_hours: expected a value, got nothing")


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_must_be_finite(value):
    (line,) = errors_of(f"name: a\nlabels:\n  completion_cap: {value}\n")
    assert line.startswith("spec.yaml:3: labels.completion_cap: expected a finite number")


def test_an_item_of_a_list_is_named_by_its_place():
    (line,) = errors_of(
        "name: a\nfeatures:\n- kind: recency\n  half_life_hours: 1\n"
        "- kind: counts\n  windows_days:\n  - 1\n  - x\n"
    )
    assert line.startswith("spec.yaml:8: ")
    assert "windows_days.1: expected a whole number" in line
    assert line.endswith("got 'x'")


def test_every_error_is_reported_at_once_each_with_its_line():
    lines = errors_of("nome: a\nlabels:\n  completion_cap: 0\n  horizon_days: soon\n")
    assert sorted(line.split(": ")[:2] for line in lines) == [
        ["spec.yaml:1", "name"],
        ["spec.yaml:1", "nome"],
        ["spec.yaml:3", "labels.completion_cap"],
        ["spec.yaml:4", "labels.horizon_days"],
    ]


def test_an_error_of_the_whole_document():
    assert errors_of("name: forbidden\n") == ["spec.yaml:1: name: expected another name"]


@pytest.mark.parametrize(
    ("text", "got"),
    [("", "nothing"), ("# only a comment\n", "nothing"), ("- a\n", "a list"), ("7", "7")],
)
def test_the_root_must_be_a_mapping(text, got):
    assert errors_of(text) == [f"spec.yaml: expected a mapping of fields, got {got}"]


@pytest.mark.parametrize(
    "text",
    ["name: [a\n", "name: a\n\tb: c\n", "name: &x a\nb: *y\n", "a: !!python/object:os.x {}\n"],
)
def test_not_yaml_names_the_line(text):
    (line,) = errors_of(text)
    assert line.startswith("spec.yaml:")
    assert "not valid YAML" in line


def test_an_alias_is_refused():
    (line,) = errors_of("name: &x a\nb: *x\n")
    assert line == "spec.yaml: has an alias (*name); write the value out"


def test_two_documents_in_one_file_are_refused():
    (line,) = errors_of("name: a\n---\nname: b\n")
    assert "not valid YAML" in line


def test_deep_nesting_is_an_error_not_a_crash():
    (line,) = errors_of("name: " + "[" * 5000)
    assert "not valid YAML" in line


def test_a_line_break_in_a_value_does_not_break_the_line():
    (line,) = errors_of('name: a\nlabels:\n  horizon_days: "1\\n2"\n')
    assert line.endswith(r"got '1\n2'")


def test_files(tmp_path):
    path = tmp_path / "spec.yaml"
    with pytest.raises(UsageError, match=r"spec\.yaml: cannot read it: No such file"):
        load_yaml(str(path), Spec)
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(UsageError, match=r"spec\.yaml: not UTF-8 text"):
        load_yaml(str(path), Spec)
    path.write_text("name: å\n", encoding="utf-8")
    assert load_yaml(str(path), Spec).name == "å"
    path.write_text("name: 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"spec\.yaml:1: name: expected text, got 1$"):
        load_yaml(str(path), Spec)


def test_the_command_line_returns_2_for_it():
    assert UsageError.exit_code == 2
    assert issubclass(UsageError, PlayheadError)
