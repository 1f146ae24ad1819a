"""The output of a batch job: a folder on a disk or an object store, and the order in which files appear in it.

    plan-<digest>.json      the plan, written first
    shards/<shard>…         the files of a shard
    records/<shard>.json    the shard's record: its files are whole; written after them
    errors.jsonl, …         the summary, written when all shards have records
    manifest.json           the commit, written last

Every file appears whole or not at all. On a disk it is written under another name in `.temporary`, forced to the disk,
and renamed; on an object store it is written by one request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from serving.batch import disk
from serving.batch.plan import Plan
from serving.errors import BatchError
from zorse_common.errors import one_line
from zorse_common.storage import Storage

MANIFEST, SHARDS, RECORDS, TEMPORARY = "manifest.json", "shards", "records", ".temporary"
ERRORS, CONTACT_SHEET, REPORT = "errors.jsonl", "contact-sheet.png", "report.json"
_PLAN, _CLAIM = re.compile(r"plan-[0-9a-f]{16}\.json"), re.compile(r"claim-[0-9a-f]{16}-[0-9a-f]{32}\.json")
_THREADS = 16


@dataclass(frozen=True)
class BadItem:
    """An input that became no image, and why. `number` is its position among the inputs."""

    number: int
    name: str
    reason: str


@dataclass(frozen=True)
class Record:
    """What a finished shard holds: `count` images in `files` files of `nbytes` bytes together, and the bad inputs.

    `sha256` is the digest of the shard's file; of several files it is that of the text that `sha256sum` prints for them
    in the order of their names. `plan` is the digest of the plan.
    """

    shard: int
    plan: str
    count: int
    files: int
    nbytes: int
    sha256: str
    errors: tuple[BadItem, ...] = ()

    def to_json(self) -> str:
        """Return the record as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Parse a record. Raises ValueError, TypeError, KeyError or AttributeError if it is not one."""
        fields = json.loads(text)
        errors = tuple(BadItem(**error) for error in fields.pop("errors"))
        return cls(**fields, errors=errors)


def shard_name(shard: int) -> str:
    """Return the name of a shard, such as "000012"."""
    return f"{shard:06d}"


def files_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest of a shard's files, see `Record.sha256`."""
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{value}  {name}\n" for name, value in digests.items()).encode()).hexdigest()


class Output:
    """The output in the folder `storage`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def claim(self, plan: Plan) -> Plan:
        """Write `plan`, unless there is one, and return the one that is there, which equals it.

        The names of plans and claims have the digest of the plan, and each claim a name of its own. Jobs may write
        different plans at once. Each writes a claim first and lists the folder then, so that at least one of two sees
        the other's claim or plan. Whoever does, withdraws its own claim.

        Raises:
            BatchError: the output belongs to a different plan, a different job started at the same moment, or there is
                no plan, but files with the names of a job's.
        """
        taken = self._taken()  # before the plans: a job writes its plan first
        digest = plan.digest()[:16]
        own, claims = f"plan-{digest}.json", f"claim-{digest}-"
        plans = self._files(_PLAN)
        if not plans:
            if self.storage.exists(MANIFEST) and self.manifest(plan) is None:
                raise self._foreign(MANIFEST)
            if taken:
                raise self._foreign(taken)
            claim = f"{claims}{uuid.uuid4().hex}.json"
            self.publish(claim, plan.to_json().encode())
            others = [name for name in self._files(_CLAIM) if not name.startswith(claims)]
            plans = self._files(_PLAN) + others or [own]
            if plans == [own]:
                self.publish(own, plan.to_json().encode())
            self.storage.remove(claim)
        first = self._read_plan(plans[0])
        if plans == [own]:
            return first
        raise BatchError(
            f"{self.storage.uri} belongs to another job ({'; '.join(plan.differences(first))}): repeat its command, "
            "choose another output, or remove the folder"
        )

    def plan(self) -> Plan | None:
        """Return the plan that was written first, or None if there is no job in the folder."""
        names = self._files(_PLAN)
        return self._read_plan(names[0]) if names else None

    def manifest(self, plan: Plan) -> dict[str, Any] | None:
        """Return the manifest of the job with `plan`, or None if the job is not finished.

        A file that is no JSON is a part of a manifest whose upload was broken off.

        Raises:
            BatchError: the file with the manifest's name is something else.
        """
        try:
            manifest = json.loads(self.storage.read(MANIFEST))
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(manifest, dict) or manifest.get("plan") != plan.digest() or "errors" not in manifest:
            raise self._foreign(MANIFEST)
        return manifest

    def recorded(self) -> list[int]:
        """Return the numbers of the shards with the file of a record, in order. No record is read."""
        names = (name.removesuffix(".json") for name in (self.storage / RECORDS).files())
        return sorted(int(name) for name in names if name.isdecimal())

    def record(self, shard: int, plan: str) -> Record | None:
        """Return the record of a shard, or None if it has none of the plan with the digest `plan`."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            record = Record.from_json(self.storage.read(f"{RECORDS}/{shard_name(shard)}.json"))
            if (record.shard, record.plan) == (shard, plan):
                return record
        return None

    def records(self, plan: Plan) -> dict[int, Record]:
        """Return the records of all shards that have one, read by several threads."""
        digest, shards = plan.digest(), (shard for shard in self.recorded() if shard < plan.shards)
        with ThreadPoolExecutor(_THREADS) as pool:
            records = pool.map(lambda shard: self.record(shard, digest), shards)
            return {record.shard: record for record in records if record is not None}

    def lost(self, records: Collection[Record]) -> list[int]:
        """Return the shards of which files are gone or cut off since their records were written. No file is read."""
        now = Output(self.storage)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = zip(records, pool.map(lambda record: now._sizes_of(record.shard), records), strict=True)
            return [one.shard for one, sizes in found if len(sizes) < one.files or sum(sizes.values()) < one.nbytes]

    def publish_shard(self, files: Mapping[str, bytes], record: Record) -> None:
        """Write the files of a shard, by several threads, and then its record.

        Raises:
            OSError: the storage fails. The shard has no record then.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name: self.publish(f"{SHARDS}/{name}", files[name], is_flushed=False), files))
        if self.storage.local is not None:
            disk.flush([self.storage.local / SHARDS / name for name in files], self.storage.local)
        self.publish(f"{RECORDS}/{shard_name(record.shard)}.json", record.to_json().encode())

    def is_whole(self, record: Record) -> bool:
        """Return whether the files of a shard are those of its record; all are read."""
        folder = self.storage / SHARDS
        try:
            files = {name: folder.read(name) for name in self._sizes_of(record.shard)}
        except FileNotFoundError:
            return False
        return files_digest(files) == record.sha256

    def withdraw(self, shard: int) -> None:
        """Remove the commit of the job and the record of a damaged shard, so that a killed repair is continued."""
        for name in (MANIFEST, f"{RECORDS}/{shard_name(shard)}.json"):
            self.storage.remove(name)

    def remove_others(self, shard: int, files: Collection[str]) -> None:
        """Remove the files that have the place of a shard's but are not among its `files`."""
        for name in self._sizes_of(shard):
            if name not in files:
                self.storage.remove(f"{SHARDS}/{name}")

    def _sizes_of(self, shard: int) -> dict[str, int]:
        """Return the size of each file at the place of a shard, `<shard>.…` or in the folder `<shard>`."""
        name = shard_name(shard)
        inside = (self.storage / SHARDS / name).tree().sizes if name in self._listed else {}
        return self._listed.get(f"{name}.", {}) | {f"{name}/{path}": size for path, size in inside.items()}

    @cached_property
    def _listed(self) -> dict[str, dict[str, int]]:
        """The files and folders in `SHARDS` by the name of the shard, which for files has a dot at its end, with sizes.

        It is listed once: with each of a million shards that would be a million names.
        """
        folder = self.storage / SHARDS
        listed: dict[str, dict[str, int]] = {name: {} for name in folder.folders()}
        sizes = folder.tree(1).sizes if folder.files() else {}
        for name, size in sizes.items():
            listed.setdefault(name[: name.find(".") + 1], {})[name] = size
        return listed

    def publish(self, name: str, content: bytes, *, is_flushed: bool = True) -> None:
        """Write the file `name`, whole or not at all, also if several processes write it at once.

        `is_flushed` says whether it is on the disk, and survives a loss of power, when the function returns.

        Raises:
            OSError: the storage fails.
        """
        folder = self.storage.local
        if folder is None:
            self.storage.write(name, content)
            return
        temporary = folder / TEMPORARY / uuid.uuid4().hex
        temporary.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            if is_flushed:
                disk.flush_one(temporary)
            temporary.replace(folder / name)
            if is_flushed:
                disk.flush_one((folder / name).parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def sweep(self) -> None:
        """Remove the temporary files and claims that killed processes left, once there is a plan."""
        with contextlib.suppress(OSError):
            for name in (*self._files(_CLAIM), TEMPORARY):
                self.storage.remove(name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the output against other jobs on this machine. The lock ends with the process, however it ends.

        Raises:
            BatchError: another job has the lock.
            OSError: the folder cannot be made.
        """
        if self.storage.local is None:
            yield
            return
        self.storage.local.mkdir(parents=True, exist_ok=True)
        with disk.locked(self.storage.local) as is_alone:
            if not is_alone:
                raise BatchError(f"another job writes to {self.storage.uri}: wait until it has ended")
            yield

    def is_locked(self) -> bool:
        """Return whether a job has the lock."""
        return self.storage.local is not None and disk.is_locked(self.storage.local)

    def _taken(self) -> str | None:
        """Return a file or folder with the name of one that a job writes after its plan, or sweeps, or None."""
        for folder, own in ((SHARDS, ""), (RECORDS, ""), (TEMPORARY, "[0-9a-f]{32}")):
            inside = self.storage / folder
            if not all(re.fullmatch(own, name) for name in (*inside.files(), *inside.folders())):
                return folder
        return next((name for name in (ERRORS, CONTACT_SHEET, REPORT) if self.storage.exists(name)), None)

    def _foreign(self, name: str) -> BatchError:
        return BatchError(f"{self.storage.uri}/{name} is not of this batch job: choose another output")

    def _files(self, pattern: re.Pattern[str]) -> list[str]:
        return [name for name in self.storage.files() if pattern.fullmatch(name)]

    def _read_plan(self, name: str) -> Plan:
        try:
            return Plan.from_json(self.storage.read(name), f"{self.storage.uri}/{name}")
        except OSError as error:
            raise BatchError(f"{self.storage.uri}/{name} cannot be read: {one_line(error)}") from error
