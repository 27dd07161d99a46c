"""Memory that a process keeps: seen in what the kernel says of a process that has freed a tensor."""

import os
import sys
from pathlib import Path

import processes
import pytest
import torch

from minivar import allocation


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kept(keep: bool) -> int:
    """1 where freed memory stayed, 0 where it went, 3 where the C library has no such setting."""
    if keep and not allocation.keep_memory():
        return 3
    before = resident()
    torch.ones(2**25).add_(1)  # 128 MiB
    return int(resident() - before > 2**26)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_stays_where_it_is_asked_to(keep, tmp_path):
    code = processes.run(kept, keep, said=tmp_path / "said")
    if code == 3:
        pytest.skip("the C library is not glibc")
    assert code == int(keep)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocation.keep_memory()
