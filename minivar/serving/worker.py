"""A model's worker: one thread that draws, and the queue in front of it."""

import logging
import threading

import torch

from minivar.serving.jobs import Engine, Job

log = logging.getLogger(__name__)


class Full(ValueError):
    """More pictures are waiting than the queue may hold, or the server is about to stop: ask again later."""


class Worker:
    """Draws jobs with ``engine`` in a thread of its own, first come, first served; nothing submitted is lost.

    Every job ends in one event for its listener: "done", or "failed". At most ``most_waiting`` pictures wait. An idle
    engine gives others ``gather`` seconds to come before it begins, which is for those that nobody can join later.
    If a batch fails, nobody knows for whose sake: its jobs are drawn again, each alone, and fail alone if they must.
    """

    def __init__(self, engine: Engine, most_waiting: int = 256, gather: float = 0.0) -> None:
        self.engine, self.most_waiting, self.gather = engine, most_waiting, gather
        self.waiting: list[Job] = []
        self.counts = {"drawn": 0, "failed": 0, "dropped": 0, "refused": 0}
        self.closing, self.changed = False, threading.Condition()  # who holds it may look at and change the queue
        self.threads = torch.get_num_threads()
        self.thread = threading.Thread(target=self._run, name="minivar-worker", daemon=True)
        self.thread.start()

    # What other threads call ---------------------------------------------------------------------------------

    def submit(self, jobs: list[Job]) -> None:
        """Put jobs in the queue, all of them or, with ``Full``, none."""
        with self.changed:
            if self.closing:
                raise Full("The server is stopping and takes no more requests: ask again when it is back.")
            if len(self.waiting) + len(jobs) > self.most_waiting:
                self.counts["refused"] += len(jobs)
                raise Full(
                    f"The queue is full: {len(self.waiting)} pictures are waiting, {len(jobs)} more were asked for, "
                    f"and {self.most_waiting} may wait; ask again in a moment."
                )
            self.waiting += jobs
            self.changed.notify()

    def cancel(self, jobs: list[Job]) -> None:
        """Nobody waits for these any more: they are not begun, and those that are being drawn are dropped."""
        with self.changed:
            for job in jobs:
                if not (job.ended or job.gone):
                    job.gone = True
                    self.counts["dropped"] += 1
            self.changed.notify()

    def status(self) -> dict[str, object]:
        """How many pictures wait and are being drawn, and what became of the others."""
        with self.changed:
            busy = {"waiting": len(self.waiting), "drawing": len(self.engine.jobs)}
            return {"alive": self.thread.is_alive(), **busy, **self.counts}

    def close(self) -> None:
        """Take no more, draw what is there, and end the thread."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    # The thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.set_num_threads(self.threads)  # a setting of each thread
        try:
            while self._anything_to_do():
                try:
                    self._fill()
                    if self.engine.jobs:
                        self._tell(self.engine.step())
                except Exception as error:  # whatever it is, others must be served
                    self._after_failure(error)
        except Exception as error:  # not even that was possible: the thread ends, and nobody is left waiting for it
            with self.changed:
                self.closing, left = True, [*self.engine.jobs, *self.waiting]
            for job in left:
                self._end(job, "failed", error)

    def _anything_to_do(self) -> bool:
        """Wait until there is, and True; or False: there is nothing, and nothing will come."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.engine.jobs or self.closing)
            if self.gather and self.waiting and not self.engine.jobs:
                self.changed.wait_for(lambda: len(self.waiting) >= self.engine.slots or self.closing, self.gather)
            return bool(self.waiting or self.engine.jobs)

    def _fill(self) -> None:
        """Let go whom nobody waits for, and let in whoever may join."""
        for job in [job for job in self.engine.jobs if job.gone]:
            self.engine.drop(job)
        while (job := self._next_job()) is not None:
            try:
                self.engine.join(job)
            except Exception as error:
                self._after_failure(error, job)

    def _next_job(self) -> Job | None:
        """The first in the queue that may join now; who must be alone lets nobody pass."""
        with self.changed:
            self.waiting = [job for job in self.waiting if not job.gone]
            drawing = self.engine.jobs
            if len(drawing) >= self.engine.slots or any(job.alone for job in drawing):
                return None
            for i, job in enumerate(self.waiting):
                if job.alone and drawing:
                    return None
                if self.engine.admits(job):
                    return self.waiting.pop(i)
            return None

    def _after_failure(self, error: Exception, joining: Job | None = None) -> None:
        """Of one job: it fails. Of several: each is tried again alone, before all that wait."""
        jobs = [job for job in self.engine.jobs if not job.gone and job is not joining]
        jobs += [] if joining is None else [joining]
        with self.changed:
            self.waiting = jobs + self.waiting  # before all else: whatever happens now, they are not lost
        self.engine.clear()
        if len(jobs) == 1:
            self._end(jobs[0], "failed", error)
            return
        log.warning("A batch of %d failed (%s): each of them is drawn again, alone.", len(jobs), error)
        for job in jobs:
            job.restart()
            job.alone = True

    def _tell(self, moved: list[Job]) -> None:
        """Show the pictures that are finished, and of others those that are watched."""
        jobs = [job for job in moved if not job.gone and (job.watched or job.stage == self.engine.stages)]
        if not jobs:
            return
        try:
            images = self.engine.images(jobs).float().cpu()
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._tell([job])
            else:
                self._end(jobs[0], "failed", error)
            return
        for job, image in zip(jobs, images, strict=True):
            if job.stage == self.engine.stages:
                self._end(job, "done", image)
            else:
                self._say(job, "stage", image)

    def _end(self, job: Job, event: str, value: object) -> None:
        """The last event of a job, unless nobody waits for it any more."""
        with self.changed:
            if job.gone:
                return
            job.ended = True
            job.gone = event == "failed"  # a picture that could not be shown may still be in the batch
            self.counts["drawn" if event == "done" else "failed"] += 1
        if event == "failed":
            log.error("Class %d with seed %d could not be drawn.", job.label, job.seed, exc_info=value)
        self._say(job, event, value)

    @staticmethod
    def _say(job: Job, event: str, value: object) -> None:
        try:
            job.listen(job, event, value)
        except Exception:  # a listener that has ended must not end the worker
            log.exception("Nobody heard that class %d with seed %d is %s.", job.label, job.seed, event)
