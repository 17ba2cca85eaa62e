"""The backbone that is pretrained on crops of shapes, and where its file is made and found."""

import multiprocessing
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager
from model_helpers import build, tiny_cfg
from process_helpers import FORK

from pair_detr.checkpoint import shapes_backbone
from pair_detr.checkpoint.shapes_backbone import BACKBONES, SHAPES_BACKBONE, pretrain_backbone
from pair_detr.checkpoint.weights import load_weights, read_weights, require_weights
from pair_detr.config_files import load_config
from pair_detr.data.datasets.shape_classes import HOLDOUTS
from pair_detr.data.datasets.shapes import CLASS_NAMES, draw_image
from pair_detr.modeling.backbone.convnet import ConvNet
from pair_detr.tools import pretrain_shapes

SMALL = {"num_crops": 64, "epochs": 1}
PREFIX = "detector.backbone."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "backbone.pth"
    pretrain_backbone(file, **SMALL)
    return file


def same(a: Path, b: Path) -> bool:
    a, b = (torch.load(x)["model"] for x in (a, b))
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_crops_are_of_shapes_of_all_classes() -> None:
    """The same ones for a seed, and fewer are the first of them; a shape is not what its surroundings are."""
    crops, labels = shapes_backbone._draw_crops(draw_image, 120, seed=0)
    assert crops.shape == (120, 3, 48, 48)
    assert crops.dtype == torch.uint8
    assert set(labels.tolist()) == set(range(len(CLASS_NAMES)))
    fewer, first = shapes_backbone._draw_crops(draw_image, 50, seed=0)
    assert torch.equal(fewer, crops[:50])
    assert torch.equal(first, labels[:50])
    assert not torch.equal(shapes_backbone._draw_crops(draw_image, 50, seed=1)[0], fewer)
    center, edge = crops[:, :, 20:28, 20:28].float(), crops[:, :, :4, :4].float()
    assert (center.mean((2, 3)) - edge.mean((2, 3))).abs().mean() > 15


def test_shapes_are_at_the_centers_of_crops() -> None:
    """Give or take some pixels: also of shapes at the edges of an image."""

    def one_shape(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
        y, x = rng.integers(0, 87, 2)
        image, mask = np.zeros((96, 96, 3), dtype=np.uint8), np.zeros((96, 96), dtype=bool)
        mask[y : y + 9, x : x + 9] = True
        image[mask] = 255
        return image, [(1, mask)]

    crops, labels = shapes_backbone._draw_crops(one_shape, 64, seed=0)
    assert (labels == 1).all()
    assert (crops[:, :, 24, 24] == 255).float().mean() > 0.2
    # The whole shape is there, whatever the shift.
    assert (crops[:, 0, 13:36, 13:36] == 255).sum((1, 2)).ge(81).all()


def test_channels_of_half_of_the_crops_are_exchanged() -> None:
    """Each pixel keeps its values, and crops that are not reported are as they were."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (200, 3, 4, 4), dtype=torch.uint8)
    changed, exchanged = shapes_backbone._exchange_channels(pixels)
    assert 70 < exchanged.sum() < 130
    assert torch.equal(changed[~exchanged], pixels[~exchanged])
    assert torch.equal(changed.sort(1).values, pixels.sort(1).values)
    # One order of six is the original one.
    assert 0.6 < (changed != pixels).flatten(1).any(1)[exchanged].float().mean() < 0.97


def test_only_a_withheld_color_makes_colors_vary() -> None:
    """Then classes of a group differ in color alone."""
    groups = {name: BACKBONES[shapes_backbone.backbone_address(name)].color_groups for name in HOLDOUTS}
    assert groups["shape"] is None
    assert groups["composition"] is None
    by_group: dict[int, list[str]] = {}
    for group, own in zip(groups["color"], HOLDOUTS["color"].base_classes, strict=True):
        by_group.setdefault(group, []).append(own.name)
    assert sorted(map(sorted, by_group.values())) == [
        ["green rectangle", "red rectangle"],
        ["green triangle", "red triangle"],
        ["striped green rectangle", "striped red rectangle"],
        ["striped green triangle", "striped red triangle"],
    ]


def test_any_color_is_right_for_crops_with_exchanged_channels() -> None:
    """So sizes are told apart in blue, which crops have only after the exchange, and no label has to be guessed."""
    crops = torch.zeros(640, 3, 48, 48, dtype=torch.uint8)
    labels = torch.arange(640) % 4
    for index, label in enumerate(labels.tolist()):
        # Small and large squares, red and green ones.
        start, stop = (20, 28) if label < 2 else (6, 42)
        crops[index, label % 2, start:stop, start:stop] = 255
    torch.manual_seed(0)
    backbone, head = ConvNet(3, shapes_backbone._CHANNELS), torch.nn.Linear(shapes_backbone._CHANNELS[-1], 4)
    accuracy = shapes_backbone._train(backbone, head, crops, labels, 4, (0, 0, 1, 1))
    # Of exchanged crops alone, red and green ones cannot be told apart: about 0.75 if only one of them were right.
    assert accuracy > 0.85
    backbone.eval()
    blue = torch.stack((crops[:, 2], crops[:, 2], crops[:, 0] + crops[:, 1]), dim=1)
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (shapes_backbone._MEAN, shapes_backbone._STD))
    with torch.no_grad():
        found = head(backbone((blue - mean) / std)["last"].mean((2, 3))).argmax(1)
    assert (found // 2 == labels // 2).float().mean() > 0.95


def test_the_file_is_loadable_weights(weights: Path) -> None:
    cfg = tiny_cfg("conditional_detr")
    cfg.MODEL.CONVNET.CHANNELS = [16, 32, 64, 128]
    model, fresh = build(cfg), build(cfg).state_dict()
    load_weights(model, read_weights(str(weights)))
    content = torch.load(weights)["model"]
    names = {name for name in model.state_dict() if name.startswith(PREFIX)}
    assert content.keys() == names
    for name, value in model.state_dict().items():
        assert torch.equal(value, content[name] if name in names else fresh[name]), name
    start = ConvNet(3, (16, 32, 64, 128)).state_dict()
    assert content[f"{PREFIX}layers.0.weight"].shape == start["layers.0.weight"].shape
    assert content[f"{PREFIX}layers.1.num_batches_tracked"] == 1
    assert all(value.is_contiguous() for value in content.values())


def test_it_is_the_backbone_of_the_quick_start() -> None:
    cfg = load_config("quickstart")
    assert tuple(cfg.MODEL.CONVNET.CHANNELS) == shapes_backbone._CHANNELS
    assert pytest.approx(shapes_backbone._MEAN) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx(shapes_backbone._STD) == cfg.MODEL.PIXEL_STD
    assert cfg.INPUT.FORMAT == "RGB"


def test_the_seed_decides(weights: Path, tmp_path: Path) -> None:
    """Nothing else does, and the random numbers of the caller go on as they would."""
    random.seed(5)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    pretrain_backbone(tmp_path / "again.pth", **SMALL)
    assert torch.equal(torch.rand(1), expected)
    assert same(tmp_path / "again.pth", weights)
    pretrain_backbone(tmp_path / "other.pth", **SMALL, seed=1)
    assert not same(tmp_path / "other.pth", weights)


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    assert pretrain_backbone(tmp_path / "few.pth", num_crops=640, epochs=4) > 1.5 / len(CLASS_NAMES)


@pytest.mark.parametrize("numbers", [(63, 1), (64, 0)])
def test_too_few_crops(tmp_path: Path, numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 64 and 1 are needed"):
        pretrain_backbone(tmp_path / "backbone.pth", *numbers)
    assert not (tmp_path / "backbone.pth").exists()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DETECTRON2_DATASETS, which does not exist yet; what is made there is made quickly."""
    folder = tmp_path / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    monkeypatch.setattr(shapes_backbone, "pretrain_backbone", partial(pretrain_backbone, **SMALL))
    return folder


def test_it_is_made_once_where_the_datasets_are(root: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PathManager.exists(SHAPES_BACKBONE)
    assert PathManager.isfile(SHAPES_BACKBONE)
    assert not root.exists()
    cfg = tiny_cfg("conditional_detr")
    cfg.MODEL.WEIGHTS = SHAPES_BACKBONE
    require_weights(cfg)
    assert [file.name for file in root.iterdir()] == ["shapes_backbone.pth"]
    assert same(root / "shapes_backbone.pth", weights)
    monkeypatch.setattr(shapes_backbone, "pretrain_backbone", lambda *_, **__: pytest.fail("made again"))
    read = read_weights(SHAPES_BACKBONE)
    assert read.state.keys() == torch.load(weights)["model"].keys()
    assert PathManager.get_local_path(SHAPES_BACKBONE) == str(root / "shapes_backbone.pth")
    with PathManager.open(SHAPES_BACKBONE, "rb") as file:
        assert file.read() == (root / "shapes_backbone.pth").read_bytes()


def test_other_names_are_refused(root: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"other\.pth is unknown: there are shapes://backbone\.pth, shapes://open_"
    ):
        read_weights("shapes://other.pth")
    assert not PathManager.exists("shapes://other.pth")
    assert not root.exists()


def _resolve(folder: str, barrier: multiprocessing.Barrier) -> None:
    def make(file: Path, address: str) -> None:
        with (Path(folder) / "made").open("a") as log:
            log.write("x")
        file.write_bytes(b"weights")

    shapes_backbone.pretrain_backbone = make
    barrier.wait()
    assert Path(PathManager.get_local_path(SHAPES_BACKBONE)).read_bytes() == b"weights"


def test_processes_wait_for_the_one_that_makes_it(root: Path, tmp_path: Path) -> None:
    barrier = FORK.Barrier(3)
    processes = [FORK.Process(target=_resolve, args=(str(tmp_path), barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_the_tool(weights: Path, tmp_path: Path) -> None:
    arguments = ["--crops", "64", "--epochs", "1", "--output", str(tmp_path / "backbone.pth")]
    pretrain_shapes.main(arguments)
    assert same(tmp_path / "backbone.pth", weights)
    with pytest.raises(FileExistsError):
        pretrain_shapes.main(arguments)


@pytest.mark.parametrize("name", HOLDOUTS)
def test_backbones_of_holdouts_are_told_of_base_classes_alone(name: str) -> None:
    source, holdout = BACKBONES[f"shapes://open_{name}.pth"], HOLDOUTS[name]
    assert source.num_classes == len(holdout.classes) - 4
    crops, labels = shapes_backbone._draw_crops(source.draw, 200, seed=0)
    assert set(labels.tolist()) == set(range(source.num_classes))
    # The color around the center is that of the class.
    strongest = crops[:, :, 22:27, 22:27].float().mean((2, 3)).argmax(1)
    expected = [("red", "green", "blue").index(holdout.base_classes[label].color) for label in labels]
    assert (strongest == torch.tensor(expected)).float().mean() > 0.9


def test_images_without_a_shape_to_classify_are_passed_over() -> None:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
        image, shapes = draw_image(rng)
        return image, [(0, mask) for class_id, mask in shapes[:1] if class_id == 2]

    crops, labels = shapes_backbone._draw_crops(draw, 30, seed=0)
    assert len(crops) == 30
    assert labels.tolist() == [0] * 30


def test_the_backbone_of_a_holdout_is_made_on_its_first_use(root: Path, tmp_path: Path) -> None:
    address = "shapes://open_color.pth"
    assert PathManager.exists(address)
    state = read_weights(address).state
    assert [file.name for file in root.iterdir()] == ["open_shapes_color_varied_backbone.pth"]
    pretrain_shapes.main(["--holdout", "color", "--crops", "64", "--epochs", "1", "--output", str(tmp_path / "x.pth")])
    assert same(tmp_path / "x.pth", root / "open_shapes_color_varied_backbone.pth")
    assert state.keys() == torch.load(tmp_path / "x.pth")["model"].keys()
