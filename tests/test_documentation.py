"""Commands and links in the documents: all commands run, all links lead somewhere."""

import inspect
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from clip.model import CLIP
from data_helpers import write_coco, write_image, write_voc
from detectron2.evaluation import coco_evaluation
from detectron2.utils import collect_env
from detectron2.utils.develop import create_dummy_class
from open_vocabulary_helpers import TINY_CLIP

from pair_detr.visualization.media import VideoFile

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# What the commands of each document read, beside the configs and the data that all have: see the functions below.
PREPARATION = {
    "README.md": ("own_data", "published_weights", "text_encoder", "photos_and_video", "quickstart_weights"),
    "model_zoo.md": ("published_weights",),
    "recipes.md": ("own_data", "detector_weights"),
    "results.md": ("shapes",),
}


def parts_of(document: Path) -> dict[str, str]:
    """The text of a document by title; that of the results by section, as these are many trainings and independent."""
    text = document.read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE) if document.name == "results.md" else [text]
    return {f"{document.name} {section.splitlines()[0]}": section for section in sections}


PARTS = {title: (document, text) for document in DOCUMENTS for title, text in parts_of(document).items()}


def code_blocks(text: str, language: str) -> list[str]:
    """Blocks of code in a language; shell commands have none."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in blocks if name == language]


def commands_of(text: str) -> list[str]:
    """Blocks of commands, less those that install."""
    blocks = [block for block in code_blocks(text, "") if re.search(r"^ *python ", block, re.MULTILINE)]
    kept = [re.sub(r"^(make|source|pip) .*\n", "", block, flags=re.MULTILINE) for block in blocks]
    # One seed shows as much as several, but in figures of all of them.
    kept = [b if "plot_training" in b else re.sub(r"for seed in (\d+)[ \d]*;", r"for seed in \1;", b) for b in kept]
    # A training of one step has no checkpoints from its midst.
    return [re.sub(r"model_\d{7}\.pth", "model_final.pth", block) for block in kept]


def own_data(document: Path, run: Callable[[str], None]) -> None:
    """my.yaml, as the document has it, and the data that it names."""
    Path("my.yaml").write_text(
        next(config for config in code_blocks(document.read_text(), "yaml") if "my_train" in config)
    )
    boxes = [{"image_id": 1 + i % 4, "bbox": [5, 5, 20, 15], "category_id": 1 + i % 2} for i in range(8)]
    for split in ("train", "val"):
        file = write_coco(Path("data", split), boxes, [(60, 40)] * 4)
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 1, "name": "helmet"}, {"id": 2, "name": "forklift"}]
        Path("data", f"{split}.json").write_text(json.dumps(content))
    voc = write_voc(Path("data/voc"))
    (voc / "ImageSets/Main/train.txt").rename(voc / "ImageSets/Main/val.txt")
    annotation = voc / "Annotations/a.xml"
    annotation.write_text(annotation.read_text().replace("dog", "helmet").replace("cat", "forklift"))


def published_weights(document: Path, run: Callable[[str], None]) -> None:
    run(
        "python train_net.py --config-file configs/conditional_detr/r50.yaml\n"
        "python -m pair_detr.tools.convert_weights output/conditional_detr/r50/model_final.pth ConditionalDETR_r50.pth "
        "--reverse official"
    )


def detector_weights(document: Path, run: Callable[[str], None]) -> None:
    run("python train_net.py --config-file configs/r50.yaml")


def text_encoder(document: Path, run: Callable[[str], None]) -> None:
    # The width of its embeddings is that of the model whose name the file has.
    torch.save(CLIP(**TINY_CLIP | {"embed_dim": 512}).state_dict(), "ViT-B-32.pt")
    Path("coco_clip_a+cname.npy").symlink_to("../shared/clip_text_weights/coco_clip_a+cname.npy")


def photos_and_video(document: Path, run: Callable[[str], None]) -> None:
    Path("photos").mkdir()
    Path("more/trip").mkdir(parents=True)
    for file in ("photo.jpg", "photos/1.jpg", "more/trip/2.jpg"):
        write_image(Path(file), 60, 40)
    video = VideoFile(Path("clip.mp4"), fps=5)
    video.write(np.zeros((48, 64, 3), dtype=np.uint8))
    video.close()


def shapes(document: Path, run: Callable[[str], None]) -> None:
    run("python -m pair_detr.tools.make_shapes --val 100")


def quickstart_weights(document: Path, run: Callable[[str], None]) -> None:
    run(
        "python -m pair_detr.tools.make_shapes\n"
        "python train_net.py --config-file configs/quickstart.yaml OUTPUT_DIR output/quickstart/pair_detr"
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The address of document_server.py; its folders are those of its requests."""
    folder = tmp_path_factory.mktemp("server")
    address, log = folder / "socket", folder / "log.txt"
    environment = os.environ | {"DETECTRON2_DATASETS": "datasets", "PYTHONPATH": python_path()}
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests/document_server.py"), str(address)]
    with log.open("w") as output, subprocess.Popen(command, cwd=folder, env=environment, stderr=output) as process:
        try:
            while not address.exists() and process.poll() is None:
                time.sleep(0.1)
            assert process.poll() is None, log.read_text()
            yield address
        finally:
            process.terminate()


def python_path() -> str:
    return f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("title", PARTS)
def test_commands_run(
    title: str, shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A shell runs all commands of a text, from top to bottom; programs in small, see document_server.py."""
    document, text = PARTS[title]
    commands = commands_of(text)
    if not commands:
        pytest.skip("a text without commands")
    folder = tmp_path / "repository"
    for path in ("bin", "docs", "repository"):
        (tmp_path / path).mkdir()
    (folder / "docs").mkdir()
    for name in ("configs", "scripts", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    # The data that there are, beside those that the commands make.
    (tmp_path / "shared/datasets").mkdir(parents=True)
    for path in [*shared_dir.iterdir(), *(shared_dir / "datasets").iterdir()]:
        if path.name != "datasets":
            (tmp_path / "shared" / path.relative_to(shared_dir)).symlink_to(path)
    (folder / "datasets").symlink_to(tmp_path / "shared/datasets")
    python = tmp_path / "bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {ROOT / "tests/document_client.py"} "$@"\n')
    python.chmod(0o755)
    log = tmp_path / "log.txt"
    log.touch()
    # Not for texts that are skipped.
    server = request.getfixturevalue("server")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "DOCUMENT_SERVER": str(server),
        "DOCUMENT_LOG": str(log),
        "DETECTRON2_DATASETS": "datasets",
        "PYTHONPATH": python_path(),
    }

    def run(script: str) -> None:
        done = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + "\n".join(log.read_text().splitlines()[-40:])

    monkeypatch.chdir(folder)
    for name in PREPARATION.get(document.name, ()):
        globals()[name](document, run)
    for block in commands:
        run(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_command_is_left_out(document: Path) -> None:
    """What runs the commands knows them by their first word, in blocks without a language."""
    languages = re.findall(r"^ *```(\w+)$", document.read_text(), re.MULTILINE)
    assert set(languages) <= {"python", "yaml"}
    for block in code_blocks(document.read_text(), ""):
        if re.search(r"\bpython (train_net|scripts|-m pair_detr\.tools\.(?!NAME))", block):
            assert re.search(r"^ *python ", block, re.MULTILINE), block


def test_messages_of_detectron2_are_quoted_as_it_prints_them() -> None:
    """Without its compiled part, in the log of every run and where something needs that part."""
    readme = (ROOT / "README.md").read_text()
    for module, message in (
        (coco_evaluation, "Fast COCO eval is not built"),
        (collect_env, "not built correctly"),
    ):
        assert message in inspect.getsource(module) and message in readme
    with pytest.raises(ImportError) as error:
        create_dummy_class("DeformConv", "detectron2._C")()
    assert f"`{error.value}".rstrip(".") in readme
    assert "detectron2._C" in inspect.getsource(collect_env) and "detectron2._C  not built correctly" in readme
