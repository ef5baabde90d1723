"""Jobs: functions with a name, types and defaults; what triggers them; the registry of a worker.

Nothing here runs a job or talks to a database.
"""

from durably.jobs.job import Defaults, Given, Job, JobDecorator, JobRef, Target, job
from durably.jobs.registry import Registry, jobs_of_module, listed
from durably.jobs.trigger import TriggerOptions, build_parsed, build_run

__all__ = [
    "Defaults",
    "Given",
    "Job",
    "JobDecorator",
    "JobRef",
    "Registry",
    "Target",
    "TriggerOptions",
    "build_parsed",
    "build_run",
    "job",
    "jobs_of_module",
    "listed",
]
