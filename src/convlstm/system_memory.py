"""Memory that is free for this process, and what it uses, as the system states them."""

import math
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch

# Control groups: where they are mounted, and those that this process is in.
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of version 2 and 1: the controller, files with the limit of memory and its use, and in memory.stat the count
# of what the kernel drops when asked for more, pages of files that were read.
_MEMORY_OF_GROUP = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; infinite if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError, IndexError):
        free = float(_entry(Path("/proc/meminfo"), "MemAvailable"))
        for controller, limit, use, name in _MEMORY_OF_GROUP:
            for group in _groups(controller):
                with suppress(OSError, ValueError):
                    most, used = (int((group / file).read_text()) for file in (limit, use))
                    cached = re.findall(rf"^{name} (\d+)$", (group / "memory.stat").read_text(), re.M)
                    free = min(free, most - used + sum(map(int, cached)))
        return max(0.0, free)  # the use may be above a limit that was lowered
    return math.inf


def _groups(controller: str) -> list[Path]:
    """Folders of the control groups that this process is in, from the root (a container's own) inwards."""
    inside: tuple[str, ...] = ()
    with suppress(OSError, ValueError):
        lines = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
        (path,) = [path for _, controllers, path in lines if controller in controllers.split(",")]
        inside = PurePosixPath(path).parts[1:]
    root = _GROUPS / controller
    return [root.joinpath(*inside[:depth]) for depth in range(len(inside) + 1)]


def process_bytes(name: str) -> int:
    """Bytes of an entry of the process's status, such as ``VmRSS``; OSError elsewhere than on Linux."""
    return _entry(Path("/proc/self/status"), name)


def _entry(path: Path, name: str) -> int:
    """Bytes of an entry in kB of a file of the kernel."""
    (line,) = [line for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])
