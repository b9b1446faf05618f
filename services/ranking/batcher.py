"""Micro-batches: requests that arrive together are worked on together; overload is refused at once.

A batch starts when it is full or its first request has waited for long enough. A request is refused when the queue is
full, when the queue takes more than half of the time until the request's deadline (judged by how long batches have
taken), or when it has waited for `oldest_age`. Work whose caller has gone, or whose deadline has passed, is never
started.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.ranking import metrics
from shared import logs
from shared.errors import DeadlineExceeded, FinestreamError, Overloaded

Q = TypeVar("Q")
A = TypeVar("A")
log = logs.get(__name__)
SMOOTHING: Final = 0.2  # of the running mean of a batch's seconds
SHARE_OF_DEADLINE: Final = 0.5  # for the queue: what is answered too late is work lost, which overload cannot afford


@dataclass(frozen=True, slots=True)
class Limits:
    """`largest` requests a batch, `longest_wait` and `oldest_age` in seconds, `queue` waiting, `workers` at a time."""

    largest: int
    longest_wait: float
    oldest_age: float
    queue: int
    workers: int = 1


@dataclass(slots=True, eq=False)
class Ticket(Generic[Q, A]):
    """A request in a batch, and the one who waits for it."""

    query: Q
    answer: asyncio.Future[A]
    deadline: float
    since: float
    due: float  # when it has waited for company for long enough
    waited: float = 0.0  # seconds in the queue

    def settle(self, answer: A) -> None:
        settle(self.answer, answer)


class MicroBatcher(Generic[Q, A]):
    """`run` settles every ticket of a batch, each when it can be. When it raises, those that are left are tried alone:
    no request fails for another. `cost`: how many requests' place in a batch one takes. `at_rest` is called whenever
    nothing waits and nothing is worked on any more.
    """

    def __init__(
        self, name: str, run: Callable[[Sequence[Ticket[Q, A]]], Awaitable[None]], limits: Limits,
        cost: Callable[[Q], int] = lambda _: 1, at_rest: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._run = run
        self._cost = cost
        self._at_rest = at_rest
        self._limits = limits
        self._waiting: deque[Ticket[Q, A]] = deque()
        self._wake = asyncio.Event()  # the first has arrived, or so many that a batch is full
        self._gathering = asyncio.Lock()  # one worker gathers a batch, the others work or wait for their turn
        self._rest = asyncio.Event()  # nothing waits and nothing is worked on
        self._workers: list[asyncio.Task[None]] = []
        self._begun: list[float] = []  # when each batch began that is being worked on
        self._batch_seconds = 0.0
        metrics.QUEUE.labels(name).set_function(lambda: len(self._waiting))
        self._batch_size = metrics.BATCH_SIZE.labels(name)
        self._name = name

    async def rest(self) -> None:
        """Return when nothing waits and nothing is worked on."""
        while not self._rest.is_set():
            await self._rest.wait()

    def start(self) -> None:
        self._rest.set()
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._limits.workers)]

    async def stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def submit(self, query: Q, deadline: float) -> A:
        """Answer one request; `deadline` is on time.monotonic's clock.

        Raises Overloaded or DeadlineExceeded where it is not worked on, and whatever `run` raises for it.
        """
        return await self.give(query, deadline)

    def give(self, query: Q, deadline: float, wait: float | None = None) -> asyncio.Future[A]:
        """As submit, for who may settle for another answer: a request whose future is done is not worked on. `wait`:
        how long for company, in seconds; as long as the limits say where it is left out.
        """
        self.admit(deadline)
        now = time.monotonic()
        due = now + (self._limits.longest_wait if wait is None else wait)
        ticket: Ticket[Q, A] = Ticket(query, asyncio.get_running_loop().create_future(), deadline, now, due)
        self._waiting.append(ticket)
        if len(self._waiting) in (1, self._limits.largest):
            self._wake.set()
        self._rest.clear()
        return ticket.answer

    def hurry(self) -> None:
        """Who waits for company waits no longer than the limits say."""
        if self._waiting:
            first = self._waiting[0]
            first.due = min(first.due, first.since + self._limits.longest_wait)
            self._wake.set()

    def admit(self, deadline: float) -> None:
        """Raises Overloaded or DeadlineExceeded where a request would be refused now."""
        now = time.monotonic()
        left = deadline - now
        if left <= 0:
            metrics.REFUSED.labels("deadline").inc()
            raise DeadlineExceeded("the deadline had passed before the work began; allow more time")
        if len(self._waiting) >= self._limits.queue:
            metrics.REFUSED.labels("queue_full").inc()
            raise Overloaded("too many requests wait; try again with back-off")
        if self.seconds_ahead(now) > SHARE_OF_DEADLINE * left:
            metrics.REFUSED.labels("queue_long").inc()
            raise Overloaded("the queue is longer than the deadline allows; try again with back-off or allow more time")

    def seconds_ahead(self, now: float) -> float:
        """How long what is waiting and worked on takes, about; `now` is on time.monotonic's clock."""
        batches = (len(self._begun) + len(self._waiting) // self._limits.largest) / self._limits.workers
        # A batch that has not ended says sooner than the mean that they have become slow; the first began first.
        return batches * (max(self._batch_seconds, now - self._begun[0]) if self._begun else self._batch_seconds)

    async def _work(self) -> None:
        while True:
            batch = await self._next()
            if batch:
                await self._answer(batch)
            if not self._waiting and not self._begun:
                self._rest.set()
                self._at_rest()

    async def _next(self) -> list[Ticket[Q, A]]:
        async with self._gathering:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            await self._until_due()
            return [ticket for ticket in self._taken() if self._still_wanted(ticket)]

    def _taken(self) -> list[Ticket[Q, A]]:
        """The oldest, at least one."""
        taken = [self._waiting.popleft()]
        cost = self._cost(taken[0].query)
        while self._waiting and (cost := cost + self._cost(self._waiting[0].query)) <= self._limits.largest:
            taken.append(self._waiting.popleft())
        return taken

    async def _until_due(self) -> None:
        """Return when a batch is full, or its first has waited for long enough. Who arrives between wakes nobody."""
        while (left := self._waiting[0].due - time.monotonic()) > 0 and len(self._waiting) < self._limits.largest:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    def _still_wanted(self, ticket: Ticket[Q, A]) -> bool:
        now = time.monotonic()
        if ticket.answer.done():  # the caller left
            return False
        if now >= ticket.deadline:
            metrics.REFUSED.labels("deadline").inc()
            ticket.answer.set_exception(DeadlineExceeded("the deadline passed in the queue; allow more time"))
        elif now - ticket.since > self._limits.oldest_age:
            metrics.REFUSED.labels("too_old").inc()
            ticket.answer.set_exception(Overloaded("the request waited for too long; try again with back-off"))
        else:
            ticket.waited = now - ticket.since
            return True
        return False

    async def _answer(self, batch: list[Ticket[Q, A]]) -> None:
        self._batch_size.observe(len(batch))
        began = time.monotonic()
        self._begun.append(began)
        try:
            await self._run(batch)
            if not all(ticket.answer.done() for ticket in batch):
                raise RuntimeError("a batch was left unanswered in part")
        except FinestreamError as error:
            _fail(batch, error)
        except asyncio.CancelledError:
            for ticket in batch:
                ticket.answer.cancel()
            raise
        except Exception as error:
            log.exception("a batch failed", batcher=self._name, size=len(batch))
            if len(batch) == 1:
                _fail(batch, error)
            else:
                await self._answer_alone(batch)
        finally:
            self._begun.remove(began)
            took = time.monotonic() - began
            self._batch_seconds += SMOOTHING * (took - self._batch_seconds)

    async def _answer_alone(self, batch: list[Ticket[Q, A]]) -> None:
        for ticket in batch:
            if not ticket.answer.done():
                await self._answer([ticket])


def settle(future: asyncio.Future[A], answer: A) -> None:
    if not future.done():  # else the caller has left
        future.set_result(answer)


def _fail(batch: list[Ticket[Q, A]], error: Exception) -> None:
    for ticket in batch:
        if not ticket.answer.done():
            ticket.answer.set_exception(error)
