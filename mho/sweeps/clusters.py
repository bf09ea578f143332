"""The tasks of a sweep on the workers of a Dask or Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from .tasks import Parcel, Row, Task, run_parcel
from .workers import deaf, lost


def on_dask(groups: list[list[Task]], jobs: int, cluster: str | None) -> Iterator[list[Row]]:
    """The rows of each group as they come; what a lost worker has not handed over is done again by another.

    Raises:
        ValueError: Dask is not there, or a task that cannot be done.
        OSError: no cluster at the address, it has gone, or workers are lost in the same task again and again.
    """
    with client_of(jobs, cluster) as client:
        from distributed import KilledWorker, as_completed

        pending = client.map(run_parcel, [Parcel.of(group) for group in groups], threads=1, pure=False)
        try:
            for future in as_completed(pending):
                yield future.result()
                future.release()
        except KilledWorker as error:
            raise lost(f"Dask gave up after {error.allowed_failures + 1} of them") from error
        except CancelledError as error:
            raise lost("Dask has lost its scheduler") from error
        finally:
            client.cancel(pending, force=True)


@contextmanager
def client_of(jobs: int, cluster: Any, **local: Any) -> Iterator[Any]:
    """A client of the Dask cluster at the address, or the one that is given; or of a local one, with these options.

    Raises:
        ValueError: Dask is not there, or something else than a cluster.
        OSError: no cluster at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError("backend dask needs its packages: pip install 'mho[cluster]'") from error
    if isinstance(cluster, Client):
        if cluster.asynchronous or cluster.status != "running":
            raise ValueError(f"cluster: the client is {'asynchronous' if cluster.asynchronous else cluster.status}")
        yield cluster
        return
    if cluster is not None:
        if not isinstance(cluster, str):
            raise ValueError(f"cluster: an address as tcp://host:8786, or a client, got {type(cluster).__name__}")
        with Client(cluster) as client:
            yield client
        return
    quiet = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}  # at a free port, and without a page
    options = {"threads_per_worker": 1, "silence_logs": "ERROR", **quiet, **local}
    with deaf():
        made = LocalCluster(n_workers=jobs, **options)
    with made, Client(made) as client:
        yield client


def on_ray(groups: list[list[Task]], jobs: int, cluster: str | None) -> Iterator[list[Row]]:
    """The same on Ray, by tasks of its own: its joblib backend gives no result before all are there.

    Raises:
        ValueError: Ray is not there, or a task that cannot be done.
        OSError: no cluster at the address, or workers are lost in the same task again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("backend ray needs its package: pip install 'mho[cluster]'") from error
    local = {} if cluster else {"num_cpus": jobs, "include_dashboard": False}
    with deaf():
        ray.init(address=cluster, logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        work = ray.remote(run_parcel)
        pending = [work.remote(Parcel.of(group), 1) for group in groups]
        while pending:
            (ready, *_), pending = ray.wait(pending)
            yield ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # the task's own, in place of its traceback as text
    except ray.exceptions.RayError as error:
        raise lost(f"Ray says: {str(error).splitlines()[0]}") from error
    finally:
        ray.shutdown()
