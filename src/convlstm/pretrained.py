"""Model folders: ``config.json`` and ``model.safetensors``, without a line of pickled code.

The arguments of the constructor are kept as plain data, so that `save_pretrained` can write a module and
`from_pretrained` build it again, as on the Hugging Face hub.
"""

import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from convlstm.arguments import RemembersArguments, path_of, resolve
from convlstm.errors import RunError
from convlstm.files import write_atomically, writing

SCHEMA = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class Pretrained(RemembersArguments, nn.Module):
    """A module that can be written to a folder and read back."""

    @classmethod
    def rebuild(cls, hyperparameters: dict[str, Any]) -> Self:
        """Build the module from its `hyperparameters`, with fresh weights."""
        return cls(**{name: resolve(value) for name, value in hyperparameters.items()})

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
        write_atomically(folder / _WEIGHTS, save(weights, metadata={"format": "pt"}))
        write_atomically(folder / _CONFIG, text.encode())
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
        self._check_rebuilt(json.loads(text)["hyperparameters"], weights)
        return text, weights

    def _check_rebuilt(self, hyperparameters: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Check that the weights fit what the hyperparameters build."""
        name = type(self).__name__
        try:
            with torch.random.fork_rng(devices=[]):
                again = self.rebuild(hyperparameters)
        except Exception as error:
            raise RunError(
                f"a model that is saved must be built again from its arguments; {name} with "
                f"{', '.join(hyperparameters)} gave '{error}': let its constructor take each of these by name"
            ) from error
        built = again.state_dict()
        other = sorted(built.keys() ^ weights.keys())
        other += [key for key in built if not other and built[key].shape != weights[key].shape]
        parts, built_parts = _parts(self), _parts(again)
        other += sorted(part for part in parts if not other and parts[part] != built_parts.get(part))
        if other:
            raise RunError(
                f"a model that is saved must have the parts that its arguments build; {name} has another "
                f"{other[0]}: undo what changed it (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.prune.remove), or let the constructor do it"
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a model back, with the dtype it had; in training mode, as from its constructor.

        Args:
            folder: a folder written by `save_pretrained`, or the name of a repository on the Hugging Face
                hub (``owner/name``), which is downloaded.

        Raises:
            RunError: missing or damaged files, a newer schema, or a model of another class.
        """
        folder = _local(folder)
        config = read_config(folder)
        found = resolve({"class": config["class"]})
        if not (isinstance(found, type) and issubclass(found, cls)):
            raise RunError(
                f"{folder} must hold a {cls.__name__}; it holds a {config['class']}: read it with that class"
            )
        model = found.rebuild(config["hyperparameters"])
        try:
            weights = load_file(folder / _WEIGHTS)
            kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
            if len(kinds) == 1:
                model.to(kinds.pop())
            model.load_state_dict(weights)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{folder / _WEIGHTS} must be a whole safetensors file; reading gave '{error}': copy it again"
            ) from error
        except RuntimeError as error:
            raise RunError(
                f"the weights in {folder} must fit its config.json; {str(error).splitlines()[-1].strip()}: "
                "the two files come from different models"
            ) from error
        return model


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


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read and check the ``config.json`` of a model folder, or of a repository of the Hugging Face hub.

    Raises:
        RunError: no such file, not one of ours, or written by a newer version.
    """
    folder = _local(folder)
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(
            f"a model folder must hold {_CONFIG} and {_WEIGHTS}; {folder} has no {_CONFIG}"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} must be readable JSON; reading gave '{error}': copy the folder again"
        ) from error
    if not isinstance(config, dict) or not {"schema", "class", "hyperparameters"} <= config.keys():
        raise RunError(
            f"{path} must name a schema, a class and hyperparameters; it was not written by convlstm"
        )
    if config["schema"] != SCHEMA:
        raise RunError(
            f"{path} must have schema {SCHEMA}; it has schema {config['schema']}: install the convlstm that "
            "wrote it (a newer one by pip install -U convlstm)"
        )
    return config


def _local(folder: str | Path) -> Path:
    if Path(folder).exists():
        return Path(folder)
    name = str(folder)
    parts = name.split("/")
    # A name in a folder that is there is a path, mistyped, and nothing to ask the network for.
    if len(parts) == 2 and all(parts) and not parts[0].startswith(".") and not Path(parts[0]).exists():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, allow_patterns=[_CONFIG, _WEIGHTS]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
            pass
    raise RunError(
        f"a model must be an existing folder or a repository of the Hugging Face hub; received {folder}"
    )
