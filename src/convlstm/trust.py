"""Rules for loading the classes that a model folder or a run names; its author may be a stranger.

Without trust load the cells, layers, models and data of this package, the modules of `torch.nn`, torch's
optimizers and schedulers, and its functions of one tensor listed here. A class or function of another
package loads only if the caller trusts that package by name, and never from inside the folder that is read.
No package is imported before it is allowed, and nothing is called before its kind is checked.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convlstm.errors import OptionError, RunError
from convlstm.validation import received

#: Packages of this library whose classes a file may name, and those whose functions it may name.
_OURS = tuple(f"convlstm.{folder}" for folder in ("cells", "data", "functional", "layers", "models"))
_OUR_FUNCTIONS = ("convlstm.cells.", "convlstm.functional.", "convlstm.models.")
#: Functions of one tensor in torch, torch.special or torch.nn.functional that can serve as activations.
_FUNCTIONS = (
    *("abs", "asinh", "atan", "arctan", "celu", "clamp", "clip", "cos", "cosh", "elu", "entr", "erf"),
    *("erfc", "exp", "exp2", "expit", "expm1", "gelu", "hardshrink", "hardsigmoid", "hardswish"),
    *("hardtanh", "leaky_relu", "log1p", "log_ndtr", "log_softmax", "logsigmoid", "mish"),
    *("nan_to_num", "ndtr", "normalize", "positive", "relu", "relu6", "selu", "sgn", "sigmoid"),
    *("sign", "silu", "sin", "sinc", "sinh", "softmax", "softmin", "softplus", "softshrink"),
    *("softsign", "sqrt", "square", "tanh", "tanhshrink", "threshold"),
)
#: Earlier names of modules, and of classes that moved from one module to another.
_RENAMED = {
    "convlstm.cells.parts.ChannelAttention": "convlstm.cells.attention.ChannelAttention",
    "convlstm.cells.parts.SpatialAttention": "convlstm.cells.attention.SpatialAttention",
    "convlstm.cells.parts": "convlstm.cells.conv_cell",
    "convlstm.cells.self_attention": "convlstm.cells.sa_convlstm",
    "convlstm.cells.weights": "convlstm.cells.convert",
    "convlstm.data.images": "convlstm.data.mnist",
    "convlstm.data.moving": "convlstm.data.moving_mnist",
    "convlstm.functional.warp": "convlstm.functional.motion",
    "convlstm.layers.parts": "convlstm.layers.norm",
}


def packages(trust: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of trusted packages, given as a sequence or separated by commas.

    Raises:
        OptionError: anything but dotted names.
    """
    names = trust.split(",") if isinstance(trust, str) else trust
    if isinstance(names, list | tuple | set | frozenset) and all(isinstance(name, str) for name in names):
        names = tuple(name.strip() for name in names if name)
    else:
        names = ("",)
    if not all(is_dotted(name) for name in names):
        raise OptionError(
            f"trust must name packages, such as my_package or my_package.cells; received {received(trust)}: "
            "give the names that are imported, not files"
        )
    return names


def packages_in(value: Any) -> set[str]:
    """Return the packages, other than this one and torch, whose classes a description of arguments names."""
    if isinstance(value, list | tuple):
        return set().union(*map(packages_in, value))
    if not isinstance(value, dict):
        return set()
    found = packages_in(list(value.values()))
    if isinstance(named := value.get("class"), str):
        found |= {named.partition(".")[0]} - {"convlstm", "torch"}
    return found


@dataclass(frozen=True)
class Trust:
    """The classes that may be loaded from a file.

    Args:
        packages: the packages that the caller trusts.
        inside: the folder that is read: nothing is imported from inside it.
        module: name of a loaded module whose classes need no trust: the one that defines the class which
            is asked to load.
    """

    packages: tuple[str, ...] = ()
    inside: Path | None = None
    module: str = ""

    def find(self, path: Any, kind: type | tuple[type, ...] = nn.Module, *, functions: bool = True) -> Any:
        """Return the class or function of a dotted path.

        Args:
            path: as a file names it; an earlier name of a module of this package means today's.
            kind: class or classes of which it must be a subclass.
            functions: True to allow functions too: torch's activations, those of this package, and those
                defined in a trusted package.

        Raises:
            RunError: a package that is not trusted, or that lies inside the folder; nothing of that name; or
                something of another kind.
        """
        if not (isinstance(path, str) and "." in path and is_dotted(path)):
            raise RunError(f"a class must be named by its dotted path; received {str(path)[:80]!r}")
        module, _, name = _RENAMED.get(path, path).rpartition(".")
        module = _RENAMED.get(module, module)
        root = module.partition(".")[0]
        mine = root == self.module.partition(".")[0]
        known = getattr(sys.modules.get(module), name, None) if mine else None
        if isinstance(known, type) and known.__module__ == self.module and _is_kind(known, kind):
            return known
        if root == "torch":
            found = getattr(sys.modules.get(module), name, None)
            home = "torch.nn.modules." if _is_kind(found, nn.Module) else "torch.optim."
            fits = _is_kind(found, kind) and found.__module__.startswith(home)
            fits = fits or (functions and any(found is function for function in _activations()))
        elif root == "convlstm":
            listed = module == root or f"{module}.".startswith(tuple(f"{home}." for home in _OURS))
            found = _imported(module, name) if listed else None
            ours = inspect.isfunction(found) and found.__module__.startswith(_OUR_FUNCTIONS)
            fits = _is_kind(found, kind) or (functions and ours)
        else:
            self._check_package(path, module, root)
            found = _imported(module, name)
            fits = _is_kind(found, kind)
            fits = fits or (functions and inspect.isfunction(found) and self._covers(found.__module__))
        if not fits:
            kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise RunError(
                f"what a file names must be a subclass of {kinds}{' or an activation' if functions else ''}; "
                f"received {path}: only such classes are built from a file"
            )
        return found

    def _covers(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{package}.") for package in self.packages)

    def _check_package(self, path: str, module: str, root: str) -> None:
        if not self._covers(module):
            raise RunError(
                f"only classes of convlstm and torch.nn load by themselves; received {path}: if you trust "
                f"that package, add --trust {root} (in Python trust=({root!r},))"
            )
        if self.inside is None:
            return
        if root in sys.modules:
            found = sys.modules[root]
            places = [getattr(found, "__file__", None), *getattr(found, "__path__", ())]
        else:
            spec = find_spec(root)  # which imports nothing
            places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        folder = self.inside.resolve()
        for place in places:
            if place and Path(place).resolve().is_relative_to(folder):
                raise RunError(
                    f"a package that is trusted must lie outside the folder that is read, {self.inside}; "
                    f"received {path}, found in {place}: move it elsewhere if it is yours"
                )


def _imported(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # a module may raise anything
        raise RunError(
            f"the classes that a file names must be importable; {module}.{name} gave '{error}': run where "
            "that module can be found (PYTHONPATH)"
        ) from error


def _is_kind(found: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(found, type) and issubclass(found, kind)


def is_dotted(name: Any) -> bool:
    """True for identifiers joined by dots."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _activations() -> Iterator[Any]:
    homes = (torch, torch.special, nn.functional)
    return (getattr(home, name) for name in _FUNCTIONS for home in homes if hasattr(home, name))
