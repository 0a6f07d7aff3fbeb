"""Workers that Ray starts: on the machines of a cluster, or side by side on this one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run.executors.cluster import ANSWER, START, Cluster
from bench.run.executors.job import Held, Job, LostError, Outcome, Tell
from bench.run.executors.nodes import Nodes
from bench.run.executors.remote import Shares
from bench.run.host import interrupts
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.suite.executor import ExecutorSpec

PARTS = 4  # of work for each worker, so that nobody waits long for the last one
LOOK = 0.5  # seconds between two looks at what workers tell of their jobs
TRIES = 3  # of a job whose worker dies
LET_GO = 60.0  # seconds that workers may take to let go of what they hold


@dataclass(eq=False)
class _Hand:
    """A worker, and the number of what it holds.

    Attributes:
        answer: Ray's reference to what it says of itself when it has started.
        asked: when, by :func:`time.monotonic`.
        node: its machine; ``None``: it has not said so yet.
    """

    actor: Any
    answer: Any
    asked: float
    holds: int | None = None
    node: str | None = None


@dataclass
class _Running:
    """A job that a worker does.

    Attributes:
        key: among all jobs of the executor.
        stream: of its outcomes.
        given: outcomes that were handed on, of this try and those before.
        seen: outcomes of this try.
    """

    number: int
    key: int
    hand: _Hand
    stream: Any
    tries: int = 1
    given: int = 0
    seen: int = 0


class Ray:
    """Does jobs on workers side by side.

    A worker that dies, or whose machine does, is replaced. Its job is done again, and of what that gives
    only what had not come before is handed on.
    """

    def __init__(self, spec: ExecutorSpec, out: Path, device: str | None) -> None:
        """Join a cluster, or start one on this machine, and start the workers.

        Args:
            spec: where, how many, and what each has of a machine.
            out: the folder of the results, which all workers must see.
            device: of torch, that they compute on; ``None``: their GPU if they have one.

        Raises:
            InputError: Ray is not installed, nothing answers at the address, there is no room for the
                workers, or one of them does not see the folder, has other versions, or computes on
                something else.
        """
        self._cluster = Cluster(spec, out, device)
        self._ray, self.workers = self._cluster.ray, self._cluster.workers
        self.parts = PARTS * self.workers
        self.device: str | None = self._cluster.device
        self.gpus = self._cluster.gpus
        self._keys = 0
        self._turn, self._own, self._ended = threading.Lock(), threading.local(), False
        self._shares = self._ray.remote(num_cpus=0, max_restarts=-1)(Shares).remote()
        self._things: list[tuple[Held, Any]] = []  # what may be held, and Ray's reference to it
        self._nodes, self._busy = Nodes(), list[_Hand]()
        try:
            self._idle = [self._start() for _ in range(self.workers)]
            self._cluster.check_all([hand.answer for hand in self._idle])
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[int, Outcome]]:
        waiting = deque(range(len(jobs)))
        running: list[_Running] = []
        tried: dict[int, _Running] = {}
        self._keys += 1
        own = self._keys
        try:
            while waiting or running:
                while waiting and (found := self._take(jobs, waiting, own, patient=not running)):
                    running.append(self._begin(*found, jobs, tried.pop(found[0], None), own))
                    tell(found[0], 0.0)
                for one in self._list_ready(running):
                    outcome = self._next(one)
                    if outcome is None or isinstance(outcome, _Died):
                        running.remove(one)
                        self._give_back(one, dead=outcome is not None)
                    if outcome is None:
                        tell(one.number, None)
                    elif isinstance(outcome, Outcome):
                        yield one.number, outcome
                    elif one.tries < TRIES:
                        tried[one.number] = one
                        waiting.appendleft(one.number)
                    else:
                        yield one.number, Outcome(error=outcome.error)
                        tell(one.number, None)
                self._pass_on(running, tell)
        except LostError:
            running.clear()
            raise
        finally:
            self._nodes.release(own)
            for one in running:
                self._give_back(one, dead=True)

    def side_by_side(self, calls: Sequence[Callable[[], object]]) -> None:
        count = min(self.workers, len(calls)) or 1
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(self._call_in_turn, call) for call in calls]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._ended = True
                pool.shutdown(cancel_futures=True)
                raise

    def let_go(self) -> None:
        for hand in self._idle:
            hand.holds = None
            hand.actor.let_go.remote()

    def close(self) -> None:
        """End all workers, and the cluster if it was started for them."""
        self._cluster.close()

    # ---- turns

    def _call_in_turn(self, call: Callable[[], object]) -> None:
        with self._turn:
            self._own.turn = True
            call()

    @contextmanager
    def _others_turn(self) -> Iterator[None]:
        """Let other calls go on while this one waits.

        Raises:
            KeyboardInterrupt: the run ends.
        """
        mine = getattr(self._own, "turn", False)
        if mine:
            self._turn.release()
        try:
            yield
        finally:
            if mine:
                self._turn.acquire()
        interrupts.raise_pending()
        if self._ended:
            raise KeyboardInterrupt

    # ---- jobs

    def _take(
        self, jobs: Sequence[Job], waiting: deque[int], own: int, patient: bool
    ) -> tuple[int, _Hand, int | None] | None:
        """A job that waits, a worker for it, and the number of what that is to hold.

        A job goes to a worker that holds what it needs, if one is idle; one that needs something that
        nobody holds goes first. A machine is kept for one that is to be alone there.

        Args:
            own: number of those who wait.
            patient: wait for a worker.
        """
        numbers = {number: self._number_of(jobs[number].held) for number in waiting}
        while True:
            started = self._list_started()
            wanted = [number for number in waiting if not jobs[number].exclusive]
            hands = [hand for hand in started if self._nodes.is_open(hand)]
            if wanted and hands:
                break
            wanted = [number for number in waiting if jobs[number].exclusive]
            if wanted and (hands := self._nodes.keep(own, started, self._busy)):
                break
            if not patient:
                return None
            with self._others_turn():
                time.sleep(LOOK)
        hands = sorted(hands, key=lambda hand: hand.holds is not None)
        fits = [(n, hand) for hand in hands for n in wanted if hand.holds == numbers[n]]
        held = {hand.holds for hand in (*self._idle, *self._busy)}
        fresh = [(n, hands[0]) for n in wanted if numbers[n] not in held]
        number, hand = (fits or fresh or [(wanted[0], hands[0])])[0]
        waiting.remove(number)
        self._idle.remove(hand)
        self._busy.append(hand)
        return number, hand, numbers[number]

    def _number_of(self, held: Held | None) -> int | None:
        """The number of something that is held, which Ray keeps from now on."""
        if held is None:
            return None
        for number, (known, _) in enumerate(self._things):
            if known == held:
                return number
        self._things.append((held, self._ray.put(held)))
        return len(self._things) - 1

    def _begin(
        self,
        number: int,
        hand: _Hand,
        holds: int | None,
        jobs: Sequence[Job],
        before: _Running | None,
        own: int,
    ) -> _Running:
        job = jobs[number]
        self._keys += 1
        if job.exclusive:
            self._nodes.hand_over(own, self._keys)
            self._let_go([one for one in self._idle if one.node == hand.node])
        hand.holds = holds
        held = [] if holds is None else [self._things[holds][1]]
        bare = Job(job.call, job.arguments)
        stream = hand.actor.run.options(num_returns="streaming").remote(
            bare, holds, held, self._shares, self._keys
        )
        tries = before.tries + 1 if before else 1
        given = before.given if before and not job.resumes else 0
        return _Running(number, self._keys, hand, stream, tries, given)

    def _list_ready(self, running: list[_Running]) -> list[_Running]:
        """Jobs that have an outcome, or have ended."""
        if not running:
            return []
        streams = [one.stream for one in running]
        self._cluster.check_alive()
        with self._others_turn():
            ready, _ = self._ray.wait(streams, num_returns=1, timeout=LOOK, fetch_local=False)
        return [one for one in running if any(one.stream is stream for stream in ready)]

    def _next(self, one: _Running) -> Outcome | _Died | None:
        """The next outcome of a job that was not handed on before; ``None``: there is none any more."""
        errors = self._ray.exceptions
        try:
            while True:
                found: Outcome = self._ray.get(next(one.stream))
                one.seen += 1
                if one.seen > one.given:
                    one.given += 1
                    return found
        except StopIteration:
            return None
        except (errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError) as error:
            self._cluster.check_alive()
            return _Died(
                InputError(
                    f"its worker died {TRIES} times ({str(error).splitlines()[0]}); its log is in "
                    f"{self._cluster.logs}."
                )
            )

    def _pass_on(self, running: list[_Running], tell: Tell) -> None:
        """Tell how far jobs are."""
        told: dict[int, float] = {}
        if running:
            errors = self._ray.exceptions
            with suppress(errors.RayActorError, errors.GetTimeoutError):  # it may have to start again
                told = self._ray.get(self._shares.read.remote(), timeout=ANSWER)
        for one in running:
            if one.key in told:
                tell(one.number, told[one.key])

    # ---- workers

    def _start(self) -> _Hand:
        """A worker that starts."""
        return _Hand(*self._cluster.start(), time.monotonic())

    def _list_started(self) -> list[_Hand]:
        """Idle workers that have started.

        Raises:
            LostError: all have died, and none has started for long; or one that was started in place
                of another cannot be used.
        """
        self._cluster.check_alive()
        for hand in self._idle:
            if hand.node is None and self._ray.wait([hand.answer], timeout=0)[0]:
                hand.node = self._find_node(hand)
        started = [hand for hand in self._idle if hand.node is not None]
        since = min((hand.asked for hand in self._idle), default=0.0)
        if len(self._idle) == self.workers and not started and time.monotonic() - since > START:
            raise LostError(
                f"executor: all workers died, and none started again within {START:.0f} s; the same "
                f"command goes on."
            )
        return started

    def _find_node(self, hand: _Hand) -> str:
        """The machine of a worker that has started; none of that name where it has died already."""
        try:
            return self._cluster.check(hand.answer)
        except self._ray.exceptions.RayActorError:
            return ""
        except InputError as error:
            raise LostError(f"{error} It replaces one that died; the same command goes on.") from None

    def _let_go(self, hands: list[_Hand]) -> None:
        """Have workers hold nothing any more, and wait for that."""
        holding = [hand for hand in hands if hand.holds is not None]
        for hand in holding:
            hand.holds = None
        if gone := [hand.actor.let_go.remote() for hand in holding]:
            self._ray.wait(gone, num_returns=len(gone), timeout=LET_GO)

    def _give_back(self, one: _Running, dead: bool) -> None:
        """Have a worker for others; one that is dead, or is to be, is replaced."""
        hand = one.hand
        self._nodes.release(one.key)
        self._busy.remove(hand)
        if dead:
            self._ray.kill(hand.actor)
            hand = self._start()
        self._idle.append(hand)


@dataclass(frozen=True)
class _Died:
    """A worker did before its job was done."""

    error: Exception
