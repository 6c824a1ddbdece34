"""Memory that a machine, a container and a job of a cluster leave to a process."""

import sys

import pytest
import torch

from convlstm import system_memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="files of the kernel")


@LINUX
@pytest.mark.parametrize(
    ("limit", "use", "counts", "unlimited"),
    [
        ("memory.max", "memory.current", "memory.stat", "max"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", 2**63 - 4096),
    ],
    ids=["version 2", "version 1"],
)
def test_free_memory_is_what_a_container_leaves_with_cached_files_dropped(
    limit, use, counts, unlimited, monkeypatch, tmp_path
):
    """With version 1 the counts of groups inside are those that begin with total."""
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("1000000\n")
    (tmp_path / use).write_text("700000\n")
    inside = "total_" if limit.startswith("memory/") else ""
    (tmp_path / counts).write_text(f"anon 3\n{inside}inactive_file 200000\n")
    monkeypatch.setattr(system_memory, "_GROUPS", tmp_path)
    assert system_memory.free_memory(torch.device("cpu")) == 500_000
    (tmp_path / limit).write_text("600000\n")  # lowered while more was in use
    (tmp_path / counts).write_text("")
    assert system_memory.free_memory(torch.device("cpu")) == 0
    (tmp_path / limit).write_text(f"{unlimited}\n")
    assert system_memory.free_memory(torch.device("cpu")) > 500_000


@LINUX
@pytest.mark.parametrize(
    ("listed", "mounted", "files"),
    [
        ("0::/jobs/7/step\n", "", ("memory.max", "memory.current")),
        (
            "5:cpu,cpuacct:/elsewhere\n4:hugetlb,memory:/jobs/7/step\n0::/\n",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_free_memory_is_what_the_groups_of_a_job_leave(listed, mounted, files, monkeypatch, tmp_path):
    """On a cluster a job is limited in a group below the root, which may have no limit at all."""
    (tmp_path / "own").write_text(listed)
    monkeypatch.setattr(system_memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(system_memory, "_OWN_GROUPS", tmp_path / "own")
    job = tmp_path / mounted / "jobs" / "7"
    (job / "step").mkdir(parents=True)
    for folder, values in ((job, ("1000000", "400000")), (job / "step", ("900000", "100000"))):
        for file, value in zip((*files, "memory.stat"), (*values, ""), strict=True):
            (folder / file).write_text(value)
    assert system_memory.free_memory(torch.device("cpu")) == 600_000
    (tmp_path / "own").write_text(listed.replace("/jobs/7/step", "/"))
    assert system_memory.free_memory(torch.device("cpu")) > 1_000_000
