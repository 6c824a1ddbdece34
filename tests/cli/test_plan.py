"""The command that states the memory of a model before it is run."""

import json
import re
from functools import partial

import pytest
from torch import nn

import convlstm
from convlstm import ConvLSTMCell, EncoderForecaster, StackForecaster
from convlstm.cli.main import main
from convlstm.errors import OptionError
from convlstm.models.memory import gibibytes

WORDS = ["plan", "EncoderForecaster", "--model.hidden_dim=[8,8]", "--size=96x64", "--past=2", "--steps=2"]


@pytest.fixture(scope="module")
def planned():
    return convlstm.plan(EncoderForecaster(hidden_dim=[8, 8]), size=(96, 64), past=2, steps=2)


def test_a_plan_holds_every_engine_precision_and_save(planned):
    rows = [(need.engine, need.precision, need.save) for need in planned.needs]
    fast = [
        (engine, precision, save)
        for engine in ("fused", "compiled")
        for precision in ("32", "bf16-mixed")
        for save in ("gates", "state")
    ]
    assert rows == [("reference", "32", ""), ("reference", "bf16-mixed", ""), *fast]
    default = [need for need in planned.needs if need.default]
    assert [(need.engine, need.precision, need.save) for need in default] == [("compiled", "32", "gates")]
    assert planned.default == default[0]
    for need in planned.needs:
        assert 0 < need.inference < need.held < need.training
    assert planned.parameters * 4 == planned.weights
    less = {remedy.option: remedy.training for remedy in planned.remedies}
    assert {"--model.patch_size 4", "--precision bf16-mixed", "--model.save state"} == less.keys()
    assert list(less.values()) == sorted(less.values())
    assert max(less.values()) < planned.default.training


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(planned, monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(WORDS) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "EncoderForecaster, 2 frames of 96 x 64 and 2 more, batch size 1"
    (row,) = (line.split() for line in lines if " * " in line)
    figures = planned.default.held, planned.default.training, planned.default.inference
    assert row == ["compiled", "*", "32", "gates", *" ".join(map(gibibytes, figures)).split()]
    text = " ".join(" ".join(lines).split())
    assert f"--model.save state ({gibibytes(planned.remedies[-1].training)})" in text
    assert "MALLOC_MMAP_THRESHOLD_" in text


def test_a_plan_as_json(planned, capsys):
    assert main([*WORDS, "--json"]) == 0
    found, expected = json.loads(capsys.readouterr().out), json.loads(json.dumps(planned.to_dict()))
    assert found.pop("free") > 0
    expected.pop("free")
    assert found == expected


def test_a_model_folder_is_planned_as_its_class(planned, tmp_path, capsys):
    EncoderForecaster(hidden_dim=[8, 8]).save_pretrained(tmp_path / "model")
    assert main(["plan", str(tmp_path / "model"), *WORDS[3:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["multiply_adds"] == planned.multiply_adds


def test_a_model_of_one_size_of_maps_is_planned_without_other_patches():
    cell = partial(ConvLSTMCell, peephole="pixel", image_size=(8, 6))
    model = StackForecaster(hidden_dim=[8], patch_size=2, cell=cell)
    remedies = convlstm.plan(model, size=(16, 12), past=2, steps=2, batch_size=2).remedies
    assert "--batch_size 1" in {remedy.option for remedy in remedies}
    assert not any("patch_size" in remedy.option for remedy in remedies)


def test_layers_are_planned_in_python():
    found = convlstm.plan(
        convlstm.ConvLSTM(1, [8, 8, 8], 3, batch_first=True), size="96x96", past=9, batch_size=2
    )
    options = [remedy.option for remedy in found.remedies]
    assert {'save="state"', "torch.autocast", "half the batch"} <= set(options)


class Own(convlstm.ConvLSTM):
    """Layers with a constructor of their own."""

    def __init__(self, width):
        super().__init__(1, [width], 3, batch_first=True)


def test_layers_with_a_constructor_of_their_own_are_planned():
    found = convlstm.plan(Own(8), size="32x32", past=9, batch_size=2)
    assert {remedy.option for remedy in found.remedies} == {"torch.autocast", "half the batch"}


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (convlstm.ConvLSTM(1, 4, (3,)), "layers with two space axes; received a ConvLSTM with 1: measure"),
        (convlstm.ConvGRU(1, 4, (3, 3, 3)), "layers with two space axes; received a ConvGRU with 3: measure"),
        (convlstm.ConvLSTM(1, 4, 3).double(), "torch.float32; received torch.float64: pass model.float"),
        (convlstm.PredRNN(hidden_dim=[4]).bfloat16(), "torch.float32; received torch.bfloat16: pass"),
    ],
)
def test_layers_that_cannot_be_planned_are_refused_in_the_words_of_a_plan(model, sentence):
    with pytest.raises(OptionError, match=sentence):
        convlstm.plan(model, size="8x8", past=2)


def test_a_folder_takes_no_options_of_a_model(tmp_path, capsys):
    EncoderForecaster(hidden_dim=[8]).save_pretrained(tmp_path / "m")
    assert main(["plan", str(tmp_path / "m"), "--model.hidden_dim", "[4]", "--size=8x8", "--past=2"]) == 2
    assert "options there; received --model.hidden_dim for" in capsys.readouterr().err


def test_engines_that_run_a_model_alike_are_one():
    found = convlstm.plan(convlstm.PredRNN(hidden_dim=[4, 4], kernel_size=3), size="32x32", past=2, steps=1)
    assert [(need.engine, need.precision) for need in found.needs] == [("any", "32"), ("any", "bf16-mixed")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["PredRNN", "--size=480", "--past=2"], "with an x between them; received '480': write 480x480"),
        (["PredRNN", "--size=8x0", "--past=2"], r"size must hold integers of at least 1; received \[8, 0\]"),
        (["PredRN", "--size=8x8", "--past=2"], "received 'PredRN': did you mean PredRNN or PredRNNv2?"),
        (["PredRNN", "--size=8x8"], "convlstm plan needs --past; received none"),
        (
            ["PredRNN", "--size=999999999x999999999", "--past=12", "--steps=12"],
            "must have at most 10.12 pixels in all frames; received 12 . 12 frames of 999999999 x 999999999, "
            "batch size 1: lower size",
        ),
        (["PredRNN", "--size=8x8", "--past=0"], "past must be at least 1; received 0"),
        (["PredRNN", "--past=2"], "convlstm plan needs --size; received none"),
        (["--size=8x8", "--past=2"], "convlstm plan needs MODEL; received none"),
        (["Persistence", "--size=8x8", "--past=2"], "needs a model with parameters; received Persistence"),
        (["PredRNN", "--model.hiden_dim=[4]", "--size=8x8"], "did you mean --model.hidden_dim?"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(words, sentence, capsys):
    assert main(["plan", *words]) == 2
    assert re.search(sentence.replace("?", r"\?"), capsys.readouterr().err)


def test_no_model_is_refused():
    with pytest.raises(OptionError, match="model must be"):
        convlstm.plan(nn.Conv2d(1, 1, 1), size="8x8", past=1)
