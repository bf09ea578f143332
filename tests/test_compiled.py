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
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_processor_without_vector_instructions_gives_the_same_bits():
    """`generic` has neither AVX nor fused multiply-add: the compiler takes what it has, or the C library.

    A read with integers, and products of floats: a read with those is compiled for as long again.
    """
    text = """
        from mho.crossbar.kernels.panel import multiply_panels

        floats, products = torch.randn(300, 64, generator=g).numpy(), torch.zeros(300, 80).numpy()
        multiply_panels(floats, torch.randn(5, 64, 16, generator=g).numpy(), products)
        print(digest(reram)[0], hashlib.sha256(products.tobytes()).hexdigest())
    """
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


def test_what_is_kept_of_a_class_that_is_gone_is_left(tmp_path):
    """As after an update: numba's index names the classes of arguments, and does not load without them."""
    folder = tmp_path / "its_kernels"
    folder.mkdir()
    head = "from typing import NamedTuple\nfrom mho.crossbar.kernels.compiled import kernel\n"
    (folder / "__init__.py").write_text("")
    program = "from its_kernels.outer import {kind}, outer; print(outer({kind}(1)))"
    for kind in ("Before", "After"):
        (folder / "outer.py").write_text(
            f"{head}\n\nclass {kind}(NamedTuple):\n    x: int\n\n\n@kernel()\ndef outer(pair):\n    return pair.x\n"
        )
        done = subprocess.run(
            [sys.executable, "-B", "-c", program.format(kind=kind)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_what_is_kept_is_left_when_a_kernel_that_is_called_changes(tmp_path):
    """numba looks at the file of a kernel, and not at those of the kernels that are compiled into it."""
    folder = tmp_path / "its_kernels"
    folder.mkdir()
    head = "from mho.crossbar.kernels.compiled import kernel\n"
    (folder / "__init__.py").write_text("")
    (folder / "outer.py").write_text(
        f"{head}from .inner import inner\n\n\n@kernel()\ndef outer(x):\n    return inner(x) + 1\n"
    )
    program = "from its_kernels.outer import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"
    found = []
    for factor in (10, 10, 20, 20):
        (folder / "inner.py").write_text(f"{head}\n\n@kernel()\ndef inner(x):\n    return {factor} * x\n")
        done = subprocess.run(
            [sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found == [["11", "0"], ["11", "1"], ["21", "0"], ["21", "1"]]
    assert len(list(folder.glob("__pycache__/outer*.nbi"))) == 1
