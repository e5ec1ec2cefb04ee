"""Hub ids, against a local cache that is laid out as the hub's client does."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.engines.checkpoints import read_layout
from evolve.engines.sources import NotAtHandError, Source, resolve
from evolve.errors import ModelError
from tests.support import families
from tests.support.hub import HubCache

OLD, NEW = "1" * 40, "abcdef01" * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return families.save(tmp_path_factory.mktemp("model") / "m", shard="30KB")


@pytest.fixture
def hub(tmp_path, monkeypatch, model) -> HubCache:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = HubCache(tmp_path / "hub")
    cache.add("owner/name", model, OLD, "v1.0", "refs-of/old")
    cache.add("owner/name", model, NEW, "main")
    return cache


@pytest.mark.parametrize(
    ("source", "commit"),
    [
        ("owner/name", NEW),
        ("owner/name@main", NEW),
        ("owner/name@v1.0", OLD),
        ("owner/name@refs-of/old", OLD),
        (f"owner/name@{OLD}", OLD),
    ],
)
def test_an_id_is_resolved_to_its_commit(hub, source, commit):
    found = resolve(source)
    assert found == Source(hub.root / "models--owner--name" / "snapshots" / commit, commit)
    assert read_layout(found.path).tensors


def test_a_branch_that_moves_is_resolved_anew_and_a_commit_stays(hub):
    hub.point("owner/name", "main", OLD)
    assert resolve("owner/name").revision == OLD
    assert resolve(f"owner/name@{NEW}").revision == NEW


def test_a_revision_that_the_cache_has_not(hub):
    with pytest.raises(
        NotAtHandError, match=r"owner/name@v2: is not in the local hub cache, which has other revisions"
    ):
        resolve("owner/name@v2")


def test_a_model_that_the_cache_has_not(hub):
    with pytest.raises(NotAtHandError) as raised:
        resolve("owner/other")
    assert str(raised.value) == (
        "owner/other: is not in the local hub cache, and the hub is switched off (HF_HUB_OFFLINE); download it first, "
        "or give a folder"
    )
    with pytest.raises(NotAtHandError, match="my-model: is neither an existing folder nor in the local hub cache"):
        resolve("my-model")


@pytest.mark.parametrize("source", ["owner/name with spaces", "a/b/c", "-x/y", "owner/..", "@main"])
def test_what_is_no_hub_id(hub, source):
    with pytest.raises(ModelError, match="neither an existing folder nor a hub id of the form owner/name") as raised:
        resolve(source)
    assert not isinstance(raised.value, NotAtHandError)


def test_a_snapshot_without_weights(hub, model):
    hub.add("owner/half", model, NEW, "main", wanted=lambda file: not file.endswith(".safetensors"))
    with pytest.raises(ModelError, match=r"half: .* holds no safetensors weights: download the model again"):
        resolve("owner/half")


def test_a_snapshot_with_pickled_weights(hub, model, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    hub.add("owner/old", families.pickled(tmp_path / "old", model), NEW, "main")
    with pytest.raises(ModelError, match="weights only, set allow_pickled_weights: true, or convert it"):
        resolve("owner/old")
    asked = []
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append(k) or real(*a, **k))
    folder = hub.root / "models--owner--old" / "snapshots" / NEW
    assert resolve("owner/old", pickled=True) == Source(folder, NEW, pickled=True)
    wanted = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin", "training_args.bin", "optimizer.bin"]
    patterns = [{name: call[name] for name in ("allow_patterns", "ignore_patterns")} for call in asked]
    assert [list(filter_repo_objects(wanted, **kinds)) for kinds in patterns] == [[], wanted[:2]]
    assert asked[1]["revision"] == NEW
    asked.clear()
    assert not resolve("owner/name", pickled=True).pickled
    assert len(asked) == 1  # pickled weights beside safetensors are never asked for


def test_a_snapshot_with_some_of_the_weights(hub, model):
    last = max(path.name for path in model.glob("*.safetensors"))
    hub.add("owner/most", model, NEW, "main", wanted=lambda file: file != last)
    found = resolve("owner/most")
    with pytest.raises(ModelError, match=f"names the shard {last}, which is not in the folder: download the model"):
        read_layout(found.path)
    blob = (hub.root / "models--owner--name" / "snapshots" / NEW / last).resolve()
    blob.unlink()  # a link to nothing
    with pytest.raises(ModelError, match=f"names the shard {last}"):
        read_layout(resolve("owner/name").path)


def test_a_snapshot_that_the_client_knows_to_be_incomplete(hub, model, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import IncompleteSnapshotError

    def raising(*_, **__):
        raise IncompleteSnapshotError("2 files are missing", snapshot_path="/cache/snapshots/1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising)
    with pytest.raises(ModelError, match="owner/name: /cache/snapshots/1 is not complete; download") as raised:
        resolve("owner/name")
    assert not isinstance(raised.value, NotAtHandError)


def test_only_the_files_of_a_model_are_asked_for(hub, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked = {}
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.update(k) or real(*a, **k))
    resolve("owner/name")
    files = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "modeling_own.py", "merges.txt"]
    more = [
        "pytorch_model.bin",
        "consolidated.safetensors",
        "checkpoint-5/model.safetensors",
        "original/x.pth",
        "a.gguf",
    ]
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(files + more, **patterns)) == files


def test_folders(tmp_path):
    assert resolve(str(tmp_path)) == Source(tmp_path, None)
    (tmp_path / "pytorch_model.bin").touch()
    assert resolve(str(tmp_path)) == Source(tmp_path, None)
    assert resolve(str(tmp_path), pickled=True) == Source(tmp_path, None, pickled=True)
    with pytest.raises(ModelError, match="there is no such folder"):
        resolve(str(tmp_path / "none"))
