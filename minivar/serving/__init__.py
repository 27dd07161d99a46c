"""Models that answer many people at once: batches that change while they are drawn, a queue, a page and an API."""

from minivar.serving.continuous import ContinuousBatch
from minivar.serving.jobs import Engine, Job
from minivar.serving.pyramids import PyramidBatch

__all__ = ["ContinuousBatch", "Engine", "Job", "PyramidBatch"]
