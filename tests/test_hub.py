"""Model folders: round trips, atomic writing, and what is said about damaged ones."""

import functools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from fake_hub import fake_hub
from torch.nn.utils import prune

import convlstm
from convlstm import ConvLSTM, ConvLSTMCell, EncoderForecaster, MovingObjects, TrainingConfig
from convlstm.errors import OptionError, RunError
from convlstm.hub import Pretrained, read_config
from convlstm.hyperparameters import describe, path_of, resolve
from convlstm.models import Persistence
from convlstm.training.fit import fit
from convlstm.training.run_folder import RunFolder


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return ConvLSTM(2, [3, 4], [3, (1, 5)], 2, cell=functools.partial(ConvLSTMCell, forget_bias=0.5))


def test_a_layer_comes_back_with_architecture_and_weights(layer, tmp_path):
    again = ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path / "layer"))
    assert again.hyperparameters == layer.hyperparameters
    assert sorted(os.listdir(tmp_path / "layer")) == ["config.json", "model.safetensors"]
    x = torch.randn(3, 2, 2, 6, 7)
    torch.testing.assert_close(again(x)[0], layer(x)[0], rtol=0, atol=0)


def test_a_forecaster_comes_back_and_keeps_its_notes(tmp_path):
    model = EncoderForecaster(hidden_dim=[3, 4], patch_size=1)
    model.save_pretrained(tmp_path, past=10, data="two digits")
    again = Pretrained.from_pretrained(tmp_path)
    past = torch.rand(1, 4, 1, 9, 10)
    torch.testing.assert_close(again(past, 2), model(past, 2), rtol=0, atol=0)
    assert read_config(tmp_path)["past"] == 10
    again.save_pretrained(tmp_path / "again", data="three digits")
    assert read_config(tmp_path / "again") == read_config(tmp_path) | {"data": "three digits"}


def test_a_model_is_loaded_in_evaluation_mode_and_fit_trains_it(tmp_path):
    layer = ConvLSTM(1, [2, 2], 3, dropout=0.5)
    assert layer.training
    again = ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path / "layer"))
    assert not any(module.training for module in again.modules())
    modes = []
    model = EncoderForecaster.from_pretrained(
        EncoderForecaster(hidden_dim=[2]).save_pretrained(tmp_path / "model")
    )
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    data = MovingObjects(canvas=16, object_size=8, count=1, past=2, steps=2, train_size=2, validation_size=2)
    run = RunFolder(tmp_path / "run")
    run.start()
    fit(model, data, TrainingConfig(epochs=1, batch_size=2, accelerator="cpu"), run)
    assert modes == [True, False, False]  # a training batch, a validation batch, the samples
    assert not model.training


def test_state_dict_with_hyperparameters_is_plain_data(layer, tmp_path):
    torch.save(
        {"hyperparameters": layer.hyperparameters, "weights": layer.state_dict()}, tmp_path / "layer.pt"
    )
    stored = torch.load(tmp_path / "layer.pt", weights_only=True)
    again = ConvLSTM.rebuild(stored["hyperparameters"])
    again.load_state_dict(stored["weights"])
    x = torch.randn(3, 2, 2, 6, 7)
    torch.testing.assert_close(again(x)[0], layer(x)[0], rtol=0, atol=0)


def test_saving_again_replaces_and_failing_leaves_the_old(layer, tmp_path, monkeypatch):
    layer.save_pretrained(tmp_path, note="first")
    monkeypatch.setattr(os, "replace", _no_space)
    with pytest.raises(
        RunError,
        match="must be writable; the system says .No space left on device.: free space",
    ):
        layer.save_pretrained(tmp_path, note="second")
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    assert read_config(tmp_path)["note"] == "first"
    layer.save_pretrained(tmp_path, note="third")
    assert read_config(tmp_path)["note"] == "third"


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_partial_lists_and_functions_survive_description():
    factory = functools.partial(ConvLSTMCell, forget_bias=2.0)
    for value in (ConvLSTMCell, [ConvLSTMCell, factory], 3, [1, 2], "sigmoid", None):
        back = resolve(json.loads(json.dumps(describe(value))))
        assert describe(back) == describe(value)
    assert resolve(describe(factory)).keywords == {"forget_bias": 2.0}


def test_a_lambda_runs_but_cannot_be_saved(tmp_path):
    layer = ConvLSTM(1, 2, 3, 1, cell=lambda *sizes: ConvLSTMCell(*sizes))
    layer(torch.zeros(1, 1, 1, 4, 4))
    with pytest.raises(RunError, match="must be importable by name; received .*<lambda>"):
        layer.save_pretrained(tmp_path / "layer")
    assert not (tmp_path / "layer").exists()


class Keyworded(Pretrained):
    """Takes what else there is by keyword."""

    def __init__(self, size, **more):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size, *more.values()))


def test_keywords_beyond_the_named_ones_are_remembered():
    assert Keyworded(2, b=3).hyperparameters == {"size": 2, "b": 3}
    assert Keyworded.rebuild(Keyworded(2, b=3).hyperparameters).weight.shape == (2, 3)


def test_a_module_as_an_argument_runs_but_is_not_plain_data():
    activated = functools.partial(ConvLSTMCell, gate_activation=torch.nn.Sigmoid())
    layer = ConvLSTM(1, 2, 3, 1, cell=activated)
    with pytest.raises(RunError, match="plain data or a class; received a Sigmoid object: give its class"):
        layer.hyperparameters  # noqa: B018
    layer = ConvLSTM(1, 2, 3, 1, cell=functools.partial(ConvLSTMCell, gate_activation=torch.nn.Sigmoid))
    assert ConvLSTM.rebuild(layer.hyperparameters).hyperparameters == layer.hyperparameters


def test_a_mistyped_folder_is_not_looked_for_on_the_network(tmp_path, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunError, match="existing folder or a repository .* received runs/digts"):
        ConvLSTM.from_pretrained("runs/digts")


def test_a_repository_is_read_with_its_configuration(layer, tmp_path, monkeypatch):
    layer.save_pretrained(tmp_path / "cached", past=4)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / "cached"))
    monkeypatch.chdir(tmp_path)
    assert ConvLSTM.from_pretrained("somebody/layer").hyperparameters == layer.hyperparameters
    assert read_config("somebody/layer")["past"] == 4


def test_damaged_and_foreign_folders_are_named(layer, tmp_path):
    with pytest.raises(RunError, match="existing folder or a repository .* received .*nowhere"):
        ConvLSTM.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"has no config\.json"):
        ConvLSTM.from_pretrained(tmp_path)
    layer.save_pretrained(tmp_path)
    with pytest.raises(RunError, match=r"must hold a EncoderForecaster; it holds a convlstm\.ConvLSTM"):
        EncoderForecaster.from_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-10])
    with pytest.raises(RunError, match="must be a whole safetensors file"):
        ConvLSTM.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config.write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(
        RunError, match="must have schema 1; it has schema 2: install the convlstm that wrote it"
    ):
        ConvLSTM.from_pretrained(tmp_path)
    config.write_text(text.replace("convlstm.ConvLSTM", "no.such.Thing"))
    with pytest.raises(
        RunError, match=r"received no\.such\.Thing: .* add --trust no \(in Python trust=\('no',\)\)"
    ):
        ConvLSTM.from_pretrained(tmp_path)
    other = json.loads(text)
    other["hyperparameters"]["hidden_dim"] = [5, 5]
    config.write_text(json.dumps(other))
    with pytest.raises(RunError, match=r"must fit its config\.json; size mismatch"):
        ConvLSTM.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(RunError, match="must be readable JSON"):
        ConvLSTM.from_pretrained(tmp_path)
    config.write_text('{"architectures": ["Other"]}')
    with pytest.raises(RunError, match="was not written by convlstm"):
        ConvLSTM.from_pretrained(tmp_path)


HUB = """if True:
    import json
    from convlstm import ConvLSTM
    from convlstm.hub import read_config

    layer, results = ConvLSTM(1, 2, 3), []
    fields = {"license": "mit", "data": "two digits", "scores": {"mse": 0.125}}
    calls = [
        lambda: layer.push_to_hub("owner/layer", token="secret", private=True, card=fields, past=4),
        lambda: layer.push_to_hub("layer", token="secret", revision="dev", commit_message="Five", past=5),
        lambda: ConvLSTM.from_pretrained("owner/layer", token="secret")._convlstm_notes["past"],
        lambda: ConvLSTM.from_pretrained(
            "owner/layer", token="secret", revision="dev", cache_dir="cache"
        )._convlstm_notes["past"],
        lambda: ConvLSTM.from_pretrained("owner/layer", token="secret", revision="other"),
        lambda: ConvLSTM.from_pretrained("owner/layer", token=False, cache_dir="another"),
        lambda: ConvLSTM.from_pretrained("owner/missing"),
        lambda: layer.push_to_hub("owner/layer", token="secret", card={"license": "mit"}),
        lambda: layer.push_to_hub("another/layer", token="secret"),
        lambda: layer.push_to_hub("owner/layer", token="wrong"),
        lambda: layer.push_to_hub("no such name", token="secret"),
        lambda: layer.push_to_hub("owner/layer", token="secret", scale={1}),
    ]
    for call in calls:
        try:
            result = call()
            results.append(result if isinstance(result, str | int) else repr(type(result)))
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}")
    print(json.dumps(results))
"""


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path):
    """By the hub's own library, whose variables are read once, so in a process of its own."""
    with fake_hub() as hub:
        variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", HUB],
            env=os.environ | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stderr
    first, second, past, dev, *refused = json.loads(result.stdout)
    assert first.startswith(f"{hub.address}/owner/layer/commit/")
    assert second.startswith(f"{hub.address}/owner/layer/commit/")
    assert second != first
    assert (past, dev) == (4, 5)
    assert [*(tmp_path / "cache").glob("models--owner--layer/snapshots/*/model.safetensors")]
    assert hub.private == {"owner/layer": True}
    assert [commit["summary"] for commit in hub.commits] == ["Upload a model of convlstm", "Five"]
    main, branch = hub.repositories["owner/layer"]["main"], hub.repositories["owner/layer"]["dev"]
    assert sorted(main) == sorted(branch) == ["README.md", "config.json", "model.safetensors"]
    assert main["README.md"] == branch["README.md"]  # the second commit left the card as it was
    assert json.loads(branch["config.json"])["past"] == 5
    card = main["README.md"].decode()
    for part in (
        "library_name: convlstm\nlicense: mit\n",
        "# owner/layer\n",
        '\nmodel = ConvLSTM.from_pretrained("owner/layer")\n',
        "## Data\ntwo digits\n",
        "| mse | 0.125 |\n",
    ):
        assert part in card
    expected = [
        "and the repository on the hub has no revision other",
        "and the hub has no such repository, or it is private",
        "and the hub has no such repository, or it is private",
        "a model card is written where there is none; owner/layer has a README.md: edit or delete it",
        "a model is uploaded to a repository that you may write to; another/layer gave '403 Forbidden",
        "a model is uploaded to a repository that you may write to; owner/layer gave '403 Forbidden",
        "a model is uploaded to a repository that you may write to; no such name gave 'Repo id must",
        "what is saved with a model must be plain data; scale={1} gave",
    ]
    for sentence, said in zip(expected, refused, strict=True):
        assert said.startswith("RunError: "), said
        assert sentence in said
        assert "secret" not in said
        assert "\n" not in said


def test_a_model_card_loads_the_model_and_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = ConvLSTM(1, 2, 3, cell=Renamed)
    layer.save_pretrained("my-layer", card=True, past=4)
    card = (tmp_path / "my-layer" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert f'from_pretrained("my-layer", trust=({__name__.partition(".")[0]!r},))' in code
    monkeypatch.setitem(sys.modules, __name__.partition(".")[0], sys.modules[__name__])
    space = {"input_tensor": torch.rand(2, 1, 1, 4, 4)}
    exec(code, space)
    torch.testing.assert_close(space["output"][0], layer.eval()(space["input_tensor"])[0], rtol=0, atol=0)
    assert "## Data\n- past: 4\n" in card
    assert "license: unknown\n" in card
    layer.save_pretrained("my-layer", card=True, past=5)
    assert (tmp_path / "my-layer" / "README.md").read_text() == card
    with pytest.raises(RunError, match=r"written where there is none; my-layer has a README\.md: edit or"):
        layer.save_pretrained("my-layer", card={"license": "mit"}, past=6)
    assert read_config("my-layer")["past"] == 5
    with pytest.raises(OptionError, match="a field of a model card must be one of data, .*; received 'lic"):
        layer.save_pretrained("my-layer", card={"licence": "mit"})
    with pytest.raises(OptionError, match="card must be True, False or a mapping of fields; received 'mit'"):
        layer.save_pretrained("my-layer", card="mit")


class Renamed(ConvLSTMCell):
    """A cell of a package that is not trusted by itself."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder_or_repo": None}, "a model must be a path; received None"),
        ({"folder_or_repo": 3}, "a model must be a path; received 3"),
        ({"folder_or_repo": ""}, "a model must be a path; received an empty one"),
        (
            {"folder_or_repo": ".", "revision": "main"},
            "revision must be that of a repository of the hub; . i",
        ),
        ({"folder_or_repo": "a/b", "revision": 3}, "revision must be the name of a branch, tag or commit"),
        ({"folder_or_repo": "a/b", "token": 3}, "token must be text, True, False or None; received a int"),
        ({"folder_or_repo": "a/b", "revision": ""}, "revision must be the name of a branch, tag or commit"),
        ({"folder_or_repo": "a/b", "cache_dir": b"c"}, "cache_dir must be a path; received b'c'"),
    ],
)
def test_wrong_arguments_of_loading_are_named(arguments, message):
    with pytest.raises(OptionError, match=message):
        ConvLSTM.from_pretrained(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo": None}, "repo must be text; received None"),
        ({"repo": 3}, "repo must be text; received 3"),
        ({"commit_message": 3}, "commit_message must be text; received 3"),
        ({"private": "yes"}, "private must be True or False; received 'yes'"),
    ],
)
def test_wrong_arguments_of_an_upload_are_named(layer, arguments, message):
    with pytest.raises(OptionError, match=message):
        layer.push_to_hub(**{"repo": "a/b"} | arguments)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"license": 3}, "license of a model card must be text; received 3"),
        ({"data": ["a"]}, r"data of a model card must be text; received \['a'\]"),
        (
            {"scores": {"mse": "low"}},
            "scores of a model card must be text, or numbers by name; received {'ms",
        ),
        ({"scores": 0.5}, r"scores of a model card must be text, or numbers by name; received 0\.5"),
    ],
)
def test_a_field_of_another_type_is_refused_whether_a_card_is_there_or_not(layer, card, message, tmp_path):
    for _ in range(2):
        with pytest.raises(OptionError, match=message):
            layer.save_pretrained(tmp_path, card=card)
        with pytest.raises(OptionError, match=message):
            layer.push_to_hub("a/b", card=card)  # before the hub is called
        layer.save_pretrained(tmp_path, card=True)


def test_what_is_no_name_of_a_model_is_refused():
    with pytest.raises(OptionError, match="a model must be a path that the system takes"):
        ConvLSTM.from_pretrained(f"{'x' * 5000}/y")
    with pytest.raises(OptionError, match="hyperparameters must be a Mapping; received None"):
        ConvLSTM.rebuild(None)
    with pytest.raises(OptionError, match="hyperparameters must have names that are text; received 3"):
        ConvLSTM.rebuild({3: 1})


def test_classes_are_written_by_their_shortest_public_path():
    for name in convlstm.__all__:
        if isinstance(thing := getattr(convlstm, name), type):
            assert path_of(thing) == f"convlstm.{name}"
    assert path_of(Persistence) == "convlstm.models.Persistence"


class HandsOn(ConvLSTM):
    """Adds an argument of its own to whatever the layer takes."""

    def __init__(self, *args, classes=10, **kwargs):
        super().__init__(*args, **kwargs)
        self.head = torch.nn.Linear(4, classes)


class OtherDefault(ConvLSTM):
    """Has another default."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("batch_first", True)
        super().__init__(*args, **kwargs)


class Fixed(ConvLSTM):
    """Leaves nothing of an argument to the caller."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, batch_first=True, **kwargs)


class OwnArguments(ConvLSTM):
    """Takes other arguments altogether."""

    def __init__(self, channels, width=4):
        super().__init__(channels, width, 3, 1, batch_first=True)


class OnlyByPlace(ConvLSTM):
    """Cannot be built from names."""

    def __init__(self, *args):
        super().__init__(*args)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (lambda: HandsOn(1, 4, 3, classes=5), {"classes": 5, "input_dim": 1}),
        (lambda: HandsOn(1, hidden_dim=4, kernel_size=(3, 5), bias=False), {"classes": 10, "bias": False}),
        (lambda: OtherDefault(1, 4, 3), {"kernel_size": 3}),
        (lambda: OtherDefault(1, 4, 3, batch_first=False), {"batch_first": False}),
        (lambda: Fixed(1, 4, 3, 2), {"num_layers": 2}),
        (lambda: OwnArguments(1), {"channels": 1, "width": 4}),
    ],
)
def test_subclasses_come_back_as_they_were(build, arguments, tmp_path):
    layer = build()
    again = type(layer).from_pretrained(layer.save_pretrained(tmp_path))
    assert arguments.items() <= again.hyperparameters.items()
    assert again.batch_first == layer.batch_first
    x = torch.randn(2, 2, 1, 5, 6)
    torch.testing.assert_close(again(x)[0], layer(x)[0], rtol=0, atol=0)


def _with_weight_norm(layer):
    torch.nn.utils.parametrizations.weight_norm(layer.cell_list[0].conv)


def _pruned(layer):
    prune.l1_unstructured(layer.cell_list[0].conv, "weight", 0.5)


def _with_a_wider_conv(layer):
    layer.cell_list[0].conv = torch.nn.Conv2d(5, 12, 5, padding=2)


def _with_a_circular_conv(layer):
    layer.cell_list[0].conv = torch.nn.Conv2d(5, 12, 3, padding=1, padding_mode="circular")


def _with_another_activation(layer):
    layer.cell_list[0].gate_activation = torch.nn.functional.hardsigmoid


CHANGES = [_with_weight_norm, _pruned, _with_a_wider_conv, _with_a_circular_conv, _with_another_activation]


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_not_come_back_is_not_saved(layer, change, tmp_path):
    layer.save_pretrained(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    change(layer)
    with pytest.raises(RunError, match=r"parts that its arguments build; .* another cell_list\.0"):
        layer.save_pretrained(tmp_path)
    with pytest.raises(RunError, match="OnlyByPlace with input_dim, hidden_dim, kernel_size gave .* by name"):
        OnlyByPlace(1, 4, 3).save_pretrained(tmp_path)
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_what_is_no_plain_data_is_named_and_nothing_is_written(layer, tmp_path):
    layer.save_pretrained(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=r"must be plain data; scale=tensor\(2\.\) gave .*: convert it"):
        ConvLSTM(2, 5, 3).save_pretrained(tmp_path, scale=torch.tensor(2.0))
    with pytest.raises(RunError, match=r"must be plain data; hidden_dim=range\(4, 6\) gave"):
        ConvLSTM(2, range(4, 6), 3).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="notes must leave schema, class, .*; received schema"):
        layer.save_pretrained(tmp_path, schema=7)
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_shared_weights_are_saved_once_for_each_name(tmp_path):
    layer = ConvLSTM(4, [4, 4], 3)
    layer.cell_list[1] = layer.cell_list[0]
    again = ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path))
    for name, weight in layer.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_parts_of_several_dtypes_come_back(tmp_path):
    model = EncoderForecaster(1, [3, 4])
    model.head.double()
    again = EncoderForecaster.from_pretrained(model.save_pretrained(tmp_path)).state_dict()
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_a_folder_is_not_waited_for(layer, name, tmp_path):
    layer.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match=rf"{name} must be a file; it is a folder, a pipe or a device: copy"):
        ConvLSTM.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_comes_back(layer, dtype, tmp_path):
    layer.to(dtype)
    with torch.no_grad():
        layer.cell_list[0].conv.weight.add_(1e-9)
    again = ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path))
    for name, weight in layer.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
        assert again.state_dict()[name].dtype == dtype


@pytest.mark.parametrize(
    "activation", [torch.tanh, torch.special.expit, torch.nn.functional.silu, torch.nn.functional.gelu]
)
def test_functions_of_torch_come_back(activation, tmp_path):
    layer = ConvLSTM(1, 2, 3, cell=functools.partial(ConvLSTMCell, gate_activation=activation))
    again = ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path))
    assert again.cell_list[0].gate_activation is activation


class Pooled(ConvLSTM):
    """Builds a module from a tuple that it is given."""

    def __init__(self, *args, pooled=(4, 6), **kwargs):
        super().__init__(*args, **kwargs)
        self.pool = torch.nn.AdaptiveAvgPool2d(pooled)


class Tupled(ConvLSTM):
    """Takes tuples at any depth, as keys and as classes with arguments, and nothing else."""

    def __init__(self, hidden_dim, sizes, kernel_size=(3, 5), table=None, cell=ConvLSTMCell):
        super().__init__(1, hidden_dim, kernel_size, cell=cell)
        self.names = {sizes: "text"}  # a list is no key
        self.head = torch.nn.Conv2d(hidden_dim, 1, kernel_size, padding=(1, 2))
        self.drop = torch.nn.Dropout(table["rate"][0])


class Sized(ConvLSTMCell):
    """A cell that a tuple of tuples describes."""

    def __init__(self, *args, sizes):
        super().__init__(*args)
        self.sizes = {sizes: 1}


ROUNDED = np.float32(0.1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pooled(1, 2, 3),
        lambda: Pooled(1, 2, (3, 5), pooled=(2, None)),
        lambda: Tupled(2, ((1, 2), (3,)), table={"rate": (ROUNDED, [(1,)])}),
        lambda: Tupled(2, (), table={"rate": (0.5,)}, cell=functools.partial(Sized, sizes=((1, 2), 3))),
    ],
)
def test_what_was_given_as_a_tuple_comes_back_as_one(build, tmp_path):
    layer = build()
    again = type(layer).from_pretrained(layer.save_pretrained(tmp_path))
    plain = json.loads(json.dumps(layer.hyperparameters))
    for one in (again, type(layer).rebuild(plain)):
        assert repr(one._convlstm_arguments) == repr(layer._convlstm_arguments).replace(
            repr(ROUNDED), str(float(ROUNDED))
        )
    x = torch.rand(2, 1, 1, 5, 6)
    assert torch.equal(again(x)[0][0], layer(x)[0][0])


def test_folders_written_with_lists_in_place_of_tuples_load(tmp_path):
    config = EncoderForecaster().save_pretrained(tmp_path) / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"hyperparameters": {"hidden_dim": [64, 64]}})
    )
    assert len(EncoderForecaster.from_pretrained(tmp_path).encoder) == 2


def test_a_dictionary_that_data_cannot_hold_is_refused():
    for table in ({1: 2}, {"class": "cat"}, {"tuple": 1}):
        with pytest.raises(RunError, match="keys that are text, and neither 'class' nor 'tuple'; received"):
            Tupled(2, (), table={"rate": (0.5,), "more": table}).hyperparameters  # noqa: B018


def test_a_class_defined_again_under_its_name_is_saved_as_its_newer_definition(tmp_path, monkeypatch):
    older = Pooled(1, 2, 3)
    again = type("Pooled", (Pooled,), {"__module__": __name__, "__qualname__": "Pooled"})
    monkeypatch.setitem(globals(), "Pooled", again)
    assert path_of(type(older)) == f"{__name__}.Pooled"
    assert type(again.from_pretrained(older.save_pretrained(tmp_path))) is again

    class Other(ConvLSTM):
        def __init__(self, *args, pooled=(4, 6), **kwargs):
            super().__init__(*args, **kwargs)
            self.head = torch.nn.Linear(2, 2)

    Other.__qualname__ = "Pooled"
    monkeypatch.setitem(globals(), "Pooled", Other)
    with pytest.raises(RunError, match=r"parts that its arguments build; Pooled has another head"):
        older.save_pretrained(tmp_path)


class Outer:
    """Holds a class."""

    class Inner(ConvLSTM):
        """Cannot be imported by its name."""


@pytest.mark.parametrize("name", ["made by exec", "inside a class", "a method", "an object"])
def test_what_has_no_name_in_a_module_is_refused_with_the_remedy(name, tmp_path):
    space = {"ConvLSTM": ConvLSTM}
    exec("class Made(ConvLSTM):\n    pass", space)
    cells = {"a method": torch.Tensor.sigmoid, "an object": _Callable()}
    layer = {"made by exec": space["Made"], "inside a class": Outer.Inner}.get(name, ConvLSTM)(1, 2, 3)
    if name in cells:
        layer = ConvLSTM(1, 2, 3, cell=functools.partial(ConvLSTMCell, gate_activation=cells[name]))
    with pytest.raises(
        RunError, match="must be importable by name; received .*: define it at the top of a m"
    ):
        layer.save_pretrained(tmp_path / "layer")
    assert not (tmp_path / "layer").exists()


class _Callable:
    def __call__(self, x):
        return x


def test_an_attribute_named_arguments_is_the_users(tmp_path):
    layer = ConvLSTM(1, 2, 3)
    layer._arguments = layer.arguments = "mine"
    assert ConvLSTM.from_pretrained(layer.save_pretrained(tmp_path)).hyperparameters == layer.hyperparameters
    assert "engine" not in repr(layer)


@pytest.mark.parametrize(
    ("variable", "cause", "of_upload"),
    [
        (
            "HF_HUB_OFFLINE=1",
            r"the hub must not be asked \(HF_HUB_OFFLINE is set\)",
            "a/b gave .*: unset HF_HUB_OFFLINE$",
        ),
        (
            "HF_ENDPOINT=http://127.0.0.1:9",
            r"asking the hub gave '.*refused.*': check the connection",
            "a/b gave '.*refused.*': check the connection$",
        ),
    ],
)
def test_without_the_hub_the_cause_is_named(variable, cause, of_upload, tmp_path):
    """In processes of their own, as the hub's library reads its variables once."""
    name, value = variable.split("=")
    code = (
        "from convlstm import ConvLSTM\nfor name in ('a/b', 'no such', 'a b/c?'):\n"
        "    try: ConvLSTM.from_pretrained(name)\n    except Exception as e: print(type(e).__name__, e)\n"
        "try: ConvLSTM(1, 2, 3).push_to_hub('a/b')\nexcept Exception as e: print(type(e).__name__, e)"
    )
    environment = {**os.environ, name: value, "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    asked, *others, upload = result.stdout.splitlines()
    assert re.search(rf"^RunError a model is uploaded .*{of_upload}", upload)
    assert re.search(rf"^RunError .*received a/b: there is no such folder, and {cause}", asked)
    assert len(others) == 2
    assert all(line.endswith(": there is no such folder") for line in others)
