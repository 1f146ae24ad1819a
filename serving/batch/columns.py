"""The columns of a job's images, which follow from its plan."""

from __future__ import annotations

from serving.batch.formats.base import LABEL_COLUMN, Columns, Kind, free_name
from serving.batch.plan import Plan


def columns(plan: Plan, *, is_conditional: bool) -> Columns:
    """Return all columns; `is_conditional` says whether a generator has classes."""
    images: dict[str, Kind] = {one.column: "image" for one in plan.passes}
    if plan.verb == "generate":
        return images | {"number": "index", "seed": "index"} | ({LABEL_COLUMN: "int"} if is_conditional else {})
    own = images | {"number": "index", "source": "str"} | dict.fromkeys(error_columns(plan).values(), "float")
    return own | {name: plan.carried[value] for value, name in carried_columns(plan).items()}


def error_columns(plan: Plan) -> dict[int, str]:
    """Return, for the position of each pass that translates back, the column of the cycle's error in grey levels."""
    passes = plan.passes
    return {n: f"{passes[one.translates].column}-l1" for n, one in enumerate(passes) if one.translates is not None}


def carried_columns(plan: Plan) -> dict[str, str]:
    """Return the column of each value of the inputs, by its own name, which a column of the job can have as well."""
    own = {"number", "source", "file_name", *error_columns(plan).values()}
    own |= {name for one in plan.passes for name in (one.column, f"{one.column}_file_name")}
    return {name: free_name(name, own | plan.carried.keys()) if name in own else name for name in plan.carried}
