"""The checks of `benchmarks.serve_load`, and what they share."""
