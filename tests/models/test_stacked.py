"""The options that forecasters of several layers share."""

from typing import Any

import pytest

from convlstm.errors import OptionError
from convlstm.models import E3DLSTM, MAU, ConvLSTMTransformer, PhyDNet, PredRNN, SwinLSTM


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ConvLSTMTransformer, {"hidden_dim": 64}),
        (PhyDNet, {"hidden_dim": 64}),
        (SwinLSTM, {"depths": 2}),
        (SwinLSTM, {"depths_up": 2}),
        (SwinLSTM, {"heads": 4}),
        (PredRNN, {"kernel_size": 3.0}),
    ],
)
def test_a_number_in_the_place_of_a_list_is_one_sentence(kind: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(OptionError, match=f"{name} must hold an entry for each layer or level; received"):
        kind(**options)


@pytest.mark.parametrize("kind", [E3DLSTM, MAU])
def test_a_cell_that_cannot_be_called_is_one_sentence(kind: Any) -> None:
    with pytest.raises(OptionError, match="cell must be callable; received 'MAUCell': pass"):
        kind(cell="MAUCell")
