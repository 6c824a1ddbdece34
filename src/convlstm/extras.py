"""The optional packages: which extra installs each module that some file imports late.

The table, the extras of ``pyproject.toml`` and the imports are compared by ``tests/test_layout.py``.
"""

import os
import sys
from importlib import import_module

from convlstm.errors import OptionError

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("lightning", "torchmetrics", "tensorboard", "rich", "jsonargparse", "docstring_parser", "yaml"),
    "data": ("sklearn", "xarray", "dask", "pyproj", "h5py", "cf_xarray", "h5netcdf", "zarr", "cfgrib"),
    "video": ("av",),
    "flow": ("pysteps", "cv2"),
    "plots": ("matplotlib", "PIL", "jinja2"),
}


def install_hint(module: str) -> str | None:
    """The command that installs an optional module; None if it belongs to no extra.

    Args:
        module: name of the module, or of one inside it, such as ``PIL.Image``.
    """
    top = module.partition(".")[0]
    return next((f"pip install 'convlstm[{extra}]'" for extra, names in EXTRAS.items() if top in names), None)


def check_installed(module: str, what: str) -> None:
    """Check that an optional module can be imported.

    Args:
        module: its name.
        what: needs it, to open the message: "pictures need Pillow".

    Raises:
        OptionError: with the command that installs it.
    """
    try:
        import_module(module)
    except ImportError as error:
        raise OptionError(f"{what}, which is not installed: {install_hint(module)}") from error


def load_pyproj() -> None:
    """Import pyproj so that it works wherever ecCodes was imported before.

    xarray imports ecCodes with its engines, whose copy of PROJ would take the place of pyproj's and crash it.
    Loaded with RTLD_DEEPBIND, pyproj looks into its own copy first.
    """
    flags = getattr(sys, "getdlopenflags", int)()
    deep = getattr(os, "RTLD_DEEPBIND", 0)  # Linux only
    if deep:
        sys.setdlopenflags(flags | deep)
    try:
        import_module("pyproj")
    finally:
        if deep:
            sys.setdlopenflags(flags)
