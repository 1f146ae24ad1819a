"""Benchmarks. `make bench` runs all of them; each writes one JSON file to `benchmarks/results`."""
