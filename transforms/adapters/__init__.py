"""Log formats: one small module each, found by name.

A name is one of `list_adapters`, the path of a YAML mapping (`.yaml`, `.yml`; see
`transforms.adapters.mapping`), or a module of your own that has an `ADAPTER`: a dotted name, or the
path of a `.py` file. A worker gets an adapter by its name, so a module named by path must lie at
that path on every machine; a dotted name needs the package installed there.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
from types import ModuleType

from transforms.adapters.base import Adapter
from transforms.errors import UsageError, closest

# Name -> module below this package; imported when first asked for.
_BUILT_IN = {
    "avro": "canonical",
    "parquet": "canonical",
    "jsonl": "canonical",
    "spotify": "spotify",
    "spotify_small": "spotify",
    "listenbrainz": "listenbrainz",
    "listenbrainz_spark": "listenbrainz",
    "lastfm1k": "lastfm",
    "yambda_listens": "yambda",
    "yambda_likes": "yambda",
    "yambda_dislikes": "yambda",
    "yambda_unlikes": "yambda",
    "yambda_undislikes": "yambda",
    "yambda_multi_event": "yambda",
    "mssd": "mssd",
}


def get_adapter(name: str) -> Adapter:
    """The adapter called `name`; see the module docstring for what a name can be.

    Raises:
      UsageError: for an unknown name (with the closest match and the list), a mapping with
        mistakes, or a module without an `ADAPTER`.
    """
    if name.endswith((".yaml", ".yml")):
        from transforms.adapters.mapping import load_mapping

        return load_mapping(name)
    if name.endswith(".py"):
        return _adapter_of(_module_at(name), name)
    if name in _BUILT_IN:
        return _built_in(name)
    if "." in name:
        return _adapter_of(_module_named(name), name)
    close = closest(name, _BUILT_IN)
    raise UsageError(
        f"--format: unknown format {name!r}; {f'did you mean {close}? ' if close else ''}"
        f"expected one of {', '.join(_BUILT_IN)}, a mapping (.yaml), or a module of your own"
    )


def list_adapters() -> list[tuple[str, str]]:
    """(name, summary) of every built-in format."""
    return [(name, _built_in(name).summary) for name in _BUILT_IN]


def _built_in(name: str) -> Adapter:
    module = importlib.import_module(f"{__name__}.{_BUILT_IN[name]}")
    adapter: Adapter = module.ADAPTERS[name]
    return adapter


def _module_named(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UsageError(
            f"format {name!r}: no module of that name; install its package, or check the spelling"
        ) from None


def _module_at(path: str) -> ModuleType:
    file = pathlib.Path(path)
    if not file.is_file():
        raise UsageError(f"{path}: no such file")
    name = f"playhead_format_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _adapter_of(module: ModuleType, name: str) -> Adapter:
    adapter = getattr(module, "ADAPTER", None)
    if not isinstance(adapter, Adapter):
        raise UsageError(f"{name}: has no ADAPTER = Adapter(...); see transforms.adapters.base")
    return adapter
