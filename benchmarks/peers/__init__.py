"""Servers that `benchmarks.serve_peers` compares with zorse, and what all of them need: environments, models, load."""
