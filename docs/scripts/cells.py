"""Draw the figure of every cell: ``python docs/scripts/cells.py`` writes them to docs/figures.

Each function draws what the equations of the cell's documentation say. `STRIPS` holds the order of the gates
in the result of each convolution, which the tests compare with the cells.
"""

from itertools import pairwise
from pathlib import Path

from drawing import Drawing
from gates import added, gated_output, joint_output, linear, memory, out, reset, sigmoid, tanh

FIGURES = Path(__file__).parents[1] / "figures"

#: Parts of the result of each convolution or matrix product, in their order, by the name of the parameters.
STRIPS: dict[str, dict[str, tuple[str, str]]] = {
    "ConvLSTMCell": {"conv": ("[x, h]", "i f o g")},
    "ConvGRUCell": {"conv": ("[x, h]", "r z n")},
    "ConvRNNCell": {"conv": ("[x, h]", "h′")},
    "SAConvLSTMCell": {"gates": ("[z, h]", "i g o")},
    "STLSTMCell": {
        "conv_x": ("x", "i f g i′ f′ g′ o"),
        "conv_h": ("h", "i f g o"),
        "conv_m": ("m", "i′ f′ g′"),
        "conv_o": ("[c′, m′]", "o"),
    },
    "CausalLSTMCell": {
        "conv_x": ("x", "i f g i′ f′ g′ o"),
        "conv_h": ("h", "i f g o"),
        "conv_c": ("c", "i f g"),
        "conv_m": ("m", "i′ f′ mₘ"),
        "conv_c2m": ("c′", "i′ g′ f′ o"),
        "conv_om": ("m′", "o"),
    },
    "GHUCell": {"conv_x": ("x", "p u"), "conv_h": ("h", "p u")},
    "E3DLSTMCell": {
        "conv_x": ("x", "i g r o i′ g′ f′"),
        "conv_h": ("h", "i g r o"),
        "conv_m": ("m", "i′ f′ g′ mₘ"),
        "conv_o": ("[c′, m′]", "o"),
    },
    "MIMSCell": {"conv_x": ("x", "i g f o"), "conv_h": ("h", "i g f o")},
    "MIMNCell": {},
    "MIMCell": {
        "conv_x": ("x", "i g f o"),
        "conv_h": ("h", "i g o"),
        "conv_m": ("m", "i g f o"),
    },
    "MAUCell": {"conv_t": ("fused", "g t→t t→s"), "conv_s": ("S", "g′ s→t s→s")},
    "PhyCell": {"gain_x": ("x", "K"), "gain_h": ("h", "K")},
    "SpaceTimeAttentionCell": {"space": ("LN u", "q k v"), "time": ("LN u", "q k v"), "time_h": ("h", "q")},
    "SwinLSTMCell": {},
    "TrajGRUCell": {"conv_x": ("x", "r z n"), "conv_h": ("links", "r z n")},
    "LinearCell": {},
    "MinConvGRUCell": {"conv": ("x", "z n")},
    "MinConvLSTMCell": {"conv": ("x", "f i n")},
}


def conv_lstm(d: Drawing) -> None:
    """i, f, o, g = W * [x, h] + b; c' = f c + i tanh(g); h' = o tanh(c')."""
    out(d, memory(d, 24, "c", sigmoid("f", "x h (c)"), sigmoid("i", "x h (c)"), tanh("g", "x h")), "c′")
    gated_output(d, 24, sigmoid("o", "x h (c′)"))


def conv_gru(d: Drawing) -> None:
    """``n = tanh(W_n * x + b_n + r (U_n * h + b_u)); h' = (1 - z) n + z h``."""
    out(d, memory(d, 24, "h", sigmoid("z", "x h"), linear("1 − z"), tanh("n")), "h′")
    reset(d, 180, d.box(56, 180, "Uₙ ∗ h + bᵤ", width=92), d.box(306, 180, "Wₙ ∗ x + bₙ", width=92), "x h")


def conv_rnn(d: Drawing) -> None:
    """``h' = tanh(W * [x, h] + b)``."""
    conv, pill = d.box(150, 34, "conv ∗ [x, h]", width=110), d.pill(260, 34, "tanh", width=50)
    d.line((24, 34), conv)
    d.text(14, 34, "h")
    d.line((150, 74), conv)
    d.text(150, 84, "x")
    d.line(conv, pill)
    out(d, pill, "h′")


def sa_conv_lstm(d: Drawing) -> None:
    """z_h, z_m: what h finds in itself and in m; m' = (1 - i) m + i tanh(g); h' = o m'."""
    lstm = d.box(180, 30, "ConvLSTMCell", "x h c", width=120)
    d.line((32, 30), lstm)
    d.text(18, 30, "h c")
    out(d, lstm, "c′")
    d.line(lstm, (180, 70), head=False)
    found = d.box(81, 108, "z_h", "query(h) key(h) value(h)", "attention", 146)
    found_m = d.box(262, 108, "z_m", "query(h) key_m(m) value_m(m)", "attention", 184)
    d.line((180, 70), found, first="h")
    d.line((180, 70), found_m, first="h")
    d.text(194, 60, "h")
    mix = d.box(180, 158, "z = mix ∗ [z_h, z_m]", width=150)
    d.line(found, mix)
    d.line(found_m, mix)
    y = 206.0
    out(d, memory(d, y, "m", linear("1 − i"), sigmoid("i", "z h"), tanh("g", "z h")), "m′")
    gated_output(d, y, sigmoid("o", "z h"), function="")


def st_lstm(d: Drawing) -> None:
    """Two memories, c over time and m through the layers; the output reads both."""
    for y, name, prime, source in ((24.0, "c", "", "h"), (174.0, "m", "′", "m")):
        reads = f"x {source}"
        gates = (
            sigmoid(f"f{prime}", f"{reads} +b"),
            sigmoid(f"i{prime}", reads),
            tanh(f"g{prime}", reads),
        )
        out(d, memory(d, y, name, *gates), f"{name}′")
    joint_output(d, 330, 24, 174, sigmoid("o", "x h c′ m′"))


def causal_lstm(d: Drawing) -> None:
    """As the ST-LSTM, but m' is computed from c'."""
    c = memory(d, 24, "c", sigmoid("f", "x h c +b"), sigmoid("i", "x h c"), tanh("g", "x h c"))
    out(d, c, "c′")
    gates = sigmoid("f′", "x m c′ +b"), sigmoid("i′", "x m c′"), tanh("g′", "x c′")
    out(d, memory(d, 174, "m", *gates, function="tanh(mₘ)"), "m′")
    joint_output(d, 330, 24, 174, tanh("o", "x h c′ m′"))


def highway(d: Drawing) -> None:
    """``h' = u tanh(p) + (1 - u) h``."""
    out(d, memory(d, 24, "h", linear("1 − u"), sigmoid("u", "x h"), tanh("p", "x h")), "h′")


def eidetic(d: Drawing) -> None:
    """``c' = LN(c + recall) + i tanh(g); m' = f' tanh(m_m) + i' tanh(g')``."""
    y = 24
    plus, norm = d.operation(78, y, "+"), d.pill(146, y, "norm", "linear", 46)
    d.line((24, y), plus)
    d.text(14, y, "c")
    recall = d.box(78, y + 48, "recall", kind="attention", width=64)
    d.line((24, y + 48), recall)
    d.text(14, y + 48, "C")
    d.line(d.box(78, y + 100, *sigmoid("r", "x h")), recall)
    d.line(recall, plus)
    d.line(plus, norm)
    summed = added(d, y, sigmoid("i", "x h"), tanh("g", "x h"), (176, 240))
    d.line(norm, summed)
    out(d, summed, "c′")
    gates = sigmoid("f′", "x m +b"), sigmoid("i′", "x m"), tanh("g′", "x m")
    out(d, memory(d, 178, "m", *gates, function="tanh(mₘ)"), "m′")
    joint_output(d, 334, y, 178, ("σ(tanh(o))", "x h c′ m′", "sigmoid"))


def stationary(d: Drawing) -> None:
    """An LSTM with peepholes and a forget bias."""
    gates = sigmoid("f", "x h c +b"), sigmoid("i", "x h c"), tanh("g", "x h")
    out(d, memory(d, 24, "c", *gates), "c′")
    gated_output(d, 24, sigmoid("o", "x h c′"))


def non_stationary(d: Drawing) -> None:
    """A MIMSCell that reads the change of its input."""
    minus = d.operation(110, 34, "−")
    d.line((34, 34), minus)
    d.text(20, 34, "x")
    d.line((110, 78), minus)
    d.text(110, 88, "x before", "small")
    lstm = d.box(220, 34, "MIMSCell", "h c", width=90)
    d.line(minus, lstm)
    out(d, lstm, "h′ c′", 310)


def memory_in_memory(d: Drawing) -> None:
    """``c' = t + i tanh(g)``, t of two modules in a row; m as in an ST-LSTM."""
    first = d.box(62, 30, "MIMN", "d n", width=56)
    second = d.box(140, 30, "MIMS", "c s", width=56)
    d.line((22, 30), first)
    d.text(14, 30, "x")
    d.line(first, second)
    d.text(101, 20, "d′", "small")
    plus = added(d, 30, sigmoid("i", "x h"), tanh("g", "x h"), (184, 248))
    d.line(second, plus)
    d.text(187, 20, "t", "small")
    out(d, plus, "c′")
    out(d, memory(d, 180, "m", sigmoid("f", "x m +b"), sigmoid("i", "x m"), tanh("g", "x m")), "m′")
    joint_output(d, 336, 30, 180, sigmoid("o", "x h m"))


def motion_aware(d: Drawing) -> None:
    """The trend of the past, fused with the last temporal state; both states exchange what they know."""
    out(d, memory(d, 24, "T", sigmoid("u", "T"), linear("1 − u"), linear("trend")), "fused", 312)
    weights = d.box(232, 190, "T before, weighed", "by softmax of ⟨S before, N_q(S)⟩ / √d", "attention", 216)
    d.line(weights, (232, 134))
    out(d, memory(d, 240, "t→t", sigmoid("g", "fused"), linear("1 − g"), linear("s→t", "S")), "T′")
    out(d, memory(d, 390, "s→s", sigmoid("g′", "S"), linear("1 − g′"), linear("t→s", "fused")), "h′")


def physical(d: Drawing) -> None:
    """h~ = h + F(h), drawn to the frame: h' = h~ + K (x - h~)."""
    predicted, corrected = d.operation(206, 24, "+"), d.operation(296, 24, "+")
    d.text(14, 24, "h")
    d.line((24, 24), predicted)
    start, norm = d.dot(40, 24), d.pill(126, 76, "norm", "linear", 46)
    filters = d.box(52, 76, "derivatives", width=80)
    d.line(start, (40, 62))
    d.line(filters, norm)
    combine = d.box(206, 76, "combine", width=74)
    d.line(norm, combine)
    d.line(combine, predicted)
    d.line(predicted, corrected)
    d.text(240, 13, "h̃", "small")
    minus, times = d.operation(254, 132, "−"), d.operation(296, 132, "×")
    d.line(d.dot(254, 24), minus)
    d.line((24, 132), minus)
    d.text(14, 132, "x")
    d.line(minus, times)
    d.line(times, corrected)
    d.line(d.box(296, 184, *sigmoid("K", "x h")), times)
    out(d, corrected, "h′")


def space_time(d: Drawing) -> None:
    """Attention within windows of the frame, then of each pixel over its past, then a perceptron."""
    conv = d.box(120, 64, "conv ∗ x", width=80)
    d.text(120, 20, "x")
    d.line((120, 30), conv)
    above, x = conv, 120
    stages = (
        (130, "within windows", "space (q k v), space_out", "attention"),
        (236, "over time", "time (q k v), time_out", "attention"),
        (342, "perceptron", "up, GELU, down", "tanh"),
    )
    for y, text, below, kind in stages:
        stage, plus = d.box(x + 100, y, text, below, kind, 160), d.operation(x, y + 48, "+")
        start = d.dot(x, y - 34)
        d.line(above, plus)
        norm = d.pill(x + 100, y - 34, "norm", "linear", 46)
        d.line(start, norm)
        d.line(norm, stage)
        d.line(stage, plus)
        above = plus
    d.text(52, 236, "h, keys, values", "small")
    d.line((96, 236), (140, 236))
    d.line(above, (120, 424))
    d.text(120, 434, "h′")


def swin(d: Drawing) -> None:
    """``f = sigmoid(z), c' = f (c + tanh(z)), h' = f tanh(c')``."""
    plus, keep, times = d.operation(110, 24, "+"), d.operation(190, 24, "×"), d.operation(276, 94, "×")
    d.text(14, 24, "c")
    d.line((24, 24), plus)
    d.line(plus, keep)
    out(d, keep, "c′")
    d.line(d.dot(276, 24), pill := d.pill(276, 58, "tanh"), head=False)
    d.line(pill, times)
    candidate, gate = d.box(110, 94, *tanh("z")), d.box(190, 94, *sigmoid("z"))
    d.line(candidate, plus)
    d.line(gate, keep)
    d.line(gate, times)
    d.text(232, 84, "f", "small")
    out(d, times, "h′")
    boxes = [
        d.box(x, 170, text, below, "attention", 70)
        for x, text, below in ((76, "block 0", "x h"), (166, "block 1", "shifted"), (256, "block 2", "x"))
    ]
    for left, right in pairwise(boxes):
        d.line(left, right)
    d.text(316, 170, "…")
    d.line(boxes[2], (308, 170), head=False)
    d.line((316, 162), (316, 132), (110, 132), candidate, head=True)
    d.line(d.dot(190, 132), gate)
    d.text(328, 144, "z")


def trajectory(d: Drawing) -> None:
    """A GRU whose state is read at the ends of L links, the flow of which a small network gives."""
    out(d, memory(d, 24, "h", sigmoid("z", "x links"), linear("1 − z"), ("a(n)", "", "tanh")), "h′")
    reset(d, 180, d.box(68, 180, "n of links", width=84), d.box(306, 180, "n of x", width=70), "x links")
    warp = d.box(68, 282, "warp by −flow", "h, L links", "attention", 104)
    flow = d.box(172, 282, "flow ∗ q", "2 L", width=66)
    q = d.box(287, 282, "q = a(…)", "flow_x ∗ x + flow_h ∗ h", "tanh", 140)
    d.line(q, flow)
    d.line(flow, warp)
    d.line(warp, (68, 194))


def linear_cell(d: Drawing) -> None:
    """``h' = a h + b``."""
    times, plus = d.operation(120, 24, "×"), d.operation(220, 24, "+")
    d.text(14, 24, "h")
    d.line((24, 24), times)
    d.line(times, plus)
    out(d, plus, "h′")
    d.line(d.box(120, 86, "a", "x"), times)
    d.line(d.box(220, 86, "b", "x"), plus)


def min_gru(d: Drawing) -> None:
    """``h' = (1 - sigmoid(z)) h + sigmoid(z) g(n)``."""
    gates = linear("1 − σ(z)", "x"), sigmoid("z", "x"), ("g(n)", "x", "tanh")
    out(d, memory(d, 24, "h", *gates), "h′")


def min_lstm(d: Drawing) -> None:
    """``h' = (f h + i g(n)) / (f + i)``."""
    gates = ("f/(f + i)", "x", "sigmoid"), ("i/(f + i)", "x", "sigmoid"), ("g(n)", "x", "tanh")
    out(d, memory(d, 24, "h", *gates), "h′")


DRAWN = {
    "ConvLSTMCell": conv_lstm,
    "ConvGRUCell": conv_gru,
    "ConvRNNCell": conv_rnn,
    "SAConvLSTMCell": sa_conv_lstm,
    "STLSTMCell": st_lstm,
    "CausalLSTMCell": causal_lstm,
    "GHUCell": highway,
    "E3DLSTMCell": eidetic,
    "MIMSCell": stationary,
    "MIMNCell": non_stationary,
    "MIMCell": memory_in_memory,
    "MAUCell": motion_aware,
    "PhyCell": physical,
    "SpaceTimeAttentionCell": space_time,
    "SwinLSTMCell": swin,
    "TrajGRUCell": trajectory,
    "LinearCell": linear_cell,
    "MinConvGRUCell": min_gru,
    "MinConvLSTMCell": min_lstm,
}


def figure(name: str) -> str:
    """The figure of a cell as SVG."""
    drawing = Drawing(f"One step of a {name}")
    DRAWN[name](drawing)
    for parameters, (read, slots) in STRIPS[name].items():
        drawing.strip(f"{parameters} ∗ {read}", slots)
    return drawing.svg()


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    for cell in DRAWN:
        (FIGURES / f"{cell}.svg").write_text(figure(cell), encoding="utf-8")
