"""Which row of an embedding belongs to which token.

Row i of an embedding belongs to token i of the tokenizer. Two models with different tokenizers can hold the same token
in different rows, and some rows belong to no token (padding up to a round number).

The files are read as transformers reads them. Tokens that are added to a vocabulary take the next free rows in the
order in which the files name them; the numbers in the files do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.engines.checkpoints.files import read_json_object
from evolve.engines.quiet import loading_errors, quiet_transformers
from evolve.errors import ModelError
from evolve.files import MOST_MODEL_JSON, parse_json, read_bytes, shown

__all__ = ["check_tokenizer", "same_vocabulary", "token_rows", "tokenizer_files"]

_WHOLE, _VOCABULARY, _ADDED, _SETTINGS = "tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json"
_MOST_ROWS = 2**32
_OLD = ("tokenizer.model", "spiece.model", "vocab.txt")


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return the content of the files that number the tokens of a checkpoint, by name.

    Raises:
        ModelError: A file cannot be read.
    """
    paths = (folder / name for name in (_WHOLE, _VOCABULARY, _ADDED, _SETTINGS, *_OLD))
    try:
        return {path.name: read_bytes(path, MOST_MODEL_JSON) for path in paths if path.is_file()}
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read ({error.strerror}): download the model again") from error


def check_tokenizer(folder: Path) -> None:
    """Make sure that the tokenizers library reads tokenizer.json, if a folder has one.

    Raises:
        ModelError: It does not.
    """
    from tokenizers import Tokenizer

    data = tokenizer_files(folder).get(_WHOLE)
    if data is None:
        return
    try:
        parse_json(data)
        Tokenizer.from_buffer(data)
    except Exception as error:
        if not isinstance(error, ValueError) and type(error) is not Exception:  # all that the library raises
            raise
        raise _unreadable(folder, error) from error


def token_rows(folder: Path) -> Mapping[str, int] | None:
    """Return the row of each token of a checkpoint, or None if it has no tokenizer.

    The tokens come from `tokenizer.json`, or else `vocab.json`. The tokens of `added_tokens_decoder` in
    `tokenizer_config.json` are added to them, or those of `added_tokens.json` where there is no such entry. If a folder
    has only a SentencePiece model (`tokenizer.model`), transformers opens it, without running code of the model.

    Raises:
        ModelError: There is a tokenizer, but it cannot be read.
    """
    files = tokenizer_files(folder)
    rows = _rows_of(folder, files)
    return _through_transformers(folder) if rows is None and "tokenizer.model" in files else rows


def same_vocabulary(folders: Sequence[Path]) -> bool:
    """Return whether all models have equally many rows and the same number for every token.

    Reads JSON only. Where some models have neither `tokenizer.json` nor `vocab.json`, the files of older tokenizers are
    compared byte by byte, together with the added tokens. Tokenizers without a form in common count as different, which
    costs some time in a merge and does no harm.

    Raises:
        ModelError: A config.json or a file of a tokenizer cannot be read.
    """
    if len({_row_count(folder) for folder in folders}) > 1:
        return False
    contents: list[tuple[Path, dict[str, bytes]]] = []
    for folder in folders:
        files = tokenizer_files(folder)
        if all(files != known for _, known in contents):
            contents.append((folder, files))  # equal files are parsed once
    rows = [_rows_of(folder, files) for folder, files in contents]
    if None not in rows:
        return all(found == rows[0] for found in rows)
    old = [_old_form(folder, files) for folder, files in contents]
    return None not in old and all(found == old[0] for found in old)


def _row_count(folder: Path) -> Any:
    config = read_json_object(folder / "config.json")
    text = config.get("text_config")
    return config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)


def _rows_of(folder: Path, files: Mapping[str, bytes]) -> dict[str, int] | None:
    """Return the row of each token by the JSON files; None if they hold no vocabulary."""
    try:
        if _WHOLE in files:
            content = parse_json(files[_WHOLE])
            rows, size = _numbered(content["model"]["vocab"])
            added = [_text(token["content"]) for token in content.get("added_tokens") or ()]
        elif _VOCABULARY in files:
            rows, size = _numbered(parse_json(files[_VOCABULARY]))
            added = []
        else:
            return None
        return _extended(rows, size, [*added, *_added(files)])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _unreadable(folder, error) from error


def _numbered(vocabulary: Any) -> tuple[dict[str, int], int]:
    """Return the rows of a vocabulary and its length; a Unigram model lists pieces with scores, in order of rows."""
    if isinstance(vocabulary, list):
        return {_text(entry[0]): row for row, entry in enumerate(vocabulary)}, len(vocabulary)
    return {token: _row(row) for token, row in vocabulary.items()}, len(vocabulary)


def _text(token: Any) -> str:
    if type(token) is not str:
        raise ValueError(f"the token {shown(token)} is not a string")
    return token


def _row(number: Any) -> int:
    if type(number) is not int or not 0 <= number < _MOST_ROWS:
        raise ValueError(f"{shown(number)} is not the number of a token")
    return number


def _extended(rows: dict[str, int], size: int, added: Iterable[str]) -> dict[str, int]:
    """Return the rows with those of added tokens; the tokenizers library ignores the numbers that files give them."""
    for token in added:
        if token not in rows:
            rows[token], size = size, size + 1
    return rows


def _added(files: Mapping[str, bytes]) -> list[str]:
    """Return the tokens that the files beside the vocabulary add to it, in the order of their numbers."""
    decoder = (parse_json(files[_SETTINGS]) if _SETTINGS in files else {}).get("added_tokens_decoder")
    if decoder is not None:
        return [_text(decoder[number]["content"]) for number in sorted(decoder, key=lambda number: _row(int(number)))]
    added = parse_json(files[_ADDED]) if _ADDED in files else {}
    return sorted(added, key=lambda token: _row(added[token]))


def _old_form(folder: Path, files: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[str]] | None:
    """Return the files of an older tokenizer and its added tokens; None if there are none."""
    old = {name: data for name, data in files.items() if name in _OLD}
    try:
        return (old, _added(files)) if old else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> ModelError:
    known = isinstance(error, ValueError) or type(error) is Exception
    reason = " ".join(str(error).split())[:200] if known else "it does not have the form of a tokenizer"
    return ModelError(f"the tokenizer in {folder} cannot be read ({reason}): download the model again")


def _through_transformers(folder: Path) -> Mapping[str, int]:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder.resolve(), local_files_only=True, trust_remote_code=False)
        tokens: dict[str, int] = tokenizer.get_vocab()
    except loading_errors() as error:
        raise ModelError(
            f"the tokenizer in {folder} has no tokenizer.json and transformers cannot open it ({error}): "
            "save it again with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        ) from error
    return tokens
