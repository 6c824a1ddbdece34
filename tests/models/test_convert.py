"""Weights of public models in ours: numbers that the public code gave on the same weights.

Made with weights and frames of the formulas below, float64, by thuml/predrnn-pytorch 49d3b0f
(core.models.predrnn.RNN, predrnn_v2.RNN; OpenSTL's own versions give the same) and by OpenSTL c74deb5
(ConvLSTM_Model, PredRNNpp_Model, MIM_Model, E3DLSTM_Model, MAU_Model, PhyDNet_Model), and 0a0f36c for the
published bugs of the first two. The authors' own MAU (9e5461c) and PhyDNet (23a992d) have the same names.
tsugumi-sys/SA-ConvLSTM-Pytorch f207344 gave those of SAMSeq2Seq, the second frame from a
clip that ends with the first.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convlstm import E3DLSTM, MAU, PhyDNet, PredRNN, PredRNNPlusPlus, PredRNNv2, StackForecaster, SwinLSTM
from convlstm.errors import OptionError, RunError, ShapeError
from convlstm.models import from_published
from convlstm.models.sa_convlstm import PublishedSAConvLSTM

CHANNELS, PATCH, HEIGHT, WIDTH, PAST, STEPS, HIDDEN, LAYERS = 2, 2, 6, 8, 3, 2, 3, 3
MAPS = (HEIGHT // PATCH, WIDTH // PATCH)
GATES = {
    "convlstm": {"conv_x": 4, "conv_h": 4},
    "predrnn": {"conv_x": 7, "conv_h": 4, "conv_m": 3},
    "predrnn v2": {"conv_x": 7, "conv_h": 4, "conv_m": 3},
    "predrnn++": {"conv_x": 7, "conv_h": 4, "conv_c": 3, "conv_m": 3, "conv_c2m": 4, "conv_om": 1},
}
#: Two channels of two forecasts at pixel (2, 5) of the second sequence, and the sum of squares of all.
NUMBERS = {
    ("convlstm", None): (
        [0.00114023188191, 0.00181163448945, -0.0018469095754, -0.00189048257506],
        0.0215104107433,
    ),
    ("convlstm", "no_memory"): (
        [-0.0289078279442, -0.0324760859497, -0.00341884034894, -0.00624877870218],
        0.104286026217,
    ),
    ("predrnn", None): (
        [0.00254153196326, -0.00288379712937, 0.00672568788029, 0.00499085708066],
        0.0866247338893,
    ),
    ("predrnn v2", None): (
        [-0.0227765487296, -0.0221931459187, -0.00757075466299, -0.00762062953792],
        0.0556960797759,
    ),
    ("predrnn++", None): (
        [-0.00161080059185, 0.002652687973, -0.00069082856997, -0.000626390400826],
        0.00247664898055,
    ),
    ("predrnn++", "memory"): (
        [-0.00145284651314, 0.0180542031547, 0.0130909956111, 0.0263132793695],
        0.105757543188,
    ),
    ("mim", None): (
        [-0.000648067640858, 0.000896738364652, 0.0034221237631, 0.00559065368311],
        0.0194347902439,
    ),
    ("e3d-lstm", "memory_and_recall"): (
        [-0.0698934986959, 0.0648137847771, -0.0505752570579, 0.0447636348907],
        0.540944026256,
    ),
    ("mau", None): (
        [0.252609940998, 0.152632504401, 0.252826470997, 0.150732964393],
        17.130326768,
    ),
    ("phydnet", None): (
        [0.461148650408, 0.585516293025, 0.44819861978, 0.591225592319],
        113.353227515,
    ),
    ("sa-convlstm", None): (
        [0.601037084064, 0.650663723572, 0.600963602821, 0.650430246508],
        110.936437126,
    ),
}
#: PredRNN-V2's loss without that of the frames, and without its weight.
DECOUPLING = 0.231642049415


def stack_shapes(kind):
    shapes = {"conv_last.weight": (CHANNELS * PATCH**2, HIDDEN, 1, 1)}
    for n in range(LAYERS):
        for name, gates in GATES[kind].items():
            inputs = CHANNELS * PATCH**2 if name == "conv_x" and not n else HIDDEN
            shapes[f"cell_list.{n}.{name}.0.weight"] = (gates * HIDDEN, inputs, 3, 3)
        shapes[f"cell_list.{n}.conv_o.0.weight"] = (HIDDEN, 2 * HIDDEN, 3, 3)
        shapes[f"cell_list.{n}.conv_last.weight"] = (HIDDEN, 2 * HIDDEN, 1, 1)
    if kind == "predrnn v2":
        shapes["adapter.weight"] = (HIDDEN, HIDDEN, 1, 1)
    if kind == "predrnn++":
        for name in ("x_concat", "z_concat"):
            shapes[f"gradient_highway.{name}.0.weight"] = (2 * HIDDEN, HIDDEN, 3, 3)
    return shapes


def mim_shapes():
    stack = stack_shapes("predrnn")
    shapes = {f"stlstm_layer.{n[10:]}": shape for n, shape in stack.items() if n.startswith("cell_list.0.")}
    shapes["conv_last.weight"] = stack["conv_last.weight"]
    lstm = {"conv_h_concat": 4, "conv_x_concat": 4}
    block = lstm | {"conv_t_cc": 3, "conv_s_cc": 4, "conv_x_cc": 4}
    modules = {f"stlstm_layer.{n}": block for n in range(1, LAYERS)}
    for module, gates in (modules | {f"stlstm_layer_diff.{n}": lstm for n in range(LAYERS - 1)}).items():
        shapes |= {f"{module}.{name}.0.weight": (g * HIDDEN, HIDDEN, 3, 3) for name, g in gates.items()}
        shapes |= {f"{module}.ct_weight": (2 * HIDDEN, *MAPS), f"{module}.oc_weight": (HIDDEN, *MAPS)}
        shapes[f"{module}.conv_last.weight"] = (HIDDEN, 2 * HIDDEN, 1, 1)
    return shapes


def e3d_shapes():
    shapes = {"conv_last.weight": (CHANNELS * PATCH**2, HIDDEN, 2, 1, 1)}
    for n in range(LAYERS):
        for name, gates in {"x": 7, "h": 4, "gm": 4, "new_cell": 1, "new_gm": 1}.items():
            inputs = CHANNELS * PATCH**2 if name == "x" and not n else HIDDEN
            shapes[f"cell_list.{n}.conv_{name}.0.conv3d.weight"] = (gates * HIDDEN, inputs, 2, 5, 5)
        shapes[f"cell_list.{n}.conv_last.conv3d.weight"] = (HIDDEN, 2 * HIDDEN, 1, 1, 1)
        shapes |= {f"cell_list.{n}._norm_c_t.{part}": (HIDDEN, 2, *MAPS) for part in ("weight", "bias")}
    return shapes


def with_biases(shapes):
    return shapes | {name[:-6] + "bias": (shape[0],) for name, shape in shapes.items()}


def mau_shapes():
    shapes = {
        "encoders.0.encoder_t_conv-1.weight": (HIDDEN, CHANNELS, 1, 1),
        "encoders.1.encoder_t0.weight": (HIDDEN, HIDDEN, 3, 3),
        "decoders.0.c_decoder0.weight": (HIDDEN, HIDDEN, 3, 3),
        "srcnn.0.weight": (CHANNELS, HIDDEN, 1, 1),
        "merge.weight": (HIDDEN, 2 * HIDDEN, 1, 1),
        "conv_last_sr.weight": (CHANNELS, 2 * CHANNELS, 1, 1),
    }
    norms = {}
    for n in range(LAYERS):
        for name, gates in {"conv_t": 3, "conv_t_next": 1, "conv_s": 3, "conv_s_next": 1}.items():
            shapes[f"cell_list.{n}.{name}.0.weight"] = (gates * HIDDEN, HIDDEN, 3, 3)
            norms |= {
                f"cell_list.{n}.{name}.1.{part}": (gates * HIDDEN, *MAPS) for part in ("weight", "bias")
            }
    return with_biases(shapes) | norms


def phydnet_shapes():
    pairs = {"encoder_E.c1": (CHANNELS, 32), "encoder_E.c2": (32, 32), "encoder_E.c3": (32, 64)}
    pairs |= {f"encoder_E{branch}.c{n}": (64, 64) for branch in "pr" for n in (1, 2)}
    shapes = {f"{name}.main.0.weight": (outputs, inputs, 3, 3) for name, (inputs, outputs) in pairs.items()}
    pairs = {"decoder_D.upc1": (64, 32), "decoder_D.upc2": (32, 32)}
    pairs |= {f"decoder_D{branch}.upc{n}": (64, 64) for branch in "pr" for n in (1, 2)}
    transposed = {f"{name}.main.0.weight": (*pair, 3, 3) for name, pair in pairs.items()}
    biases = {name[:-6] + "bias": shape[1:2] for name, shape in transposed.items()}
    transposed["decoder_D.upc3.weight"], biases["decoder_D.upc3.bias"] = (32, CHANNELS, 3, 3), (CHANNELS,)
    norms = {f"{name[:-8]}1.weight": shape[:1] for name, shape in shapes.items()}
    norms |= {f"{name[:-6]}1.weight": shape for name, shape in biases.items() if ".main." in name}
    cell = "phycell.cell_list.0"
    shapes |= {f"{cell}.F.conv1.weight": (49, 64, 7, 7), f"{cell}.F.conv2.weight": (64, 49, 1, 1)}
    shapes[f"{cell}.convgate.weight"] = (64, 128, 3, 3)
    for n, (inputs, hidden) in enumerate([(64, 128), (128, 128), (128, 64)]):
        shapes[f"convcell.cell_list.{n}.conv.weight"] = (4 * hidden, inputs + hidden, 3, 3)
    return with_biases(shapes | norms | {f"{cell}.F.bn1.weight": (49,)}) | transposed | biases


def sa_shapes():
    shapes = {"sequential.conv3d.weight": (CHANNELS, HIDDEN, 3, 3, 3)}
    norms = {}
    for n in range(1, LAYERS + 1):
        cell, width = f"sequential.sam-convlstm{n}.sam_convlstm_cell", 2
        inputs = HIDDEN if n > 1 else CHANNELS
        shapes[f"{cell}.convlstm_cell.conv.weight"] = (4 * HIDDEN, inputs + HIDDEN, 3, 3)
        maps = {"query_h": (width, HIDDEN), "key_h": (width, HIDDEN), "key_m": (width, HIDDEN)}
        maps |= dict.fromkeys(("value_h", "value_m", "z_h", "z_m"), (HIDDEN, HIDDEN))
        maps |= {"w_z": (2 * HIDDEN, 2 * HIDDEN), "w": (3 * HIDDEN, 3 * HIDDEN)}
        shapes |= {f"{cell}.attention_memory.{name}.weight": (*pair, 1, 1) for name, pair in maps.items()}
        norms |= {f"{cell}.convlstm_cell.W_c{gate}": (HIDDEN, HEIGHT, WIDTH) for gate in "ifo"}
        clip = (HIDDEN, PAST, HEIGHT, WIDTH)
        norms |= {f"sequential.layernorm{n}.{part}": clip for part in ("weight", "bias")}
    return with_biases(shapes) | norms


def public_weights(kind):
    """Weights by their public names, each from a formula of its place among the sorted names."""
    shapes = stack_shapes(kind) if kind in GATES else SHAPES[kind]()

    def values(place, shape):
        steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        return 0.3 * torch.sin(place + steps**2).view(shape)

    return {name: values(place, shapes[name]) for place, name in enumerate(sorted(shapes))}


def past():
    count = 2 * (PAST + STEPS) * CHANNELS * HEIGHT * WIDTH
    frames = 0.5 + 0.5 * torch.sin(0.7 * torch.arange(count, dtype=torch.float64))
    return frames.view(2, PAST + STEPS, CHANNELS, HEIGHT, WIDTH)[:, :PAST]


SHAPES = {"mim": mim_shapes, "e3d-lstm": e3d_shapes, "mau": mau_shapes, "phydnet": phydnet_shapes}
SHAPES["sa-convlstm"] = sa_shapes
PATCHES = {"mau": 1, "sa-convlstm": 1}
KINDS = {
    "convlstm": StackForecaster,
    "predrnn": PredRNN,
    "predrnn v2": PredRNNv2,
    "predrnn++": PredRNNPlusPlus,
    "mim": StackForecaster,
    "e3d-lstm": E3DLSTM,
    "mau": MAU,
    "phydnet": PhyDNet,
    "sa-convlstm": PublishedSAConvLSTM,
}


@pytest.mark.parametrize(("kind", "bug"), NUMBERS, ids=str)
def test_public_weights_give_the_numbers_of_the_public_code(kind, bug, tmp_path):
    model = from_published(public_weights(kind), PATCHES.get(kind, PATCH), published_bug=bug)
    assert type(model) is KINDS[kind]
    values, square = NUMBERS[kind, bug]
    forecast = model.eval()(past(), STEPS)
    torch.testing.assert_close(forecast[1, :, :, 2, 5].flatten().tolist(), values, rtol=1e-10, atol=0)
    torch.testing.assert_close(forecast.square().sum().item(), square, rtol=1e-10, atol=0)
    again = type(model).from_pretrained(model.save_pretrained(tmp_path)).double().eval()
    torch.testing.assert_close(again(past(), STEPS), forecast, rtol=0, atol=0)


def test_the_decoupling_loss_is_that_of_the_public_code():
    model = from_published(public_weights("predrnn v2"), PATCH).train()
    penalty = model.with_penalty(past(), STEPS)[1]
    torch.testing.assert_close(penalty.item(), 0.1 * DECOUPLING, rtol=1e-10, atol=0)


def test_a_checkpoint_of_openstl_holds_the_branches_of_phydnet_twice():
    weights = public_weights("phydnet")
    whole = {f"encoder.{name}": w for name, w in weights.items()}
    whole |= {name: w for name, w in weights.items() if name.startswith(("phycell.", "convcell."))}
    whole |= {f"k2m._M{n}": torch.eye(7, dtype=torch.float64) for n in range(2)}
    expected = from_published(weights, PATCH).state_dict()
    found = from_published({f"model.{name}": w for name, w in whole.items()}, PATCH).state_dict()
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)


def test_peepholes_that_a_gpu_did_not_save_are_left_out():
    """As zeros, which is what that code then computes with after loading."""
    weights = public_weights("sa-convlstm")
    zeros = {name: torch.zeros_like(w) if "W_c" in name else w for name, w in weights.items()}
    without = {name: w for name, w in weights.items() if "W_c" not in name}
    forecasts = [from_published(given, 1).eval()(past(), STEPS) for given in (zeros, without, weights)]
    torch.testing.assert_close(*forecasts[:2], rtol=0, atol=1e-15)
    assert not torch.allclose(*forecasts[1:])


WRAPPERS = {
    "none": dict,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "net_param": lambda w: {"net_param": w},
    "model": lambda w: {"epoch": 3, "model": w, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "model.", "method.module."])
@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_and_wrappers_of_checkpoints_are_taken_off(kind, prefix, wrap):
    weights = public_weights(kind)
    patch = PATCHES.get(kind, PATCH)
    model = from_published(wrap({prefix + name: w for name, w in weights.items()}), patch)
    expected = from_published(weights, patch).state_dict()
    torch.testing.assert_close(dict(model.state_dict()), dict(expected), rtol=0, atol=0)


def test_of_several_state_dicts_of_a_checkpoint_one_must_be_given():
    weights = public_weights("predrnn")
    with pytest.raises(OptionError, match=r"must be one state dict; .* several, model, ema: pass one of"):
        from_published({"model": weights, "ema": weights, "epoch": 3}, PATCH)


@pytest.mark.parametrize(
    ("name", "write"), [("model.ckpt-80000", torch.save), ("model.safetensors", save_file)]
)
def test_files_are_read(tmp_path, name, write):
    weights = public_weights("predrnn")
    write(weights, tmp_path / name)
    expected = from_published(weights, PATCH).state_dict()
    torch.testing.assert_close(
        dict(from_published(tmp_path / name, PATCH).state_dict()), dict(expected), rtol=0, atol=0
    )


class Code:
    """What a checkpoint must not run."""

    def __reduce__(self):
        return exec, ("raise SystemExit",)


def test_no_code_of_a_checkpoint_is_run(tmp_path):
    torch.save({"state_dict": public_weights("predrnn"), "config": Code()}, tmp_path / "model.pth")
    with pytest.raises(
        RunError, match=r"must hold tensors and plain data alone, .*: load it yourself if you trust"
    ):
        from_published(tmp_path / "model.pth", PATCH)


def with_weight(kind, name, shape=(1,)):
    return public_weights(kind) | {name: torch.ones(shape, dtype=torch.float64)}


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (
            partial(with_weight, "predrnn", "cell_list.0.conv_x.1.weight", (21, 3, 4)),
            OptionError,
            r"PredRNN must be of the plain model; received a variant with layer normalisation .*conv_x\.1\.w",
        ),
        (
            partial(with_weight, "predrnn++", "gradient_highway.x_concat.1.bias"),
            OptionError,
            r"weights of PredRNN\+\+ must be of the plain model; received a variant with layer normalisation",
        ),
        (
            partial(with_weight, "predrnn", "cell_list.0.conv_a.0.weight"),
            OptionError,
            "a variant with actions",
        ),
        (
            partial(with_weight, "predrnn", "merge.weight"),
            OptionError,
            r"PredRNN must have merge.weight left out; received \(1,\): they are of a variant",
        ),
        (
            partial(with_weight, "predrnn", "cell_list.1.conv_o.0.weight", (3, 6, 5, 5)),
            OptionError,
            r"\(3, 6, 3, 3\); received \(3, 6, 5, 5\): they are of a variant with a weight of another shape",
        ),
        (
            partial(with_weight, "convlstm", "cell_list.1.conv_x.0.weight", (12, 3, 5, 5)),
            ShapeError,
            "kernels must be",
        ),
        (
            lambda: {"rnn.0.conv_x.0.weight": torch.ones(1)},
            OptionError,
            r"weights must be of MIM, E3D-LSTM, .*, PredRNN\+\+, PredRNN, ConvLSTM, .*; received rnn\.0",
        ),
        (
            lambda: public_weights("predrnn") | {"ema." + n: w for n, w in public_weights("predrnn").items()},
            OptionError,
            r"of one model; received PredRNN 2 times, with cell_list\S+ and ema\.cell_list\S+: give",
        ),
        (
            partial(with_weight, "predrnn", "cell_list.0.conv_x.0.weight", ()),
            OptionError,
            "weights of PredRNN must have the shapes that its code gives them, .* gave '.*': give",
        ),
        (
            partial(with_weight, "phydnet", "convcell.cell_list.0.conv.weight", ()),
            OptionError,
            "weights of PhyDNet must have the shapes that its code gives them, .* gave 'len.*': give",
        ),
        (
            lambda: {name: w.to("meta") for name, w in public_weights("predrnn").items()},
            OptionError,
            "weights of PredRNN must have .* values; converting gave 'Error.*': give the state dict",
        ),
        (
            lambda: {name: w.long() for name, w in public_weights("predrnn").items()},
            OptionError,
            "weights must be real floating-point numbers; received head.weight of torch.int64: give",
        ),
        (dict, OptionError, "received no tensors: there is no converter"),
        (lambda: [torch.ones(3)], OptionError, "weights must be a state dict or a file; received"),
        (
            lambda: "nofile.pt",
            RunError,
            "nofile.pt must be a file of weights; there is none: correct the path",
        ),
        (
            lambda: PredRNN(1, [4, 4], 3, 2).state_dict(),
            OptionError,
            "a state dict by load_state_dict",
        ),
        (lambda: MAU(1, [4, 4]).state_dict(), OptionError, "a state dict by load_state_dict"),
        (lambda: SwinLSTM(1, 4, [1], (), [2]).state_dict(), OptionError, "a state dict by load_state_dict"),
        (
            lambda: Path(__file__).parent,
            OptionError,
            "a model folder of this library is loaded by .*from_pretr",
        ),
    ],
)
def test_other_weights_are_refused_in_a_sentence(weights, error, message):
    with pytest.raises(error, match=message):
        from_published(weights(), PATCH)


def test_one_weight_of_16_bits_does_not_round_the_others():
    weights = public_weights("predrnn")
    model = from_published(weights | {"conv_last.weight": weights["conv_last.weight"].half()}, PATCH)
    name = "cell_list.1.conv_h.0.weight"
    assert torch.equal(model.layers.cell_list[1].conv_h.weight, weights[name])


def test_weights_that_are_missing_are_named():
    weights = public_weights("predrnn")
    del weights["cell_list.1.conv_o.0.weight"]
    with pytest.raises(
        OptionError, match=r"layers.cell_list.1.conv_o.weight \(3, 6, 3, 3\); received none: give the state"
    ):
        from_published(weights, PATCH)


def test_norms_of_another_shape_are_refused_in_a_sentence():
    weights = with_weight("sa-convlstm", "sequential.layernorm1.weight", (HIDDEN,))
    with pytest.raises(OptionError, match="weights of SA-ConvLSTM must have the shapes .* gave 'not enough"):
        from_published(weights, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bug_that_a_model_does_not_have_is_refused(kind):
    with pytest.raises(
        OptionError,
        match=r"published_bug must be one that [A-Z]\S+ has; .*leave it out",
    ):
        from_published(public_weights(kind), PATCHES.get(kind, PATCH), published_bug="global_memory")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("predrnn", "patch_size must divide the 8 channels .* received 3: give that"),
        ("e3d-lstm", "patch_size must divide the 8 channels .* received 3: give that"),
        ("mau", "patch_size of MAU must be 1; received 3"),
        ("sa-convlstm", "patch_size of SA-ConvLSTM must be 1, .*; received 3: give 1"),
        ("phydnet", "patch_size of PhyDNet must be 4, .*, or 2; received 3: give that"),
    ],
)
def test_a_patch_size_that_does_not_fit_is_refused(kind, message):
    with pytest.raises(ShapeError, match=message):
        from_published(public_weights(kind), 3)


def test_what_weights_do_not_tell_is_an_option():
    mau = from_published(public_weights("mau"), 1, tau=2, recall=True)
    assert (mau.recall, mau.layers.cell_list[0].tau) == (True, 2)
    e3d = from_published(public_weights("e3d-lstm"), PATCH, published_bug="memory_and_recall", history=1)
    assert e3d.layers.cell_list[0].history == 1
    sa = from_published(public_weights("sa-convlstm"), 1, activation="tanh")
    for model, kind, bug in (
        (mau, "mau", None),
        (e3d, "e3d-lstm", "memory_and_recall"),
        (sa, "sa-convlstm", None),
    ):
        default = from_published(public_weights(kind), PATCHES.get(kind, PATCH), published_bug=bug)
        assert not torch.allclose(model(past(), STEPS), default(past(), STEPS))
    with pytest.raises(
        OptionError, match="that weights of MAU do not tell, tau, recall; received history: leave"
    ):
        from_published(public_weights("mau"), 1, history=3)
    with pytest.raises(
        OptionError, match="that weights of PredRNN do not tell, none; received tau: leave it out"
    ):
        from_published(public_weights("predrnn"), PATCH, tau=3)


@pytest.mark.parametrize("kind", ["mim", "e3d-lstm", "mau"])
def test_weights_of_one_size_of_frames_refuse_others(kind):
    model = from_published(public_weights(kind), PATCHES.get(kind, PATCH), published_bug=None)
    with pytest.raises(
        ShapeError, match=r"published weights of a \w+ are for maps of .*3, 4\); received .*4, 4"
    ):
        model(torch.zeros(1, 2, CHANNELS, HEIGHT + PATCH, WIDTH, dtype=torch.float64), 1)


def test_weights_of_one_clip_take_its_last_frames_and_refuse_others():
    model, frames = from_published(public_weights("sa-convlstm"), 1).eval(), past()
    longer = torch.cat([frames[:, :1], frames], dim=1)
    torch.testing.assert_close(model(longer, STEPS), model(frames, STEPS), rtol=0, atol=0)
    for other in (frames[:, :2], frames[..., 1:]):
        with pytest.raises(
            ShapeError, match=r"past must be \(B, 3 or more, 2, 6, 8\), as the weights are tied"
        ):
            model(other, 1)


@pytest.mark.parametrize("kind", ["mau", "phydnet", "sa-convlstm"])
def test_forecasts_have_the_dtype_of_the_past_under_autocast(kind):
    model = from_published(public_weights(kind), PATCHES.get(kind, PATCH)).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(past().float(), STEPS).dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [
        "cell_list.0.conv_m.0.weight",
        "cell_list.0.conv_x.0.weight",
        "gradient_highway.x_concat.0.weight",
        "Downsample.patch_embed.proj.weight",
        "stlstm_layer.0.conv_x.0.weight",
        "cell_list.0._norm_c_t.weight",
        "encoder_Ep.c1.main.0.weight",
        "sequential.sam-convlstm1.sam_convlstm_cell.convlstm_cell.conv.weight",
    ],
)
def test_a_part_of_the_weights_is_refused(name):
    whole = "must be (whole; received 1, without .*: give the state dict|those of a whole cell .*: pass all)"
    with pytest.raises(OptionError, match=whole):
        from_published({name: torch.zeros(8, 1, 2, 2)}, 1 if "sam-" in name else 2)
