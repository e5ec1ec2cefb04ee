"""Checkpoint folders: their tensors, hashes, companion files and tokens, and whether they are sound.

| module | role |
|---|---|
| `files` | names of the files of a checkpoint, and the reader of its JSON files |
| `headers` | headers of safetensors files |
| `experts` | experts that are stacked in one tensor |
| `layout` | configuration and tensors of a checkpoint |
| `comparison` | what makes a checkpoint unusable, and what makes two differ |
| `hashing` | hashes of files, and the identity that they make |
| `tokens` | which row of an embedding belongs to which token |
| `scan` | one pass over a weight file: its hash, and whether its numbers are finite |
| `verification` | whether transformers loads a checkpoint, and whether all its numbers are finite |

Importing this package is cheap. Only `verify` and `token_rows` of a SentencePiece model import transformers.
"""

from __future__ import annotations

from evolve.engines.checkpoints.comparison import differences, differing_settings, flaw_of
from evolve.engines.checkpoints.files import companions, is_complete, is_pickled, read_index, read_json_object
from evolve.engines.checkpoints.hashing import FileStamp, content_identity, fingerprint, hash_file, model_files
from evolve.engines.checkpoints.headers import ITEM_BYTES, TORCH_NAMES, TensorInfo, item_bytes, read_tensors
from evolve.engines.checkpoints.layout import Layout, is_head, read_config, read_layout
from evolve.engines.checkpoints.tokens import check_tokenizer, same_vocabulary, token_rows, tokenizer_files
from evolve.engines.checkpoints.verification import NotFiniteError, first_bad_tensor, manifest, verify

__all__ = [
    "ITEM_BYTES",
    "TORCH_NAMES",
    "FileStamp",
    "Layout",
    "NotFiniteError",
    "TensorInfo",
    "check_tokenizer",
    "companions",
    "content_identity",
    "differences",
    "differing_settings",
    "fingerprint",
    "first_bad_tensor",
    "flaw_of",
    "hash_file",
    "is_complete",
    "is_head",
    "is_pickled",
    "item_bytes",
    "manifest",
    "model_files",
    "read_config",
    "read_index",
    "read_json_object",
    "read_layout",
    "read_tensors",
    "same_vocabulary",
    "token_rows",
    "tokenizer_files",
    "verify",
]
