"""Which version of each model should run: a pure function of the repository and of what runs."""

from __future__ import annotations

from collections.abc import Mapping

from serving.artifacts import Listing, Published


def desired(
    listing: Listing, running: Mapping[str, Published], refused: Mapping[str, Published]
) -> dict[str, Published]:
    """Return the version of each model that should run, in the order of names.

    `refused` has the version of a model that did not prove itself. It is not tried again.

    - A version is the one that the repository chooses: the newest, or that of the alias.
    - If that one is refused or breaks the contract, the version that runs stays.
    - A model that is no longer in the repository does not run.
    """
    # Keys of what is skipped are `<model>` or `<model>/<version>`.
    skipped = {key.partition("/")[0] for key in listing.skipped}
    wanted: dict[str, Published] = {}
    for model in sorted({*listing.models, *running}):
        version = listing.models.get(model)
        is_left_out = model in skipped if version is None else version == refused.get(model)
        if is_left_out:
            version = running.get(model)
        if version is not None:
            wanted[model] = version
    return wanted
