"""The files that are written when every shard has a record; the last one commits the job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serving.batch.inputs import list_inputs, read_entry
from serving.batch.output import CONTACT_SHEET, ERRORS, MANIFEST, REPORT, SHARDS, Output, Record, shard_name
from serving.batch.plan import Plan
from serving.batch.sources.base import Entry
from serving.batch.sources.tar import first_entries
from serving.errors import BatchError
from zorse_common.contact_sheet import Tile, fitted
from zorse_common.contact_sheet import contact_sheet as drawn_sheet
from zorse_common.errors import ZorseError, one_line, printable
from zorse_common.files import UNREADABLE, evenly_spaced
from zorse_common.image_writer import encode
from zorse_common.images import decode_image

_SHEET_SHARDS, _SHEET_IMAGES_PER_SHARD = 8, 8


def commit(output: Output, plan: Plan, records: Sequence[Record], report: Mapping[str, Any]) -> None:
    """Write the table of bad inputs, the contact sheet and the report, and then the manifest.

    `records` are those of all shards, in order. All files but the report are the same whenever the job runs.

    Raises:
        BatchError: a shard of the contact sheet is damaged.
    """
    rows = [json.dumps({"shard": record.shard, **asdict(error)}) for record in records for error in record.errors]
    output.publish(ERRORS, "".join(f"{row}\n" for row in rows).encode())
    try:
        sheet = contact_sheet(output, plan, records)
    except (ZorseError, *UNREADABLE) as error:
        raise BatchError(
            f"a shard cannot be read ({one_line(error)}): try again; --verify makes a damaged one again"
        ) from error
    if sheet is not None:
        output.publish(CONTACT_SHEET, sheet)
    output.publish(REPORT, (json.dumps(report, indent=2) + "\n").encode())
    output.publish(MANIFEST, manifest_json(plan, records).encode())


def manifest_json(plan: Plan, records: Sequence[Record]) -> str:
    """Return the manifest: the digest of the plan, the totals, and the digest and number of images of each shard."""
    shards = [{"shard": r.shard, "sha256": r.sha256, "count": r.count, "errors": len(r.errors)} for r in records]
    totals = {
        "images": sum(record.count for record in records),
        "errors": sum(len(record.errors) for record in records),
        "nbytes": sum(record.nbytes for record in records),
    }
    lines = ",\n".join(f"  {json.dumps(shard)}" for shard in shards)
    head = json.dumps({"plan": plan.digest(), "format": plan.format, **totals})
    return f'{head[:-1]}, "shards": [\n{lines}\n]}}\n'


def contact_sheet(output: Output, plan: Plan, records: Sequence[Record]) -> bytes | None:
    """Return a PNG with the first images of up to eight shards at equal distances, or None if there are no images.

    Shards of arrays (`npy`) have no images to show.
    """
    chosen = evenly_spaced([record.shard for record in records if record.count], _SHEET_SHARDS)
    if not chosen or plan.image_format == "npy":
        return None
    names = [(shard, entry) for shard in chosen for entry in _first_images(output, plan, shard)]
    tiles = [
        Tile(fitted(decode_image(read_entry(entry).image, 3)), printable(entry.name), f"shard {shard_name(shard)}")
        for shard, entry in names
    ]
    total = sum(record.count for record in records) * len(plan.passes)
    return encode(drawn_sheet(f"{plan.models}: {len(tiles)} of {total:,} images", tiles))


def _first_images(output: Output, plan: Plan, shard: int) -> list[Entry]:
    """Return the first images of a shard; what several models made of one input is side by side."""
    folder, name = output.storage / SHARDS, shard_name(shard)
    file = next((file for file in folder.files() if file.startswith(f"{name}.")), name)
    place = (folder / file).uri
    if plan.format == "webdataset":  # to list a shard of small images takes half a second
        if first := first_entries(place, _SHEET_IMAGES_PER_SHARD):
            return first
        raise BatchError(f"{place} has no images")
    entries = list_inputs(place).entries
    if len(plan.passes) > 1:
        entries = sorted(entries, key=lambda entry: entry.name.partition("/")[2])  # the first part is the model
    return entries[:_SHEET_IMAGES_PER_SHARD]
