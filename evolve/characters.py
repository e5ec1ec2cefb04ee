"""Characters that people cannot see, but that a terminal or a reader obeys.

These are the control characters (C0, DEL and C1, with the escape sequences of a terminal), the marks that change the
direction of text, other invisible characters, separators of lines, and surrogates, which no output can encode.
"""

from __future__ import annotations

import re

__all__ = ["escaped", "visible"]

# Zero width (non-)joiners are kept: Persian, Indic scripts and emoji need them, and they move nothing.
_HIDDEN = (
    r"\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b")
_SPACE = re.compile(rf"[^\S\n ]|[{_HIDDEN}]")
_CHARACTER = re.compile(rf"[{_HIDDEN}]")


def visible(text: str) -> str:
    """Return a text without escape sequences, with a space for each other hidden character; its lines are kept."""
    return _SPACE.sub(" ", _SEQUENCE.sub("", text))


def escaped(text: str) -> str:
    r"""Return JSON with its hidden characters as `\uXXXX`, which mean the same in JSON; its lines are kept."""
    return _CHARACTER.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
