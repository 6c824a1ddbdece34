"""Draw stacks and skip connections: ``python docs/scripts/structure.py`` writes them to docs/figures."""

import re
from pathlib import Path

from drawing import Drawing, Node

FIGURES = Path(__file__).parents[1] / "figures"
_STEPS = (94, 202, 310)  # columns of the three frames


def structure(d: Drawing) -> None:
    """Two layers over three frames, layer by layer and frame by frame."""
    d.text(10, 14, "Layer by layer", "start")
    _stack(d, 68, ((4, 5, 6), (1, 2, 3)))
    d.text(10, 222, "Frame by frame, with a spatiotemporal memory m", "start")
    cells = _stack(d, 284, ((2, 4, 6), (1, 3, 5)))
    for step, (upper, lower) in enumerate(zip(*cells, strict=True)):
        d.line((lower.x - 17, lower.y - 14), (upper.x - 17, upper.y + 14))
        if step + 1 < len(_STEPS):
            following = cells[1][step + 1]
            x, top, bottom = upper.x + 56, upper.y - 28, following.y + 28
            turns = [(upper.x + 17, top), (x, top), (x, bottom), (following.x - 17, bottom)]
            d.line((upper.x + 17, upper.y - 14), *turns, (following.x - 17, following.y + 14))
            d.text(x + 9, upper.y + 31, "m", "small")


def _stack(d: Drawing, y: float, order: tuple[tuple[int, ...], ...]) -> list[list[Node]]:
    """Two layers of cells, the upper one first, with the order in which their steps are computed."""
    below = y + 62
    d.text(10, y, "layer 2", "start small")
    d.text(10, below, "layer 1", "start small")
    rows = []
    for row, numbers in zip((y, below), order, strict=True):
        kind = "sigmoid" if row == y else "tanh"
        rows.append(
            [d.box(x, row, str(n), kind=kind, width=50) for x, n in zip(_STEPS, numbers, strict=True)]
        )
        for left, right in zip(rows[-1], rows[-1][1:], strict=False):
            d.line(left, right)
            d.text(left.x + 40, row - 9, "h, c", "small")
    for step, (upper, lower) in enumerate(zip(*rows, strict=True)):
        d.line((lower.x, below + 40), lower)
        d.text(lower.x, below + 50, f"x{'₁₂₃'[step]}")
        d.line(lower, upper)
        d.line(upper, (upper.x, y - 24))
        d.text(upper.x, y - 32, f"h{'₁₂₃'[step]}", "small")
    return rows


def skip_connections(d: Drawing) -> None:
    """Connections around layers, from all layers below, and between levels of equal resolution."""
    d.text(10, 14, 'residual=True, or "project" with a convolution', "start")
    y, start = 70, (24, 70)
    d.text(14, y, "x")
    for k, x in enumerate((100, 246)):
        layer, plus = d.box(x, y, f"layer {k + 1}", kind="sigmoid"), d.operation(x + 66, y, "+")
        d.line(start, layer)
        d.line(layer, plus)
        branch = d.dot(layer.x - 52, y)
        pill = d.pill(layer.x + 6, y - 34, "1 × 1", "linear", 42)
        d.line(branch, (branch.x, pill.y), pill, head=False)
        d.line(pill, (plus.x, pill.y), plus)
        start = (plus.x + 10, y)
    d.line(start, (346, y))

    d.text(10, 128, 'residual="dense"', "start")
    y = 190
    d.text(14, y, "x")
    layers = [d.box(x, y, f"layer {k + 1}", kind="sigmoid") for k, x in enumerate((92, 190, 288))]
    for left, right in zip([(24, y), *layers], [*layers, (346, y)], strict=True):
        d.line(left, right)
    for k, (x, bend) in enumerate(((44, -30), (143, 30))):
        branch = d.dot(x, y)
        d.line(branch, (x, y + bend), (layers[2].x, y + bend), layers[2])
        for layer in layers[k + 1 : 2]:
            d.line(d.dot(layer.x, y + bend), layer)

    d.text(10, 246, "EncoderForecaster(skip=True)", "start")
    fine, coarse = 284, 348
    d.text(14, fine, "x")
    levels = (fine, "64 × 64", "sigmoid"), (coarse, "32 × 32", "tanh")
    left, right = ([d.box(x, y, text, kind=kind, width=66) for y, text, kind in levels] for x in (90, 262))
    d.line((24, fine), left[0])
    d.line(left[0], left[1])
    d.text(98, (fine + coarse) / 2, "halved", "small start")
    d.line(left[1], right[1])
    d.text(176, coarse - 9, "state", "small")
    d.line(right[1], right[0])
    d.text(270, (fine + coarse) / 2, "doubled", "small start")
    d.line(left[0], right[0])
    d.text(176, fine - 9, "skip, state", "small")
    d.line(right[0], (336, fine))
    d.text(349, fine, "x′")
    d.text(90, coarse + 28, "encoder", "small")
    d.text(262, coarse + 28, "forecaster", "small")


DRAWN = {"structure": structure, "skip_connections": skip_connections}
CHINESE = {
    "Layer by layer": "逐层计算",
    "Frame by frame, with a spatiotemporal memory m": "逐帧计算，带时空记忆 m",
    "residual=True, or &quot;project&quot; with a convolution": (
        "residual=True；&quot;project&quot; 另加一个卷积"
    ),
    "layer 1": "第 1 层",
    "layer 2": "第 2 层",
    "layer 3": "第 3 层",
    "halved": "减半",
    "doubled": "加倍",
    "state": "状态",
    "skip, state": "跳跃连接，状态",
    "encoder": "编码器",
    "forecaster": "预测器",
}


def figure(name: str, words: dict[str, str] | None = None) -> str:
    """A figure as SVG, its words replaced by those of another language."""
    drawing = Drawing(name.replace("_", " ").capitalize())
    DRAWN[name](drawing)
    return re.sub(r"(?<=>)[^<>]+(?=</text>)", lambda text: (words or {}).get(text[0], text[0]), drawing.svg())


if __name__ == "__main__":
    for drawn in DRAWN:
        (FIGURES / f"{drawn}.svg").write_text(figure(drawn), encoding="utf-8")
        (FIGURES / f"{drawn}.zh.svg").write_text(figure(drawn, CHINESE), encoding="utf-8")
