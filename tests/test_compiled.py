"""Where and how kernels are compiled: other processors, folders that cannot be written, forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from numba.core import caching

from mho.crossbar.kernels.compiled import kernel

READS = """
    import hashlib, os
    import torch
    import mho

    torch.set_num_threads(2)
    g = torch.Generator().manual_seed(0)
    x = torch.rand(300, 64, generator=g)

    def digest(hardware):
        net = torch.nn.Linear(64, 70)
        for p in net.parameters():
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        chip = mho.map(net, hardware, calibrate=x)
        return hashlib.sha256(chip(x).numpy().tobytes()).hexdigest(), chip

    reram = mho.Hardware.preset("reram").replace({"sensing.gain_noise": 0.01})
"""


def run(text: str, **environment: str) -> list[str]:
    """What a Python of its own prints for the text."""
    code = textwrap.dedent(READS) + textwrap.dedent(text)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_processor_without_vector_instructions_gives_the_same_bits():
    """`generic` has neither AVX nor fused multiply-add: the compiler takes what it has, or the C library."""
    text = "print(digest(reram)[0], digest(reram.replace({'dac.bits': 10}))[0])"
    plain = run(text, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert plain == run(text)
    assert plain[0] != plain[1]


def test_kernels_work_where_no_folder_can_be_written(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def double(x):
        return 2 * x

    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        compiled = kernel()(double)
    assert np.array_equal(compiled(np.arange(3)), [0, 2, 4])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_reads_with_one_thread():
    text = """
        large = torch.rand(4000, 64, generator=g)  # worth two threads
        whole, chip = digest(reram)
        expected = chip.read(large, read=5).numpy()
        child = os.fork()
        if child == 0:  # compared by numpy: torch's own threads do not survive either
            os._exit(0 if (chip.read(large, read=5).numpy() == expected).all() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(text) == ["0"]
