"""The single source of every schema, and what is generated from it."""

from schemas.catalog import CATALOG
from schemas.fields import Field, Kind, Schema
from schemas.listening_event import LISTENING_EVENT

__all__ = ["CATALOG", "LISTENING_EVENT", "Field", "Kind", "Schema"]
