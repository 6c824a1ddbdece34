"""Keras's ConvLSTM layers, run here on their torch backend, against ours with their weights."""

import importlib.util
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock

from convlstm import ConvLSTM, ConvLSTMCell
from convlstm.cells import LSTMState, lstm_weights
from convlstm.errors import OptionError, ShapeError

# Name, axes, kernel and dilation rate of each layer.
LAYERS = {
    "1d": (1, (3,), 1),
    "2d": (2, (3, 5), 1),
    "2d, even": (2, (2, 4), 1),
    "3d": (3, (3, 1, 3), 1),
    "dilated": (2, (3, 3), 2),
}
SCRIPT = f"""
import sys, numpy as np, keras
for name, (axes, kernel, dilation) in {LAYERS}.items():
    keras.utils.set_random_seed(0)
    Layer = {{1: keras.layers.ConvLSTM1D, 2: keras.layers.ConvLSTM2D, 3: keras.layers.ConvLSTM3D}}[axes]
    layer = Layer(3, kernel, padding="same", return_sequences=True, bias_initializer="random_normal",
                  data_format="channels_last", dilation_rate=dilation)
    x = np.random.default_rng(0).normal(size=(2, 4, *(5, 4, 3)[:axes], 2)).astype("float32")
    y = keras.ops.convert_to_numpy(layer(x))
    weights = {{f"w{{k}}": np.asarray(keras.ops.convert_to_numpy(w)) for k, w in enumerate(layer.weights)}}
    np.savez(f"{{sys.argv[1]}}/{{name}}.npz", x=x, y=y, **weights)
"""


@pytest.fixture(scope="session")
def keras_layers(tmp_path_factory):
    """Folder of the input, output and weights of each layer of Keras; skips the test where there is none.

    Made once for all workers of a run, in a process of its own: Keras reads its backend when it is imported.
    """
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "keras"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)]
            variables = {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
            subprocess.run(words, check=True, env=os.environ | variables)
    return folder


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "dilated"])
def test_equal_to_keras_with_its_weights(name, keras_layers):
    stored = np.load(keras_layers / f"{name}.npz")
    layer = ConvLSTM(2, 3, LAYERS[name][1], 1, batch_first=True)
    weights = lstm_weights(stored["w0"], stored["w1"], stored["w2"], gates="ifgo", channels_last=True)
    layer.cell_list[0].load_state_dict(weights)
    (outputs,), _ = layer(torch.from_numpy(stored["x"]).movedim(-1, 2))
    expected = torch.from_numpy(stored["y"]).movedim(-1, 2)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


def test_a_dilation_rate_of_keras_dilates_the_input_only(keras_layers):
    """Its weights have no counterpart here, as `lstm_weights` says: neither with dilation nor without."""
    stored = np.load(keras_layers / "dilated.npz")
    weights = lstm_weights(stored["w0"], stored["w1"], stored["w2"], gates="ifgo", channels_last=True)
    x, expected = (torch.from_numpy(stored[name]).movedim(-1, 2) for name in "xy")
    cell = ConvLSTMCell(2, 3, 3)
    cell.load_state_dict(weights)
    kernel, bias = weights["conv.weight"], weights["conv.bias"]
    h = c = torch.zeros(2, 3, *x.shape[3:])
    for frame, found in zip(x.unbind(1), expected.unbind(1), strict=True):
        p = F.conv2d(frame, kernel[:, :2], bias, padding=2, dilation=2)
        h, c = cell.update(p + F.conv2d(h, kernel[:, 2:], padding=1), LSTMState(h, c))
        torch.testing.assert_close(h, found, rtol=0, atol=1e-5)
    for dilation in (1, 2):
        layer = ConvLSTM(2, 3, 3, batch_first=True, cell=partial(ConvLSTMCell, dilation=dilation))
        layer.cell_list[0].load_state_dict(weights)
        assert (layer(x)[0][0] - expected).abs().max() > 0.05


def test_gate_orders_and_offsets():
    """Each gate's rows carry its letter's number: whatever the order, ours is i, f, o, g."""
    number = {"i": 1.0, "f": 2.0, "o": 3.0, "g": 4.0}
    for gates in ("ifog", "ifgo", "igfo", "gofi"):
        rows = torch.tensor([number[gate] for gate in gates]).repeat_interleave(2)
        kernels = rows.view(8, 1, 1, 1).expand(8, 3, 1, 1), rows.view(8, 1, 1, 1).expand(8, 2, 1, 1)
        state = lstm_weights(*kernels, rows, gates=gates, forget_offset=1.0)
        assert state["conv.weight"][:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
        assert state["conv.bias"].tolist() == [1, 1, 3, 3, 3, 3, 4, 4]


def test_unfit_kernels_are_named():
    with pytest.raises(OptionError, match="permutation of 'ifog'; received 'ifco'"):
        lstm_weights(np.zeros((8, 1, 3)), np.zeros((8, 2, 3)), gates="ifco")
    with pytest.raises(ShapeError, match=r"received \(8, 1, 3\) and \(3, 2, 8\): channels_last says"):
        lstm_weights(np.zeros((8, 1, 3)), np.zeros((3, 2, 8)), gates="ifgo")
