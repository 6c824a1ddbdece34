"""Code written for the single-file original: its older constructor, helpers, attributes, pickles."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import convlstm
from convlstm import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell, SAConvLSTMCell
from convlstm.errors import ConvLSTMError, OptionError, RunError

SENTENCE = "^sizes are read from the frames, .*; received a {} in the older form .*: leave input_size out$"

# As they stand in public code, by position and by keyword.
OLDER_LAYERS = {
    "all by keyword": (
        (),
        {
            "input_size": (64, 64),
            "input_dim": 3,
            "hidden_dim": [64, 64, 128],
            "kernel_size": (3, 3),
            "num_layers": 3,
            "batch_first": True,
            "bias": True,
            "return_all_layers": False,
        },
    ),
    "few keywords": (
        (),
        {"input_size": [64, 64], "input_dim": 1, "hidden_dim": 8, "kernel_size": (3, 3), "num_layers": 1},
    ),
    "all by position": (((64, 64), 3, [64, 64], (3, 3), 2, True, True, False), {}),
    "five by position": (([64, 64], 3, 64, (3, 3), 2), {}),
    "four by position": (((64, 64), 3, 64, 3), {}),
    "size by position": (
        ((64, 64),),
        {"input_dim": 3, "hidden_dim": [64], "kernel_size": (3, 3), "num_layers": 1, "batch_first": True},
    ),
    "torch.Size": ((torch.Size((64, 64)), 3, 64, (3, 3), 1), {"batch_first": True}),
    "a length": ((64, 3, [64, 32], (3, 3), 2, True), {}),
    "kernels by layer": ((64, 3, [64, 32], [(3, 3), (5, 5)], 2), {}),
    "only integers": ((64, 3, 32, 3, 2, True), {}),
    "only integers, all": ((64, 3, 32, 3, 1, True, True, False), {}),
}


@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
@pytest.mark.parametrize(("args", "kwargs"), OLDER_LAYERS.values(), ids=OLDER_LAYERS)
def test_the_older_signature_of_layers_is_refused_in_one_sentence(stack, args, kwargs):
    class Own(stack):
        """As copies are extended."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)

    class Named(stack):
        """As copies are extended too, with the size as its own argument."""

        def __init__(self, input_size, input_dim, hidden_dim, kernel_size, num_layers=None, *more, **options):
            super().__init__(input_size, input_dim, hidden_dim, kernel_size, num_layers, *more, **options)

    for kind in (stack, Own):
        with pytest.raises(OptionError, match=SENTENCE.format(kind.__name__)):
            kind(*args, **kwargs)
    if isinstance(args[0] if args else kwargs["input_size"], tuple | list):
        with pytest.raises(OptionError, match=SENTENCE.format("Named")):
            Named(*args, **kwargs)


@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, ConvRNNCell, SAConvLSTMCell])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (((64, 64), 3, 8, (3, 3), True), {}),
        (([64, 64], 3, 8, (3, 3)), {"bias": True}),
        ((64, 3, 8, (3, 3), True), {}),
        ((64, 3, 8, 3, True), {}),
        (((64, 64), 3, 8, (3, 3), True, torch.float32), {}),
        (((64, 64),), {"input_dim": 3, "hidden_dim": 8, "kernel_size": (3, 3), "bias": True}),
        ((), {"input_size": (64, 64), "input_dim": 3, "hidden_dim": 8, "kernel_size": (3, 3), "bias": True}),
    ],
)
def test_the_older_signature_of_cells_is_refused_in_one_sentence(cell, args, kwargs):
    with pytest.raises(OptionError, match=SENTENCE.format(cell.__name__)):
        cell(*args, **kwargs)


def test_a_subclass_may_take_the_size_for_itself():
    class Sized(ConvLSTM):
        def __init__(self, input_size, input_dim, hidden_dim, kernel_size, num_layers):
            super().__init__(input_dim, hidden_dim, kernel_size, num_layers, True)
            self.height, self.width = input_size

    class SizedCell(ConvLSTMCell):
        def __init__(self, input_size, *sizes):
            super().__init__(*sizes)
            self.height, self.width = input_size

    layer = Sized(input_size=(4, 5), input_dim=1, hidden_dim=[2, 3], kernel_size=(3, 3), num_layers=2)
    assert layer(torch.zeros(1, 2, 1, layer.height, layer.width))[0][0].shape == (1, 2, 3, 4, 5)
    assert SizedCell((4, 5), 1, 2, (3, 3), True)(torch.zeros(1, 1, 4, 5)).h.shape == (1, 2, 4, 5)


def test_today_s_signature_is_taken_by_position_and_by_keyword():
    """Whatever is true or false: the original takes that too."""
    for args in (
        (1, [2, 3], (3, 3), 2, True, True, False),
        (1, 2, [(3, 3), (5, 5)], None, False),
        (1, 2, 3, 1, 1, 0, 1),
        (1, (2, 3), 3),
    ):
        assert ConvLSTM(*args).input_dim == 1
    assert ConvLSTMCell(1, 2, (3, 3), False).conv.bias is None


def test_an_argument_that_nobody_has_is_still_named():
    with pytest.raises(OptionError, match="an argument of ConvLSTM must be one of .*; received 'hiden_dim'"):
        ConvLSTM(1, hiden_dim=2, kernel_size=3)


@pytest.mark.parametrize("stack", [ConvLSTM, ConvGRU])
def test_static_helpers_of_the_original_do_what_they_did(stack):
    layer = stack(1, 2, 3)
    assert layer._extend_for_multilayer((3, 3), 2) == [(3, 3), (3, 3)]
    assert stack._extend_for_multilayer([4, 5], 2) == [4, 5]
    assert stack._extend_for_multilayer(4, 3) == [4, 4, 4]
    for good in ((3, 3), [(3, 3), (5, 5)]):
        stack._check_kernel_size_consistency(good)
    for bad in (3, [3, 3], [(3, 3), 5]):
        with pytest.raises(ValueError, match="kernel_size must be a tuple or a list of tuples; received"):
            layer._check_kernel_size_consistency(bad)


@pytest.mark.parametrize("cell", [ConvLSTMCell, ConvGRUCell, ConvRNNCell])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_has_the_padding_and_the_bias_of_the_original(cell, kernel, bias):
    made = cell(1, 2, kernel, bias)
    assert made.padding == (kernel[0] // 2, kernel[1] // 2)
    assert made.bias is bias
    x = torch.randn(1, 3, 4, 5)
    own = nn.Conv2d(
        3, 2, made.kernel_size, padding=made.padding, bias=made.bias
    )  # as subclasses build theirs
    assert own(x).shape == (1, 2, 4, 5)


def test_a_subclass_that_reads_the_originals_names_gives_the_originals_numbers():
    """Its own convolution, of the cell's padding and bias, and its own forward, returning a plain tuple."""

    class Residual(ConvLSTMCell):
        def __init__(self, input_dim, hidden_dim, kernel_size, bias):
            super().__init__(input_dim, hidden_dim, kernel_size, bias)
            self.skip = nn.Conv2d(input_dim, hidden_dim, kernel_size, padding=self.padding, bias=self.bias)

        def forward(self, input_tensor, cur_state):
            h_cur, c_cur = cur_state
            i, f, o, g = self.conv(torch.cat([input_tensor, h_cur], dim=1)).split(self.hidden_dim, dim=1)
            c_next = torch.sigmoid(f) * c_cur + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c_next) + self.skip(input_tensor), c_next

    layer, x = (
        ConvLSTM(2, 3, (3, 3), 2, True, return_all_layers=True, cell=Residual),
        torch.randn(2, 4, 2, 6, 5),
    )
    outputs, states = layer(x)
    below, expected = x, []
    for cell in layer.cell_list:
        h = c = torch.zeros(2, 3, 6, 5)
        frames = []
        for frame in below.unbind(1):
            h, c = cell(frame, (h, c))
            frames.append(h)
        below = torch.stack(frames, 1)
        expected.append((h, c))
    assert_close(outputs[-1], below)
    assert_close([tuple(state) for state in states], expected)
    stream = layer.stream(2, (6, 5))
    for t in range(4):
        assert_close(stream(x[:, t]), below[:, t].detach())


def original_pickles():
    """The original's classes, under the module name of ours, whose objects ``torch.save(model)`` writes."""

    class ConvLSTMCell(nn.Module):
        def __init__(self, input_dim, hidden_dim, kernel_size, bias):
            super().__init__()
            self.input_dim, self.hidden_dim, self.kernel_size, self.bias = (
                input_dim,
                hidden_dim,
                kernel_size,
                bias,
            )
            self.padding = kernel_size[0] // 2, kernel_size[1] // 2
            self.conv = nn.Conv2d(input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=self.padding)

    class ConvLSTM(nn.Module):
        def __init__(self, input_dim, hidden_dim, kernel_size, num_layers, batch_first):
            super().__init__()
            self.input_dim, self.hidden_dim, self.num_layers = (
                input_dim,
                [hidden_dim] * num_layers,
                num_layers,
            )
            self.kernel_size, self.batch_first = [kernel_size] * num_layers, batch_first
            self.bias, self.return_all_layers = True, False
            self.cell_list = nn.ModuleList(
                ConvLSTMCell(n, hidden_dim, kernel_size, True) for n in (input_dim, hidden_dim)
            )

    for kind in (ConvLSTM, ConvLSTMCell):
        kind.__module__, kind.__qualname__ = "convlstm", kind.__name__
    return ConvLSTM, ConvLSTMCell


class Net(nn.Module):
    """A user's own model, with the original's layer in it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][0]


def unpickled(monkeypatch, wrap=lambda layer: layer):
    """A model of the original's classes, written where these are `convlstm`'s and read where ours are."""
    layer, cell = original_pickles()
    model = wrap(layer(2, 3, (3, 3), 2, True))
    with monkeypatch.context() as patched:
        patched.setattr(convlstm, "ConvLSTM", layer, raising=False)
        patched.setattr(convlstm, "ConvLSTMCell", cell, raising=False)
        written = io.BytesIO()
        torch.save(model, written)
    written.seek(0)
    return torch.load(written, weights_only=False)


def test_a_whole_model_pickled_by_the_original_says_so_when_called(monkeypatch):
    x, message = (
        torch.randn(2, 4, 2, 6, 5),
        "must have been built by its constructor; .* to its load_state_dict",
    )
    found = unpickled(monkeypatch)
    assert type(found) is ConvLSTM
    for call in (
        lambda: found(x),
        lambda: found.stream(2, (6, 5)),
        lambda: copy.deepcopy(found)(x),
        lambda: found.cell_list[0](x[:, 0]),
        lambda: found.cell_list[0](x[:, 0], (x[:, 0], x[:, 0])),
        lambda: unpickled(monkeypatch, Net)(x),
        lambda: found.hyperparameters,
    ):
        with pytest.raises(RunError, match=message):
            call()
    layer = ConvLSTM(2, 3, (3, 3), 2, True)
    layer.load_state_dict(found.state_dict())
    assert_close(layer.cell_list[1].conv.weight, found.cell_list[1].conv.weight)
    again = pickle.loads(pickle.dumps(layer))
    assert_close(again(x)[0][0], layer(x)[0][0])


def test_sentences_are_errors_of_the_library():
    with pytest.raises(ConvLSTMError):
        ConvLSTM((4, 4), 1, 2, 3)
