import logging
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conversion_helpers import tiny_state
from hub_helpers import COMMIT, Hub, as_json, ask_at, fill_cache, running_hub
from huggingface_hub import constants
from model_helpers import build, tiny_resnet_cfg
from safetensors.torch import save

from pair_detr.checkpoint import export_transformers, hub
from pair_detr.checkpoint.hub import pin_revision
from pair_detr.checkpoint.weights import CheckpointError, load_weights, pin_weights, read_weights
from pair_detr.checkpoint.zoo import ZOO

REPO = "owner/tiny-detector"
ADDRESS = f"hub://{REPO}"
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    hub._fetch.cache_clear()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A repository with a small Conditional DETR of transformers, in both kinds of files."""
    exported = export_transformers(tiny_state("conditional_detr"), num_heads=4, class_names=NAMES)
    content = {name: as_json(value) for name, value in exported.files.items()}
    return {**content, "model.safetensors": save(exported.state), "pytorch_model.bin": b"never to be read"}


def assert_is_tiny(state: dict[str, torch.Tensor]) -> None:
    expected = tiny_state("conditional_detr")
    kept = [key for key in expected if not key.endswith("num_batches_tracked")]
    assert state.keys() == set(kept)
    assert all(torch.equal(state[key], expected[key]) for key in kept)


def test_weights_are_downloaded_once_and_pinned(
    served: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served.repos[REPO] = files
    with caplog.at_level(logging.INFO, "pair_detr"):
        weights = read_weights(ADDRESS)
    assert_is_tiny(weights.state)
    assert (weights.class_names, weights.required_config["MODEL.DETR.NUM_HEADS"]) == (NAMES, 4)
    assert f"{ADDRESS} is at commit {COMMIT}" in caplog.text
    assert f"GET {REPO} {COMMIT} model.safetensors" in served.requests
    assert not [request for request in served.requests if request.endswith(".bin")]
    # Of the branch, only the first file is asked for.
    assert {request.split()[3] for request in served.requests if " main " in request} == {"config.json"}

    # A process that has resolved the branch goes on with its commit.
    served.requests.clear()
    assert pin_revision(ADDRESS) == f"{ADDRESS}@{COMMIT}"
    assert served.requests == []
    # So does any that is given it, without asking.
    served.repos.clear()
    hub._fetch.cache_clear()
    assert_is_tiny(read_weights(f"{ADDRESS}@{COMMIT}").state)
    assert served.requests == []


def test_commit_of_a_moved_branch_stays(served: Hub, files: dict[str, bytes]) -> None:
    served.repos[REPO] = files
    pinned = pin_revision(ADDRESS)
    served.commit, served.repos[REPO] = "f" * 40, {"config.json": b"{}"}
    hub._fetch.cache_clear()
    assert_is_tiny(read_weights(pinned).state)
    assert pin_revision(f"{ADDRESS}@{COMMIT}") == pinned
    assert pin_revision("detectron2://R-50.pkl") == "detectron2://R-50.pkl"


def test_cache_serves_without_a_network(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = fill_cache(tmp_path, REPO, files)
    assert_is_tiny(read_weights(ADDRESS).state)
    assert pin_revision(ADDRESS) == f"{ADDRESS}@{snapshot.name}"
    with pytest.raises(
        FileNotFoundError, match=r"hub://owner/other cannot be fetched \(HF_HUB_OFFLINE is set, and its"
    ):
        read_weights("hub://owner/other")


def test_one_line_without_network_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ask_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    # It tries again, after longer and longer breaks.
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"the hub cannot be reached, and its cache does not have") as raised:
        read_weights(ADDRESS)
    assert "\n" not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hub://owner/absent", "the hub has no owner/absent, or not for you"),
        (f"{ADDRESS}@v9", "owner/tiny-detector has no revision v9"),
        (f"{ADDRESS}/model_final.pth", "owner/tiny-detector has no model_final.pth at main"),
        ("hub://owner/empty", "commit 0123456789abcdef0123456789abcdef01234567 of owner/empty has none of model.safe"),
        ("hub://tiny", "the address is hub://OWNER/NAME"),
        (f"{ADDRESS}/../../x.txt", "the address is hub://OWNER/NAME"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(served: Hub, files: dict[str, bytes], address: str, message: str) -> None:
    served.repos |= {REPO: files, "owner/empty": {"config.json": b"{}"}}
    with pytest.raises(FileNotFoundError) as raised:
        read_weights(address)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"MODEL.WEIGHTS {address} cannot be fetched (")
    assert "\n" not in str(raised.value)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"needs the package huggingface_hub: pip install 'pair_detr\[hub\]'"):
        read_weights(ADDRESS)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of a file was run')",)


def test_pickles_run_no_code(served: Hub, files: dict[str, bytes]) -> None:
    served.repos[REPO] = {"config.json": files["config.json"], "pytorch_model.bin": pickle.dumps({"model": Evil()})}
    with pytest.raises(CheckpointError, match=r"holds more than tensors|cannot be read"):
        read_weights(ADDRESS)


def test_shards_and_files_of_this_package(served: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    exported = export_transformers(tiny_state("conditional_detr"), num_heads=4, class_names=NAMES)
    keys = sorted(exported.state)
    parts = {f"model-{i}.safetensors": keys[i::2] for i in range(2)}
    index = {"weight_map": {key: part for part, own in parts.items() for key in own}}
    shards = {part: save({key: exported.state[key] for key in own}) for part, own in parts.items()}
    torch.save({"model": tiny_state("conditional_detr")}, tmp_path / "own.pth")
    own = {"sub/model_final.pth": (tmp_path / "own.pth").read_bytes()}
    content = {"config.json": files["config.json"], "model.safetensors.index.json": as_json(index), **shards, **own}
    served.repos[REPO] = content
    assert_is_tiny(read_weights(ADDRESS).state)
    weights = read_weights(f"{ADDRESS}/sub/model_final.pth@{COMMIT}")
    assert weights.layout == "this package's"
    assert torch.equal(
        weights.state["detector.class_head.weight"], tiny_state("conditional_detr")["detector.class_head.weight"]
    )


@pytest.mark.parametrize(
    "index", [[], {"weight_map": ["a"]}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../../x"}}]
)
def test_an_index_that_names_no_files_of_weights(served: Hub, files: dict[str, bytes], index: object) -> None:
    served.repos[REPO] = {"config.json": files["config.json"], "model.safetensors.index.json": as_json(index)}
    with pytest.raises((FileNotFoundError, CheckpointError), match="cannot be fetched") as raised:
        read_weights(ADDRESS)
    assert "\n" not in str(raised.value)


def test_classes_of_the_user(served: Hub, files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    """The log says which rows of the classifier come from the weights."""
    served.repos[REPO] = files
    model = build(tiny_resnet_cfg("pair_detr", NUM_QUERIES=20, NUM_CLASSES=2))
    model.class_names = ["owl", "newt"]
    with caplog.at_level(logging.WARNING, "pair_detr"):
        load_weights(model, read_weights(ADDRESS))
    rows = model.detector.class_head.weight
    assert torch.equal(rows[0], tiny_state("conditional_detr")["detector.class_head.weight"][2])
    assert f"What does not come from {ADDRESS} as it is:" in caplog.text
    assert "rows of 1 classes of the same name taken, random start of the others" in caplog.text
    assert "detector.top_left_decoder" in caplog.text


def test_weights_of_a_config_are_pinned(served: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    served.repos[REPO] = files
    monkeypatch.setitem(ZOO, "tiny", replace(ZOO["conditional_detr_r50"], source=ADDRESS))
    assert [pin_weights(weights) for weights in (ADDRESS, "zoo://tiny", "", "x.pth")] == [
        *[f"{ADDRESS}@{COMMIT}"] * 2,
        *("", "x.pth"),
    ]
    with pytest.raises(
        FileNotFoundError, match=r"hub://owner/absent cannot be fetched .* set MODEL\.WEIGHTS to its path"
    ):
        pin_weights("hub://owner/absent")
