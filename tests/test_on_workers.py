"""Votes that workers of a Dask cluster read: the same bits, the chip sent once, and lost workers made up for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware
from torch import nn

import mho
from mho.cli import app, run
from mho.dask_workers import Parcel

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")
opened = 0  # networks that this process has unpickled


class Net(nn.Module):
    """Texts (n, 5) of words to three classes for each word."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 3)

    def __setstate__(self, state: dict[str, Any]) -> None:
        global opened
        opened += 1
        super().__setstate__(state)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"logits": self.head(torch.relu(self.mix(self.words(input_ids)))), "n": torch.ones(len(input_ids))}


def opened_here() -> int:
    return sys.modules[__name__].opened


def texts(n: int = 40) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    mask = (torch.arange(5) < torch.randint(2, 6, (n, 1))).long()
    return {"input_ids": torch.randint(20, (n, 5)), "attention_mask": mask}


def chip(width: int = 16, **fields: Any) -> mho.Chip:
    torch.manual_seed(1)
    return mho.map(Net(width).eval(), hardware(**fields), calibrate=texts(), seed=3)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    options: dict[str, Any] = {"dashboard_address": None, "silence_logs": "CRITICAL", "memory_limit": 0}
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options)
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def one() -> mho.Chip:
    return chip()


def test_the_same_bits(client, one):
    x, labels = texts(), torch.randint(3, (40, 5))
    cut = [
        {name: value[a : a + 7] for name, value in x.items()} | {"labels": labels[a : a + 7]} for a in range(0, 40, 7)
    ]
    told: list[tuple[int, int]] = []
    with mho.on_workers(one, cluster=client) as many:
        for size in (40, 9, 2):
            got = mho.vote(many, x, 4, copies=2, batch_size=size, progress=lambda done, n: told.append((done, n)))
            assert got == mho.vote(one, x, 4, copies=2)
        assert len(told) == 1 + 5 + 20
        assert [told[at] for at in (0, 5, 25)] == [(40, 40)] * 3
        for options in (
            {"rule": "mean", "output": "n"},
            {"rule": "soft", "first_sample": 100, "output": lambda out: out["logits"][:, -1]},
        ):
            assert mho.vote(many, x, 3, batch_size=9, **options) == mho.vote(one, x, 3, **options)
        assert mho.adaptive_vote(many, x, 9, error=0.2, batch_size=9) == mho.adaptive_vote(one, x, 9, error=0.2)
        found = mho.vote(many, iter(cut), 2)
        assert found == mho.vote(one, cut, 2)
        assert torch.equal(found.labels, labels)
    assert client.status == "running"  # it is the caller's


class Sent:
    """Bytes that this process, which has client and scheduler, has sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from distributed.comm.tcp import TCP

        self.bytes, write = 0, TCP.write

        async def counted(comm: Any, *arguments: Any, **options: Any) -> Any:
            many = await write(comm, *arguments, **options)
            self.bytes += many
            return many

        monkeypatch.setattr(TCP, "write", counted)

    def since(self, before: int) -> int:
        return self.bytes - before


def test_the_chip_is_sent_once_to_each_worker(client, monkeypatch):
    large, x = chip(width=512), texts()
    sent, before = Sent(monkeypatch), client.run(opened_here)
    size = sum(len(array) for array in Parcel.of(large).arrays)
    assert size > 2e6
    with mho.on_workers(large, cluster=client) as many:
        assert size < sent.bytes < 3 * size
        start = sent.bytes
        mho.vote(many, x, 2)
        one_batch, start = sent.since(start), sent.bytes
        mho.vote(many, x, 2, batch_size=2)
        twenty, start = sent.since(start), sent.bytes
        mho.vote(many, x, 3, batch_size=2)
        assert one_batch < twenty < 0.2 * size
        assert sent.since(start) < 0.2 * size
        print(f"chip of {size} bytes: 1 batch {one_batch}, 20 batches {twenty}")
    times = [count - before[worker] for worker, count in client.run(opened_here).items()]
    assert times == [1, 1]


def test_a_chip_that_is_no_longer_used_is_forgotten(client, one):
    def held() -> int:
        import mho.dask_workers as there

        return len(there._kept)

    with mho.on_workers(one, cluster=client) as many:
        mho.vote(many, texts(), 2, batch_size=5)
        assert list(client.run(held).values()) == [1, 1]
    assert list(client.run(held).values()) == [0, 0]


def test_what_the_chip_counts_and_says(client):
    """As where it had been read itself: conversions, positions and warnings."""
    here, there, x = chip(), chip(), texts()
    mho.vote(here, x, 3)
    longer = {name: value.repeat(1, 2) for name, value in x.items()}
    with mho.on_workers(there, cluster=client) as many:
        mho.vote(many, x, 3, batch_size=9)
        assert {n: layer.counts for n, layer in there.layers.items()} == {n: la.counts for n, la in here.layers.items()}
        mho.vote(many, longer, 1, batch_size=9)
        assert there.report().table["positions"].tolist() == [10, 10]
        with pytest.warns(UserWarning, match="said once"):
            mho.vote(many, x, 2, batch_size=9, output=speaking)
    assert there.layers["mix"].positions == 5


def speaking(output: Any) -> Any:
    import warnings

    warnings.warn("said once", UserWarning, stacklevel=1)
    return output["logits"]


class Killing:
    """Where the scores are; the first processes but the owner that ask are killed, so many."""

    def __init__(self, folder: Path, many: int) -> None:
        self.folder, self.many, self.owner = folder, many, os.getpid()

    def __call__(self, output: Any) -> Any:
        for number in range(self.many if os.getpid() != self.owner else 0):
            with suppress(FileExistsError):
                (self.folder / str(number)).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return output["logits"]


@pytest.mark.parametrize("many", [1, 2])
def test_batches_of_workers_that_are_killed_are_read_again(client, one, tmp_path, many):
    """By another that has the chip; or where all that had it are killed, by one that it is sent to again."""
    with mho.on_workers(one, cluster=client) as spread:
        held = spread._held
        got = mho.vote(spread, texts(), 3, batch_size=4, output=Killing(tmp_path, many))
        assert len(list(tmp_path.iterdir())) == many
        assert (spread._held is held) is (many == 1)
        assert got == mho.vote(one, texts(), 3)
        client.wait_for_workers(2)


def test_what_cannot_be_is_told(client, one):
    x, endless = texts(), (n for n in "ab")
    for options in ({}, {"jobs": 2, "cluster": client}):
        with pytest.raises(ValueError, match=r"on_workers: say where, either jobs= .* or cluster="):
            mho.on_workers(one, **options).__enter__()
    with pytest.raises(ValueError, match=r"on_workers: takes a chip, .* got Net"):
        mho.on_workers(Net(), cluster=client).__enter__()
    with pytest.raises(ValueError, match="cluster: an address as tcp://host:8786, or a client, got int"):
        mho.on_workers(one, cluster=3).__enter__()
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        mho.on_workers(one, cluster="127.0.0.1:1").__enter__()
    for jobs, said in ((0, "jobs must be at least 1"), (1.5, "jobs must be a whole number")):
        with pytest.raises(ValueError, match=said):
            mho.on_workers(one, jobs=jobs).__enter__()
    with mho.on_workers(one, cluster=client) as many:
        with pytest.raises(ValueError, match="vote needs a model that returns one tensor"):
            mho.vote(many, x, 2, output=lambda out: None)
        with pytest.raises(ValueError, match="this cannot be sent to workers"):
            mho.vote(many, x, 2, output=lambda out: out["logits"] if endless else None)
        with pytest.raises(
            ValueError, match=r"chip must be a mapped network \(see mho\.map\), got OnWorkers: for this give its \.chip"
        ):
            mho.reduce(many, x)
        given = one.with_conductances({"mix": one.conductances("mix")["mix"]})
    with mho.on_workers(given, cluster=client) as many:
        assert mho.vote(many, x, 2, batch_size=9) == mho.vote(given, x, 2)
        with pytest.raises(ValueError, match="its cells are known of one chip alone"):
            mho.vote(many, x, 2, copies=2)


def test_a_network_that_workers_cannot_import_is_told(client, monkeypatch):
    module = ModuleType("not_on_workers")
    exec("from torch import nn\nclass Own(nn.Linear):\n    pass\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "not_on_workers", module)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), module.Own(4, 3)).eval()
    alone = mho.map(net, hardware(), calibrate=torch.rand(4, 4), exclude=["2"])
    said = r"the chip cannot be read by a worker \(ModuleNotFoundError: .*not_on_workers"
    with pytest.raises(ValueError, match=said):
        mho.on_workers(alone, cluster=client).__enter__()


def test_mapped_chips_travel_too(client, one, tmp_path):
    one.save(tmp_path, compact=True)
    mapped = mho.load(tmp_path, model=Net(), mmap=True)
    with mho.on_workers(mapped, cluster=client) as many:
        assert mho.vote(many, texts(), 2, batch_size=9) == mho.vote(one, texts(), 2)


def test_the_command_reads_on_a_cluster(client, shop, refused, capsys):
    np.savez("data.npz", images=shop.images, labels=shop.labels)
    assert run(app, shop.map()) == 0
    vote = ["vote", "out/chip", "--data", "data.npz", "--votes", "3", "--images", "20"]
    capsys.readouterr()
    assert run(app, vote) == 0
    here = capsys.readouterr().out
    cluster = ["--cluster", client.scheduler.address]
    assert run(app, [*vote, *cluster, "--batch-size", "6"]) == 0
    assert capsys.readouterr().out == here
    refused([*vote, *cluster, "--jobs", "2"], "--jobs is for processes of this machine")
