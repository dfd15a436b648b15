"""Runs the rows of several requests together, as TensorFlow Serving does.

A batch closes when it is full, or when its first request has waited
`batch_timeout_micros`. In TensorFlow Serving one bad request fails all the
requests of its batch. Here each request of such a batch is run again by
itself, so that one client's broken image does not fail another client.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from tf_triplet.serving.errors import Code, RequestError

Arrays = Mapping[str, np.ndarray]
# More than any machine has cores, and few enough for a process to start.
_MAX_THREADS = 1024


@dataclasses.dataclass(frozen=True)
class Parameters:
    """TensorFlow Serving's batching_parameters, with its defaults.

    Attributes:
        max_batch_size: Maximum number of rows in a batch.
        batch_timeout_micros: How long the first request of a batch waits for
            others, in microseconds.
        max_enqueued_batches: Maximum number of batches that wait, for each
            signature. A request beyond it is answered with UNAVAILABLE.
        num_batch_threads: Number of batches that run at the same time.
        allowed_batch_sizes: Batch sizes in rising order, of which the last
            is `max_batch_size`. Each batch is padded to the next of them.
            Empty allows any size.
        enable_large_batch_splitting: Whether a request of more than
            `max_batch_size` rows is split. Otherwise it is an error.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False

    def __post_init__(self):
        for name in (
            *("max_batch_size", "max_enqueued_batches"),
            "num_batch_threads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be positive. Received: "
                    f"{getattr(self, name)}"
                )
        if self.num_batch_threads > _MAX_THREADS:
            raise ValueError(
                f"`num_batch_threads` must be at most {_MAX_THREADS}. "
                f"Received: {self.num_batch_threads}"
            )
        if self.batch_timeout_micros < 0:
            raise ValueError(
                "`batch_timeout_micros` must not be negative. Received: "
                f"{self.batch_timeout_micros}"
            )
        sizes = self.allowed_batch_sizes
        if sizes and (
            sorted(set(sizes)) != list(sizes)
            or sizes[0] < 1
            or sizes[-1] != self.max_batch_size
        ):
            raise ValueError(
                "`allowed_batch_sizes` must rise and end at max_batch_size="
                f"{self.max_batch_size}. Received: {list(sizes)}"
            )


@dataclasses.dataclass
class _Task:
    """The rows of one request, or of a part of a split request."""

    inputs: Arrays
    size: int
    deadline: float | None
    since: float
    answer: concurrent.futures.Future


class BatchScheduler:
    """Threads that run the batches of all queues."""

    def __init__(
        self,
        parameters: Parameters,
        observe: Callable[[int, int, list[float]], None] | None = None,
    ):
        """Starts the threads.

        Args:
            parameters: Sizes and times of the batches.
            observe: Called for each batch with its number of rows, the
                number of rows after padding, and the seconds that each of
                its requests has waited.
        """
        self.parameters = parameters
        self.observe = observe or (lambda rows, padded, waited: None)
        self.changed = threading.Condition()
        self._queues: list[Queue] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def queue(self, run: Callable[[Arrays], dict[str, np.ndarray]]) -> Queue:
        """Returns a new queue, whose batches `run` answers."""
        queue = Queue(self, run)
        with self.changed:
            self._queues.append(queue)
        return queue

    def forget(self, queue: Queue) -> None:
        """Removes a queue, which must be empty."""
        with self.changed:
            if queue in self._queues:
                self._queues.remove(queue)

    def close(self) -> None:
        """Runs the batches that wait, then ends the threads."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self):
        while True:
            with self.changed:
                found = self._next()
                while found is None:
                    if self._closed:
                        return
                    self.changed.wait(self._wait)
                    found = self._next()
            queue, batch = found
            queue.process(batch)

    def _next(self):
        """Returns the oldest batch that is ready, or `None`.

        It also sets `self._wait`, the seconds until a batch will be ready.
        """
        now, self._wait, ready = time.monotonic(), None, None
        timeout = self.parameters.batch_timeout_micros / 1e6
        timeout = min(timeout, threading.TIMEOUT_MAX)
        for queue in self._queues:
            if not queue.batches:
                continue
            since = queue.batches[0][0].since
            left = since + timeout - now
            if len(queue.batches) > 1 or queue.is_full() or self._closed:
                left = 0.0
            if left > 0:
                self._wait = min(left, self._wait or left)
            elif ready is None or since < ready.batches[0][0].since:
                ready = queue
        return None if ready is None else (ready, ready.batches.popleft())


class Queue:
    """The waiting requests for one signature of one version."""

    def __init__(
        self,
        scheduler: BatchScheduler,
        run: Callable[[Arrays], dict[str, np.ndarray]],
    ):
        """Makes an empty queue. Call `BatchScheduler.queue` instead."""
        self._scheduler, self._run = scheduler, run
        self._limits = scheduler.parameters
        self.batches = collections.deque()

    def run(
        self, inputs: Arrays, deadline: float | None = None
    ) -> dict[str, np.ndarray]:
        """Adds a request to a batch and waits for its answer.

        Args:
            inputs: Arrays with the same first dimension, which is not 0.
            deadline: When the client stops waiting, on the clock of
                `time.monotonic`.

        Raises:
            RequestError: The request has too many rows, the queue is full,
                the deadline passed, or the model failed.
        """
        size = len(next(iter(inputs.values())))
        largest = self._limits.max_batch_size
        if size > largest and not self._limits.enable_large_batch_splitting:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Task size {size} is larger than maximum input batch size "
                f"{largest}",
            )
        now = time.monotonic()
        tasks = [
            _Task(
                {k: v[start : start + largest] for k, v in inputs.items()},
                min(largest, size - start),
                deadline,
                now,
                concurrent.futures.Future(),
            )
            for start in range(0, size, largest)
        ]
        with self._scheduler.changed:
            self._enqueue(tasks)
            self._scheduler.changed.notify()
        answers = [_wait(task) for task in tasks]
        if len(answers) == 1:
            return answers[0]
        return {
            name: np.concatenate([answer[name] for answer in answers])
            for name in answers[0]
        }

    def close(self) -> None:
        """Removes this queue from its scheduler."""
        self._scheduler.forget(self)

    def is_full(self) -> bool:
        """Returns whether the last batch has no room for another row."""
        return bool(self.batches) and self._room() < 1

    def _room(self):
        last = sum(task.size for task in self.batches[-1])
        return self._limits.max_batch_size - last

    def _enqueue(self, tasks):
        # A split request is placed whole or not at all, hence the copy.
        waiting = collections.deque(self.batches)
        room = self._room() if waiting else 0
        placed = []
        for task in tasks:
            if task.size > room:
                waiting.append([])
                room = self._limits.max_batch_size
            room -= task.size
            placed.append((waiting[-1], task))
        if len(waiting) > self._limits.max_enqueued_batches:
            raise RequestError(
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted "
                f"is full; {self._limits.max_enqueued_batches} batches wait",
            )
        for batch, task in placed:
            batch.append(task)
        self.batches = waiting

    def process(self, batch: list[_Task]) -> None:
        """Runs a batch and answers each of its requests."""
        now = time.monotonic()
        alive = []
        for task in batch:
            # Skip requests whose client has already given up.
            if not task.answer.set_running_or_notify_cancel():
                continue
            if task.deadline is not None and now >= task.deadline:
                task.answer.set_exception(_timed_out())
            else:
                alive.append(task)
        if not alive:
            return
        try:
            self._answer(alive, now)
        except RequestError as error:
            if len(alive) == 1:
                alive[0].answer.set_exception(error)
                return
            for task in alive:
                self._answer_alone(task, now)
        except BaseException as error:
            for task in alive:
                if not task.answer.done():
                    task.answer.set_exception(error)

    def _answer_alone(self, task, now):
        try:
            self._answer([task], now)
        except Exception as error:
            task.answer.set_exception(error)

    def _answer(self, tasks, now):
        rows = sum(task.size for task in tasks)
        padded = next(
            (n for n in self._limits.allowed_batch_sizes if n >= rows), rows
        )
        merged = {}
        for name, first in tasks[0].inputs.items():
            parts = [task.inputs[name] for task in tasks]
            # The padding repeats a row of a request, so it is valid input.
            parts += [first[:1]] * (padded - rows)
            merged[name] = np.concatenate(parts) if len(parts) > 1 else first
        self._scheduler.observe(rows, padded, [now - t.since for t in tasks])
        outputs = self._run(merged)
        start = 0
        for task in tasks:
            end = start + task.size
            task.answer.set_result(
                {k: v[start:end] for k, v in outputs.items()}
            )
            start = end


def _wait(task):
    left = None
    if task.deadline is not None:
        left = max(0.0, task.deadline - time.monotonic())
    try:
        return task.answer.result(left)
    except concurrent.futures.TimeoutError:
        task.answer.cancel()
        raise RequestError(
            Code.DEADLINE_EXCEEDED, "Deadline Exceeded"
        ) from None


def _timed_out():
    # TensorFlow Serving gives this code and this text.
    return RequestError(
        Code.RESOURCE_EXHAUSTED,
        "Run() timeout exceeded while waiting in batching queue",
    )
