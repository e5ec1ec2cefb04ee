import pytest

from evolve.views.numbers import (
    UNKNOWN,
    duration,
    kinship_number,
    measured,
    moment,
    points,
    signed,
    signed_measured,
    size,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, UNKNOWN),
        (0, "0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (86_399, "1 d 00 h"),
        (2 * 86_400 + 3 * 3600, "2 d 03 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, UNKNOWN),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (14_483_464_192, "14.5 GB"),
        (3_200_000_000_000, "3.2 TB"),
    ],
)
def test_a_size_is_decimal_and_rolls_over(count, text):
    assert size(count) == text


def test_scores_are_in_points_with_their_error_if_they_have_one():
    assert points(0.6872) == "68.72"
    assert measured(0.6872, 0.0042) == "68.72 ±0.42"
    assert measured(0.6872, None) == "68.72"
    assert measured(0.6872, 0.0) == "68.72 ±0.00"
    assert measured(None, None) == points(None) == UNKNOWN


def test_differences_have_a_sign_and_zero_has_none():
    assert signed(0.0216) == "+2.16"
    assert signed(-0.0396) == "-3.96"
    assert signed(-0.00001) == signed(0.00001) == signed(0) == "0.00"
    assert signed_measured(0.0216, 0.0059) == "+2.16 ±0.59"
    assert signed_measured(-0.0216, None) == "-2.16"
    assert signed(None) == signed_measured(None, 0.1) == UNKNOWN


def test_a_kinship_has_no_negative_zero_and_a_large_distance_one_decimal():
    assert kinship_number(0.93) == "0.930"
    assert kinship_number(-0.02, digits=4) == "-0.0200"
    assert kinship_number(-0.0001) == "0.000"
    assert kinship_number(1234.56) == "1234.6"
    assert kinship_number(12.3456) == "12.346"
    assert kinship_number(None) == UNKNOWN


def test_a_time_is_in_utc():
    assert moment("2026-11-22T12:10:33.462+00:00") == "2026-11-22 12:10:33 UTC"
    assert moment("2026-11-22T01:10:33+02:00") == "2026-11-21 23:10:33 UTC"
    assert moment(None) == UNKNOWN
