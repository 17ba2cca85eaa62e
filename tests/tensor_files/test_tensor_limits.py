"""Small files that stand for more than memory holds are refused before it is taken."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pair_detr.tensor_files import TensorFileError, read_tensor_file


def doubled(levels: int) -> dict[str, Any]:
    """As a tree, it has 2 ** levels leaves."""
    content: dict[str, Any] = {"weight": torch.zeros(2)}
    for _ in range(levels):
        content = {"a": content, "b": content}
    return content


def containing_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"weight": torch.zeros(2)}
    content["model"] = content
    return content


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "excess"),
    [
        (doubled(40), "more than 1000000 containers, or some in themselves"),
        (containing_itself(), "more than 1000000 containers, or some in themselves"),
        ({"model": {"weight": torch.zeros(1).expand(10**6, 10**6)}}, "repeat a few numbers over 4000000000000 bytes"),
        ([torch.zeros(1).expand(300, 10**6)], "repeat a few numbers over 1200000000 bytes"),
    ],
)
def test_contents_out_of_proportion(tmp_path: Path, content: Any, excess: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    for mmap in (False, True):
        with pytest.raises(TensorFileError, match=rf"weights\.pth is no file of weights, .* all memory: .*{excess}"):
            read_tensor_file(tmp_path / "weights.pth", mmap=mmap)


@pytest.mark.timeout(60)
def test_pickles_out_of_proportion(tmp_path: Path) -> None:
    file = tmp_path / "weights.pkl"
    content: Any = {"weight": 1.0}
    for _ in range(40):
        content = {"a": content, "b": content}
    file.write_bytes(pickle.dumps({"model": content}))
    with pytest.raises(TensorFileError, match="more than 1000000 containers"):
        read_tensor_file(file)
    depth = 100_000
    file.write_bytes(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    with pytest.raises(TensorFileError, match=r"weights\.pkl cannot be read"):
        read_tensor_file(file)


@pytest.mark.parametrize("part", ["data.pkl", "data/0", "code/module.py"])
def test_archives_out_of_proportion(tmp_path: Path, part: str) -> None:
    """The headers say so, so that nothing is unpacked."""
    file = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.zeros(4)}}, file)
    with zipfile.ZipFile(file) as source:
        names = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in {**names, part: bytes(10_000_000)}.items():
            target.writestr(f"weights/{name}", data)
    size = file.stat().st_size
    with pytest.raises(TensorFileError, match=rf"weights\.pth .* all memory: its {size} bytes unpack to 100\d+\. "):
        read_tensor_file(file)


def test_what_shares_tensors_and_containers_is_read(tmp_path: Path) -> None:
    tensor = torch.arange(6.0)
    content = {
        "tied": [tensor, tensor.view(2, 3)],
        "expanded": torch.zeros(1).expand(4, 5),
        "groups": [{"lr": 0.1}] * 3,
        "sparse": torch.eye(3).to_sparse(),
        "numbers": list(range(1_100_000)),
    }
    torch.save(content, tmp_path / "weights.pth")
    read = read_tensor_file(tmp_path / "weights.pth")
    assert torch.equal(read["tied"][1], tensor.view(2, 3))
    assert read["expanded"].shape == (4, 5)
    assert read["groups"] == content["groups"] and read["numbers"] == content["numbers"]
    assert torch.equal(read["sparse"].to_dense(), torch.eye(3))
