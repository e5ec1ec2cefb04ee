"""The one pass over the files of a checkpoint: hashes, and numbers that are not finite."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evolve.engines.checkpoints import NotFiniteError, first_bad_tensor, manifest
from evolve.engines.checkpoints import scan as scanning
from evolve.errors import ModelError
from tests.engines.checkpoints._files import shard, write

CHUNK = 64  # bytes
BITS = {
    "float64": torch.int64,
    "float32": torch.int32,
    "float16": torch.int16,
    "bfloat16": torch.int16,
    "float8_e5m2": torch.uint8,
    "float8_e4m3fn": torch.uint8,
    "float8_e4m3fnuz": torch.uint8,
    "float8_e5m2fnuz": torch.uint8,
}
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(scanning, "_CHUNK", CHUNK)


def silent(words: str, done: int, total: int) -> None:
    """A report that nobody reads."""


def all_patterns(dtype: str) -> torch.Tensor:
    """Every value of a type of one or two bytes."""
    kind = getattr(torch, dtype)
    if kind.itemsize == 1:
        return torch.arange(256, dtype=torch.uint8).view(kind)
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(kind)


def is_bad(folder: Path, tensor: torch.Tensor) -> bool:
    save_file({"a": torch.ones(3), "b": tensor, "c": torch.ones(5)}, folder / "model.safetensors")
    found = first_bad_tensor(folder)
    assert found in {None, "b"}
    return found is not None


@pytest.mark.parametrize("form", [write, shard])
def test_a_manifest_has_the_hashes_of_hashlib(tmp_path, form):
    folder = form(tmp_path / "m")
    (folder / "README.md").write_text("x" * 1000)
    (folder / "empty").touch()
    (folder / "sub").mkdir()
    (folder / "sub" / "more.json").write_text("{}")
    reports: list[tuple[str, int, int]] = []
    found = manifest(folder, lambda *words: reports.append(words))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert found == {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    }
    total = sum(size for size, _ in found.values())
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
    assert reports[-1][1:] == (total, total)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("place", [0, 1, -1, "before a border", "after a border"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_is_found_anywhere(tmp_path, dtype, place, value):
    kind = getattr(torch, dtype)
    in_chunk = CHUNK // kind.itemsize
    index = {"before a border": 2 * in_chunk - 1, "after a border": 2 * in_chunk}.get(place, place)
    if value != "nan" and dtype in {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz"}:
        value = "nan"  # these types have no infinity
    weights = torch.ones(4 * in_chunk + 3, dtype=torch.float64)
    weights[index] = float(value)
    folder = write(tmp_path / "m", {"first": torch.ones(5), "bad": weights.to(kind), "last": torch.ones(3)})
    assert first_bad_tensor(folder) == "bad"
    with pytest.raises(NotFiniteError, match=f"{folder} holds numbers that are not finite, first in bad") as caught:
        manifest(folder, silent)
    assert caught.value.tensor == "bad"
    assert pickle.loads(pickle.dumps(caught.value)).tensor == "bad"


@pytest.mark.parametrize("dtype", BITS)
def test_every_value_is_judged_as_torch_judges_it(tmp_path, dtype):
    folder, kind = write(tmp_path / "m"), getattr(torch, dtype)
    if kind.itemsize <= 2:
        values = all_patterns(dtype)
        finite = torch.isfinite(values.float())
        assert not is_bad(folder, values[finite])
    else:
        info = torch.finfo(kind)
        values = torch.tensor([info.max, info.min, info.tiny, -0.0, 0.0, info.smallest_normal / 4], dtype=kind)
        assert not is_bad(folder, values)
        least = torch.tensor([float("inf"), float("-inf")], dtype=kind).view(BITS[dtype])
        values, finite = torch.cat([least, least + 1, torch.tensor([-1]).to(least)]).view(kind), torch.zeros(5).bool()
        assert not torch.isfinite(values).any()
    for value in values[~finite][:: max(1, int((~finite).sum()) // 20)]:
        assert is_bad(folder, torch.cat([torch.zeros(2), torch.ones(1)]).to(kind).index_put((torch.tensor(1),), value))


def test_complex_numbers_are_checked_in_both_parts(tmp_path):
    folder = write(tmp_path / "m")
    assert not is_bad(folder, torch.ones(40, dtype=torch.complex64))
    for bad in (complex(float("nan"), 0), complex(0, float("inf"))):
        assert is_bad(folder, torch.tensor([1, bad, 1], dtype=torch.complex64))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_all_integers_are_finite(tmp_path, dtype):
    bits = torch.full((200,), 255, dtype=torch.uint8) if dtype != "bool" else torch.ones(200, dtype=torch.uint8)
    assert not is_bad(write(tmp_path / "m"), bits.view(getattr(torch, dtype)))


def test_the_first_bad_tensor_is_the_first_in_the_order_of_the_files(tmp_path):
    bad = torch.tensor([float("nan")])
    weights = {"e": torch.ones(2), "d": bad, "c": bad.clone(), "b": torch.ones(2), "a": torch.ones(3)}
    folder = shard(tmp_path / "m", weights)  # e, c, a in the first file
    assert first_bad_tensor(folder) == "c"
    with pytest.raises(NotFiniteError, match=r"first in c$"):
        manifest(folder, silent)
    assert first_bad_tensor(write(tmp_path / "good")) is None


def test_tensors_without_elements_are_finite(tmp_path):
    folder = write(tmp_path / "m", {"none": torch.empty(0, 4), "one": torch.tensor(2.0)})
    assert first_bad_tensor(folder) is None
    assert manifest(folder, silent).keys() == {"config.json", "model.safetensors"}


def test_every_byte_of_the_weights_is_read_once(tmp_path, monkeypatch):
    folder = shard(tmp_path / "m", {f"t{i}": torch.ones(100 + i) for i in range(6)})
    read: dict[str, int] = {}
    fill = scanning._fill

    def counting(file, block):
        read[Path(file.name).name] = read.get(Path(file.name).name, 0) + len(block)
        fill(file, block)

    opened: list[str] = []
    real = Path.open

    def opening(self, mode="r", buffering=-1, **options):
        if buffering == 0:  # for its data; the header has been read before
            opened.append(self.name)
        return real(self, mode, buffering, **options)

    monkeypatch.setattr(scanning, "_fill", counting)
    monkeypatch.setattr(Path, "open", opening)
    files = manifest(folder, silent)
    weights = {name: size for name, (size, _) in files.items() if name.endswith(".safetensors")}
    assert len(weights) == 2
    assert read == weights
    assert sorted(opened) == sorted(weights)


def test_a_file_that_shrinks_is_an_error(tmp_path, monkeypatch):
    folder = write(tmp_path / "m")
    tensors = scanning.read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4])
    monkeypatch.setattr(scanning, "read_tensors", lambda _: tensors)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: it ends before its last tensor"):
        scanning.scan(folder / "model.safetensors", lambda _: None)
