"""Measures a server under load: `zorse bench serve`."""
