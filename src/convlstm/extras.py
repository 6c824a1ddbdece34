"""The optional packages: which extra installs each module that some file imports late.

The table, the extras of ``pyproject.toml`` and the imports are compared by ``tests/test_layout.py``.
"""

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("lightning", "tensorboard", "rich", "jsonargparse", "docstring_parser", "yaml"),
    "data": ("sklearn", "xarray", "dask", "pyproj"),
    "plots": ("matplotlib", "PIL", "jinja2"),
}


def install_hint(module: str) -> str | None:
    """The command that installs an optional module; None if it belongs to no extra.

    Args:
        module: name of the module, or of one inside it, such as ``PIL.Image``.
    """
    top = module.partition(".")[0]
    return next((f"pip install 'convlstm[{extra}]'" for extra, names in EXTRAS.items() if top in names), None)
