"""The shared checks of arguments: what they return, and rule, value and remedy of what they refuse."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.validation import (
    check_bool,
    check_callable,
    check_instance,
    check_integer,
    check_integers,
    check_non_negative,
    check_number,
    check_path,
    check_positive,
    check_probability,
    check_seed,
    check_tensor,
    received,
)

FRACTION = partial(check_number, least=0, below=1)
RATE = partial(check_number, above=0)


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (check_integer, -3, -3),
        (check_positive, np.int64(2), 2),
        (check_non_negative, 0, 0),
        (check_seed, 2**63 - 1, 2**63 - 1),
        (check_number, np.float32(0.5), 0.5),
        (check_number, 10**30, 1e30),
        (FRACTION, 0, 0.0),
        (check_probability, 1, 1.0),
        (check_bool, np.True_, True),
        (check_bool, 0, False),
        (check_path, "a/b", Path("a/b")),
        (check_path, Path("c"), Path("c")),
        (check_path, ".", Path()),
        (check_callable, len, len),
    ],
)
def test_valid_values_come_back_as_plain_ones(check, value, result):
    found = check(value, "it")
    assert found == result
    assert type(found) is type(result)


def test_sizes_and_objects():
    assert check_integers(torch.Size([3, 4]), 2, "size") == (3, 4)
    assert check_instance([1], list, "it") == [1]
    assert check_name("sum", ("mean", "sum"), "merge") == "sum"
    assert check_tensor(torch.zeros(1), "x").shape == (1,)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (check_integer, 1.5, "it must be an integer; received 1.5: give a whole number"),
        (check_positive, True, "it must be an integer of at least 1; received True: give a whole number"),
        (check_positive, "3", "it must be an integer of at least 1; received '3': give a whole number"),
        (check_positive, 0, "it must be at least 1; received 0: raise it"),
        (check_positive, 10**24, "it must be at most 2147483647; received 10{24}: lower it"),
        (partial(check_non_negative, most=64), 65, "it must be at most 64; received 65: lower it"),
        (check_non_negative, -1, "it must be at least 0; received -1: raise it"),
        (check_seed, 10**24, "it must be at most 9223372036854775807; received 10{24}: lower it"),
        (check_seed, 1.0, "it must be an integer of at least 0; received 1.0: give a whole number"),
        (check_seed, None, "it must be an integer of at least 0; received None: give a whole number"),
        (check_number, float("nan"), "it must be a finite number; received nan: give a number"),
        pytest.param(check_number, 10**400, "it must be a finite number; received 10{79}...", id="10**400"),
        (check_number, torch.tensor(1.0), "it must be a finite number; received a Tensor: give a number"),
        (RATE, float("inf"), "it must be greater than 0; received inf: give a number"),
        (RATE, 0, "it must be greater than 0; received 0: give a number in that range"),
        (FRACTION, True, "it must be at least 0 and below 1; received True: give a number"),
        (FRACTION, 1, "it must be at least 0 and below 1; received 1: give a number in that range"),
        (check_probability, 1.1, "it must be at least 0 and at most 1; received 1.1: give a number in that"),
        (check_bool, 2, "it must be True or False; received 2: give one of these"),
        (check_bool, "no", "it must be True or False; received 'no': give one of these"),
        (check_path, None, "it must be a path; received None: give text or a pathlib.Path"),
        (check_path, "", "it must be a path; received an empty one, as an unset shell variable gives: write"),
        (
            check_path,
            "a\0b",
            r"it must be a path that the system takes: .* received 'a\\x00b': shorten or corr",
        ),
        (
            check_path,
            "x" * 256,
            "it must be a path that the system takes: at most 500 folders, names of at mo",
        ),
        (
            check_path,
            "a/" * 500,
            "it must be a path that the system takes: at most 500 folders, names of at m",
        ),
        (
            check_path,
            "\ud800",
            "it must be a path that the system takes: at most 500 folders, names of at mos",
        ),
        (check_path, b"a", "it must be a path; received b'a': give text or a pathlib.Path"),
        (check_callable, 3, "it must be callable; received 3: pass a function or a class"),
    ],
)
def test_refused_values(check, value, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        check(value, "it")


def test_refused_sizes_and_objects():
    with pytest.raises(OptionError, match=r"size must have one entry per space axis \(2\); received 5: give"):
        check_integers(5, 2, "size")
    with pytest.raises(OptionError, match=r"size must hold integers of at least 1; received \(5, 0\): give"):
        check_integers((5, 0), 2, "size")
    with pytest.raises(OptionError, match=r"folder must be a Path; received the class Path: call it, Path\("):
        check_instance(Path, Path, "folder")
    with pytest.raises(OptionError, match=r"loss must be an int or a list; received 'mse': load it$"):
        check_instance("mse", (int, list), "loss", "load it")
    with pytest.raises(
        ShapeError, match=r"x \(B, C\) must be a tensor; received an ndarray: convert it with"
    ):
        check_tensor(np.zeros(3), "x (B, C)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (int, "the class int"),
        ((1, "a"), "(1, 'a')"),
        ([torch.zeros(9, 9)], "a list"),
        (np.zeros(3), "an ndarray"),
        ("x" * 200, "'" + "x" * 79 + "..."),
    ],
)
def test_values_in_messages_are_short(value, shown):
    assert received(value) == shown
