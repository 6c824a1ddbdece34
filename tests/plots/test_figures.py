"""Figures: what they show is what was recorded and forecast, in the colours of the pictures."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import convlstm
from convlstm import ConvGRU, ConvLSTM, StackForecaster, plots
from convlstm.errors import ConvLSTMError, OptionError, ShapeError
from convlstm.pictures.colours import MISSING, Scale, error_scale, paint, value_scale
from convlstm.pictures.radar import paint_radar
from convlstm.plots.figures import value_colours
from convlstm.scores import CSI
from convlstm.scores.frames import Frames

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.random((12, 1, 6, 8)).astype(np.float32)


def network() -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(1, 12, 3, 2, batch_first=True)


@pytest.fixture(scope="module")
def tape() -> convlstm.Tape:
    net = network()
    with convlstm.record(net) as tape, torch.no_grad():
        net(torch.rand(2, 12, 1, 6, 8, generator=torch.Generator().manual_seed(1)))
    return tape


def images(figure: Figure) -> list[list[np.ndarray]]:
    """Arrays of the images of a figure, row by row from the top; colour bars have none."""
    found: dict[float, list] = {}
    for axes in figure.axes:
        if axes.images:
            found.setdefault(round(axes.get_position().y0, 3), []).append(axes)
    rows = [found[y] for y in sorted(found, reverse=True)]
    return [[axes.images[0].get_array() for axes in row] for row in rows]


def texts(figure: Figure) -> list[str]:
    """Titles above and labels below and beside the axes, in this order, those that are not empty."""
    axes = figure.axes
    found = [place.get_title() for place in axes] + [place.get_xlabel() for place in axes]
    return [text for text in found + [place.get_ylabel() for place in axes] if text]


def test_feature_maps_show_the_channels_that_vary_most(tape):
    figure = plots.feature_maps(tape, sample=1)
    values = tape["cell_list.1", "h"][1].numpy()
    shown = list(range(1, 12, 2))  # at most ten of twelve frames, the last among them
    varying = sorted(np.argsort(-values[shown].astype(np.float64).var(axis=(0, 2, 3)))[:8])
    rows = images(figure)
    assert [len(row) for row in rows] == [6] * 8
    for row, channel in zip(rows, varying, strict=True):
        for image, t in zip(row, shown, strict=True):
            np.testing.assert_array_equal(image, values[t, channel].astype(np.float64))
    assert [text for text in texts(figure) if text.startswith("channel")] == [f"channel {c}" for c in varying]
    assert figure.get_suptitle() == "h of cell_list.1 by frame"
    norm = figure.axes[0].images[0].norm
    scale = error_scale([values[np.ix_(shown, varying)]])
    assert (norm.vmin, norm.vmax) == (scale.low, scale.high)


def test_picked_channels_and_steps_under_the_numbers_of_their_frames():
    net = network()
    with convlstm.record(net, steps=[2, 5, 7], values=["f"]) as tape:
        net(torch.rand(1, 9, 1, 6, 8))
    figure = plots.feature_maps(tape, "cell_list.0", "f", channels=[4, 1], steps=[0, 2], limits=(0.4, 0.6))
    f = tape["cell_list.0", "f"][0].double().numpy()
    np.testing.assert_array_equal(images(figure), f[np.ix_([0, 2], [4, 1])].swapaxes(0, 1))
    assert texts(figure)[:4] == ["2", "7", "channel 4", "channel 1"]
    assert (figure.axes[0].images[0].norm.vmin, figure.axes[0].images[0].norm.vmax) == (0.4, 0.6)


def test_values_that_no_step_computed_have_a_colour_of_their_own():
    net = network()
    with convlstm.record(net) as tape:
        net(torch.rand(2, 4, 1, 6, 8), lengths=torch.tensor([4, 2]))
    image = plots.feature_maps(tape, "cell_list.0", "f", sample=1, channels=[0]).axes[3].images[0]
    np.testing.assert_allclose(
        image.cmap(image.norm(image.get_array()))[..., :3] * 255, np.full((6, 8, 3), MISSING)
    )


@pytest.mark.parametrize("case", ["values", "root", "signed", "rain"])
def test_colours_are_those_of_the_pictures(case):
    """One rule: a figure's colour of a value is the colour in a film strip, but for rounding to 8 bits."""
    x = np.concatenate([RANDOM.gamma(0.3, 8, 500), [0, 1e-9, 1e9]]).reshape(1, 1, 1, -1)
    if case == "rain":
        table = plots.RADAR["mm/h"]
        expected, colours = paint_radar(x, table), value_colours(table)
    elif case == "signed":
        x = x - 4
        expected = paint(x, [Scale(-20, 20)], signed=True)
        colours = value_colours(Scale(-20, 20), signed=True)
    else:
        scale = Scale(0.5, 30, root=case == "root")
        expected, colours = paint(x, [scale]), value_colours(scale)
    got = colours.cmap(colours.norm(x[0, 0]))[..., :3] * 255
    assert np.abs(got - expected[0][0].astype(float)).max() <= (0.51 if case == "rain" else 1.01)


def test_histograms_count_every_value(tape):
    figure = plots.histograms(tape, "cell_list.0")
    names = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert names == ["i", "f", "o", "g"]
    for axes, (low, high) in zip(figure.axes, [(0, 1)] * 3 + [(-1, 1)], strict=False):
        shares = np.asarray(axes.collections[0].get_array())
        values = tape["cell_list.0", axes.get_title()].double()
        assert shares.shape == (40, 12)
        np.testing.assert_allclose(shares.sum(axis=0), 1)
        counts = torch.histc(values[:, 3], 40, low, high) / values[:, 3].numel()
        np.testing.assert_allclose(shares[:, 3], counts.numpy())
        np.testing.assert_allclose(axes.lines[0].get_ydata(), values.mean((0, 2, 3, 4)).numpy())
    assert len([axes for axes in plots.histograms({"f": tape["cell_list.0", "f"]}).axes if axes.lines]) == 1


def test_what_the_forget_gate_keeps(tape):
    figure = plots.forgetting(tape, "cell_list.0", start=4)
    f = tape["cell_list.0", "f"].double().numpy()
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), f.mean((0, 2, 3, 4)))
    left = np.stack([np.prod(f[:, 5 : 5 + k], axis=1) for k in range(8)], axis=1)
    np.testing.assert_allclose(below.lines[0].get_ydata(), left.mean((0, 2, 3, 4)))
    assert list(below.lines[0].get_xdata()) == list(range(4, 12))
    low, high = np.quantile(left.swapaxes(0, 1).reshape(8, -1), [0.05, 0.95], axis=1)
    edges = below.collections[0].get_paths()[0].vertices
    assert {round(v, 6) for v in edges[:, 1]} == {round(v, 6) for v in np.concatenate([low, high])}
    assert [text.get_text() for text in below.texts] == ["half at frame 6"]


def test_gates_that_overflowed_are_drawn_as_far_as_they_are_numbers(tmp_path):
    gate = np.full((1, 4, 1, 2, 2), 0.5)
    gate[0, 1, 0, 0, 0] = np.inf
    figure = plots.forgetting(gate)
    figure.savefig(tmp_path / "a.png")
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 0.5)
    gate[:] = np.inf
    plots.forgetting(gate).savefig(tmp_path / "a.png")


def test_frames_left_out_keep_the_state_and_a_gru_is_read_by_its_update_gate():
    torch.manual_seed(0)
    net = ConvGRU(1, 4, 3, batch_first=True)
    with convlstm.record(net) as tape:
        net(torch.rand(1, 4, 1, 6, 8), mask=torch.tensor([[True, True, False, True]]))
    above, below = plots.forgetting(tape).axes
    z = tape["cell_list.0", "z"].double().numpy()
    assert above.get_title("left") == "gate z"
    expected = [1, z[:, 1].mean(), z[:, 1].mean(), (z[:, 1] * z[:, 3]).mean()]
    np.testing.assert_allclose(below.lines[0].get_ydata(), expected)


class Linear(nn.Module):
    """A forecaster whose forecast of a pixel is known to depend on two pixels of the past."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.trained = []

    def forward(self, past, steps):
        self.trained.append(self.dropout.training)
        last = 3 * past[:, -1] - 2 * past[:, 0].roll(1, dims=-1)
        return self.dropout(torch.stack([last * k for k in range(1, steps + 1)], dim=1))


def test_saliency_is_the_gradient():
    model = Linear().train()
    past = torch.rand(4, 1, 6, 8)
    gradient = plots.saliency(model, past, 2, (3, 5))
    expected = torch.zeros_like(past)
    expected[-1, 0, 3, 5], expected[0, 0, 3, 4] = 6, -4
    assert torch.equal(gradient, expected)
    assert model.trained == [False]
    assert model.dropout.training
    figure = plots.saliency_maps(past, gradient, (3, 5))
    above, below = images(figure)
    np.testing.assert_array_equal(above, past[:, 0])
    np.testing.assert_array_equal(below, expected[:, 0])
    assert [text for text in texts(figure) if "%" in text] == ["40%", "0%", "0%", "60%"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[5, 3]]


def test_pixels_of_the_first_row_and_column_are_marked():
    past = np.random.default_rng(0).random((3, 1, 6, 8))
    figure = plots.saliency_maps(past, past, (0, 7))
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[7, 0]]


def test_ticks_of_a_narrow_scale_are_told_apart():
    pressure = 100000 + np.random.default_rng(0).random((3, 1, 6, 8))
    figure = plots.film_strip({"forecast": pressure})
    ticks = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert ticks == ["100000.2", "100000.4", "100000.6", "100000.8"]


def test_saliency_needs_floats():
    with pytest.raises(ShapeError, match=r"past must hold floats, .* received torch.uint8: pass past.float"):
        plots.saliency(Linear(), torch.zeros(4, 1, 6, 8, dtype=torch.uint8), 2, (3, 5))


def test_saliency_of_a_network_is_that_of_differences():
    torch.manual_seed(0)
    model = StackForecaster(1, [4], 3, 2).double()
    past = torch.rand(1, 3, 1, 8, 8, dtype=torch.float64)
    gradient = plots.saliency(model, past, 2, [4, 3])
    step = torch.zeros_like(past)
    step[0, 1, 0, 5, 2] = 1e-4
    with torch.no_grad():
        slope = (model(past + step, 2) - model(past - step, 2))[0, 1, 0, 4, 3] / 2e-4
    torch.testing.assert_close(gradient[1, 0, 5, 2], slope, rtol=1e-6, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_film_strips():
    truth, forecast = FRAMES[4:], FRAMES[4:][::-1].copy()
    figure = plots.film_strip(
        {"truth": truth, "forecast": forecast, "error": forecast - truth}, past=FRAMES[:4]
    )
    rows = images(figure)
    assert [len(row) for row in rows] == [4, 8, 8, 8]
    np.testing.assert_array_equal(rows[1], truth[:, 0])
    np.testing.assert_array_equal(rows[3], (forecast - truth)[:, 0])
    assert texts(figure)[:12] == ["t-3", "t-2", "t-1", "t", *(f"+{k}" for k in range(1, 9))]
    assert texts(figure)[12:] == ["past", "truth", "forecast", "error"]
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == value_scale(FRAMES[:4], truth)[:2]
    few = plots.film_strip({"truth": truth}, frames=[0, 7])
    assert [text for text in texts(few) if text[0] == "+"] == ["+1", "+8"]
    colours = plots.film_strip({"picture": RANDOM.random((2, 3, 6, 8))})
    assert images(colours)[0][0].shape == (6, 8, 3)


def test_lead_times_of_figures_are_minutes_where_the_time_step_is_known():
    past, truth = FRAMES[:3], FRAMES[3:6]
    figure = plots.film_strip({"truth": truth}, past=past, step_s=300)
    assert texts(figure)[:6] == ["-10 min", "-5 min", "0 min", "+5 min", "+10 min", "+15 min"]
    for other in (
        plots.differences(truth, truth, step_s=300),
        plots.events(truth, truth, 0.5, step_s=300),
        plots.saliency_maps(past, past, step_s=300),
    ):
        assert [text for text in texts(other) if text.endswith(" min")] == texts(other)[:3]
    with pytest.raises(OptionError, match="step_s must be greater than 0; received 0"):
        plots.film_strip({"truth": truth}, step_s=0)


def test_differences_and_their_error():
    forecast, truth = FRAMES[:3], FRAMES[3:6].copy()
    truth[1, 0, :, :4] = np.nan
    figure = plots.differences(forecast, truth, unit="K")
    error = np.sqrt(np.nanmean((forecast.astype(float) - truth) ** 2, axis=(1, 2, 3)))
    under = [text for text in texts(figure) if text.startswith("RMSE")]
    assert under == [f"RMSE {value:.3g}" for value in error]
    np.testing.assert_array_equal(images(figure)[2][0], forecast[0, 0].astype(float) - truth[0, 0])
    assert texts(figure).count("K") == 2


def test_hits_misses_and_false_alarms():
    truth = np.array([[1, 1, 0, 0, np.nan]] * 2).reshape(2, 1, 1, 5)
    forecast = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0]]).reshape(2, 1, 1, 5)
    figure = plots.events(forecast, truth, 1.0, unit="mm/h")
    kinds = [tuple(pixel) for pixel in images(figure)[2][0][0]]
    assert len(set(kinds)) == 5
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["hit", "miss", "false alarm", "neither", "not measured"]
    patches = figure.legends[0].get_patches()
    colours = [tuple(round(255 * part) for part in patch.get_facecolor()[:3]) for patch in patches]
    assert colours == kinds
    assert [text for text in texts(figure) if text[0] in "C≥"] == ["CSI 0.33", "CSI 0.00", "≥ 1 mm/h"]


def test_the_critical_success_index_is_that_of_the_scores():
    forecast, truth = FRAMES[:1].copy(), FRAMES[1:2].copy()
    forecast[0, 0, 0], truth[0, 0, 0] = np.nextafter(np.float32(0.6), np.float32(0)), 0.6  # rounded
    figure = plots.events(forecast, truth, 0.6)
    score = CSI(0.6)
    weight = torch.ones(1, 1, 1, 6, 8)
    frames = [Frames(torch.from_numpy(x)[None], weight) for x in (forecast, truth)]
    value = float(score.value(score.terms(*frames).reshape(4, -1).sum(1)))
    assert f"CSI {value:.2f}" in texts(figure)


def test_drawing_on_a_given_figure():
    whole = Figure(figsize=(8, 6))
    left, right = whole.subfigures(1, 2)
    assert plots.film_strip({"a": FRAMES[:2]}, figure=left) is left
    assert plots.forgetting(RANDOM.random((1, 5, 3)), figure=right) is right
    whole.canvas.draw()
    box = left.axes[0].get_position()
    assert 0 < box.x0 < box.x1 < 1
    assert box.width * 4 == pytest.approx(box.height * 6 * 8 / 6)  # pixels are square


def test_videos(tmp_path):
    """The frames of an MP4 are those of the GIF, and the last one stays."""
    import av
    from PIL import Image

    rows = {"truth": FRAMES[:3], "forecast": FRAMES[3:6]}
    with av.open(str(plots.animation(rows, tmp_path / "a.mp4", past=FRAMES[6:8], frame_ms=250))) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 4)
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(stream)]
    assert len(frames) == 5 + 4
    with Image.open(plots.animation(rows, tmp_path / "a.gif", past=FRAMES[6:8])) as gif:
        for k, frame in enumerate(frames[:5]):
            gif.seek(k)
            expected = np.asarray(gif.convert("RGB")).astype(int)[: frame.shape[0], : frame.shape[1]]
            assert np.abs(frame - expected).mean() < 2
    assert np.abs(frames[4] - frames[8]).mean() < 0.5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda tape: plots.feature_maps(tape, "cell_list.9"), "must be one of cell_list.0, cell_list.1"),
        (lambda tape: plots.feature_maps(tape, value="x"), "must be one of c, f, g, h, i, o; received 'x'"),
        (lambda tape: plots.feature_maps(tape, sample=2), "sample must be from 0 to 1; received 2"),
        (
            lambda tape: plots.feature_maps(tape, channels=[12]),
            "channels must be a list of integers from 0 to 11",
        ),
        (lambda tape: plots.feature_maps(tape, steps=[]), "steps must be a list of integers from 0 to 11"),
        (lambda tape: plots.feature_maps(tape, limits=(1, 0)), "limits must be"),
        (lambda tape: plots.feature_maps(tape, limits=3), "limits must be two numbers; received 3"),
        (lambda tape: plots.feature_maps(np.zeros((2, 3, 4))), "feature maps must be"),
        (lambda tape: plots.feature_maps(np.zeros((1, 0, 2, 4, 4))), "no axis empty"),
        (lambda tape: plots.feature_maps("maps"), "array of real numbers; received 'maps'"),
        (lambda tape: plots.feature_maps([[1.0, 2.0], [3.0]]), "array of real numbers"),
        (lambda tape: plots.feature_maps(torch.zeros(1, 2, 2, 4, 4) * 1j), "received complex numbers"),
        (lambda tape: plots.feature_maps(tape, figure="x"), "figure must be a matplotlib Figure"),
        (lambda tape: plots.histograms(tape, values=["z"]), "must be one of"),
        (lambda tape: plots.histograms({}), "gates must be arrays"),
        (lambda tape: plots.histograms(FRAMES), "source must be a Mapping"),
        (lambda tape: plots.histograms({"f": FRAMES}, values=["g"]), "values must be one of f; received 'g'"),
        (lambda tape: plots.histograms({"f": FRAMES, "g": FRAMES[:, :0]}), "gates must be arrays"),
        (lambda tape: plots.histograms({"f": FRAMES[None], "g": FRAMES[None, 1:]}), "one number of frames T"),
        (lambda tape: plots.forgetting(tape, start=12), "start must be at most 11"),
        (lambda tape: plots.saliency(Linear(), torch.zeros(2, 3, 1, 4, 4), 1, (0, 0)), "one sequence"),
        (
            lambda tape: plots.saliency(Linear(), torch.zeros(3, 1, 4, 4), 1, (4, 0)),
            "the row of pixel must be at most 3",
        ),
        (
            lambda tape: plots.saliency(Linear(), torch.zeros(3, 1, 4, 4), 1, 3),
            "pixel must be a row and a column",
        ),
        (lambda tape: plots.saliency(Linear(), torch.zeros(3, 1, 4, 4), 0, (0, 0)), "lead must be"),
        (
            lambda tape: plots.saliency(
                lambda past, steps: past.detach(), torch.zeros(3, 1, 4, 4), 1, (0, 0)
            ),
            "must compute with gradients",
        ),
        (lambda tape: plots.saliency_maps(FRAMES, FRAMES[1:]), "must have one shape"),
        (
            lambda tape: plots.saliency_maps(FRAMES, FRAMES, (0, FRAMES.shape[3])),
            "the column of pixel must be at most",
        ),
        (lambda tape: plots.differences(FRAMES, FRAMES[1:]), "must have one shape"),
        (lambda tape: plots.events(FRAMES, FRAMES, 1, channel=1), "channel must be from 0 to 0"),
        (lambda tape: plots.film_strip({}), "rows must name every row"),
        (lambda tape: plots.film_strip({"a": FRAMES}, frames=[12]), "frames must be a list of integers"),
    ],
)
def test_bad_input(tape, draw, message):
    with pytest.raises(ConvLSTMError, match=message):
        draw(tape)


def test_gates_that_are_not_there():
    with convlstm.record(nn.Sequential(nn.ReLU()), layers=["0"]) as tape:
        pass
    with pytest.raises(OptionError, match="must hold a call"):
        plots.histograms(tape)
    model = nn.Sequential(nn.ReLU())
    with convlstm.record(model, layers=["0"]) as tape:
        model(torch.rand(1, 1, 4, 4))
    with pytest.raises(OptionError, match="must have recorded gates; received '0' with output"):
        plots.histograms(tape)
    with pytest.raises(OptionError, match="must have a gate that keeps its state"):
        plots.forgetting(tape)
    net = network()
    with convlstm.record(net, steps=[0, 2]) as tape:
        net(torch.rand(1, 3, 1, 6, 8))
    with pytest.raises(OptionError, match="frames must follow each other"):
        plots.forgetting(tape)
    with pytest.raises(ShapeError, match="values must be"):
        plots.feature_maps(np.zeros(3))
