"""Teacher forcing and scheduled sampling."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convlstm.errors import OptionError
from convlstm.training.scheduled_sampling import CURRICULA, Curriculum


def test_probabilities_worked_out_by_hand():
    steps = [0, 50, 100, 200]
    assert [Curriculum("free", 100).probability(i) for i in steps] == [0, 0, 0, 0]
    assert [Curriculum("teacher", 100).probability(i) for i in steps] == [1, 1, 1, 1]
    assert [Curriculum("linear", 100).probability(i) for i in steps] == [1, 0.5, 0, 0]
    exponential = [Curriculum("exponential", 100).probability(i) for i in steps]
    assert exponential == pytest.approx([1, 0.1, 0.01, 0.0001])
    sigmoid = Curriculum("sigmoid", 100)
    assert sigmoid.probability(50) == pytest.approx(0.5, abs=1e-6)
    k = sigmoid._k
    assert k * math.log(k) == pytest.approx(50)
    assert sigmoid.probability(0) == pytest.approx(k / (k + 1))
    assert sigmoid.probability(10**9) == pytest.approx(0)


@given(kind=st.sampled_from(CURRICULA), length=st.integers(1, 10**6), step=st.integers(0, 10**7))
def test_a_probability_that_never_rises(kind, length, step):
    curriculum = Curriculum(kind, length)
    now, later = curriculum.probability(step), curriculum.probability(step + 1)
    assert 0 <= later <= now <= 1


def test_draws_follow_the_probability_and_repeat():
    curriculum = Curriculum("linear", 100)
    share = torch.cat([curriculum.draw(30, 64, 10, seed=s) for s in range(40)]).double().mean()
    assert share == pytest.approx(0.7, abs=0.01)  # 25,600 draws: standard error 0.003
    assert torch.equal(curriculum.draw(30, 8, 5, seed=1), curriculum.draw(30, 8, 5, seed=1))
    assert not torch.equal(curriculum.draw(30, 64, 10, seed=1), curriculum.draw(31, 64, 10, seed=1))


def test_processes_share_the_draw_of_one():
    curriculum = Curriculum("linear", 100)
    whole = curriculum.draw(30, 8, 5, seed=1)
    shares = [curriculum.draw(30, 4, 5, seed=1, rank=rank, ranks=2) for rank in range(2)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole)


def test_bad_options_are_named():
    with pytest.raises(OptionError, match="curriculum must be one of .* did you mean 'linear'"):
        Curriculum("linar")
    with pytest.raises(OptionError, match="curriculum_steps must be at least 1; received 0"):
        Curriculum("linear", 0)
