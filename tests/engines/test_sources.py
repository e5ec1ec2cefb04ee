"""Hub ids, resolved in a local cache that is laid out as the Hub's client does."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.engines.checkpoints import read_layout
from evolve.engines.sources import LocatedModel, UnreachableModelError, missing_bytes, resolve
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
    assert found == LocatedModel(hub.root / "models--owner--name" / "snapshots" / commit, commit)
    assert read_layout(found.path).tensors


def test_a_branch_that_moves_is_resolved_again_and_a_commit_stays(hub):
    hub.point("owner/name", "main", OLD)
    assert resolve("owner/name").revision == OLD
    assert resolve(f"owner/name@{NEW}").revision == NEW


def test_a_revision_that_is_not_cached(hub):
    with pytest.raises(
        UnreachableModelError, match=r"owner/name@v2: is not in the local Hub cache, which has other revisions"
    ):
        resolve("owner/name@v2")


def test_a_model_that_is_not_cached(hub):
    with pytest.raises(UnreachableModelError) as raised:
        resolve("owner/other")
    assert str(raised.value) == (
        "owner/other: is not in the local Hub cache, and the Hub is switched off (HF_HUB_OFFLINE); download it first, "
        "or give a folder"
    )
    with pytest.raises(
        UnreachableModelError, match="my-model: is neither an existing folder nor in the local Hub cache"
    ):
        resolve("my-model")


@pytest.mark.parametrize("source", ["owner/name with spaces", "a/b/c", "-x/y", "owner/..", "@main"])
def test_an_invalid_id_is_refused(hub, source):
    with pytest.raises(ModelError, match="neither an existing folder nor a Hub id of the form owner/name") as raised:
        resolve(source)
    assert not isinstance(raised.value, UnreachableModelError)


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
    assert resolve("owner/old", pickled=True) == LocatedModel(folder, NEW, pickled=True)
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


def test_a_snapshot_that_the_client_calls_incomplete(hub, model, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import IncompleteSnapshotError

    def raising(*_, **__):
        raise IncompleteSnapshotError("2 files are missing", snapshot_path="/cache/snapshots/1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising)
    with pytest.raises(ModelError, match="owner/name: /cache/snapshots/1 is not complete; download") as raised:
        resolve("owner/name")
    assert not isinstance(raised.value, UnreachableModelError)


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
    assert resolve(str(tmp_path)) == LocatedModel(tmp_path, None)
    (tmp_path / "pytorch_model.bin").touch()
    assert resolve(str(tmp_path)) == LocatedModel(tmp_path, None)
    assert resolve(str(tmp_path), pickled=True) == LocatedModel(tmp_path, None, pickled=True)
    with pytest.raises(ModelError, match="there is no such folder"):
        resolve(str(tmp_path / "none"))


# ------------------------------------------------------------------------------------------------- without a download


@pytest.fixture
def online(hub, monkeypatch):
    """The Hub is switched on, but every request fails the test."""
    from huggingface_hub import constants, utils

    def refuse(*_, **__):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils._http, "get_session", refuse)
    monkeypatch.setattr("huggingface_hub.hf_api.get_session", refuse)
    return hub


@pytest.mark.parametrize("source", ["owner/name", "owner/name@v1.0", f"owner/name@{OLD}"])
def test_a_cached_model_is_found_without_asking_the_hub(online, source):
    commit = NEW if source == "owner/name" else OLD
    folder = online.root / "models--owner--name" / "snapshots" / commit
    assert resolve(source, download=False) == LocatedModel(folder, commit)


def test_files_that_are_not_cached_are_not_downloaded(online):
    with pytest.raises(UnreachableModelError) as raised:
        resolve("owner/other", download=False)
    assert str(raised.value) == "owner/other: is not in the local Hub cache; download it first, or give a folder"
    with pytest.raises(UnreachableModelError, match="which has other revisions of owner/name; download it first"):
        resolve("owner/name@v2", download=False)


def test_a_model_that_is_not_cached_while_the_hub_is_off(hub):
    with pytest.raises(UnreachableModelError, match=r"the Hub is switched off \(HF_HUB_OFFLINE\); download it first"):
        resolve("owner/other", download=False)


def test_a_part_of_a_model_is_not_enough(online, model, tmp_path):
    last = max(path.name for path in model.glob("*.safetensors"))
    online.add("owner/most", model, NEW, "main", wanted=lambda file: file != last)
    online.add("owner/half", model, NEW, "main", wanted=lambda file: not file.endswith(".safetensors"))
    for name in ("owner/most", "owner/half"):
        with pytest.raises(UnreachableModelError, match=f"^{name}: only a part of it is in the local Hub cache"):
            resolve(name, download=False)


def test_a_part_by_the_word_of_the_client(online, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import IncompleteSnapshotError

    def raising(*_, **__):
        raise IncompleteSnapshotError("2 files are missing", snapshot_path="/cache/snapshots/1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising)
    with pytest.raises(UnreachableModelError, match="owner/name: only a part of it is in the local Hub cache"):
        resolve("owner/name", download=False)


def test_pickled_weights_without_a_download(online, model, tmp_path):
    online.add("owner/old", families.pickled(tmp_path / "old", model), NEW, "main")
    assert resolve("owner/old", pickled=True, download=False).pickled
    with pytest.raises(ModelError, match="set allow_pickled_weights: true") as raised:
        resolve("owner/old", download=False)
    assert not isinstance(raised.value, UnreachableModelError)


def test_an_adapter_without_a_download(online, tmp_path):
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "adapter" / name).write_text("{}")
    online.add("owner/adapter", tmp_path / "adapter", NEW, "main")
    assert resolve("owner/adapter", download=False).revision == NEW


# ------------------------------------------------------------------------------------------------------ missing bytes


@pytest.fixture
def remote(hub, monkeypatch):
    """Return a function that sets the Hub's answer about a model: sizes of its files, or an error."""
    import huggingface_hub
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

    def answer(sizes: dict[str, int] | Exception, sha: str = NEW) -> None:
        def model_info(self, name, *, revision=None, files_metadata=False):
            if isinstance(sizes, Exception):
                raise sizes
            assert files_metadata  # sizes come with it only
            info = ModelInfo(id=name, sha=sha)
            info.siblings = [RepoSibling(rfilename=file, size=size) for file, size in sizes.items()]
            return info

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return answer


SIZES = {
    "config.json": 1,
    "tokenizer.model": 2,
    "model-00001-of-00002.safetensors": 40,
    "modeling_own.py": 8,
    "pytorch_model.bin": 160,
    "consolidated.safetensors": 320,
    "old/model.safetensors": 640,
    "x.gguf": 1280,
}


def test_the_bytes_of_the_files_that_would_be_fetched(remote):
    remote(SIZES)
    assert missing_bytes("owner/other") == missing_bytes("owner/other@v1", pickled=True) == 51


def test_pickled_weights_are_counted_where_there_are_no_safetensors(remote):
    remote({"config.json": 1, "pytorch_model-00001-of-00002.bin": 20, "training_args.bin": 400})
    assert missing_bytes("owner/other", pickled=True) == 21
    with pytest.raises(ModelError, match="no safetensors weights of this model: set allow_pickled_weights: true"):
        missing_bytes("owner/other")
    remote({"config.json": 1, "model.gguf": 20})
    with pytest.raises(ModelError, match="the Hub has no safetensors weights"):
        missing_bytes("owner/other", pickled=True)


def test_cached_files_of_the_same_commit_are_not_counted(hub, model, remote):
    names = sorted(path.name for path in model.iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    hub.add("owner/most", model, NEW, "main", wanted=lambda file: file != shards[-1])
    sizes = {name: 10**number for number, name in enumerate(names)}
    remote(sizes)
    assert missing_bytes("owner/name") == 0
    assert missing_bytes("owner/most") == sizes[shards[-1]]
    remote(sizes, sha="9" * 40)
    assert missing_bytes("owner/most") == sum(sizes.values())


def test_folders_need_no_bytes(tmp_path):
    assert missing_bytes(str(tmp_path)) == 0
    with pytest.raises(ModelError, match="there is no such folder"):
        missing_bytes(str(tmp_path / "none"))


def test_the_hub_is_off_or_cannot_be_reached(hub, remote, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(UnreachableModelError, match=r"owner/other: .* the Hub is switched off"):
        missing_bytes("owner/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    remote(ConnectionError("no route to host"))
    with pytest.raises(UnreachableModelError, match=r"the Hub cannot be reached \(no route to host\)"):
        missing_bytes("owner/other")


def test_a_model_that_the_hub_does_not_have(hub, remote):
    from httpx2 import Request, Response
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    response = Response(404, request=Request("GET", "https://example.org"))
    for kind, words in (
        (GatedRepoError, "asks for your consent to this model's terms"),
        (RepositoryNotFoundError, "the Hub knows no such model"),
        (RevisionNotFoundError, "the model has no revision v9"),
    ):
        remote(kind("words", response=response))
        with pytest.raises(ModelError, match=words) as raised:
            missing_bytes("owner/other@v9")
        assert not isinstance(raised.value, UnreachableModelError)


def test_the_size_of_an_invalid_id_is_not_asked_for(hub):
    with pytest.raises(ModelError, match="nor a Hub id of the form owner/name") as raised:
        missing_bytes("a/b/c")
    assert not isinstance(raised.value, UnreachableModelError)
