"""Batch jobs in Python: `zorse.batch.generate`, `translate` and `job_status`."""

from serving.batch.job import JobOptions, JobResult, generate, translate
from serving.batch.status import JobStatus, job_status

__all__ = ["JobOptions", "JobResult", "JobStatus", "generate", "job_status", "translate"]
