"""Manifests of the first schema, as the second one has them."""

from __future__ import annotations

from typing import Any


def from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """The first schema: one file, square limits, torch as the only reference, and no golden sample."""
    old = {name: data[name] for name in data if name not in ("sha256", "nbytes", "schema_version")}
    source, proof, size = data["source"], data["proof"], data["size"]
    return old | {
        "schema_version": 2,
        "files": {"model.onnx": {"sha256": data["sha256"], "nbytes": data["nbytes"]}},
        "nodes": 0,
        "graph_digest": "",
        "weights_digest": "",
        "source": {name: source[name] for name in ("network", "images_seen", "ema", "config")}
        | {"format": "snapshot", "digest": source["snapshot_digest"]},
        "proof": {name: proof[name] for name in ("max_grey_diff", "psnr", "shapes", "real_images", "onnxruntime")}
        | {
            "tolerance": 1,
            "replay_tolerance": 1,
            "p999_grey_diff": proof["max_grey_diff"],
            "reference": f"torch {proof['torch']}",
            "cycle": None,
        },
        "size": size and {"height": size, "width": size},
        "labels": None,
        "buckets": [],
    }
