"""What tools write bears a mark that readers do not mind, and replaces nothing else unasked."""

import errno
import importlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from data_helpers import write_coco, write_image
from matplotlib.figure import Figure
from open_vocabulary_helpers import make_vocabulary
from PIL import Image
from pycocotools.coco import COCO
from tool_helpers import write_metrics

from pair_detr.utils.outputs import MARK, is_made_here, require_outputs, write_marked_json, writing

NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def write_video(file: Path) -> None:
    from pair_detr.prediction.media import VideoFile

    video = VideoFile(file, 10)
    for _ in range(3):
        video.write(NOISE)
    video.close()


def read_video(file: Path) -> np.ndarray:
    from pair_detr.prediction.media import Frames

    frames = Frames(file)
    assert frames.expected == 3
    return np.stack(list(frames))


def read_svg(file: Path) -> str:
    return ElementTree.parse(file).getroot().tag


def read_arrays(file: Path) -> np.ndarray:
    with np.load(file) as arrays:
        assert list(arrays) == ["noise"]
        return arrays["noise"]


def read_image(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        image.verify()
    return np.asarray(Image.open(file))


KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "pillow.png": (Image.fromarray(NOISE).save, read_image),
    "pillow.jpg": (Image.fromarray(NOISE).save, read_image),
    # Without JFIF's segment.
    "cmyk.jpg": (Image.fromarray(NOISE).convert("CMYK").save, read_image),
    "figure.png": (Figure(figsize=(2, 1)).savefig, read_image),
    "figure.svg": (Figure(figsize=(2, 1)).savefig, read_svg),
    "arrays.npz": (lambda file: np.savez_compressed(file, noise=NOISE), read_arrays),
    "video.mp4": (write_video, read_video),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_are_marked_and_read_as_before(tmp_path: Path, name: str) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("cv2")
    write, read = KINDS[name]
    own, ours = tmp_path / f"own_{name}", tmp_path / name
    write(own)
    with writing(ours) as temporary:
        write(temporary)
    np.testing.assert_array_equal(read(ours), read(own))
    assert is_made_here(ours) and not is_made_here(own)
    require_outputs([ours])
    with pytest.raises(FileExistsError, match=rf"--output: .*own_{name} exists, and was not made by this program\."):
        require_outputs([ours, own])
    require_outputs([ours, own], overwrite=True)


@pytest.mark.parametrize("info", [{}, {"info": {"year": 2017}}, {"info": "by hand"}])
def test_json_is_marked_and_still_cocos(tmp_path: Path, info: dict) -> None:
    own = write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 1, 5, 5]}], [(20, 20)])
    content = {key: value for key, value in json.loads(own.read_text()).items() if key != "info"}
    # As long as those of COCO: the mark is not somewhere behind them.
    content["images"] *= 200
    write_marked_json(content | info, tmp_path / "ours.json")
    written = json.loads((tmp_path / "ours.json").read_text())
    assert written.pop("info") == {"made_by": MARK, **({"year": 2017} if info == {"info": {"year": 2017}} else {})}
    assert written == content
    assert len(COCO(str(tmp_path / "ours.json")).anns) == 1
    assert is_made_here(tmp_path / "ours.json") and not is_made_here(own)


def test_text_weights_are_told_by_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "texts.npy"
    np.save(path, NOISE)
    assert not is_made_here(path)
    with pytest.raises(FileExistsError, match=r"texts\.npy exists"):
        make_vocabulary().save(path)
    make_vocabulary().save(path, overwrite=True)
    assert is_made_here(path)
    np.save(path, NOISE)
    assert not is_made_here(path)
    (tmp_path / "other.json").write_text('{"names": ["a class of YOLO"]}')
    with pytest.raises(FileExistsError, match=r"other\.json would be overwritten"):
        make_vocabulary().save(tmp_path / "other.npy")


def test_what_is_no_file_and_what_is_read_stays_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(FileExistsError, match="is a folder or a device"):
            require_outputs([tmp_path / name], overwrite=True)
    with writing(tmp_path / "a.png") as temporary:
        Image.fromarray(NOISE).save(temporary)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(FileExistsError, match=r"a\.png is one of the inputs"):
        require_outputs([tmp_path / "a.png"], overwrite=True, inputs=[tmp_path / "link.png"])


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(OSError, match=rf"--output: nothing can be written to {folder} .*is a file"):
            require_outputs([folder / "a.png"])
    require_outputs([tmp_path / "new" / "deep" / "a.png"])
    assert not (tmp_path / "new").exists()
    make = tempfile.TemporaryFile

    def fail(number: int) -> None:
        def make_full(**options: object) -> object:
            file = make(**options)
            monkeypatch.setattr(file, "flush", lambda: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
            return file

        monkeypatch.setattr(tempfile, "TemporaryFile", make_full)

    for number, text in ((errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")):
        fail(number)
        with pytest.raises(OSError, match=rf"nothing can be written to .*new \({text}\)"):
            require_outputs([tmp_path / "new" / "a.png"])


# The arguments of each tool in a folder that prepare() fills, and what it writes.
TOOLS: dict[str, tuple[list[str], list[str]]] = {
    "tools.benchmark": (["--config-files", "quickstart", "--output", "out/a.json"], ["out/a.json"]),
    "tools.config_reference": (["--output", "out/a.md"], ["out/a.md"]),
    "tools.demo": (
        ["--config-file", "quickstart", "--weights", "none.pth", "--input", "1.png", "--output", "out"],
        ["out/1.png", "out/results.json"],
    ),
    "tools.explain_matching": (
        ["--config-file", "quickstart", "--weights", "none.pth", "--output", "out/a.png"],
        ["out/a.png", "out/a.json"],
    ),
    "tools.make_ov_coco": (["--root", "."], ["coco/annotations/ovcoco_val2017.json"]),
    "tools.plot_training": (["run", "--output", "out/a.png"], ["out/a.png", "out/a.svg"]),
    "tools.quickstart": (["--output", "out"], ["out/predictions.png"]),
    "studies.matching": (
        ["--stages", "none.pth", "--output", "out/a.png", "--dump", "out/b.npz", "--config-file", "quickstart"],
        ["out/a.png", "out/b.npz"],
    ),
    **{
        f"studies.{name}": (
            ["--data", "none.json", "--text-weights", "none.npy", "--output", "out/a.png"],
            ["out/a.png"],
        )
        for name in ("positions", "text_masks")
    },
    "studies.compositions": (["--text-weights", "none.npy", "--output", "out/a.png"], ["out/a.png"]),
    "studies.probe_sizes": (
        ["--categories", "none.json", "--text-weights", "none.npy", "--output", "out/a.png"],
        ["out/a.png"],
    ),
    "tools.text_weights": (["--vocabulary", "cat", "--from", "none.npy", "--output", "out/a.npy"], ["out/a.npy"]),
    "tools.visualize_attention": (
        ["--config-file", "quickstart", "--weights", "none.pth", "--image", "1.png", "--output", "out/a.png"],
        ["out/a.png", "out/a.npz"],
    ),
    "tools.withhold_boxes": (
        ["annotations.json", "out/a", "--classes", "cat"],
        ["out/a_boxes.json", "out/a_image_labels.json"],
    ),
}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with what tools read."""
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path, [{"image_id": 1, "bbox": [1, 1, 5, 5]}], [(20, 20)])
    write_metrics(tmp_path / "run", {100: 0.1, 200: 0.6})
    (tmp_path / "coco/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"coco/annotations/instances_{split}2017.json").write_text('{"images": []}')
    (tmp_path / "out").mkdir()
    for module in ("tools.common", *TOOLS):
        tool = importlib.import_module(f"pair_detr.{module}")
        if hasattr(tool, "setup_logger"):
            # It would keep the log of later tests from caplog.
            monkeypatch.setattr(tool, "setup_logger", lambda **_: None)
    return tmp_path


@pytest.mark.parametrize(("tool", "output"), [(tool, output) for tool, (_, files) in TOOLS.items() for output in files])
@pytest.mark.usefixtures("prepared")
def test_no_tool_replaces_a_file_of_the_user(tool: str, output: str) -> None:
    """Noticed at the start: the weights that some would read next do not exist."""
    module, (arguments, _) = importlib.import_module(f"pair_detr.{tool}"), TOOLS[tool]
    Path(output).write_text("years of work")
    with pytest.raises(FileExistsError, match=rf"{Path(output).name} exists, and was not made by this .*--overwrite"):
        module.main(arguments)
    assert Path(output).read_text() == "years of work"


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "tools.make_ov_coco"])
@pytest.mark.usefixtures("prepared")
def test_a_folder_that_cannot_be_written_is_noticed_at_the_start(tool: str) -> None:
    module, (arguments, _) = importlib.import_module(f"pair_detr.{tool}"), TOOLS[tool]
    Path("out").rmdir()
    Path("out").touch()
    with pytest.raises((OSError, SystemExit)) as raised:
        module.main(arguments)
    # The demo tells it by its parser.
    assert (
        "out cannot be written" in str(raised.value)
        or "nothing can be written to out" in str(raised.value)
        or (tool == "tools.demo")
    )


@pytest.mark.usefixtures("prepared")
def test_overwrite_replaces_and_what_a_tool_made_needs_no_leave() -> None:
    from pair_detr.tools import plot_training, withhold_boxes

    for tool, arguments in (
        (plot_training, TOOLS["tools.plot_training"][0]),
        (withhold_boxes, TOOLS["tools.withhold_boxes"][0]),
    ):
        tool.main(arguments)
        tool.main(arguments)
    Path("out/a.svg").write_text("<svg/>")
    plot_training.main([*TOOLS["tools.plot_training"][0], "--overwrite"])
    assert "matplotlib" in Path("out/a.svg").read_text()
    # Its own output as its input.
    Path("out/a_boxes.json").rename("b_boxes.json")
    with pytest.raises(FileExistsError, match=r"b_boxes\.json is one of the inputs"):
        withhold_boxes.main(["b_boxes.json", "b", "--classes", "dog", "--overwrite"])


def test_a_picture_is_not_drawn_over_the_image_that_it_shows(prepared: Path) -> None:
    from pair_detr.tools import visualize_attention

    write_image(prepared / "x.png", 8, 8)
    arguments = ["--config-file", "quickstart", "--image", "x.png", "--output", "x.png", "--overwrite"]
    with pytest.raises(FileExistsError, match=r"x\.png is one of the inputs"):
        visualize_attention.main(arguments)
