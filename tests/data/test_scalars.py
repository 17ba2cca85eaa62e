"""Flags, numbers and ids as other programs write them."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from pair_detr.data.scalars import find_id, flag_of, id_of, integer_of, number_of


@pytest.mark.parametrize("value", [None, 0, 0.0, False, "0", "0.0", "false", " False ", np.bool_(False), np.int64(0)])
def test_zeros(value: Any) -> None:
    assert flag_of(value) == 0 and type(flag_of(value)) is int


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "TRUE", np.True_, np.float32(1), torch.tensor(1)])
def test_ones(value: Any) -> None:
    assert flag_of(value) == 1 and type(flag_of(value)) is int


@pytest.mark.parametrize("value", [2, -1, 0.5, math.nan, "", "no", "crowd", [], [0], {}, b"1", np.array([0])])
def test_neither(value: Any) -> None:
    assert flag_of(value) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), ("3", 3), (" -3 ", -3), ("3.0", 3), ("0007", 7), (np.uint8(3), 3), (torch.tensor(3), 3)],
)
def test_whole_numbers(value: Any, number: int) -> None:
    assert integer_of(value) == number and type(integer_of(value)) is int


@pytest.mark.parametrize("value", [3.5, "3.5", math.inf, math.nan, True, None, "three", "9" * 9999, [3], np.array([3])])
def test_no_whole_numbers(value: Any) -> None:
    assert integer_of(value) is None


def test_long_ids_stay_exact() -> None:
    number = 2**70 + 1
    assert integer_of(str(number)) == integer_of(number) == number


def test_numbers() -> None:
    assert [number_of(value) for value in (1, 1.5, "1.5", "1e3", np.float32(0.5))] == [1, 1.5, 1.5, 1000, 0.5]
    assert {type(number_of(value)) for value in (1, 1.5, "1.5", np.float32(0.5))} == {float}
    assert math.isnan(number_of("nan")) and number_of(math.inf) == math.inf
    assert [number_of(value) for value in (True, None, "wide", [1], 10**400)] == [None] * 5


def test_ids() -> None:
    assert [id_of(value) for value in (7, 7.0, "7", "a", np.str_("a"), np.int32(7))] == [7, 7, "7", "a", "a", 7]
    assert [id_of(value) for value in (None, 7.5, True, [7])] == [None] * 4


def test_an_id_is_found_in_another_type_if_it_is_unambiguous() -> None:
    assert [find_id(value, {3, 12}) for value in (3, 3.0, "3", "0012", " 12 ")] == [3, 3, 3, 12, 12]
    assert [find_id(value, {"3", "a"}) for value in (3, "3", 3.0, "a")] == ["3", "3", "3", "a"]
    assert find_id(3, {3, "3"}) == 3 and find_id("3", {3, "3"}) == "3"
    assert [find_id(value, {3}) for value in (4, "4", "three", 3.5, None, True, [3])] == [None] * 7
