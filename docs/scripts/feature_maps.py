"""Figures of docs/extend/feature_maps.md: a small network, trained on moving digits for a minute.

python docs/scripts/feature_maps.py [FOLDER]     into docs/figures unless told
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import convlstm
from convlstm import MovingObjects, StackForecaster, plots
from convlstm.data.rain import rain_rates

STEPS, BATCH = 300, 4
FOLDER = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[1] / "figures")


def trained() -> tuple[StackForecaster, torch.Tensor, torch.Tensor]:
    """A network, and a past and a future (T, C, H, W) that it has not seen."""
    torch.manual_seed(0)
    source = MovingObjects(canvas=32, object_size=14, count=1, past=8, steps=8)
    train, test = source.split("train"), source.split("test")
    model = StackForecaster(1, [16, 16], 3, 2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(STEPS):
        windows = [train[step * BATCH + k] for k in range(BATCH)]
        past, future = (torch.stack([getattr(w, name) for w in windows]) for name in ("past", "future"))
        loss = (model(past, 8) - future).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), test[1].past, test[1].future


def main() -> None:
    """Write all figures."""
    model, past, future = trained()
    with convlstm.record(model) as tape, torch.no_grad():
        model(past[None], 8)
    row, column = divmod(int(future[3, 0].argmax()), 32)
    gradient = plots.saliency(model, past, 4, (row, column))
    rain = rain_rates(np.random.default_rng(3), 8, (96, 128))[:, None]
    late = np.roll(rain, 3, axis=3) * 0.8
    # Narrow, so that texts can be read on a phone.
    six, five, four = Figure((6.4, 6.1)), Figure((6.4, 2.4)), Figure((6.4, 3.5))
    layer, radar = "layers.cell_list.1", plots.RADAR["mm/h"]
    figures = {
        "feature_maps": plots.feature_maps(
            tape, layer, channels=range(0, 12, 2), steps=range(1, 15, 3), figure=six
        ),
        "feature_maps_gates": plots.histograms(tape, layer),
        "feature_maps_forgetting": plots.forgetting(tape, layer, start=7),
        "feature_maps_saliency": plots.saliency_maps(
            past, gradient, (row, column), frames=range(3, 8), figure=five
        ),
        "feature_maps_events": plots.events(late, rain, 1.0, limits=radar, frames=[1, 3, 5, 7], figure=four),
    }
    for name, figure in figures.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=150, bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
    main()
