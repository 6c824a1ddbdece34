"""The Transformer block as a recurrence, against the whole sequence at once."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm import ConvLSTM
from convlstm.cells import SpaceTimeAttentionCell
from convlstm.errors import OptionError


def normalised(x, norm):
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def linear(x, layer):
    return torch.einsum("oc,bchw->bohw", layer.weight, x) + layer.bias.view(1, -1, 1, 1)


def over_space(u, cell):
    """Attention of one pixel at a time to those of its window."""
    query, key, value = linear(normalised(u, cell.norms[0]), cell.space).chunk(3, dim=1)
    heads, w = cell.heads, cell.window
    out = torch.zeros_like(u).detach()
    parts = (query, key, value, out)
    for i in range(u.shape[2]):
        for j in range(u.shape[3]):
            rows = slice(i // w * w, i // w * w + w)
            columns = slice(j // w * w, j // w * w + w)
            for q, k, v, o in zip(*(t.unflatten(1, (heads, -1)).transpose(0, 1) for t in parts), strict=True):
                scores = (q[..., i, j, None, None] * k[..., rows, columns]).sum(1).flatten(1)
                weights = (scores / q.shape[1] ** 0.5).softmax(1)
                o[..., i, j] = torch.einsum("bn,bcn->bc", weights, v[..., rows, columns].flatten(2))
    return u + linear(out, cell.space_out)


def whole_sequence(cell, x):
    """Outputs (B, T, C, H, W): all keys and values are kept, and the last ones looked at."""
    h, keys, values, outputs = torch.zeros(len(x), cell.hidden_dim, *x.shape[3:]).to(x), [], [], []
    for t in range(x.shape[1]):
        u = over_space(F.conv2d(x[:, t], cell.conv.weight, cell.conv.bias, padding=1), cell)
        query, key, value = linear(normalised(u, cell.norms[1]), cell.time).chunk(3, dim=1)
        query = query + linear(h, cell.time_h)
        keys.append(key)
        values.append(value)
        parts = []
        for n, q in enumerate(query.chunk(cell.heads, 1)):
            ages = range(cell.history + 1)
            nothing = torch.zeros_like(q)
            past = [
                (keys[t - a].chunk(cell.heads, 1)[n], values[t - a].chunk(cell.heads, 1)[n])
                if a <= t
                else (nothing, nothing)
                for a in ages
            ]
            scores = [
                (q * k).sum(1) / q.shape[1] ** 0.5 + cell.age_bias[n, cell.history - a]
                for a, (k, _) in zip(ages, past, strict=True)
            ]
            weights = torch.stack(scores).softmax(0)
            parts.append(sum(weights[a, :, None] * past[a][1] for a in ages))
        y = u + linear(torch.cat(parts, 1), cell.time_out)
        h = y + linear(F.gelu(linear(normalised(y, cell.norms[2]), cell.up)), cell.down)
        outputs.append(h)
    return torch.stack(outputs, 1)


@settings(max_examples=12, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 4]),
    window=st.integers(1, 4),
    history=st.integers(1, 6),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
@torch.no_grad()
def test_frame_by_frame_is_the_whole_sequence(heads, window, history, size):
    torch.manual_seed(0)
    options = {"heads": heads, "window": window, "history": history}
    cell = SpaceTimeAttentionCell(2, 4, 3, **options).double()
    for parameter in cell.parameters():
        parameter.normal_(0, 0.5)
    x = torch.randn(2, 5, 2, *size, dtype=torch.float64)
    layer = ConvLSTM(2, 4, 3, batch_first=True, cell=lambda *sizes: cell).double()
    torch.testing.assert_close(layer(x)[0][0], whole_sequence(cell, x))


@torch.no_grad()
def test_golden_values():
    """Three quarters of the attention are the frame's own, a quarter the zeros before it."""
    cell = SpaceTimeAttentionCell(2, 2, 1, window=1, history=1).double()
    for parameter in cell.parameters():
        parameter.zero_()
    for norm in cell.norms:
        norm.weight.fill_(1)
    cell.conv.weight[:, :, 0, 0] = torch.eye(2)
    cell.age_bias[0] = torch.tensor([0, math.log(3)])  # of the frame before, of the present one
    cell.time.weight[4:] = cell.time_out.weight[:] = cell.up.weight[:2] = cell.down.weight[:, :2] = torch.eye(
        2
    )
    h = cell(torch.tensor([1.0, -1], dtype=torch.float64).view(1, 2, 1, 1)).h.flatten()
    # LN gives 1 and -1 again, so y is 1.75 and -1.75; gelu(1) = 0.841345, gelu(-1) = -0.158655
    torch.testing.assert_close(h, torch.tensor([2.591345, -1.908655], dtype=torch.float64), rtol=0, atol=1e-5)


def test_it_looks_back_no_further_than_its_history():
    torch.manual_seed(0)
    cell = SpaceTimeAttentionCell(1, 2, 3, history=2)
    with torch.no_grad():
        cell.time_h.weight.zero_()  # through h it remembers without end
    layer = ConvLSTM(1, 2, 3, batch_first=True, cell=lambda *sizes: cell)
    x = torch.rand(1, 6, 1, 4, 4, requires_grad=True)
    gradient = torch.autograd.grad(layer(x)[0][0][:, -1].square().sum(), x)[0]
    assert gradient.flatten(2).any(2).tolist() == [[False, False, False, True, True, True]]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="hidden_dim must be a multiple of heads=4; received 6: use 8"):
        SpaceTimeAttentionCell(1, 6, 3, heads=4)
    with pytest.raises(OptionError, match=r"two space axes; received kernel_size=\(3, 3, 3\)"):
        SpaceTimeAttentionCell(1, 4, (3, 3, 3))
