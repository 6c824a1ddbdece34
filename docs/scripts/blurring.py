"""Find the forecasts that squared and absolute error like best: ``python docs/scripts/blurring.py``.

A disc comes from the left; after the last frame that a forecaster sees it goes on upwards, straight on or
downwards, each as often as the others. The forecast that has the least error over many futures is found by
gradient descent on its pixels: no forecaster has less. The script writes docs/figures/blurring.svg and the
scores, docs/figures/blurring.json.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convlstm.scores import MAE, MSE

FIGURES = Path(__file__).parents[1] / "figures"
SCORES = FIGURES / "blurring.json"
SIZE, PAST, STEPS, CASES, DESCENT = 24, 4, 3, 300, 200
WAYS = {"up": -3.0, "straight on": 0.0, "down": 3.0}


def chance() -> Tensor:
    """Speeds (CASES,) at which discs go up or down after the past."""
    return torch.tensor(list(WAYS.values()))[torch.randint(len(WAYS), (CASES,))]


def sequences(speed: Tensor) -> Tensor:
    """Sequences (B, PAST + STEPS, 1, H, W) of discs, with the same past."""
    time = torch.arange(PAST + STEPS)[:, None].float()
    x, y = (4.0 + 2.5 * time).expand(-1, len(speed)), 11.5 + speed * (time - PAST + 1).clamp(min=0)
    grid = torch.arange(SIZE)
    distance = torch.hypot(grid - x[..., None, None], grid[:, None] - y[..., None, None])
    return (3.5 - distance).clamp(0, 1).transpose(0, 1).unsqueeze(2)


def best(loss: Callable[[Tensor, Tensor], Tensor], truth: Tensor) -> Tensor:
    """The forecast (STEPS, 1, H, W), the same for all futures (B, STEPS, 1, H, W), of the least loss."""
    forecast = torch.full_like(truth[0], 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([forecast], 0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, DESCENT)
    for _ in range(DESCENT):
        optimizer.zero_grad()
        (loss(forecast.expand_as(truth), truth) * truth[0].numel()).backward()
        optimizer.step()
        schedule.step()
    return forecast.detach()


def scored(forecasts: Mapping[str, Tensor], truth: Tensor) -> dict[str, dict[str, float]]:
    """MSE and MAE of each forecast over all lead times, and its largest value in the last frame."""
    found = {}
    for name, forecast in forecasts.items():
        values = {s.title: s.overall(s.update(s.init(STEPS), forecast, truth)) for s in (MSE(), MAE())}
        found[name] = values | {"largest value at +3": float(forecast[:, -1].amax((1, 2, 3)).mean())}
    return found


def figure(rows: Mapping[str, Tensor]) -> str:
    """Rows of frames (T, H, W) as an SVG; the past stands in its columns, the future in those after it."""
    side, gap, left, top = 46, 4, 6, 20
    width, height = 360, top + len(rows) * (side + 6)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="frames" viewBox="0 0 {width} {height}" role="img">',
        "<title>Three futures that are equally likely, and two forecasts</title>",
        "<style>.frames text { fill: #57606a; font: 12px system-ui, sans-serif; }",
        "[data-md-color-scheme=slate] .frames text { fill: #c9d1d9; }",
        "@media (prefers-color-scheme: dark) { .frames:root text { fill: #c9d1d9; } }",
        "svg.frames { max-width: 23rem; width: 100%; display: block; } image { image-rendering: pixelated; }",
        "</style>",
    ]
    for k, (name, frames) in enumerate(rows.items()):
        y = top + k * (side + 6)
        x = left + (PAST if len(frames) == STEPS else 0) * (side + gap)
        svg.append(f'<text x="{left}" y="{y + side / 2 if k else y - 5}">{escape(name)}</text>')
        for t, frame in enumerate(frames):
            shown = (255 * frame.clamp(0, 1)).round().byte().numpy().astype(np.uint8)
            picture = io.BytesIO()
            Image.fromarray(shown).save(picture, "PNG", optimize=True)
            data = base64.b64encode(picture.getvalue()).decode()
            place = f'x="{x + t * (side + gap)}" y="{y}" width="{side}" height="{side}"'
            svg.append(f'<image {place} href="data:image/png;base64,{data}"/>')
    return "\n".join([*svg, "</svg>"]) + "\n"


def main() -> None:
    """Descend, score and draw."""
    torch.manual_seed(0)
    past, truth = sequences(chance()).split([PAST, STEPS], dim=1)
    losses = {"least squared error": F.mse_loss, "least absolute error": F.l1_loss}
    forecasts = {name: best(loss, truth).expand_as(truth) for name, loss in losses.items()}
    forecasts["one of the three ways, by chance"] = sequences(chance())[:, PAST:]
    forecasts["blank"] = torch.zeros_like(truth)
    SCORES.write_text(json.dumps(scored(forecasts, truth), indent=1) + "\n", encoding="utf-8")
    rows = {"past": past[0, :, 0]}
    for name, speed in WAYS.items():
        rows[f"possible: {name}"] = sequences(torch.tensor([speed]))[0, PAST:, 0]
    rows |= {name: forecasts[name][0, :, 0] for name in losses}
    (FIGURES / "blurring.svg").write_text(figure(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
