"""Layout of the source: import directions, no cycles, extras, sizes of files and functions, public names."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import networkx as nx
import pytest
from packaging.requirements import Requirement

import convlstm
from convlstm.extras import EXTRAS, install_hint

SOURCE = Path(convlstm.__file__).parent
PYPROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
# A folder may import from those before it; `data` and `scores` from `functional` alone, `pictures` from
# `scores` too (it draws for forecasting, training and plots), `testing` from any.
ORDER = (
    *("functional", "cells", "engines", "layers", "models", "verification", "forecasting", "training"),
    *("plots", "workflows", "pysteps", "cli"),
)
LEAVES = (
    *("atomic_write", "errors", "extras", "hub", "hyperparameters", "model_card", "model_folder"),
    *("system_memory", "trust", "validation"),
)
BESIDE = ("data", "scores", "pictures")
# The folders and files that may import a heavy library, even inside a function.
HOMES = {
    "PIL": {"data", "pictures", "plots"},
    "huggingface_hub": {"hub", "model_card"},
    "jinja2": {"plots"},
    "jsonargparse": {"cli"},
    "lightning": {"training"},
    "matplotlib": {"plots"},
    "plotly": {"plots"},
    "pysteps": {"models", "pysteps"},
    "sklearn": {"data"},
    "triton": {"engines"},
    "xarray": {"data", "forecasting", "workflows"},
}
HEAVY = {"PIL", "huggingface_hub", "jsonargparse", "lightning", "matplotlib", "rich", "sklearn"}
# Modules that some file uses by way of another: the class that needs each.
INDIRECT = {"TensorBoardLogger": "tensorboard", "dense_lucaskanade": "cv2"}
BUILT = {"flow"}  # extras that are built from source, which nothing else installs


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Dotted name and syntax tree of every file of the source."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), ast.parse(path.read_text())


TREES = dict(modules())


def imports(name: str) -> set[str]:
    """The modules that a file imports: at its top, inside functions and under TYPE_CHECKING alike."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            # `from package import name` imports the module of that name, if there is one.
            found |= {
                inner if (inner := f"{node.module}.{alias.name}") in TREES else node.module
                for alias in node.names
            }
    return found


def folder(name: str) -> str:
    """The folder or the file beside the folders that a module belongs to; empty for the package itself."""
    return name.split(".")[1] if "." in name else ""


def allowed(own: str) -> set[str]:
    if own in BESIDE:
        return {own, "functional", *LEAVES, *(["scores"] if own == "pictures" else [])}
    if own in ORDER:
        return {*ORDER[: ORDER.index(own) + 1], *LEAVES, *(BESIDE if own in ORDER[5:] else ())}
    return set(LEAVES)


def test_imports_go_one_way():
    for name in TREES:
        if folder(name) in ("", "__main__", "testing"):
            continue
        used = {folder(other) for other in imports(name) if other.startswith("convlstm.")}
        assert used <= allowed(folder(name)), f"{name} imports {sorted(used - allowed(folder(name)))}"


def test_heavy_libraries_are_imported_in_their_folders_only():
    for name in TREES:
        for other in imports(name):
            homes = HOMES.get(other.partition(".")[0])
            assert homes is None or folder(name) in homes, f"{name} imports {other}"


def test_no_import_cycles():
    """Packages count by their ``__init__``; what Python itself imports above a module does not."""
    graph = nx.DiGraph((name, other) for name in TREES for other in imports(name) if other in TREES)
    cycles = [sorted(names) for names in nx.strongly_connected_components(graph) if len(names) > 1]
    assert not cycles
    assert not list(nx.selfloop_edges(graph))


def test_extras_are_what_some_file_imports():
    """The extras of ``pyproject.toml``, the table of hints and the imports of the source are the same."""
    core = {"torch", "numpy", "safetensors", "huggingface_hub", "triton"}  # triton comes with torch
    words = {node.id for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {other.partition(".")[0] for name in TREES for other in imports(name)}
    imported |= {module for word, module in INDIRECT.items() if word in words}
    imported -= {*sys.stdlib_module_names, *core, "convlstm"}
    assert sorted(module for names in EXTRAS.values() for module in names) == sorted(imported)
    distributions = packages_distributions()
    for extra, names in EXTRAS.items():
        declared = {Requirement(line).name.lower() for line in PYPROJECT["optional-dependencies"][extra]}
        if extra in BUILT and any(name not in distributions for name in names):
            continue
        installing = {distributions[name][0].lower().replace("_", "-") for name in names}
        assert declared == installing, extra
    assert {*EXTRAS, "all", "dev", "docs"} == set(PYPROJECT["optional-dependencies"])
    assert PYPROJECT["optional-dependencies"]["all"] == [
        f"convlstm[{','.join(name for name in EXTRAS if name not in BUILT)}]"
    ]
    assert install_hint("PIL.Image") == "pip install 'convlstm[plots]'"
    assert install_hint("torch") is install_hint("something_of_the_users") is None


def test_every_hint_comes_from_the_table():
    """No other file writes the command that installs an optional package."""
    for name, tree in TREES.items():
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        hints = [text for text in texts if isinstance(text, str) and "pip install " in text]
        assert name == "convlstm.extras" or all("pip install -U convlstm" in text for text in hints), name


# Beyond the limits on purpose: a stack and the options of a run are public, and their options stand flat.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS = {"convlstm.layers.stack.Stack.__init__"}
MANY_ARGUMENTS = {
    "convlstm.data.archive.Archive",
    "convlstm.data.moving_mnist.MovingObjects",
    "convlstm.data.specification.Specification",
    "convlstm.layers.options.StackOptions",
    "convlstm.layers.stack.Stack",
    "convlstm.engines.plan.Plan",
    "convlstm.models.convlstm_transformer.ConvLSTMTransformer",  # those of EncoderForecaster, and its own
    "convlstm.models.encoder_forecaster.EncoderForecaster",  # one of them the earlier name of another
    "convlstm.training.config.TrainingConfig",
    "convlstm.verification.results.Verification",
}


def lines_of_code(function: ast.FunctionDef) -> int:
    """Number of lines of a function without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def arguments(definition: ast.ClassDef) -> int:
    """Number of arguments of a constructor, as it is written or as its fields give it."""
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    made = any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)
    return sum("ClassVar" not in ast.unparse(field.annotation) for field in fields) if made else 0


def test_files_functions_and_constructors_are_short():
    """Files below 400 lines, functions below 60 without their docstrings, constructors below 12 arguments."""
    files, functions, constructors = set(), set(), set()
    for name, tree in TREES.items():
        path = SOURCE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if len(path.read_text().splitlines()) >= 400:
            files.add(name)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef):
                continue
            owner = f"{name}.{node.name}" if isinstance(node, ast.ClassDef) else name
            long = [f for f in node.body if isinstance(f, ast.FunctionDef) and lines_of_code(f) >= 60]
            functions |= {f"{owner}.{function.name}" for function in long}
            if isinstance(node, ast.ClassDef) and arguments(node) >= 12:
                constructors.add(owner)
    assert files == LONG_FILES
    assert functions == LONG_FUNCTIONS
    assert constructors == MANY_ARGUMENTS


def test_only_the_command_line_prints():
    for name, tree in TREES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        printing = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        assert not printing or folder(name) == "cli", f"{name} prints"


PUBLIC = {
    "AutoregressiveForecaster",
    "CausalLSTMCell",
    "Cell",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvLSTMError",
    "ConvLSTMTransformer",
    "ConvRNNCell",
    "E3DLSTM",
    "E3DLSTMCell",
    "EncoderForecaster",
    "Forecaster",
    "GHUCell",
    "LinearCell",
    "MAU",
    "MAUCell",
    "MIM",
    "MIMCell",
    "MinConvGRUCell",
    "MinConvLSTMCell",
    "MovingObjects",
    "PhyCell",
    "PhyDNet",
    "PredRNN",
    "PredRNNPlusPlus",
    "PredRNNv2",
    "SAConvLSTMCell",
    "SAConvLSTMForecaster",
    "STLSTMCell",
    "SpaceTimeAttentionCell",
    "StackForecaster",
    "SwinLSTM",
    "SwinLSTMCell",
    "Tape",
    "TrainingConfig",
    "TrajGRUCell",
    "TrajGRUForecaster",
    "__version__",
    "demo",
    "describe",
    "evaluate",
    "forecast",
    "plan",
    "inspect",
    "record",
    "report",
    "train",
}


def test_the_public_names():
    """Whoever adds or removes one does it on purpose, here too."""
    assert set(convlstm.__all__) == PUBLIC
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
