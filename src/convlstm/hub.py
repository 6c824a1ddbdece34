"""Model folders: ``config.json`` and ``model.safetensors``, without a line of pickled code.

The arguments of the constructor are kept as plain data, so that `save_pretrained` can write a module and
`from_pretrained` build it again, as on the Hugging Face hub.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from convlstm.atomic_write import write_together, writing
from convlstm.errors import RunError
from convlstm.hyperparameters import RemembersArguments, path_of, resolve
from convlstm.trust import Trust, packages, packages_in

SCHEMA = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class Pretrained(RemembersArguments, nn.Module):
    """A module that can be written to a folder and read back."""

    @classmethod
    def rebuild(cls, hyperparameters: Mapping[str, Any], *, trust: str | Sequence[str] = ()) -> Self:
        """Build the module from its `hyperparameters`, with fresh weights.

        Args:
            hyperparameters: as the property of that name gives them.
            trust: packages whose classes may be loaded, as for `from_pretrained`.
        """
        return cls(**_resolved(hyperparameters, Trust(packages(trust), module=cls.__module__)))

    def save_pretrained(self, folder: str | Path, **notes: Any) -> Path:
        """Write ``config.json`` and ``model.safetensors``.

        Each file is written beside its final place and moved there, so that no reader and no crash ever sees
        half of one. An existing model in the folder is replaced.

        Args:
            folder: made if missing.
            notes: plain data kept in the configuration beside the architecture (what the model was trained
                on, its scale), returned by `read_config`.

        Returns:
            The folder.

        Raises:
            RunError: an argument or a note that is no plain data; a module that was changed since it was
                built (parametrized, pruned, its parts replaced), so that its arguments give another one.
                Nothing has been written then.
        """
        folder = Path(folder)
        text, weights = self.check_saved(**notes)
        # The configuration last: a folder without one is no model yet.
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        content = save(weights, metadata={"format": "pt"})
        write_together({folder / _WEIGHTS: content, folder / _CONFIG: text.encode()})
        return folder

    def check_saved(self, **notes: Any) -> tuple[str, dict[str, Tensor]]:
        """Check that `save_pretrained` can write the module, and return what it writes.

        Raises:
            RunError: as `save_pretrained`.
        """
        described: dict[str, Any] = {
            "schema": SCHEMA,
            "class": path_of(type(self)),
            "hyperparameters": self.hyperparameters,
        }
        if taken := described.keys() & notes.keys():
            raise RunError(
                f"notes must leave {', '.join(described)} to the model; received {', '.join(sorted(taken))}: "
                "give them other names"
            )
        for name, value in (described["hyperparameters"] | notes).items():
            _check_plain(name, value)
        text = json.dumps(described | notes, indent=2) + "\n"
        weights = _apart(self.state_dict())
        self._check_rebuilt(json.loads(text), weights)
        return text, weights

    def _check_rebuilt(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Check that the weights fit what a configuration builds."""
        name, hyperparameters = type(self).__name__, config["hyperparameters"]
        known = Trust(tuple(packages_in(config)))  # all of it is in this module already
        kind = known.find(config["class"], Pretrained, functions=False)
        arguments = _resolved(hyperparameters, known)
        try:
            with torch.random.fork_rng(devices=[]):
                again = kind.rebuild(arguments)
                parts, built_parts = _parts(self), _parts(again)
                if parts != built_parts:  # a number of another type may show as another text
                    built_parts = _parts(kind(**self._convlstm_arguments))
        except Exception as error:
            raise RunError(
                f"a model that is saved must be built again from its arguments; {name} with "
                f"{', '.join(hyperparameters)} gave '{error}': let its constructor take each of these by name"
            ) from error
        built = again.state_dict()
        other = sorted(built.keys() ^ weights.keys())
        other += [key for key in built if not other and built[key].shape != weights[key].shape]
        other += sorted(part for part in parts if not other and parts[part] != built_parts.get(part))
        if other:
            raise RunError(
                f"a model that is saved must have the parts that its arguments build; {name} has another "
                f"{other[0]}: undo what changed it (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.prune.remove), or let the constructor do it"
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust: str | Sequence[str] = ()) -> Self:
        """Read a model back, with the dtype it had; in training mode, as from its constructor.

        A folder may be a stranger's, so it names classes and runs no code of its own. By themselves load this
        class, others of the module that defines it, those of this package, the modules of `torch.nn` and
        torch's activations. Classes and functions of any other package load only if that package is trusted;
        it is imported from where it is installed or on the path, never from inside the folder.

        Args:
            folder: a folder written by `save_pretrained`, or the name of a repository on the Hugging Face
                hub (``owner/name``), which is downloaded.
            trust: names of packages, such as ``("my_package",)``, whose classes and functions may be
                imported and called; ``__main__`` is the program that runs.

        Raises:
            RunError: missing or damaged files, a newer schema, a model of another class, a class of a package
                that is not trusted, or hyperparameters that build nothing, or far more than the weights fill.
        """
        trusted = packages(trust)
        folder = _local(folder)
        config = read_config(folder)
        run = folder.parent if (folder.parent / "config.yaml").exists() and folder.name == "model" else folder
        known = Trust(trusted, inside=run, module=cls.__module__)
        found = known.find(config["class"], nn.Module, functions=False)
        if not issubclass(found, cls):
            raise RunError(
                f"{folder} must hold a {cls.__name__}; it holds a {config['class']}: read it with that class"
            )
        weights = _read_weights(folder / _WEIGHTS)
        try:
            arguments = _resolved(config["hyperparameters"], known)
        except RecursionError as error:
            raise RunError(f"{folder / _CONFIG} must hold plain data; its nesting is too deep") from error
        try:
            with _no_larger_than(weights):
                model: Self = found.rebuild(arguments)
        except Exception as error:  # a constructor may raise anything
            raise RunError(
                f"the hyperparameters in {folder / _CONFIG} must build a {found.__name__}; "
                f"{type(error).__name__} says '{_first_line(error)}': copy the folder again"
            ) from error
        kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
        if len(kinds) == 1:
            model.to(kinds.pop())
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(
                f"the weights in {folder} must fit its config.json; {str(error).splitlines()[-1].strip()}: "
                "the two files come from different models"
            ) from error
        return model


def _resolved(hyperparameters: Mapping[str, Any], trust: Trust) -> dict[str, Any]:
    return {name: resolve(value, trust) for name, value in hyperparameters.items()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path} must be a whole safetensors file; reading gave '{error}': copy it again"
        ) from error


@contextmanager
def _no_larger_than(weights: dict[str, Tensor]) -> Iterator[None]:
    """Refuse what is built here when it outgrows the weights that are to fill it, before memory is touched.

    Some room is left for parts that a constructor builds and replaces.
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300]


def _parts(model: nn.Module) -> dict[str, Any]:
    """What torch's and our own modules in a model are, by name, but for their weights."""
    known = ("torch.nn.", "convlstm.")
    return {
        name: (type(module), module.extra_repr())
        for name, module in model.named_modules()
        if name and type(module).__module__.startswith(known)
    }


def _check_plain(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"what is saved with a model must be plain data; {name}={value!r} gave '{error}': convert it to "
            "numbers, text and lists"
        ) from error


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Dense tensors of which none shares memory with another, as a file holds them."""
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
    path = folder / _WEIGHTS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read and check the ``config.json`` of a model folder, or of a repository of the Hugging Face hub.

    Raises:
        RunError: no such file, not one of ours, or written by a newer version.
    """
    folder = _local(folder)
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"a model folder must hold {_CONFIG} and {_WEIGHTS}; {folder} has no {_CONFIG}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} must be readable JSON; reading gave '{error}': copy the folder again"
        ) from error
    if not isinstance(config, dict) or not {"schema", "class", "hyperparameters"} <= config.keys():
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


def _local(folder: str | Path) -> Path:
    """The folder itself, or that of a repository of the hub once it is downloaded."""
    try:
        there = Path(folder).exists()
    except (OSError, ValueError):  # too long a name, or a null character
        there = False
    if there:
        return Path(folder)
    name = str(folder)
    parts = name.split("/")
    reason = "there is no such folder"
    # A name in a folder that is there is a path, mistyped, and nothing to ask the network for.
    if len(parts) == 2 and all(parts) and not parts[0].startswith(".") and not Path(parts[0]).exists():
        from huggingface_hub import errors, snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=[_CONFIG, _WEIGHTS]))
        except errors.HFValidationError:
            pass
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            reason += ", and the hub has no such repository, or it is private (log in by hf auth login)"
        except (errors.HfHubHTTPError, OSError) as error:
            cause: BaseException = error.__cause__ or error
            if isinstance(cause, errors.OfflineModeIsEnabled):
                reason += (
                    ", and the hub must not be asked (HF_HUB_OFFLINE is set) for what is not in its cache"
                )
            else:
                reason += (
                    f", and asking the hub gave '{_first_line(cause)}': check the connection, or download it"
                )
    raise RunError(
        f"a model must be an existing folder or a repository of the Hugging Face hub; received {folder}: "
        f"{reason}"
    )
