"""A chip on the workers of a Dask cluster: sent once to each, where batches of votes are then read."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from .mapping.chip import Chip
from .mapping.voting.asked import whole_number
from .mapping.voting.elsewhere import Elsewhere
from .sweeps.clusters import client_of
from .sweeps.workers import cores, lost

T, R = TypeVar("T"), TypeVar("R")
AHEAD = 3  # batches for each worker that are under way: one is read, one is there, one is sent
AGAIN = 3  # times that a chip is sent anew where all workers that had it are lost


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
        raise ValueError(f"on_workers: takes a chip, as mho.map makes and mho.load reads them, got {type(chip).__name__}")
    count = 1 if jobs is None else whole_number("jobs", jobs)
    threads = max(1, cores() // count)
    with client_of(count, cluster, threads_per_worker=threads, memory_limit=0, silence_logs="CRITICAL") as client:
        yield OnWorkers(chip, client)


class OnWorkers(Elsewhere):
    """A chip that the workers of a Dask client have."""

    def __init__(self, chip: Chip, client: Any) -> None:
        self.chip, self.client = chip, client
        self._held: Any = None
        self._send_chip()

    def _send_chip(self) -> None:
        from distributed import wait

        if not self.client.scheduler_info()["workers"]:
            self.client.wait_for_workers(1, timeout=10)
        (self._held,) = self.client.scatter([Parcel.of(self.chip)], broadcast=True, hash=False)
        wait(self._held)

    def results(self, work: Callable[[Chip, T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        from distributed import KilledWorker, as_completed

        numbered, sent, done, again = enumerate(items), {}, as_completed(), 0

        def send(number: int, letter: bytes) -> None:
            future = self.client.submit(_done, self._held, letter, pure=False)
            sent[future] = number, letter, self._held
            done.add(future)

        def send_next(count: int) -> None:
            for number, item in islice(numbered, count):
                send(number, _pickled((work, item)))

        try:
            send_next(AHEAD * max(1, len(self.client.scheduler_info()["workers"])))
            for future in done:
                number, letter, held = sent.pop(future)
                try:
                    result = future.result()
                except CancelledError as error:  # with the last worker that had the chip
                    if self.client.status != "running" or again == AGAIN:
                        raise lost("Dask has lost its scheduler, or all workers again and again") from error
                    if held is self._held:
                        again += 1
                        self._send_chip()
                    send(number, letter)
                    continue
                future.release()
                yield number, result
                send_next(1)
        except KilledWorker as error:
            raise lost(f"Dask gave up after {error.allowed_failures + 1} of them") from error
        finally:
            self.client.cancel(list(sent), force=True)


class Parcel:
    """A chip on its way: what was pickled, and its arrays beside it, which are never copied together.

    A worker has one, and opens it at its first batch; the arrays of the chip are then those of the parcel.
    """

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


_OPENED: WeakKeyDictionary[Parcel, Chip] = WeakKeyDictionary()  # in a worker: as long as it has the parcel
_one_at_a_time = threading.Lock()


def _done(parcel: Parcel, letter: bytes) -> Any:
    """In a worker: what is to be done with the chip of the parcel."""
    from distributed import get_worker

    with _one_at_a_time:
        if (threads := get_worker().state.nthreads) != torch.get_num_threads():
            torch.set_num_threads(threads)
        if parcel not in _OPENED:
            _OPENED[parcel] = parcel.open()
        work, item = pickle.loads(letter)
        return work(_OPENED[parcel], item)
