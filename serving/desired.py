"""Which version of each model should run: a pure function of the repository, of what runs and of what was asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from serving.artifacts import Listing, Published


def desired(
    listing: Listing,
    running: Mapping[str, Published],
    refused: Collection[Published],
    unloaded: Collection[str],
) -> dict[str, Published]:
    """Return the version of each model that should run, in the order of names.

    `refused` has the versions that did not prove themselves, which are not tried again, and `unloaded` the models that
    were unloaded by a request.

    - A version is the one that the repository chooses: the newest, or that of the alias.
    - If that one is refused or breaks the contract, the version that runs stays.
    - A model that is no longer in the repository, or that is unloaded, does not run.
    """
    # Keys of what is skipped are `<model>` or `<model>/<version>`.
    skipped = {key.partition("/")[0] for key in listing.skipped}
    wanted: dict[str, Published] = {}
    for model in sorted({*listing.models, *running}.difference(unloaded)):
        version = listing.models.get(model)
        is_left_out = model in skipped if version is None else version in refused
        if is_left_out:
            version = running.get(model)
        if version is not None:
            wanted[model] = version
    return wanted
