"""A chip on the workers of a Dask cluster: sent once to each, where batches of votes are then read."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import numpy as np
import torch

from .mapping.chip import Chip
from .mapping.voting.asked import whole_number
from .mapping.voting.elsewhere import Elsewhere
from .sweeps.clusters import client_of
from .sweeps.workers import cores

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 3  # batches for each worker that are under way: one is read, one is there, one is sent
MOST = 2**62  # bytes
WAIT = 30.0  # seconds for a worker
AGAIN = 2  # times in turn that a chip is sent anew where all workers that had it are lost


@contextmanager
def on_workers(chip: Chip, *, jobs: int | None = None, cluster: Any = None) -> Iterator[Elsewhere]:
    """A chip on workers, for `mho.vote` and `mho.adaptive_vote` in the place of the chip: they read its batches.

    The chip is sent once to each worker, before the first batch, however many batches and votes follow; a worker that
    comes later gets it with its first batch. The results are the same bits as without, whatever the workers. A worker
    reads one batch at a time, with as many threads as it has. Batches of a worker that is lost are read by another.

    Args:
        chip: what its model needs must be there to be imported on each worker, as must its own cells and layers.
        jobs: processes of this machine, whose threads share the cores. A script that starts some needs
            ``if __name__ == "__main__":`` around what it does.
        cluster: in place of these a Dask cluster: its address (tcp://host:8786), or a `distributed.Client`.

    Raises:
        ValueError: neither or both of them, no such number, Dask is not there, or a chip that workers cannot read.
        OSError: no cluster at the address, or it has no workers.
    """
    if (jobs is None) == (cluster is None):
        raise ValueError("on_workers: say where, either jobs= (processes of this machine) or cluster= (of Dask)")
    if not isinstance(chip, Chip):
        raise ValueError(
            f"on_workers: takes a chip, as mho.map makes and mho.load reads them, got {type(chip).__name__}"
        )
    count = 1 if jobs is None else whole_number("jobs", jobs)
    threads = max(1, cores() // count)
    with client_of(count, cluster, threads_per_worker=threads, memory_limit=0, silence_logs="CRITICAL") as client:
        held = OnWorkers(chip, client)
        try:
            yield held
        finally:
            held.forget()


class OnWorkers(Elsewhere):
    """A chip that the workers of a Dask client have, each opened once, by the name `token`."""

    def __init__(self, chip: Chip, client: Any) -> None:
        self.chip, self.client = chip, client
        self.token = uuid4().hex
        self._held: Any = None
        self._send_chip()

    def _send_chip(self) -> None:
        """To all workers that there are. Copies that Dask makes of its data go again; what a worker opened stays."""
        client = self.client
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError as error:
            raise OSError(f"cluster: no worker is there after {WAIT:g} s") from error
        (self._held,) = client.scatter([Parcel.of(self.chip)], broadcast=True, hash=False)
        with _told():
            there = [client.submit(_keep, self.token, self._held, workers=[w], pure=False) for w in client.nthreads()]
            client.gather(there)

    def forget(self) -> None:
        """Take the chip from the workers."""
        self._held = None
        with suppress(OSError, TimeoutError, ValueError):  # those that are lost have forgotten it
            self.client.run(_forget, self.token, on_error="ignore")

    def results(self, work: Callable[[Chip, T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        import dask
        from distributed import as_completed

        if self._held is None:
            raise ValueError("the workers have no chip any more: vote inside of the with block of mho.on_workers")
        numbered, done, again = enumerate(items), as_completed(), 0
        sent: dict[Any, tuple[int, bytes]] = {}

        def send(number: int, letter: bytes, held: Any = None, **where: Any) -> None:
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": MOST}):  # a batch may be large
                future = self.client.submit(_done, self.token, held, letter, pure=False, **where)
            sent[future] = number, letter
            done.add(future)

        def send_next(count: int) -> None:
            for number, item in islice(numbered, count):
                send(number, _pickled((work, item)))

        try:
            send_next(AHEAD * max(1, len(self.client.nthreads())))
            for future in done:
                number, letter = sent.pop(future)
                with _told():
                    try:
                        result = future.result()
                    except CancelledError:  # with the last worker that had the chip
                        result = Missing(None)
                    if isinstance(result, Missing):  # of a worker that is new
                        if self._held.status != "finished":
                            again += 1
                            if again > AGAIN:
                                raise _lost("all of them, again and again")
                            self._send_chip()
                        near = {"workers": result.worker, "allow_other_workers": True} if result.worker else {}
                        send(number, letter, self._held, **near)
                        continue
                again = 0
                future.release()
                yield number, result
                send_next(1)
        finally:
            self.client.cancel(list(sent), force=True)


@contextmanager
def _told() -> Iterator[None]:
    """Says in a line what Dask raises where workers or its scheduler are lost."""
    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise _lost(f"Dask gave up after {error.allowed_failures + 1} of them") from error
    except CancelledError as error:
        raise ConnectionError("Dask has lost its scheduler") from error


def _lost(why: str) -> ChildProcessError:
    return ChildProcessError(
        f"workers ended in the middle of a batch: they were killed, as when memory runs out, or crashed ({why})"
    )


class Missing(NamedTuple):
    """The answer of a worker that has no such chip; None: of none."""

    worker: str | None


class Parcel:
    """A chip on its way: what was pickled, and beside it the arrays, which are those of the chip at both ends."""

    def __init__(self, text: bytes, arrays: list[np.ndarray[Any, Any]]) -> None:
        self.text, self.arrays = text, arrays

    @classmethod
    def of(cls, chip: Chip) -> Parcel:
        arrays: list[np.ndarray[Any, Any]] = []
        return cls(_pickled(chip, lambda buffer: arrays.append(np.frombuffer(buffer.raw(), np.uint8))), arrays)

    def open(self) -> Chip:
        """The chip.

        Raises:
            ValueError: something that it needs is not there.
        """
        try:
            chip: Chip = pickle.loads(self.text, buffers=self.arrays)
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"the chip cannot be read by a worker ({why})") from error
        return chip


def _pickled(thing: Any, callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """By value what a script or a notebook has defined."""
    import cloudpickle

    try:
        found: bytes = cloudpickle.dumps(thing, protocol=5, buffer_callback=callback)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"this cannot be sent to workers ({why})") from error
    return found


_kept: dict[str, Chip] = {}  # in a worker
_one_at_a_time = threading.Lock()


def _keep(token: str, parcel: Parcel) -> None:
    """In a worker: open a chip."""
    with _one_at_a_time:
        if token not in _kept:
            _kept[token] = parcel.open()


def _forget(token: str) -> None:
    _kept.pop(token, None)


def _done(token: str, parcel: Parcel | None, letter: bytes) -> Any:
    """In a worker: what is to be done with a chip."""
    from distributed import get_worker

    worker = get_worker()
    if parcel is not None:
        _keep(token, parcel)
    with _one_at_a_time:
        if token not in _kept:
            return Missing(worker.address)
        if torch.get_num_threads() != worker.state.nthreads:
            torch.set_num_threads(worker.state.nthreads)
        work, item = pickle.loads(letter)
        return work(_kept[token], item)
