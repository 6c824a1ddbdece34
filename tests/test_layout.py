"""The house: imports go one way, heavy libraries stay in their rooms, the public names are these."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convlstm

SOURCE = Path(convlstm.__file__).parent
# Each folder may import from those before it, data and scores from functional; top-level files are leaves.
ORDER = (
    *("functional", "cells", "engines", "layers", "models", "verification", "forecasting", "training"),
    *("plots", "workflows", "cli"),
)
LEAVES = ("hyperparameters", "errors", "atomic_write", "hub", "trust")
BESIDE = ("data", "scores")
# Where heavy libraries may be imported, even inside a function; `cli` composes and may use any.
ROOMS = {
    "lightning": {"training"},
    "triton": {"engines"},
    "xarray": {"data", "forecasting"},
    "matplotlib": {"plots"},
    "plotly": {"plots"},
    "jsonargparse": {"cli"},
    "sklearn": {"data"},
}


HEAVY = {"lightning", "matplotlib", "sklearn", "rich", "jsonargparse", "PIL", "huggingface_hub"}


def imports(path):
    """Names of all modules a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module


def room(module):
    return module.split(".")[1] if "." in module else ""


def files():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).parts
        yield path, parts[0] if len(parts) > 1 else path.stem


def allowed(own):
    if own in BESIDE:
        return {own, "functional", *LEAVES}
    if own in ORDER:
        return {*ORDER[: ORDER.index(own) + 1], *LEAVES, *(BESIDE if own in ORDER[5:] else ())}
    return set(LEAVES)


def test_imports_go_one_way():
    for path, own in files():
        if own in ("__init__", "__main__", "testing"):
            continue
        used = {room(name) for name in imports(path) if name.startswith("convlstm.")}
        assert used <= allowed(own), f"{path.relative_to(SOURCE)} imports {sorted(used - allowed(own))}"


def test_heavy_libraries_stay_in_their_rooms():
    for path, own in files():
        for name in imports(path):
            rooms = ROOMS.get(name.split(".")[0])
            assert rooms is None or own in rooms | {"cli"}, f"{path.relative_to(SOURCE)} imports {name}"


def test_no_import_cycles():
    graph = {}
    for path, _ in files():
        name = ".".join(("convlstm", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        tree = ast.parse(path.read_text())
        top = [
            node
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module.startswith("convlstm")
        ]
        graph[name] = {node.module for node in top}

    def visit(name, path):
        assert name not in path, f"import cycle: {' -> '.join([*path, name])}"
        for other in graph.get(name, ()):
            if other != name:
                visit(other, [*path, name])

    for name in graph:
        visit(name, [])


def test_only_the_command_line_prints():
    for path, own in files():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        assert not printing or own == "cli", f"{path.relative_to(SOURCE)} prints"


def test_the_public_names():
    """Whoever adds or removes one does it on purpose, here too."""
    cells = {"Cell", "ConvGRUCell", "ConvLSTMCell", "ConvRNNCell", "SAConvLSTMCell"}
    models = {"ConvGRU", "ConvLSTM", "EncoderForecaster", "Forecaster"}
    running = {"MovingObjects", "TrainingConfig", "evaluate", "forecast", "report", "train"}
    assert set(convlstm.__all__) == cells | models | running | {"ConvLSTMError", "__version__"}
    for name in convlstm.__all__:
        assert getattr(convlstm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(convlstm, "nothing")  # noqa: B009


def test_importing_the_package_or_a_layer_stays_light():
    """`import convlstm` loads nothing; a layer loads torch but none of the extras."""
    code = (
        "import sys, convlstm; assert 'torch' not in sys.modules; "
        "from convlstm import ConvLSTM, MovingObjects; "
        f"print(sorted(set(sys.modules) & {HEAVY}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_layers_and_models_load_what_torch_loads():
    """Built and called: torch._dynamo, which loads sympy, takes as long as torch itself."""
    code = """if True:
        import sys, torch
        before = set(sys.modules)
        from convlstm import ConvGRU, ConvLSTM, EncoderForecaster
        for stack in (ConvGRU, ConvLSTM):
            for engine in ("auto", "fused", "reference"):
                outputs, _ = stack(1, 2, 3, batch_first=True, engine=engine)(torch.rand(1, 2, 1, 5, 5))
                outputs[0].sum().backward()
        EncoderForecaster(channels=1)
        more = {name.split(".")[0] if name[:5] != "torch" else name for name in set(sys.modules) - before}
        print(sorted(more - sys.stdlib_module_names))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['convlstm', 'safetensors']"
