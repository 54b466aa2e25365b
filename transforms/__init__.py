"""Pure functions on tables and the thin PTransforms around them, one concept a module."""
