"""Arguments of a wrong kind, from Python: one sentence with rule and value received."""

import math

import pytest
import torch

from convlstm import (
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    EncoderForecaster,
    MovingObjects,
    SAConvLSTMCell,
    TrainingConfig,
)
from convlstm.cells import GRUState, gru_weights, lstm_weights, map_state, register_state
from convlstm.errors import ConvLSTMError, ShapeError
from convlstm.functional.attention import attend, sa_memory_update
from convlstm.functional.conv import same_conv
from convlstm.functional.gates import lstm_gates
from convlstm.functional.linear_recurrence import linear_scan
from convlstm.functional.motion import advect, dynamic_filter, motion_field, phase_correlation
from convlstm.functional.ssim import ssim
from convlstm.layers import scan
from convlstm.scores import MSE

KINDS = {
    "text": "abc",
    "class": torch.nn.Conv2d,
    "object": object(),
    "float": 1.5,
    "none": None,
    "bool": True,
    "nan": math.nan,
    "negative": -1,
    "huge": 10**24,
    "list": ["a", "b"],
    "bytes": b"ab",
    "array": torch.zeros(2).numpy(),
    "tensor": torch.zeros(2, 2),
}
IMAGES = torch.zeros(1, 1, 16, 16)
KERNELS = torch.zeros(12, 3, 3, 3)
STACK = ConvLSTM(2, 3, 3, batch_first=True)
FRAMES = torch.zeros(2, 4, 2, 6, 5)
SIZES = "text class object float none bool nan negative huge list bytes array tensor"
TENSORS = "text class object float none bool nan negative huge list bytes array tensor"
FLAGS = "text class object float none nan negative huge list bytes array tensor"

# A call with one argument left open, and the kinds that it does not take.
CALLS = {
    "cell input_dim": (lambda v: ConvLSTMCell(v, 3, 3), SIZES),
    "cell hidden_dim": (lambda v: ConvGRUCell(2, v, 3), SIZES),
    "cell kernel_size": (lambda v: ConvLSTMCell(2, 3, v), SIZES),
    "cell bias": (lambda v: ConvLSTMCell(2, 3, 3, v), FLAGS),
    "cell dilation": (lambda v: ConvLSTMCell(2, 3, 3, dilation=v), SIZES),
    "cell padding_mode": (lambda v: ConvLSTMCell(2, 3, 3, padding_mode=v), SIZES),
    "cell recurrent_init": (lambda v: ConvLSTMCell(2, 3, 3, recurrent_init=v), SIZES),
    "forget_bias": (lambda v: ConvLSTMCell(2, 3, 3, forget_bias=v), "text class object none bool nan list"),
    "reset_after": (lambda v: ConvGRUCell(2, 3, 3, reset_after=v), FLAGS),
    "attention_dim": (lambda v: SAConvLSTMCell(2, 3, 3, attention_dim=v), SIZES.replace("none ", "")),
    "frame of a cell": (ConvLSTMCell(2, 3, 3), TENSORS),
    "initial_state": (ConvLSTMCell(2, 3, 3).initial_state, TENSORS),
    "init_hidden batch": (lambda v: ConvLSTMCell(2, 3, 3).init_hidden(v, (4, 5)), SIZES),
    "init_hidden size": (lambda v: ConvLSTMCell(2, 3, 3).init_hidden(1, v), SIZES),
    "map_state": (lambda v: map_state(v, GRUState(IMAGES)), SIZES.replace("class ", "")),
    "register_state": (register_state, SIZES),
    "lstm_weights kernel": (lambda v: lstm_weights(v, KERNELS, gates="ifog"), TENSORS),
    "lstm_weights gates": (lambda v: lstm_weights(KERNELS, KERNELS, gates=v), SIZES),
    "gru_weights kernels": (lambda v: gru_weights(v, gates="rzn", update="old"), TENSORS),
    "same_conv x": (lambda v: same_conv(v, IMAGES), TENSORS),
    "same_conv dilation": (lambda v: same_conv(IMAGES, IMAGES, dilation=v), SIZES.replace("none ", "")),
    "lstm_gates": (lambda v: lstm_gates(v, IMAGES), TENSORS),
    "peepholes": (
        lambda v: lstm_gates(IMAGES.repeat(1, 4, 1, 1), IMAGES, peepholes=v),
        TENSORS.replace("none ", ""),
    ),
    "attend": (lambda v: attend(v, torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)), TENSORS),
    "attend key": (lambda v: attend(torch.zeros(1, 3, 4), v, torch.zeros(1, 2, 4)), TENSORS),
    "linear_scan a": (lambda v: linear_scan(v, IMAGES, IMAGES[:, 0]), TENSORS),
    "linear_scan state": (lambda v: linear_scan(IMAGES, IMAGES, v), TENSORS),
    "sa_memory_update": (lambda v: sa_memory_update(v, torch.zeros(1, 2, 4)), TENSORS),
    "phase_correlation": (lambda v: phase_correlation(v, IMAGES), TENSORS),
    "motion_field": (motion_field, TENSORS),
    "advect": (lambda v: advect(IMAGES, v, 2), TENSORS),
    "advect steps": (lambda v: advect(IMAGES, IMAGES, v), SIZES),
    "dynamic_filter": (lambda v: dynamic_filter(IMAGES, v), TENSORS),
    "ssim": (lambda v: ssim(IMAGES, v, data_range=1.0), TENSORS),
    "data_range": (
        lambda v: ssim(IMAGES, IMAGES, data_range=v),
        "text class object none bool nan negative list bytes array tensor",
    ),
    "stack batch_first": (lambda v: ConvLSTM(2, 3, 3, batch_first=v), FLAGS),
    "stack bidirectional": (lambda v: ConvLSTM(2, 3, 3, bidirectional=v), FLAGS),
    "stack last_only": (lambda v: ConvLSTM(2, 3, 3, last_only=v), FLAGS),
    "stack hidden_dim": (lambda v: ConvLSTM(2, v, 3), SIZES),
    "frames of a stack": (STACK, TENSORS),
    "lengths": (lambda v: STACK(FRAMES, lengths=v), TENSORS.replace("none ", "")),
    "stack step": (STACK.step, TENSORS),
    "scan cell": (lambda v: scan(v, FRAMES), TENSORS),
    "scan x": (lambda v: scan(ConvLSTMCell(2, 3, 3), v), "text class object float none bool nan list bytes"),
    "forecaster channels": (lambda v: EncoderForecaster(v), SIZES),
    "forecaster skip": (lambda v: EncoderForecaster(1, (4, 4), skip=v), FLAGS),
    "forecaster past": (lambda v: EncoderForecaster(1, (4, 4))(v, 2), TENSORS),
    "forecaster steps": (lambda v: EncoderForecaster(1, (4, 4))(torch.zeros(1, 2, 1, 8, 8), v), SIZES),
    "score steps": (MSE().init, SIZES),
    "score merge": (lambda v: MSE().merge(v, MSE().init(2)), TENSORS),
    "score compute": (MSE().compute, TENSORS),
    "train_size": (lambda v: MovingObjects(train_size=v), SIZES),
    "seed of data": (lambda v: MovingObjects(seed=v), SIZES),
    "epochs": (lambda v: TrainingConfig(epochs=v), SIZES),
    "batch_size": (lambda v: TrainingConfig(batch_size=v), SIZES),
    "workers": (lambda v: TrainingConfig(workers=v), SIZES),
    "seed of training": (lambda v: TrainingConfig(seed=v), SIZES),
}


def test_queries_of_other_channels_or_keys_of_other_pixels_are_refused():
    for key, value in (((1, 3, 9), (1, 4, 9)), ((1, 4, 9), (1, 4, 8)), ((2, 4, 9), (2, 4, 9))):
        with pytest.raises(ShapeError, match=r"query, key and value must be \(B, D, N\)"):
            attend(torch.zeros(1, 4, 9), torch.zeros(key), torch.zeros(value))


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_kind_is_refused_in_a_sentence(name):
    call, kinds = CALLS[name]
    for kind in kinds.split():
        try:
            call(KINDS[kind])
        except ConvLSTMError as error:
            assert "received" in str(error), f"{kind}: {error}"  # noqa: PT017
        except Exception as error:
            pytest.fail(f"{kind} ended in {type(error).__name__}: {error}")
        else:
            pytest.fail(f"{kind} was taken silently")
