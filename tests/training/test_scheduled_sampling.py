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
    reverse = Curriculum("reverse", 100)
    assert [reverse.probability(i) for i in [*steps, 75]] == [0.5, 0.5, 0, 0, 0.25]


def test_the_published_schedules():
    """PredRNN: 2e-5 less at each step; PredRNN-V2 on digits: from step 25,000 to 50,000, alpha 2,500."""
    linear, reverse = Curriculum("linear", 50_000), Curriculum("reverse", 50_000)
    for i in (0, 1, 10_000, 24_999, 25_000, 26_000, 40_000, 49_999, 50_000, 80_000):
        assert linear.probability(i) == pytest.approx(1 - 2e-5 * i if i < 50_000 else 0)
        if i < 25_000:
            encoder, decoder = 0.5, 0.5
        elif i < 50_000:
            encoder, decoder = 1 - 0.5 * math.exp(-(i - 25_000) / 2500), 0.5 - 0.5 / 25_000 * (i - 25_000)
        else:
            encoder, decoder = 1, 0
        assert reverse.past_probability(i) == pytest.approx(encoder)
        assert reverse.probability(i) == pytest.approx(decoder)
        assert linear.past_probability(i) == 1


@given(kind=st.sampled_from(CURRICULA), length=st.integers(1, 10**6), step=st.integers(0, 10**7))
def test_probabilities_that_never_rise_and_those_of_the_past_never_fall(kind, length, step):
    curriculum = Curriculum(kind, length)
    now, later = curriculum.probability(step), curriculum.probability(step + 1)
    assert 0 <= later <= now <= 1
    now, later = curriculum.past_probability(step), curriculum.past_probability(step + 1)
    assert 0.5 <= now <= later <= 1


def test_draws_follow_the_probability_and_repeat():
    curriculum = Curriculum("linear", 100)
    share = torch.cat([curriculum.draw(30, 64, 10, seed=s) for s in range(40)]).double().mean()
    assert share == pytest.approx(0.7, abs=0.01)  # 25,600 draws: standard error 0.003
    assert torch.equal(curriculum.draw(30, 8, 5, seed=1), curriculum.draw(30, 8, 5, seed=1))
    assert not torch.equal(curriculum.draw(30, 64, 10, seed=1), curriculum.draw(31, 64, 10, seed=1))


def test_frames_of_the_past_come_first_and_change_no_draw_of_the_others():
    linear, reverse = Curriculum("linear", 100), Curriculum("reverse", 100)
    drawn = linear.draw(30, 64, 10, past=4, seed=1)
    assert drawn[:, :4].all()
    assert torch.equal(drawn[:, 4:], linear.draw(30, 64, 10, seed=1))
    for step in (20, 55):
        shares = torch.stack([reverse.draw(step, 64, 10, past=10, seed=s) for s in range(40)]).double()
        past, future = shares.split(10, dim=2)
        assert past.mean() == pytest.approx(reverse.past_probability(step), abs=0.01)
        assert future.mean() == pytest.approx(reverse.probability(step), abs=0.01)


def test_processes_share_the_draw_of_one():
    curriculum = Curriculum("linear", 100)
    for chosen, past in ((curriculum, 0), (Curriculum("reverse", 100), 3)):
        whole = chosen.draw(30, 8, 5, past=past, seed=1)
        shares = [chosen.draw(30, 4, 5, past=past, seed=1, rank=rank, ranks=2) for rank in range(2)]
        assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole)


def test_bad_options_are_named():
    with pytest.raises(OptionError, match="curriculum must be one of .* did you mean 'linear'"):
        Curriculum("linar")
    with pytest.raises(OptionError, match="curriculum_steps must be at least 1; received 0"):
        Curriculum("linear", 0)
