"""The device of a batch job: that of the machines where its workers run, which may not be the command's machine."""

from __future__ import annotations

from serving.batch.output import Output
from serving.config import Device, DeviceChoice
from serving.errors import BatchError
from zorse_common.errors import one_line
from zorse_common.storage import Storage


def job_device(choice: DeviceChoice, output: str, address: str | None) -> Device:
    """Return the device of a job at `output`: `choice`, unless that is "auto".

    A job that started before keeps its device, without a look at any machine. Another one takes CUDA if the Ray cluster
    at `address` has GPUs now, or, for a private Ray, if this machine has.

    Raises:
        BatchError: the output cannot be read, or no cluster answers at the address.
    """
    if choice != "auto":
        return choice
    try:
        plan = Output(Storage(output)).plan()
    except OSError as error:
        raise BatchError(f"{output} cannot be read: {one_line(error)}") from error
    if plan is not None:
        return plan.device
    from serving.batch.driver import cluster_device

    return cluster_device(address)
