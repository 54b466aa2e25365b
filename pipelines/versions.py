"""How a command line names a published version."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transforms.manifest import Manifest


def resolve(path: str, expected: str) -> tuple[str, Manifest]:
    """The root and manifest of what a path names: a version's folder, or a root's current version.

    Args:
      path: as the user gave it.
      expected: what should be there, for the error ("a dataset").

    Raises:
      UsageError: if nothing is published there.
      DataRefusedError: if what is there is damaged.
    """
    from transforms import manifest, storage

    path = path.rstrip("/") or path
    if storage.exists(storage.join(path, manifest.MANIFEST_NAME)):
        root, version = os.path.split(os.path.abspath(path) if storage.is_local(path) else path)
        found = manifest.load(root, version)
        if found is not None:
            return root, found
    return path, manifest.require_current(path, expected)
