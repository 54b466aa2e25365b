"""Dataset specs that come with Playhead; copy one and change it."""
