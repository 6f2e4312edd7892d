"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from SynthCTLib.workflow.cohort.work import Done, Task, do_task

_KILLED = (
    "its worker process was killed twice (out of memory?): run it alone, or with fewer processes"
)
_POLL_S = 0.2


def in_processes(
    tasks: Sequence[Task], processes: int, is_cancelled: Callable[[], bool]
) -> Iterator[Done]:
    """Do the tasks, each outcome as it comes. No more are begun once a stop was asked for.

    Not more tasks are handed out than there are processes, so that when one is killed (the
    system does so when memory is short) it is known which tasks were at work: these are done
    again, one at a time, and a task that loses its process twice is given up.
    """
    waiting, alone = deque(tasks), deque[Task]()
    while waiting or alone:
        suspect = bool(alone)
        queue = alone if suspect else waiting
        lost = yield from _until_broken(queue, 1 if suspect else processes, is_cancelled)
        if is_cancelled():
            for task in (*lost, *waiting, *alone):
                yield Done(task.index, "stopped on request", cancelled=True)
            return
        if suspect:
            for task in lost:
                yield Done(task.index, _KILLED)
        else:
            alone.extend(lost)


def _until_broken(
    queue: deque[Task], processes: int, is_cancelled: Callable[[], bool]
) -> Generator[Done, None, list[Task]]:
    """Work the queue off; returns the tasks that were at work when a process was killed."""
    # Not forked: ITK's and torch's threads do not live in a forked child.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_signals_to_parent)
    running: dict[Future[Done], Task] = {}
    try:
        while queue or running:
            while queue and len(running) < processes and not is_cancelled():
                running[pool.submit(do_task, queue[0])] = queue[0]
                queue.popleft()
            if not running:
                return []  # stopped
            finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=lambda f: running[f].index):
                done = future.result()
                del running[future]
                yield done
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


def _leave_signals_to_parent() -> None:
    """Ctrl-C reaches every process of the terminal; the parent's stop file ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
