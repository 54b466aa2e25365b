"""Raw listening logs with a known truth, for tests, proofs and benchmarks."""
