"""Tasks on many machines: a Dask scheduler hands them to its workers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from SynthCTLib import __version__
from SynthCTLib.errors import InputError, MissingPackage
from SynthCTLib.workflow.cohort.work import Done, Task, do_task

_ADDRESS = re.compile(r"((tcp|tls|ucx|wss?)://)?(\[[\da-fA-F:]+\]|[^\s/:\[\]]+):\d{1,5}")
_CONNECT_S = 15
_POLL_S = 0.1
_LOOK_S = 3.0


def on_scheduler(
    tasks: Sequence[Task],
    address: str,
    is_cancelled: Callable[[], bool],
    say: Callable[[str], None],
) -> Iterator[Done]:
    """Do the tasks on the workers of a Dask scheduler, each outcome as it comes.

    The workers must see the cohort's folder and the images under the same paths, and have this
    version of SynthCT. A worker that is lost has its tasks done by others; a task that loses its
    worker four times is given up. ``say`` is told when no worker is left: the work waits for
    one then. Raises MissingPackage without Dask, InputError when the
    scheduler does not answer, has no worker, or a worker has another version.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise MissingPackage(
            "A scheduler needs the package distributed, which is not installed: "
            "pip install 'SynthCT[cluster]'."
        ) from error
    # Dask hangs on other words, and says so only as the process ends.
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            f"The address {address!r} is none of a Dask scheduler: give one such as "
            "tcp://host:8786."
        )
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address}: start one with 'dask scheduler', or leave "
            "out --scheduler."
        ) from error
    with client:
        _check_workers(client, address)
        futures = {client.submit(do_task, task, pure=False): task for task in tasks}
        looked, waits = time.monotonic(), False
        try:
            while futures:
                if time.monotonic() - looked > _LOOK_S:
                    looked, waited = time.monotonic(), waits
                    waits = not client.nthreads()
                    if waits and not waited:
                        say(
                            f"No worker of {address} is left: the cohort waits for one; start one "
                            f"with 'dask worker {address}', or stop and go on later."
                        )
                for future in [f for f in futures if f.done()]:
                    task = futures.pop(future)
                    yield _outcome(future, task, KilledWorker)
                if is_cancelled():
                    client.cancel(list(futures))
                    for task in futures.values():
                        yield Done(task.index, "stopped on request", cancelled=True)
                    return
                time.sleep(_POLL_S)
        finally:
            client.cancel(list(futures))


def _outcome(future: Any, task: Task, killed: type[Exception]) -> Done:
    try:
        done: Done = future.result()
    except killed:
        return Done(task.index, "its workers were lost four times (out of memory?): run it alone")
    except Exception as error:
        return Done(task.index, f"it was lost on the cluster ({type(error).__name__}: {error})")
    return done


def _check_workers(client: Any, address: str) -> None:
    try:
        versions = client.run(_version)
    except Exception as error:
        raise InputError(
            f"The workers of {address} cannot load SynthCT ({error}): install SynthCT "
            f"{__version__} there."
        ) from error
    if not versions:
        raise InputError(
            f"The scheduler {address} has no worker: start some with 'dask worker {address}'."
        )
    for worker, version in versions.items():
        if version != __version__:
            raise InputError(
                f"The worker {worker} has SynthCT {version} and this is {__version__}: install "
                "the same version."
            )


def _version() -> str:
    return __version__
