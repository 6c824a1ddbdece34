"""What is typed reaches the objects, and what cannot be understood is answered with one sentence."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from convlstm import EncoderForecaster, Forecaster, PredRNN, TrainingConfig
from convlstm.cli.main import main
from convlstm.cli.messages import nearest
from convlstm.cli.options import Command
from convlstm.errors import OptionError
from convlstm.workflows.class_names import import_named
from convlstm.workflows.configuration import Parts, configuration, read_settings, yaml_of
from convlstm.workflows.models import models

OWN = '''
import os
from typing import Any

import torch

from convlstm import MovingObjects
from convlstm.cells import ConvLSTMCell
from convlstm.data import Source
from convlstm.models import Forecaster


class MyModel(Forecaster):
    """Dims the last frame.

    Args:
        width: how many weights.
        channels: of the frames.
    """

    def __init__(self, width: int, channels: int = 1):
        super().__init__()
        self.width, self.channels = width, channels
        self.weight = torch.nn.Parameter(torch.rand(width))

    def forward(self, past, steps):
        return self.weight.mean() * past[:, -1:].expand(-1, steps, -1, -1, -1)


class MyCell(ConvLSTMCell):
    def __init__(self, input_dim, hidden_dim, kernel_size, bias, *, width: int = 3):
        super().__init__(input_dim, hidden_dim, kernel_size, bias)
        self.width = width


class Broken(MyModel):
    def __init__(self, *, channels: int = 1):
        super().__init__(channels + None)


class Texts(Source):
    """A radar network by name."""

    def __init__(
        self,
        *,
        name: str = "",
        place: str | None = None,
        version: int | str = 1,
        file: str | os.PathLike[str] | None = None,
        many: list[str] | None = None,
        extra: Any = None,
        untyped=None,
    ):
        self.past = self.steps = self.channels = 1

    def split(self, name):
        return MovingObjects(past=1, steps=1).split(name)

    def describe(self):
        return "texts"


constant = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module of the user's, which is where the command is given."""
    (tmp_path / "own_code.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_code", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def build(line, name="train"):
    """The arguments that a command's workflow is called with."""
    kept = {}
    sys.path.append(str(Path.cwd()))
    Command(name).call(lambda **given: kept.update(given), line.split() if isinstance(line, str) else line)
    return kept


def test_options_reach_the_objects_with_hyphens_and_underscores(own):
    line = "--batch-size 4 --learning_rate=auto --loss mse+mae --gradient_clip -0 --data.canvas [20,24] "
    line += "--data.object-size 8 --model.hidden-dim [4,8] --model.skip false --out runs/x"
    objects = build(line)
    config, data, model = objects["config"], objects["data"], objects["model"]
    assert (config.batch_size, config.learning_rate, config.loss) == (4, "auto", "mse+mae")
    assert (data.canvas, data.object_size, data.count) == ((20, 24), 8, 2)
    assert model.hyperparameters["hidden_dim"] == [4, 8]
    assert model.hyperparameters["skip"] is False
    assert objects["out"] == Path("runs/x")


def test_what_is_not_mentioned_is_left_to_the_function():
    assert build("--out a") == {"out": Path("a")}


def test_models_and_cells_of_the_users_own(own):
    model = build("--model own_code.MyModel --model.width 8")["model"]
    assert (type(model).__name__, model.width) == ("MyModel", 8)
    model = build("--model.hidden_dim [4] --model.cell own_code.MyCell --model.cell.width 5")["model"]
    assert [(type(cell).__name__, cell.width) for cell in model.encoder] == [("MyCell", 5)]
    assert model.hyperparameters["cell"] == {"class": "own_code.MyCell", "arguments": {"width": 5}}
    short = build("--model EncoderForecaster --model.cell ConvLSTMCell --model.hidden_dim [4]")["model"]
    assert type(short.encoder[0]).__name__ == "ConvLSTMCell"


def test_every_model_of_the_catalogue_is_meant_by_its_name(own, capsys):
    for entry in models():
        assert main(["train", "--model", entry.name, "--print_config"]) == 0
        printed = capsys.readouterr().out
        assert f"class_path: convlstm.{entry.name}\n" in printed.replace("convlstm.models.", "convlstm.")
    for text in ("model: PredRNN", "model: {class_path: PredRNN}"):
        (own / "short.yaml").write_text(f"{text}\n")
        model = build("--config short.yaml --model.hidden_dim [3,3]")["model"]
        assert (type(model), model.hyperparameters["hidden_dim"]) == (PredRNN, [3, 3])


def test_the_nearest_names_are_a_sentence():
    with pytest.raises(OptionError, match=r"received 'Forecaster': did you mean \w+(, \w+)* or \w+\?$"):
        import_named("Forecaster", Forecaster)


def test_a_switch_of_the_settings_takes_a_value_or_none():
    for line, expected in (
        ("--reverse_input", True),
        ("--reverse-input true", True),
        ("--reverse_input=false", False),
    ):
        config = build(f"{line} --epochs 2")["config"]
        assert (config.reverse_input, config.epochs) == (expected, 2)


def test_a_file_gives_options_and_what_is_typed_counts(own):
    (own / "a.yaml").write_text(
        "learning-rate: 1e-4\nepochs: 7\nmodel:\n  class_path: own_code.MyModel\n  init_args: {width: 2}\n"
    )
    objects = build("--config a.yaml --epochs 3")
    assert (objects["config"].learning_rate, objects["config"].epochs) == (1e-4, 3)
    assert objects["model"].width == 2
    assert build("--config a.yaml --model.width 5")["model"].width == 5
    replaced = build("--config a.yaml --model EncoderForecaster")["model"]
    assert type(replaced).__name__ == "EncoderForecaster"


def test_the_printed_configuration_is_what_config_takes(own, capsys):
    line = (
        "--epochs 3 --data.canvas 16 --data.object_size 8 --model.hidden_dim [4] --model.cell own_code.MyCell"
    )
    assert main(["train", *line.split(), "--print_config"]) == 0
    printed = capsys.readouterr().out
    (own / "c.yaml").write_text(printed)
    objects = build("--config c.yaml")
    assert objects["config"].epochs == 3
    assert objects["data"].canvas == (16, 16)
    assert objects["model"].encoder[0].width == 3
    assert main(["train", "--config", "c.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == printed


WRONG = {
    "train --data.canvs 32": "convlstm train has no option --data.canvs; did you mean --data.canvas?",
    "train --canvas 32": "no option --canvas; did you mean --data.canvas?",
    "train --epoch 3": "no option --epoch; did you mean --epochs?",
    "train --batchsize 3": "no option --batchsize; did you mean --batch_size?",
    "train --xyzzy 3": "no option --xyzzy; see convlstm train --help",
    "train --config.epochs 3": "convlstm train has no option --config.epochs; did you mean --epochs?",
    "train --config.xyzzy=3": "convlstm train has no option --config.xyzzy; see convlstm train --help",
    "train --epochs.most 3": "convlstm train has no option --epochs.most; did you mean --epochs?",
    "train --out.folder 3": "convlstm train has no option --out.folder; see convlstm train --help",
    "train --model.patch_size.x 3": "has no option --model.patch_size.x; did you mean --model.patch_size?",
    "train --model.cell own_code.MyCell --model.cell.widht 3": "did you mean --model.cell.width?",
    "train -e 3": "options must begin with two hyphens; received -e",
    "train extra": "convlstm train takes options only; received 'extra' as well",
    "train --epochs": "--epochs needs a value; received none",
    "train --epochs x": "--epochs must be a whole number; received 'x'",
    "train --epochs 1.5": "--epochs must be a whole number; received '1.5'",
    "train --epochs 0": "epochs must be greater than 0; received 0",
    "train --batch-size big": "--batch_size must be a whole number or auto; received 'big'",
    "train --model.hidden_dim 3": "--model.hidden_dim must be a list such as [8,16]; received '3'",
    "train --model.skip maybe": "--model.skip must be true or false; received 'maybe'",
    "train --model.cell own_code.MyCell --model.cell.width x": "--model.cell.width must be a whole number",
    "train --loss mes": "loss must be one of",
    "train --data.canvas 20": "object_size must be at most the canvas, 20 x 20; received 28",
    "train --data.test_file no.npy": "no.npy does not exist",
    "train --data.images nowhere": "nowhere",
    "train --model own_code.MyModle": "importing 'own_code.MyModle' gave 'AttributeError: ",
    "train --model nothing.Here": "--model must be the dotted path of a Forecaster; importing 'nothing.Here'",
    "train --model EncoderForecster": "received 'EncoderForecster': did you mean EncoderForecaster?",
    "train --model predrnn": "received 'predrnn': did you mean PredRNN",
    "train --model PredRNN+": "received 'PredRNN+': did you mean PredRNN",
    "train --model Forecaster": "received 'Forecaster': did you mean StackForecaster",
    "train --model Zebra": "the dotted path of a Forecaster; received 'Zebra': convlstm models lists ours",
    "train --config short.yaml": "path of a Forecaster; received 'PredRN': did you mean PredRNN",
    "train --model torch.nn.Linear": "received 'torch.nn.Linear', which is none: derive it from Forecaster",
    "train --model convlstm.models.Forecaster": "which is abstract: give a class derived from it",
    "train --model own_code.constant": "which holds 3",
    "train --data os.system": "path of a Source or the path of frames; received 'os.system', which holds <b",
    "train --model torch.load": "dotted path of a Forecaster; received 'torch.load', which holds",
    "train --model.cell shutil.rmtree": "be the dotted path of a Cell; received 'shutil.rmtree': derive it",
    "train --data radar.npy": "frames must come from existing files; none match 'radar.npy': check the path",
    "train --data own_code.npy": "own_code.npy is not: convert it, or give --data.reader the dotted path of",
    "train --data frames/rain.nc": "none match 'frames/rain.nc'",
    "train --data rain*": "none match 'rain*'",
    "train --data a/b.c": "none match 'a/b.c'",
    "train --data radar": "must be the dotted path of a Source or the path of frames; received 'radar'",
    "train --data=": "--data must be the dotted path of a Source or the path of frames; received ''",
    "train --model own_code.Broken": "own_code.Broken gave 'TypeError: unsupported operand",
    "train --config twice.yaml": "twice.yaml gave 'epochs is given twice'",
    "train --config inner.yaml": "inner.yaml gave 'canvas is given twice'",
    "train --model.cell torch.nn.Linear": "--model.cell must be the dotted path of a Cell; received",
    "train --model own_code.MyModel": "MyModel needs --model.width; received none",
    "train --model own_code.MyModel --epochs 3": "MyModel needs --model.width; received none",
    "train --model.channels 3": "channels of the model must be those of the data, 1; received 3",
    "train --config no.yaml": "must be a readable YAML file; no.yaml gave 'No such file or directory'",
    "train --config own_code.py": "a configuration must be",
    "train --config typo.yaml": "no option epoch in the configuration; did you mean epochs?",
    "train --config wrong.yaml": "epochs must be greater than 0; received 'many': give a whole number",
    "train --config part.yaml": "data in the configuration must hold class_path and init_args; received",
    "train --config list.yaml": "must be a mapping of options to values; list.yaml holds something else",
    "train --batch_size 16 --data.train_size 15": "training windows of each process, 15; received 16",
    "train --devices 4096": "devices must be at most the number of",
    "train --out file/run": "must be writable; the system says 'Not a directory'",
    "train --resume .": "a run to go on with must hold a config.yaml; . holds none",
    "train --resume . --epochs 3": "a run to go on with must hold a config.yaml; . holds none",
    "evaluate": "convlstm evaluate needs MODEL; received none",
    "evaluate nowhere": "received nowhere",
    "evaluate . --data.canvs 3": "convlstm evaluate has no option --data.canvs; did you mean --data.canvas?",
    "forecast a": "needs PAST; received none: see convlstm forecast --help",
    "forecast a b": "convlstm forecast needs --steps; received none",
    "forecast a b --steps 0 --out c.npy": "steps must be at least 1; received 0",
    "forecast a b --steps 3 --out c.avi": "the ending of c.avi must be one of .gif, .mp4, .nc, .npy",
    "forecast a b --steps 3 --out own_code.npy": "own_code.npy exists",
    "inspect a": "needs PAST; received none: see convlstm inspect --help",
    "inspect a b": "convlstm inspect needs --out; received none",
    "inspect a b --out c.png": "the ending of c.png must be one of .htm, .html; received '.png'",
    "inspect nowhere b --out c.html": "received nowhere",
    "report nowhere": "nowhere is not a folder",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_used_is_answered_in_one_sentence(own, capsys, line):
    (own / "typo.yaml").write_text("epoch: 3\n")
    (own / "wrong.yaml").write_text("epochs: many\n")
    (own / "part.yaml").write_text("data: {canvas: 3}\n")
    (own / "list.yaml").write_text("- 3\n")
    (own / "twice.yaml").write_text("epochs: 1\nseed: 1\nepochs: 2\n")
    (own / "inner.yaml").write_text("data: {init_args: {canvas: 16, canvas: 32}}\n")
    (own / "short.yaml").write_text("model: PredRN\n")
    (own / "own_code.npy").touch()
    (own / "file").touch()
    before = sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts)
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("convlstm: error: ")
    assert shown.err.count("\n") == 1
    assert WRONG[line] in shown.err
    assert before == sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts)


ENORMOUS = "9" * 25
SETTINGS = ("epochs", "batch_size", "curriculum_steps", "devices", "nodes", "patience", "workers", "seed")
SIZES = ("canvas", "object_size", "count", "past", "steps", "train_size", "test_size", "seed")
REFUSED = [
    *(f"--{name}={ENORMOUS}" for name in SETTINGS),
    *(f"--data.{name}={value}" for name in SIZES for value in (ENORMOUS, f"-{ENORMOUS}")),
    *("--data.canvas=1000000", "--data.steps=10000000", "--data.count=1000000", f"--data.speed={ENORMOUS}"),
    *(f"--model.{name}={ENORMOUS}" for name in ("channels", "kernel_size", "patch_size", "filter_radius")),
    *("--model.hidden_dim=[1000000]", f"--model.hidden_dim=[{ENORMOUS}]", "--model.kernel_size=100000"),
    *("--model.hidden_dim=[]", "--model.hidden_dim=[-1]", "--epochs=1e999", "--learning_rate=nan", "--ema=1"),
    *(
        f"--{name}={value}"
        for name in ("data", "model", "model.cell", "config", "data.images", "data.test_file")
        for value in ("x" * 4000, "x/" * 2000, "sys.exit", "a\0b", "\udcff", "{", "")
    ),
    *(f"--out={value}" for value in ("x" * 4000, "x/" * 2000, "a\0b", "")),
    *("x" * 4000, "\udcff", "--" + "x" * 4000, "--\udcff=1"),
]


def test_no_wrong_value_gives_a_traceback_or_changes_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("kept")
    for word in REFUSED:
        assert main(["train", word]) == 2, word[:80]
        shown = capsys.readouterr()
        assert shown.err.startswith("convlstm: error: "), word[:80]
        assert shown.err.count("\n") == 1, word[:80]
        assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"], word[:80]


#: Text of any kind, most of it like a number, a date or another word of YAML's.
TEXTS = st.one_of(
    st.text(),
    st.from_regex(r"[-+]?[0-9_.]{0,6}([eE][-+]?[0-9_]{0,3})?", fullmatch=True),
    st.sampled_from(["77950e8", "1e3", "-1e3", "1_0e3", "0x1f", "1:30", "yes", "null", "~", "2020-01-01"]),
    st.sampled_from([" a ", "'a'", '"a"', "a\nb", "a: b", "#a", "[1]", "{a: 1}", "é", "\udcff", ".inf"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@hypothesis.given(VALUES)
@hypothesis.settings(max_examples=100, deadline=None)
def test_what_is_written_into_a_configuration_reads_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml_of({"a": value}))
    assert repr(read_settings(path)) == repr({"a": value})


@pytest.mark.parametrize(
    "text", ["77950e8", "1e3", "-1e3", "1_0e3", "3", "0x1f", "1:30", "null", "a: b", "#a"]
)
def test_a_run_is_built_again_from_texts_that_look_like_something_else(own, capsys, text):
    sys.path.append(str(own))
    kind = importlib.import_module("own_code").Texts
    names = ("name", "place", "version", "file", "extra", "untyped")
    data = kind(**dict.fromkeys(names, text), many=[text])
    model = EncoderForecaster(hidden_dim=[4])
    (own / "config.yaml").write_text(configuration(Parts(data, model, TrainingConfig())))
    again = build("--config config.yaml")["data"]
    assert again.hyperparameters == data.hyperparameters
    assert main(["train", "--config", "config.yaml", "--print_config"]) == 0
    (own / "config.yaml").write_text(capsys.readouterr().out)
    assert build("--config config.yaml")["data"].hyperparameters == data.hyperparameters
    words = [f"--data.name={text}", f"--data.file={text}", "--data=own_code.Texts"]
    typed = build(words)["data"].hyperparameters
    assert (typed["name"], typed["file"]) == (text, None if text == "null" else text)  # file may be None


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_help_page_imports_what_its_options_need_and_no_more(name):
    heavy = ("lightning", "torchmetrics", "matplotlib", "PIL", "rich", "sklearn", "scipy", "tensorboard")
    code = (
        "import sys; from convlstm.cli.main import main; main(); "
        f"print(sorted(set({heavy}) & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, name, "--help"], capture_output=True, text=True)
    assert result.stderr == "[]\n"
    assert "suppress" not in result.stdout
    assert ".help" not in result.stdout


@pytest.mark.parametrize("name", ["describe", "models", "plan"])
def test_help_says_what_json_is_for(name, capsys):
    assert main([name, "--help"]) == 0
    assert "print JSON, for a program to read" in capsys.readouterr().out


def test_help_shows_every_option_in_its_group(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if line.startswith(" ")) <= 80
    sections = shown.split("\n\n")
    for name in ("epochs", "data.canvas", "model.hidden_dim", "out", "config", "print_config", "trust"):
        assert [f"\n  --{name}" in section for section in sections].count(True) == 1, name
    for text in ("default: 20)", "default: 64)", "(type: int", "CLASS"):
        assert text in " ".join(shown.split())
    for noise in ("Union", "typing", "class '", "NoneType", "``", "init_args", "subclasses", "Unvalidated"):
        assert noise not in shown


def test_help_of_a_class_that_an_option_takes(capsys):
    assert main(["train", "--model.cell.help", "ConvLSTMCell"]) == 0
    assert "peephole" in capsys.readouterr().out


def test_help_is_about_the_classes_that_were_chosen(own, capsys):
    assert main(["train", "--model", "own_code.MyModel", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "\nDims the last frame:\n" in shown
    assert "how many weights" in shown
    assert "--model.width" in shown
    assert "--model.hidden_dim" not in shown


@pytest.mark.parametrize("name", ["describe", "models", "evaluate", "forecast", "inspect", "report", "demo"])
def test_every_command_has_a_page(name, capsys):
    assert main([name, "-h"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: convlstm {name}")


def test_switches_take_a_value_or_none():
    for line in ("--overwrite m p", "m --overwrite true p", "m p --overwrite"):
        given = build(f"{line} --steps 2 --out o.npy", "forecast")
        assert given == {
            "model": Path("m"),
            "past": ["p"],
            "overwrite": True,
            "steps": 2,
            "out": Path("o.npy"),
        }


def test_the_nearest_option_is_meant():
    assert nearest("data.canvs", ["data.canvas", "data.count"]) == "data.canvas"
    assert nearest("canvas", ["data.count", "data.canvas"]) == "data.canvas"
    assert nearest("xyzzy", ["data.canvas", "epochs"]) is None


def test_a_missing_optional_library_is_named_before_anything_else(tmp_path):
    """A real process in which jsonargparse cannot be imported."""
    code = (
        "import sys; sys.modules['jsonargparse'] = None; from convlstm.cli.main import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "train"], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 2
    assert (
        "this command needs jsonargparse, which is not installed: pip install 'convlstm[train]'"
        in result.stderr
    )
    assert not list(tmp_path.iterdir())


def test_an_option_of_a_class_beside_the_class_in_a_file_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"cell": "ConvLSTMCell", "cell.attention": "spatial"}
    settings = {"class_path": "EncoderForecaster", "init_args": arguments}
    (tmp_path / "own.yaml").write_text(json.dumps({"model": settings}))
    assert main(["train", "--config", "own.yaml", "--out", "run"]) == 2
    assert "model.cell.attention must stand in the init_args" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--optimizer", "Adamw"],
            "--optimizer must be the dotted path of a class; received 'Adamw': did you mean AdamW?",
        ),
        (["--callbacks", "EarlyStoping"], "received 'EarlyStoping': did you mean EarlyStopping?"),
        (
            ["--scheduler", "CosineAnnealingLR", "--scheduler.T_max", "ten"],
            "--scheduler.T_max must be a whole number; received 'ten'\n",
        ),
        (
            ["--optimizer", "json.loads"],
            "--optimizer must be the dotted path of an Optimizer; received 'json.loads', which holds <f",
        ),
        (
            ["--callbacks", "os.system"],
            "--callbacks must be the dotted path of a Callback; received 'os.system', which holds <built-in",
        ),
        (
            ["--callbacks", "torch.optim.SGD"],
            "received 'torch.optim.SGD', which is none: derive it from Callback",
        ),
        (
            ["--scheduler", "no.such"],
            "--scheduler must be the dotted path of an LRScheduler; importing 'no.s",
        ),
    ],
)
def test_wrong_classes_of_a_training_are_named(words, message, capsys):
    assert main(["train", *words, "--print_config"]) == 2
    assert message in capsys.readouterr().err


FUNCTIONS = """
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR

def plain(parameters, lr):
    return SGD(parameters, lr=lr, momentum=0.5)

def annotated(parameters, lr: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=0.5)

def constant(optimizer):
    return ConstantLR(optimizer)
"""


@pytest.mark.parametrize("name", ["plain", "annotated"])
def test_an_optimizer_and_a_schedule_may_be_functions_with_or_without_annotations(own, name, capsys):
    (own / "own_code.py").write_text(FUNCTIONS)
    words = f"--optimizer own_code.{name} --scheduler own_code.constant"
    parts = build(words)
    made = parts["optimizer"]([torch.zeros(1)], lr=0.1)
    assert made.defaults["momentum"] == 0.5
    assert isinstance(parts["scheduler"](made), torch.optim.lr_scheduler.ConstantLR)
    assert main(["train", *words.split(), "--print_config"]) == 0
    (own / "c.yaml").write_text(capsys.readouterr().out)
    assert build("--config c.yaml")["optimizer"].func is parts["optimizer"].func
    assert main(["train", *words.split(), "--optimizer.momentum", "0.9", "--print_config"]) == 2
    assert "has no option --optimizer.momentum" in capsys.readouterr().err


def test_one_class_of_a_callback_is_a_list_of_one(capsys):
    assert (
        main(["train", "--callbacks", "EarlyStopping", "--callbacks.monitor", "val_mse", "--print_config"])
        == 0
    )
    assert "init_args:\n    monitor: val_mse" in capsys.readouterr().out


def test_names_of_baselines_are_a_list(capsys):
    assert main(["evaluate", "nowhere", "--baselines", "[optical_flow]"]) == 2
    assert "received nowhere: there is no such folder" in capsys.readouterr().err
    assert main(["evaluate", "nowhere", "--baselines", "optical_flow"]) == 2
    assert "--baselines must be a list" in capsys.readouterr().err
