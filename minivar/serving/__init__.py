"""Models that answer many people at once: batches that change while they are drawn, a queue, a page and an API."""

from minivar.serving.continuous import ContinuousBatch
from minivar.serving.jobs import Engine, Job
from minivar.serving.pyramids import PyramidBatch
from minivar.serving.service import Limits, Request, Service
from minivar.serving.worker import Full, Worker

__all__ = ["ContinuousBatch", "Engine", "Full", "Job", "Limits", "PyramidBatch", "Request", "Service", "Worker"]
