"""The one place that says which Playhead this is."""

__version__ = "0.1.0"
