"""ZIP and TAR archives, in which torch keeps tensors: what they must not hold, and what of them is damaged."""

import argparse
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pair_detr.tensor_files import TensorFileError, read_tensor_file
from pair_detr.tensor_files.torchscript import is_torchscript


class Net(nn.Module):
    """Attributes of every kind; in the state dict are the parameters and buffers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2).half())
        self.transposed = nn.Parameter(torch.randn(2, 3).T)
        self.register_buffer("count", torch.arange(3))
        self.register_buffer("none", torch.zeros(0))
        self.constant, self.numbers, self.texts = torch.zeros(2), [1, 2], {"a": torch.ones(1)}

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.transposed[0] + self.constant[0] + self.numbers[0] + self.texts["a"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    torch.jit.script(Net()).save(path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_of_torchscript(archive: Path) -> None:
    assert is_torchscript(archive)
    state, expected = read_tensor_file(archive), torch.jit.load(archive).state_dict()
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name
    torch.save(expected, archive)
    assert not is_torchscript(archive)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_with_other_objects(archive: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(hostile, "w") as target:
        for name in source.namelist():
            is_root = name.endswith("/data.pkl")
            target.writestr(name, b"cos\nsystem\n(S'false'\ntR." if is_root else source.read(name))
    with pytest.raises(TensorFileError, match=r"holds more than arrays \(os\.system\), which could run code"):
        read_tensor_file(hostile)


def test_tar_files_of_torch_0_1(tmp_path: Path) -> None:
    """They are refused with a remedy, which torch's own message lacks."""
    path = tmp_path / "weights.pth"
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(0, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(TensorFileError, match=r"\.tar file, of torch 0\.1\), which could run code.*--allow-pickle"):
        read_tensor_file(path)


def test_weights_only_is_not_left_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to its default nor to the variable that changes it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for new_format in (True, False):
        torch.save({"a": argparse.ArgumentParser}, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
        with pytest.raises(TensorFileError, match=r"argparse\.ArgumentParser\), which could run code"):
            read_tensor_file(tmp_path / "a.pth")


@pytest.mark.parametrize("part", ["data/0", "data.pkl"])
def test_flipped_bits(tmp_path: Path, part: str) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.randn(100)}}, path)
    with zipfile.ZipFile(path) as archive:
        record = archive.read(f"a/{part}")
    content = bytearray(path.read_bytes())
    content[content.index(record) + len(record) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match=rf"a\.pth is damaged: a/{part} .*checksum\. Download it again, or take"):
        read_tensor_file(path)


def test_files_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip()
    assert read_tensor_file(tmp_path / "a.pth")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".bin"])
def test_archives_of_others(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    with path.open("wb") as file:
        np.savez(file, first=np.zeros(3))
    with pytest.raises(TensorFileError, match=r"is a ZIP archive, but torch did not write it: it holds first\.npy"):
        read_tensor_file(path)
