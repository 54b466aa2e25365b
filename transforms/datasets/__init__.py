"""Kinds of datasets: what a row is, one module a kind.

Each module has `schema(spec)`, `columns(spec)`, `build(listening, spec, within, side)` and the KEY
of its rows; see `transforms.building`.
"""
