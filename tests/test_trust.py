"""Model folders of strangers: nothing of them runs, and whatever they hold ends in one sentence."""

import copy
import functools
import json
import random
import sys
from pathlib import Path

import pytest
import torch

from convlstm import ConvLSTM, ConvLSTMCell, EncoderForecaster
from convlstm.data import Source
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.hyperparameters import path_of, resolve
from convlstm.models import Forecaster
from convlstm.testing import check_cell
from convlstm.trust import Trust, packages

OWN = """
import torch
from os import system
from convlstm import ConvLSTM, ConvLSTMCell
from convlstm.models import Persistence

class Model(Persistence):
    pass

class Cell(ConvLSTMCell):
    pass

class Layer(ConvLSTM):
    def __init__(self, *args, cell=Cell, **kwargs):
        super().__init__(*args, cell=cell, **kwargs)

class NoModule:
    def __init__(self, *args, **kwargs):
        raise AssertionError("called")

def norm(channels):
    return torch.nn.GroupNorm(1, channels)
"""
EVIL = "import pathlib\npathlib.Path({!r}).touch()\n" + OWN


@pytest.fixture
def folder(tmp_path):
    """A sound model folder."""
    return ConvLSTM(2, [3, 4], 3, norm="group").save_pretrained(tmp_path / "model")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's on the path, not imported."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "of_ones_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield "of_ones_own"
    sys.modules.pop("of_ones_own", None)


def change(folder, **hyperparameters):
    """Put other values into a folder's configuration; ``kind`` is its class."""
    config = json.loads((folder / "config.json").read_text())
    config["class"] = hyperparameters.pop("kind", config["class"])
    config["hyperparameters"] |= hyperparameters
    (folder / "config.json").write_text(json.dumps(config))


FOREIGN = ["this.x", "builtins.print", "os.system", "numpy.random.seed", "antigravity.x", "tests.x.Y"]
WRONG_KIND = [
    *("torch.load", "torch.hub.load", "torch.set_num_threads", "torch.nn.DataParallel", "torch.save"),
    *("torch.manual_seed", "torch.nn.init.constant_", "torch.jit.load", "torch.nn.functional.dropout"),
    *(
        "convlstm.hyperparameters.import_module",
        "convlstm.atomic_write.write_atomically",
        "convlstm.__main__.main",
    ),
    *("convlstm.evaluate", "convlstm.cli.main.main", "convlstm.data.read_frames"),
]


@pytest.mark.parametrize("found", [*FOREIGN, *WRONG_KIND])
def test_nothing_but_modules_and_activations_is_called_or_imported(folder, found, capsys):
    before, threads = set(sys.modules), torch.get_num_threads()
    cell = {"class": "convlstm.ConvLSTMCell", "arguments": {"attention": {"class": found}}}
    message = "load by themselves; received" if found in FOREIGN else "must be a subclass of Module or an act"
    for place in ({"norm": {"class": found, "arguments": {"end": "ran"}}}, {"cell": cell}, {"kind": found}):
        change(folder, **place)
        for _ in range(2):
            with pytest.raises(RunError, match=message if "kind" not in place else f"received {found}"):
                ConvLSTM.from_pretrained(folder)
    assert torch.get_num_threads() == threads
    assert capsys.readouterr().out == ""  # `this` prints
    assert not {"this", "antigravity", "convlstm.__main__"} & (set(sys.modules) - before)


def test_a_class_of_ones_own_needs_its_package_trusted(folder, own):
    for place, name in (
        ({"kind": "of_ones_own.Layer"}, "Layer"),
        ({"cell": {"class": "of_ones_own.Cell"}}, "Cell"),
    ):
        change(folder, **place)
        with pytest.raises(
            RunError, match=rf"received of_ones_own\.{name}: .*add --trust of_ones_own \(in Python trust="
        ):
            ConvLSTM.from_pretrained(folder)
        assert own not in sys.modules
        change(folder, kind="convlstm.ConvLSTM")
    change(folder, kind="of_ones_own.Layer", norm={"class": "of_ones_own.norm"})
    layer = ConvLSTM.from_pretrained(folder, trust=(own,))
    assert [type(part).__name__ for part in (layer, layer.cell_list[0], layer.norm_list[0])] == [
        *("Layer", "Cell", "GroupNorm")
    ]
    change(folder, norm="group")
    assert type(type(layer).from_pretrained(folder)) is type(
        layer
    )  # the caller's own class, and its module's
    with pytest.raises(RunError, match=r"received of_ones_own\.Layer"):  # imported by now, trusted by nobody
        ConvLSTM.from_pretrained(folder)
    change(folder, norm={"class": "of_ones_own.norm"})
    with pytest.raises(RunError, match=r"received of_ones_own\.norm"):  # a function is no class
        type(layer).from_pretrained(folder)


@pytest.mark.parametrize("name", ["NoModule", "system", "torch", "Missing"])
def test_what_a_trusted_package_holds_is_judged_before_it_is_called(folder, own, name):
    change(folder, norm={"class": f"of_ones_own.{name}", "arguments": {"command": "false"}})
    with pytest.raises(RunError, match=r"subclass of Module or an activation|must be importable"):
        ConvLSTM.from_pretrained(folder, trust=own)
    change(folder, norm=None, kind=f"of_ones_own.{name}")
    with pytest.raises(RunError, match=r"subclass of Module; received|must be importable"):
        ConvLSTM.from_pretrained(folder, trust=own)


@pytest.mark.parametrize("path", ["stranger.evil.Model", "stranger.Model", "evil.Model"])
@pytest.mark.parametrize("trust", [(), ("stranger", "evil")])
def test_a_folder_on_the_path_runs_nothing_of_itself(path, trust, tmp_path, monkeypatch):
    """Run beside the folder it is a namespace package, run in it its files are modules."""
    folder = Forecaster.from_pretrained(
        EncoderForecaster(hidden_dim=[2]).save_pretrained(tmp_path / "stranger")
    )
    folder, ran = tmp_path / "stranger", tmp_path / "ran"
    for file in (folder / "evil.py", *((folder / "__init__.py",) if path == "stranger.Model" else ())):
        file.write_text(EVIL.format(str(ran)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(folder)
    change(folder, kind=path)
    with pytest.raises(RunError, match="load by themselves|must lie outside the folder that is read"):
        Forecaster.from_pretrained(folder, trust=trust)
    assert not ran.exists()
    assert not {"stranger", "evil"} & set(sys.modules)


def test_a_run_around_the_model_is_a_strangers_folder_too(tmp_path, monkeypatch):
    model = EncoderForecaster(hidden_dim=[2]).save_pretrained(tmp_path / "model")
    (tmp_path / "config.yaml").touch()
    (tmp_path / "evil.py").write_text(EVIL.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    change(model, kind="evil.Model")
    with pytest.raises(RunError, match="must lie outside the folder"):
        Forecaster.from_pretrained(model, trust="evil")
    assert not (tmp_path / "ran").exists()


def test_trust_names_packages():
    assert packages("a, b.c") == packages(["a", "b.c"]) == ("a", "b.c")
    assert packages(()) == packages("") == ()
    for wrong in ("a/b.py", ["a-b"], 3, [3], "a..b"):
        with pytest.raises(OptionError, match="trust must name packages"):
            packages(wrong)
    with pytest.raises(RunError, match="received of_ones_own_else"):
        Trust(("of_ones_own",)).find("of_ones_own_else.X")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("convlstm.cells.convlstm.ConvLSTMCell", "convlstm.ConvLSTMCell"),
        ("convlstm.cells.self_attention.SAConvLSTMCell", "convlstm.SAConvLSTMCell"),
        ("convlstm.cells.parts.ChannelAttention", "ChannelAttention"),
        ("convlstm.cells.parts.SpatialAttention", "SpatialAttention"),
        ("convlstm.cells.parts.ConvCell", "ConvCell"),
        ("convlstm.data.moving.MovingObjects", "convlstm.MovingObjects"),
        ("convlstm.functional.gates.identity", "identity"),
        ("convlstm.functional.warp.phase_correlation", "phase_correlation"),
        ("convlstm.layers.parts.ChannelNorm", "ChannelNorm"),
        ("convlstm.layers.recurrent.ConvLSTM", "convlstm.ConvLSTM"),
        ("convlstm.layers.stack.Stack", "Stack"),
        ("convlstm.models.baselines.Persistence", "convlstm.models.Persistence"),
        ("convlstm.models.encoder_forecaster.remembering_lstm", "lstm"),
    ],
)
def test_folders_written_before_modules_were_renamed_load(old, new):
    """Every class and function that a file of release 0.1.0 may name, and some names typed by hand."""
    found = Trust().find(old, (torch.nn.Module, Source))
    assert path_of(found).endswith(new)


class Renamed(ConvLSTMCell):
    """A cell of one's own."""


def test_cells_of_ones_own_are_saved_and_checked_without_an_option(tmp_path):
    check_cell(Renamed)
    folder = ConvLSTM(1, 2, 3, cell=functools.partial(Renamed, forget_bias=1.0)).save_pretrained(tmp_path)
    with pytest.raises(RunError, match=f"add --trust {__name__.partition('.')[0]}"):
        ConvLSTM.from_pretrained(folder)
    assert type(ConvLSTM.from_pretrained(folder, trust=(__name__,)).cell_list[0]) is Renamed
    with pytest.raises(RunError, match="a class must be named by its dotted path"):
        resolve({"class": 3})


def _mutations(config):
    """The configuration with another value or key in each of its places."""
    values = [None, True, -1, 0, 3, 10**5, 10**9, 10**30, 1.5, float("nan"), "", "x", "a.b", [], {}, [[]]]
    values += [[10**5] * 3, {"class": 3}, {"class": "torch.nn.Linear"}, {"class": "torch.tanh"}, {"tuple": 3}]
    values += [{"class": "torch.nn.ReLU", "arguments": [1]}, {"tuple": [10**5, 10**5]}, {"": {"": [{}]}}]

    def places(value, path=()):
        yield path
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            yield from places(item, (*path, key))

    for *above, last in filter(None, places(config)):
        for value in values:
            changed = copy.deepcopy(config)
            functools.reduce(lambda inner, key: inner[key], above, changed)[last] = value
            yield changed


MODELS = {
    "layer": lambda: ConvLSTM(
        *(1, [2, 3], (3, 3), None, True),
        cell=functools.partial(ConvLSTMCell, attention="spatial", peephole="pixel", image_size=(4, 4)),
    ),
    "forecaster": lambda: EncoderForecaster(
        hidden_dim=(2, 3), cell=functools.partial(ConvLSTMCell, dilation=1)
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_any_configuration_is_read_or_refused_in_one_sentence(name, tmp_path):
    """Without memory for what the weights do not fill: the sizes here would take terabytes."""
    model = MODELS[name]()
    config = model.save_pretrained(tmp_path) / "config.json"
    mutations = [*_mutations(json.loads(config.read_text()))]
    assert len(mutations) > 300
    answers = []
    for changed in random.Random(0).sample(mutations, 300):
        config.write_text(json.dumps(changed))
        try:
            type(model).from_pretrained(tmp_path)
        except RunError as error:
            answers.append(str(error))
    assert len(answers) > 150
    assert all("\n" not in answer and 20 < len(answer) < 1500 for answer in answers)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"schema": 1, "class": "convlstm.ConvLSTM", "hyperparameters": {"a": %s}}' % ("[" * 900 + "]" * 900),
        '{"schema": 1, "class": "convlstm.ConvLSTM", "hyperparameters": []}',
        '{"schema": 1, "class": 3, "hyperparameters": {}}',
        '{"schema": [1], "class": "convlstm.ConvLSTM", "hyperparameters": {}}',
        '{"schema": true, "class": "convlstm.ConvLSTM", "hyperparameters": {}}',
        '{"schema": 1, "class": "convlstm.ConvLSTM", "hyperparameters": {"num_layers": %s}}' % ("9" * 5000),
        "3",
        "\udcff",
    ],
)
def test_a_file_of_another_form_is_refused_in_one_sentence(folder, text):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError) as caught:
        ConvLSTM.from_pretrained(folder)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["\0", "x" * 5000, "", "a/" + "x" * 5000])
def test_a_name_that_no_folder_has_is_refused_in_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rule = r"there is no such folder|has no config\.json|must be a path that the system takes"
    with pytest.raises(ConvLSTMError, match=rule):
        ConvLSTM.from_pretrained(name or Path("nowhere"))
