"""The catalogue of forecasters."""

import pytest

from convlstm import AutoregressiveForecaster, Forecaster, PredRNN, StackForecaster, models
from convlstm.models import Persistence
from convlstm.workflows.models import _described, _entry
from convlstm.workflows.models import models as catalogue


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in catalogue()}


def test_every_public_forecaster_that_can_be_trained_is_listed(entries):
    kinds = [getattr(models, name) for name in models.__all__]
    concrete = {
        kind.__name__
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, Forecaster) and not kind.__abstractmethods__
    }
    names = set(entries)
    assert list(entries) == sorted(names)
    assert {"EncoderForecaster", "PredRNN", "StackForecaster"} <= names
    baselines = {"Advection", "Blank", "Climatology", "DampedPersistence", "LinearTrend", "MeanFrame"}
    assert concrete - names == baselines | {"Persistence"}
    for entry in entries.values():
        assert entry.parameters > 0
        assert entry.multiply_adds > entry.parameters
        assert entry.summary.endswith(".")
        assert "`" not in entry.summary


def test_the_numbers_of_predrnn_worked_out_by_hand(entries):
    """Four layers of 128 on patches of 4 x 4 pixels, read out after each of ten steps."""
    n, kernel, pixels, patch = 128, 25, 16 * 16, 16
    of_layer = [
        7 * n * below * kernel + (4 + 3) * n * n * kernel + 2 * n * n * (kernel + 1) for below in (patch, n)
    ]
    layers = of_layer[0] + 3 * of_layer[1]
    entry = entries["PredRNN"]
    assert entry.parameters == layers + n * patch
    assert entry.multiply_adds == pixels * (19 * layers + 10 * n * patch)
    assert entry.summary == (
        "Layers of STLSTMCell, whose memory rises through them and returns to the lowest."
    )
    assert entry.source == "Wang et al. 2017, NeurIPS 30"
    assert entry.to_dict() == {
        "name": "PredRNN",
        "parameters": entry.parameters,
        "multiply_adds": entry.multiply_adds,
        "summary": entry.summary,
        "source": entry.source,
    }


def test_a_model_is_built_without_memory_for_its_weights():
    class Noted(StackForecaster):
        """One of mine."""

        def step(self, frame, carry):
            devices.update({frame.device.type, self.head.weight.device.type})
            return super().step(frame, carry)

    devices = set()
    expected = StackForecaster()
    entry = _entry(Noted)
    assert devices == {"meta"}
    assert entry.parameters == sum(weight.numel() for weight in expected.parameters())
    assert (entry.summary, entry.source) == ("One of mine.", "")


class NeedsArguments(PredRNN):
    def __init__(self, width):
        super().__init__(hidden_dim=[width])


class Frozen(StackForecaster):
    def __init__(self):
        super().__init__(hidden_dim=[2])
        self.requires_grad_(False)


@pytest.mark.parametrize("kind", [Forecaster, AutoregressiveForecaster, Persistence, NeedsArguments, Frozen])
def test_what_cannot_be_trained_by_its_name_is_left_out(kind):
    assert _entry(kind) is None


@pytest.mark.parametrize(
    ("text", "summary", "source"),
    [
        ("Layers of `Cell` (Wang et al. 2017).\n\nMore (Shi 2015).", "Layers of Cell.", "Wang et al. 2017"),
        ("A net.\n\nThat of Shi et al. (2015, arXiv:1).", "A net.", "Shi et al. 2015, arXiv:1"),
        ("A net.\n\nThat of Kim and Lee (2015).", "A net.", "Kim and Lee 2015"),
        (
            "A net\nof two (B, C) lines.\n\nFrom\n(Kim and\nLee 2015).",
            "A net of two (B, C) lines.",
            "Kim and Lee 2015",
        ),
        ("A net.\n\nArgs:\n    a: as Finn (2016) has it.", "A net.", ""),
        ("A net.\n\nExample:\n    (Finn 2016)", "A net.", ""),
        (None, "", ""),
    ],
)
def test_summary_and_source_are_read_from_the_docstring(text, summary, source):
    assert _described(type("Net", (), {"__doc__": text})) == (summary, source)
