"""Point-in-time features, one module a family; importing this package registers all of them."""

from transforms.features import history, item, request, session, user, user_item
from transforms.features.registry import FEATURES, Feature, compute

__all__ = [
    "FEATURES",
    "Feature",
    "compute",
    "history",
    "item",
    "request",
    "session",
    "user",
    "user_item",
]
