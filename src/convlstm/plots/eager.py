"""Compiled models run as they are written while something records them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_lock = Lock()
_blocks: set[object] = set()  # that are open, of all threads
_stance: Any = None


@contextmanager
def uncompiled() -> Iterator[None]:
    """A block in which models that `torch.compile` made run without it, as they see no hooks that came later.

    It is for the whole process, as `torch.compiler.set_stance` is, until the last of such blocks ends,
    whichever began first.
    """
    global _stance
    block = object()
    with _lock:
        if _stance is None and "torch._dynamo" in sys.modules:
            _stance = torch.compiler.set_stance("force_eager")
        _blocks.add(block)
    try:
        yield
    finally:
        with _lock:
            _blocks.remove(block)
            if not _blocks and _stance is not None:
                _stance.__exit__(None, None, None)
                _stance = None
