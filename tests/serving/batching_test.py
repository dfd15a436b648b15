"""Which requests share a batch, which fail, and which are not run."""

import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest

from tf_triplet.serving import batching
from tf_triplet.serving.errors import RequestError

Code = grpc.StatusCode


class Doubler:
    """Doubles the rows of a batch.

    A negative row is an error. While `go` is not set, batches wait.
    """

    def __init__(self):
        self.sizes, self.go = [], threading.Event()
        self.go.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, inputs):
        self.entered.release()
        assert self.go.wait(10)
        x = inputs["x"]
        self.sizes.append(len(x))
        if (x < 0).any():
            raise RequestError(Code.INVALID_ARGUMENT, "negative")
        return {"y": 2 * x}


@pytest.fixture
def make():
    made = []

    def make(run, **parameters):
        seen = []
        parameters = {"num_batch_threads": 1, **parameters}
        scheduler = batching.BatchScheduler(
            batching.Parameters(**parameters),
            lambda rows, filled, waited: seen.append((rows, filled)),
        )
        made.append(scheduler)
        return scheduler.queue(run), seen

    yield make
    for scheduler in made:
        scheduler.close()


def column(*values):
    return {"x": np.array(values, np.float32)[:, None]}


def ask(queue, *values, **more):
    return queue.run(column(*values), **more)["y"][:, 0].tolist()


def error_of(function, *arguments, **more):
    with pytest.raises(RequestError) as caught:
        function(*arguments, **more)
    return caught.value.code, caught.value.details


def test_a_full_batch_runs_at_once_and_each_request_gets_its_rows(make):
    run = Doubler()
    # A batch that is not full would wait for a minute.
    queue, _ = make(run, max_batch_size=3, batch_timeout_micros=60_000_000)
    with futures.ThreadPoolExecutor(2) as pool:
        one = pool.submit(ask, queue, 1.0)
        two = pool.submit(ask, queue, 2.0, 3.0)
        assert one.result(10) == [2.0] and two.result(10) == [4.0, 6.0]
    assert run.sizes == [3]


def test_a_single_request_runs_after_the_timeout(make):
    run = Doubler()
    queue, _ = make(run, max_batch_size=100, batch_timeout_micros=50_000)
    start = time.monotonic()
    assert ask(queue, 1.0) == [2.0]
    assert 0.05 <= time.monotonic() - start < 5


def test_a_batch_is_padded_to_an_allowed_size(make):
    run = Doubler()
    queue, seen = make(run, max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    assert ask(queue, 1.0, 2.0, 3.0) == [2.0, 4.0, 6.0]
    assert run.sizes == [4] and seen == [(3, 4)]


def test_a_bad_row_fails_only_its_own_request(make):
    run = Doubler()
    queue, _ = make(run, max_batch_size=3, batch_timeout_micros=60_000_000)
    with futures.ThreadPoolExecutor(3) as pool:
        good = [pool.submit(ask, queue, v) for v in (1.0, 2.0)]
        bad = pool.submit(error_of, ask, queue, -1.0)
        assert [g.result(10) for g in good] == [[2.0], [4.0]]
        assert bad.result(10) == (Code.INVALID_ARGUMENT, "negative")
    assert run.sizes == [3, 1, 1, 1]


def test_too_many_rows_are_an_error(make):
    queue, _ = make(Doubler(), max_batch_size=2)
    assert error_of(ask, queue, 1.0, 2.0, 3.0) == (
        Code.INVALID_ARGUMENT,
        "Task size 3 is larger than maximum input batch size 2",
    )


def test_too_many_rows_can_be_split(make):
    run = Doubler()
    queue, _ = make(run, max_batch_size=2, enable_large_batch_splitting=True)
    values = [float(i) for i in range(5)]
    assert ask(queue, *values) == [2 * v for v in values]
    assert run.sizes == [2, 2, 1]


@pytest.fixture
def busy(make):
    """A queue whose only thread is busy until `run.go` is set."""
    run = Doubler()
    run.go.clear()
    queue, _ = make(run, max_batch_size=1, max_enqueued_batches=2)
    with futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, queue, 0.0)
        assert run.entered.acquire(timeout=10)
        yield run, queue, pool
        run.go.set()
        assert first.result(10) == [0.0]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_queue_is_an_error_until_it_has_room(busy):
    run, queue, pool = busy
    waiting = [pool.submit(ask, queue, v) for v in (1.0, 2.0)]
    wait_for(lambda: len(queue.batches) == 2)
    code, text = error_of(ask, queue, 3.0)
    assert code == Code.UNAVAILABLE
    assert text.startswith(
        "The batch scheduling queue to which this task was submitted is full"
    )
    run.go.set()
    assert [w.result(10) for w in waiting] == [[2.0], [4.0]]
    assert ask(queue, 3.0) == [6.0]


def test_a_request_whose_deadline_passed_in_the_queue_is_not_run(busy):
    run, queue, pool = busy
    code, _ = error_of(ask, queue, 7.0, deadline=time.monotonic() + 0.05)
    assert code == Code.DEADLINE_EXCEEDED
    run.go.set()
    assert ask(queue, 1.0) == [2.0]
    # The first request and the last one ran, the one between did not.
    assert len(run.sizes) == 2


def test_any_other_error_reaches_the_caller(make):
    def broken(inputs):
        raise RuntimeError("disk on fire")

    queue, _ = make(broken)
    with pytest.raises(RuntimeError, match="disk on fire"):
        ask(queue, 1.0)
    with pytest.raises(RuntimeError, match="disk on fire"):
        ask(queue, 1.0)


def test_a_batch_holds_requests_of_one_queue(make):
    scheduler = batching.BatchScheduler(
        batching.Parameters(4, batch_timeout_micros=20_000)
    )
    queues = [
        scheduler.queue(lambda inputs, n=n: {"y": n * inputs["x"]})
        for n in (1, 10)
    ]
    with futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: ask(queues[i % 2], float(i)), range(40)))
    assert got == [[float(i * (1, 10)[i % 2])] for i in range(40)]
    scheduler.close()


@pytest.mark.parametrize(
    "fields,text",
    [
        ({"max_batch_size": 0}, "`max_batch_size` must be positive.*: 0"),
        ({"num_batch_threads": -1}, "`num_batch_threads` must be positive"),
        ({"num_batch_threads": 10**5}, "must be at most 1024"),
        ({"batch_timeout_micros": -1}, "must not be negative. Received: -1"),
        (
            {"max_batch_size": 8, "allowed_batch_sizes": (1, 4)},
            r"must rise and end at max_batch_size=8. Received: \[1, 4\]",
        ),
        (
            {"max_batch_size": 8, "allowed_batch_sizes": (4, 1, 8)},
            "must rise",
        ),
    ],
)
def test_bad_parameters(fields, text):
    with pytest.raises(ValueError, match=text):
        batching.Parameters(**fields)
