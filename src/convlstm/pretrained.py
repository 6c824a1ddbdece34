"""Model folders: ``config.json`` and ``model.safetensors``, without a line of pickled code.

The arguments of the constructor are kept as plain data, so that `save_pretrained` can write a module and
`from_pretrained` build it again, as on the Hugging Face hub.
"""

import json
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

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

        The files are written beside their final place and moved there, so that no reader and no crash ever
        sees half a model. An existing model in the folder is replaced.

        Args:
            folder: made if missing.
            notes: plain data kept in the configuration beside the architecture (what the model was trained
                on, its scale), returned by `read_config`.

        Returns:
            The folder.
        """
        folder = Path(folder)
        config = {
            "schema": SCHEMA,
            "class": path_of(type(self)),
            "hyperparameters": self.hyperparameters,
        } | notes
        weights = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        # The configuration last: a folder without one is no model yet.
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _WEIGHTS, save(weights, metadata={"format": "pt"}))
        write_atomically(folder / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a model back.

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
            model.load_state_dict(load_file(folder / _WEIGHTS))
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


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read and check the ``config.json`` of a model folder.

    Raises:
        RunError: no such file, not one of ours, or written by a newer version.
    """
    path = Path(folder) / _CONFIG
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
            f"{path} must have schema {SCHEMA}; it has schema {config['schema']}: "
            "it was written by a newer convlstm, install that one (pip install -U convlstm)"
        )
    return config


def _local(folder: str | Path) -> Path:
    if Path(folder).exists():
        return Path(folder)
    parts = str(folder).split("/")
    if isinstance(folder, str) and len(parts) == 2 and all(parts) and not parts[0].startswith("."):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(folder, allow_patterns=[_CONFIG, _WEIGHTS]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
            pass
    raise RunError(
        f"a model must be an existing folder or a repository of the Hugging Face hub; received {folder}"
    )
