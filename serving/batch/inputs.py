"""Lists the input images of a batch job, in a fixed order and with names that are safe and unique."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from serving.batch.output import SHARDS
from serving.batch.sources.base import SOURCES, Contents, Entry, Listing, ReadEntry, source_of
from serving.errors import BatchError
from zorse_common.errors import FetchError, ZorseError, one_line, printable
from zorse_common.files import FilesError, is_hidden, left_out_line
from zorse_common.globs import find_glob
from zorse_common.storage import Storage

_OPEN_PLACES = 16
"""How many folders and archives a process holds open."""
_GONE = "the file is gone: it was there when the inputs were listed"


def list_inputs(uri: str) -> Listing:
    """List the images at `uri`: a folder, a file or archive, or a pattern of these with * and **.

    The archives in a folder count as the images in them; a damaged one is left out, with the reason. Of the output of a
    batch job the shards are listed. The names are relative paths without `..`, without control characters, and without
    the folder `uri`.

    Raises:
        BatchError: there are no images.
        ZorseError: a place is missing or damaged.
    """
    open_place.cache_clear()  # an earlier job of this process may have opened what was replaced since
    listing = _list(uri)
    # An image has the same name wherever its folder lies; one in several archives has the archive's name first.
    entries = sorted(entry._replace(name=safe_name(entry.name)) for entry in listing.entries)
    if not entries:
        reason = f" ({line})" if (line := left_out_line(listing.left_out)) else ""
        raise BatchError(
            f"there are no images at {uri}{reason}: give a folder, an archive, or a pattern such as 'photos/*.jpg'"
        )
    return replace(listing, entries=entries)


def inputs_digest(listing: Listing) -> str:
    """Return the digest of what is known of the inputs without reading them.

    That is the names and sizes of the images, in order, and the sizes and times of change of archives. A file in a
    folder that is replaced by one of equal size does not change the digest, nor does a copy of a folder.
    """
    digest = hashlib.sha256()
    for entry in listing.entries:
        digest.update(json.dumps([entry.name, entry.size, entry.member, entry.at]).encode())
    digest.update(json.dumps(sorted(listing.archives.items())).encode())
    return digest.hexdigest()


def inputs_nbytes(listing: Listing) -> int:
    """Return about how many bytes the images have: in a Parquet file, which lists no sizes, about those of the file."""
    return max(sum(entry.size for entry in listing.entries), sum(size for size, _ in listing.archives.values()))


def check_output(uri: str, output: str) -> None:
    """Refuse an output whose files `list_inputs(uri)` would list the next time.

    Raises:
        BatchError: the output is the input folder or in it, and a pattern does not leave it out.
    """
    glob = find_glob(uri)
    folder = Storage(glob.folder if glob else uri)
    if glob is None:
        folder = shards_of_job(folder)
    outer, inner = _path_parts(folder), _path_parts(Storage(output))
    depth = len(inner) - len(outer)
    if inner[: len(outer)] == outer and (glob is None or glob.depth is None or depth < glob.depth):
        raise BatchError(
            f"the results in {output} would be taken for images the next time: choose an output outside {folder.uri}"
        )


def safe_name(name: str) -> str:
    """Return `name` as a printable relative path that leads to no other folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return printable("/".join(parts)).replace("\\", "_") or "image"


@lru_cache(maxsize=_OPEN_PLACES)
def open_place(kind: str, place: str) -> ReadEntry:
    """Return the reader of a folder or archive, which stays open."""
    return SOURCES.find(kind).reader(place)


def read_entry(entry: Entry) -> Contents:
    """Return the bytes of an image file, and its values.

    Raises:
        FetchError: an object store failed.
        FileNotFoundError: the file, or the archive that it was in, is gone.
        OSError, … (`UNREADABLE`): the file is truncated or encrypted.
        ImageError: a value cannot be read.
    """
    try:
        return open_place(entry.kind, entry.place)(entry)
    except FileNotFoundError as error:
        raise FileNotFoundError(_GONE) from error
    except FilesError as error:
        if Storage(entry.place).kind() == "nothing":
            raise FileNotFoundError(_GONE) from error
        raise
    except OSError as error:
        if Storage(entry.place).local is None:
            where = f"{entry.place}: {printable(entry.member)}"
            raise FetchError(f"{where} cannot be fetched ({one_line(error)})") from error
        raise


def shards_of_job(folder: Storage) -> Storage:
    """Return the folder of the shards if `folder` is the output of a batch job, else `folder`."""
    has_plan = any(name.startswith("plan-") and name.endswith(".json") for name in folder.files())
    return folder / SHARDS if has_plan and SHARDS in folder.folders() else folder


def _path_parts(storage: Storage) -> list[str]:
    """Return the parts of the path of a folder, without links."""
    if storage.local is not None:
        return list(Path(os.path.realpath(storage.local)).parts)
    return [part for part in storage.uri.split("/") if part]


def _list(uri: str) -> Listing:
    glob = find_glob(uri)
    if glob is not None:
        return _list_folder(uri, glob.folder)
    storage = Storage(uri)
    kind = storage.kind()
    if kind == "nothing":
        raise BatchError(f"there is nothing at {uri}: give a folder, an archive, an image file or a pattern")
    if kind == "folder":
        folder = shards_of_job(storage).uri
        return _list_folder(folder, folder)
    archive = source_of(storage.name)
    if archive is not None:
        return replace(SOURCES.find(archive).entries(storage.uri), archives={storage.name: storage.file_facts()})
    size = storage.parent.tree(1).sizes[storage.name]
    return Listing([Entry(storage.name, size, "folder", storage.parent.uri, storage.name)])


def _list_folder(files: str, folder: str) -> Listing:
    """List the images and archives of `files`, the folder `folder` or a pattern of files in it."""
    listing = SOURCES.find("folder").entries(files)
    place = Storage(folder).uri
    entries = [entry._replace(place=place) for entry in listing.entries]
    left_out, facts, columns = listing.left_out, {}, listing.columns
    archives = {name: kind for name in left_out if not is_hidden(name) and (kind := source_of(name))}
    for name, kind in sorted(archives.items()):
        archive = Storage(place) / name
        try:
            inside, facts[name] = SOURCES.find(kind).entries(archive.uri), archive.file_facts()
        except (ZorseError, FileNotFoundError) as error:
            left_out[name] = one_line(error)
            continue
        prefix = f"{PurePosixPath(name).with_suffix('')}/" if len(archives) > 1 else ""
        entries += [entry._replace(name=f"{prefix}{entry.name}") for entry in inside.entries]
        left_out |= inside.left_out
        # Where archives have different kinds of values in a column, they are any JSON.
        columns |= {
            column: kind if columns.get(column, kind) == kind else "json" for column, kind in inside.columns.items()
        }
        del left_out[name]
    return Listing(entries, left_out, facts, columns)
