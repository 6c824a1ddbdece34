"""The files of a model folder: reading, checking, preparing what is written."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from convlstm.errors import RunError, reading

SCHEMA = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
#: The configuration of the run around a model folder, and the name of that folder.
RUN_CONFIG, RUN_MODEL = "config.yaml", "model"
#: The keys of a configuration that belong to the model; the others are notes.
RESERVED = {"schema", "class", "hyperparameters"}


def load_config(folder: Path) -> dict[str, Any]:
    """Read and check the ``config.json`` of a model folder.

    Raises:
        RunError: no such file, not one of ours, or written by a newer version.
    """
    path = folder / CONFIG
    if not path.exists():
        raise RunError(
            f"a model folder must hold {CONFIG} and {WEIGHTS}; {folder} has no {CONFIG}: "
            "give the folder of a run or of a model"
        )
    check_file(path)
    with reading(path, "be readable JSON", "copy the folder again", RunError):
        config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not config.keys() >= RESERVED:
        raise RunError(
            f"{path} must name a schema, a class and hyperparameters; it was not written by convlstm"
        )
    if type(config["schema"]) is not int or config["schema"] != SCHEMA:
        raise RunError(
            f"{path} must have schema {SCHEMA}; it has schema {str(config['schema'])[:80]}: install the "
            "convlstm that wrote it (a newer one by pip install -U convlstm)"
        )
    if not isinstance(config["class"], str) or not isinstance(config["hyperparameters"], dict):
        raise RunError(
            f"{path} must name its class by text and its hyperparameters by a mapping; received a "
            f"{type(config['class']).__name__} and a {type(config['hyperparameters']).__name__}: copy the "
            "folder again"
        )
    return config


def check_file(path: Path) -> None:
    """Check that what is there is a file: reading a pipe or a device need not end.

    Raises:
        RunError: it is something else.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} must be a file; it is a folder, a pipe or a device: copy the folder again")


@contextmanager
def size_limit(weights: dict[str, Tensor]) -> Iterator[None]:
    """Refuse to build a module that outgrows the weights which are to fill it, before memory is touched.

    Four times the weights are allowed, for parts that a constructor builds and replaces.

    Raises:
        RunError: in the constructor, at the first tensor beyond the limit.
    """
    numbers = 4 * sum(tensor.numel() for tensor in weights.values()) + 10**6
    tensors, thread = 4 * len(weights) + 1000, threading.get_ident()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, tensors
        if threading.get_ident() != thread or tensor is None or nn.parameter.is_lazy(tensor):
            return
        numbers, tensors = numbers - tensor.numel(), tensors - 1
        if numbers < 0 or tensors < 0:
            raise RunError("sizes must be those of the weights; they are far larger")

    handles = (
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_plain(name: str, value: Any) -> None:
    """Check that JSON can hold a value.

    Raises:
        RunError: it cannot.
    """
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"what is saved with a model must be plain data; {name}={value!r} gave '{error}': convert it to "
            "numbers, text and lists"
        ) from error


def separate(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return dense tensors of which none shares memory with another, as a file holds them."""
    apart: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in weights.items():
        dense = tensor.detach().contiguous()
        place = dense.untyped_storage().data_ptr()
        apart[name] = dense.clone() if place in places else dense
        places.add(place)
    return apart


def weights_digest(folder: Path) -> str | None:
    """SHA-256 of the weights in a model folder, in hexadecimal; None where there are none."""
    path = folder / WEIGHTS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
