"""The schema of an Avro file, checked before anything is decoded with it.

* It is a record, valid, and not recursive; at most `limits.MAX_SCHEMA_DEPTH` deep and
  `MAX_SCHEMA_FIELDS` fields with all references resolved (a few bytes can mean 2^n fields).
* No array has items that take no bytes: it could claim any length.
* Defaults do not count: they are the reader's business, and many writers get them wrong.
* Logical types are known of fields, but decoding is done without them: they would make a Python
  object of each value, where numbers become columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import fastavro
import orjson

from transforms.adapters.containers import limits
from transforms.errors import InputFileError

# Members that do not bear on decoding; the last two would tell fastavro that all is checked.
_NOT_DECODED = {"default", "doc", "aliases", "__fastavro_parsed", "__named_schemas"}
_FLAT = {"boolean", "int", "long", "float", "double", "string"}


class _Shape(NamedTuple):
    """What decoding a type can cost, with references resolved.

    Attributes:
      fields: fields of all records in it.
      depth: levels of types.
      empty: whether a value can take no bytes.
    """

    fields: int = 0
    depth: int = 1
    empty: bool = False


class WriterSchema:
    """A writer's schema.

    Attributes:
      fields: name to type, without defaults and with full names in references.
      plain: the schema to decode with, without logical types.

    Raises:
      InputFileError: when made, for a schema that breaks the rules of the module docstring.
    """

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._named: dict[str, Any] = {}  # by full name
        self._shapes: dict[str, _Shape | None] = {}  # None while being measured
        try:
            root = orjson.loads(text)
        except orjson.JSONDecodeError:
            self._refuse("is not valid JSON")
        if not isinstance(root, dict) or root.get("type") != "record":
            self._refuse("is not a record")
        root = _without(root, _NOT_DECODED)
        self.plain = _without(root, {"logicalType"})
        try:
            parsed: Any = fastavro.parse_schema(root, self._named)
            self.fields = {field["name"]: field["type"] for field in parsed["fields"]}
            twice = len(self.fields) < len(root["fields"])
        except fastavro.schema.UnknownType:
            self._refuse("refers to a type that it does not define")
        except Exception:  # invalid JSON trees raise a TypeError or KeyError there
            self._refuse("is not valid")
        if twice:
            self._refuse("names a field twice")
        self._name = parsed["name"]
        shape = self._shape(self._name, 1)
        if shape.depth > limits.MAX_SCHEMA_DEPTH:
            self._refuse_depth()
        if shape.fields > limits.MAX_SCHEMA_FIELDS:
            self._refuse(f"has {shape.fields} fields, more than {limits.MAX_SCHEMA_FIELDS}")

    def _refuse(self, why: str) -> NoReturn:
        raise InputFileError(self._path, f"the writer's Avro schema {why}")

    def _refuse_depth(self) -> NoReturn:
        self._refuse(f"is nested more than {limits.MAX_SCHEMA_DEPTH} deep")

    def _shape(self, node: Any, depth: int) -> _Shape:
        if depth > limits.MAX_SCHEMA_DEPTH:
            self._refuse_depth()
        if isinstance(node, list):
            branches = [self._shape(branch, depth) for branch in node]
            return _Shape(
                sum(branch.fields for branch in branches),
                max((branch.depth for branch in branches), default=1),
            )
        node = self._definition(node)
        kind = node["type"]
        if kind in ("array", "map"):
            inner = self._shape(node["items" if kind == "array" else "values"], depth + 1)
            if kind == "array" and inner.empty:
                self._refuse("has an array whose items take no bytes")
            return _Shape(inner.fields, inner.depth + 1)
        if kind == "fixed" and (type(node["size"]) is not int or node["size"] < 0):
            self._refuse("is not valid")  # a size of -1 would take all that follows
        if kind != "record":
            return _Shape(empty=kind == "null" or (kind == "fixed" and not node["size"]))
        name = node["name"]
        if name not in self._shapes:
            self._shapes[name] = None
            children = [self._shape(field["type"], depth + 1) for field in node["fields"]]
            self._shapes[name] = _Shape(
                len(children) + sum(child.fields for child in children),
                1 + max((child.depth for child in children), default=0),
                all(child.empty for child in children),
            )
        found = self._shapes[name]
        if found is None:
            self._refuse("is recursive; flatten the record")
        return found

    def _definition(self, node: Any) -> dict[str, Any]:
        """A type that is not a union, as an object; a name becomes what it stands for."""
        if isinstance(node, dict):
            return node
        found: dict[str, Any] = self._named.get(node, {"type": node})
        return found

    def reduced(self, names: Sequence[str]) -> dict[str, Any]:
        """`plain` of some scalar fields, to read no others."""
        defined: set[str] = set()

        def whole(node: Any) -> Any:
            """The type; where a name stands for the first time, what it stands for."""
            if isinstance(node, list):
                return [whole(branch) for branch in node]
            node = _without(self._definition(node), {"logicalType"})
            if "name" not in node:
                return node
            if node["name"] in defined:
                return node["name"]
            defined.add(node["name"])
            return node

        fields = [{"name": name, "type": whole(self.fields[name])} for name in names]
        return {"type": "record", "name": self._name, "fields": fields}

    def kinds(self, field: str) -> set[tuple[str, str]]:
        """(type, logical type or "") of each branch of a field's type, without null.

        A decimal is a type of its own: its bytes are no text.
        """
        node = self.fields[field]
        found = set()
        for branch in node if isinstance(node, list) else [node]:
            definition = self._definition(branch)
            kind, logical = definition["type"], str(definition.get("logicalType", ""))
            if kind != "null":
                found.add(("decimal", "") if logical == "decimal" else (kind, logical))
        return found

    @property
    def is_flat(self) -> bool:
        """Every field is a primitive or null-or-a-primitive, bytes excepted: Polars decodes it."""
        return all(
            len(kinds := self.kinds(name)) == 1
            and {kind for kind, _ in kinds} <= _FLAT
            and not (isinstance(node, list) and len(node) > 2)
            for name, node in self.fields.items()
        )


def _without(node: Any, keys: set[str]) -> Any:
    """The JSON tree without the members of these names."""
    if isinstance(node, dict):
        return {key: _without(value, keys) for key, value in node.items() if key not in keys}
    if isinstance(node, list):
        return [_without(item, keys) for item in node]
    return node
