"""One module a job: `python -m pipelines.<job>`, or `playhead <job>`."""
