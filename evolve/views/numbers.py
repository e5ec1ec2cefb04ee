"""Numbers as text for all views: scores in points, signed differences, times, sizes, kinships.

Arguments are in the units of the tree: scores in 0..1, seconds, bytes. A value that is not known becomes `UNKNOWN`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from evolve.lineage import Model

__all__ = [
    "UNKNOWN",
    "duration",
    "kinship_number",
    "measured",
    "model_average",
    "model_points",
    "moment",
    "points",
    "signed",
    "signed_measured",
    "size",
]

UNKNOWN = "-"


def points(value: float | None) -> str:
    """Return a score in points with two decimals: `68.72`."""
    return UNKNOWN if value is None else _unsigned_zero(f"{100 * value:.2f}")


def measured(value: float | None, stderr: float | None) -> str:
    """Return a score in points with its standard error, if it has one: `68.72 ±0.42`."""
    return _with_error(points(value), None if value is None else stderr)


def model_average(model: Model) -> str:
    """Return a model's average in points: `68.72 ±0.42`; an estimate with its share of the items: `68.72 ±0.80 (40%)`.

    The error of an estimate is that of the sampling.
    """
    if model.race is not None and model.is_estimated:
        return f"{measured(model.race.average, model.race.stderr)} ({model.race.share:.0%})"
    return measured(model.average, model.average_stderr)


def model_points(model: Model) -> str:
    """Return a model's average in points without its error: `68.72`; an estimate with its share: `68.72 (40%)`."""
    if model.race is not None and model.is_estimated:
        return f"{points(model.race.average)} ({model.race.share:.0%})"
    return points(model.average)


def signed(value: float | None) -> str:
    """Return a difference of scores in points: `+2.16`, `-0.60`, `0.00`."""
    return UNKNOWN if value is None else _unsigned_zero(f"{100 * value:+.2f}")


def signed_measured(value: float | None, stderr: float | None) -> str:
    """Return a difference of scores in points with its standard error, if it has one: `+2.16 ±0.59`."""
    return _with_error(signed(value), None if value is None else stderr)


def kinship_number(value: float | None, digits: int = 3) -> str:
    """Return a kinship with that many decimals; a distance of 100 or more with one."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 100:
        digits = 1
    return _unsigned_zero(f"{value:.{digits}f}")


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units: `0.4 s`, `12 s`, `2 min 05 s`, `1 h 02 min`, `2 d 03 h`."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def moment(at: str | None) -> str:
    """Return a UTC time in ISO format as text: `2026-11-22 12:10:33 UTC`."""
    if at is None:
        return UNKNOWN
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(count: int | None) -> str:
    """Return a number of bytes in decimal units, as the Hub does: `14.5 GB`."""
    if count is None:
        return UNKNOWN
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def _with_error(text: str, stderr: float | None) -> str:
    return text if stderr is None else f"{text} ±{100 * stderr:.2f}"


def _unsigned_zero(text: str) -> str:
    """Remove the sign of a number that was rounded to zero."""
    return text if float(text) else text.lstrip("+-")
