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
from process_helpers import kill, start_program

from pair_detr.prediction.media import VideoFile

ROOT = Path(__file__).resolve().parent.parent
# By their path in the repository.
DOCUMENTS = {str(path.relative_to(ROOT)): path for path in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])}
# What the commands of each document read, in addition to its own code, and the configs and data that all have: see the
# functions below.
PREPARATION = {
    "README.md": ("cards", "photos_and_video", "weights_of_the_zoo"),
    "docs/app.md": ("photos_and_video", "quickstart_weights"),
    "docs/convergence.md": ("shapes",),
    "docs/datasets.md": ("custom_data",),
    "docs/deployment.md": ("photos_and_video", "quickstart_weights"),
    "docs/getting_started.md": ("cards", "photos_and_video", "weights_of_the_zoo"),
    "docs/model_zoo.md": ("published_weights", "custom_data"),
    "docs/open_vocabulary.md": ("text_encoder",),
    "docs/results.md": ("shapes",),
    "docs/studies/convergence.md": ("shapes",),
    "docs/studies/text_masks.md": ("text_encoder",),
    "docs/tools.md": ("photos_and_video", "quickstart_weights"),
    "docs/training.md": ("custom_data", "detector_weights"),
}


def parts_of(name: str) -> dict[str, str]:
    """The text of a document by title; that of the results by section, as these are many trainings and independent."""
    text = DOCUMENTS[name].read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE) if name == "docs/results.md" else [text]
    return {f"{name} {section.splitlines()[0]}": section for section in sections}


# At the start of a line of a block of commands.
PROGRAM = re.compile(r"^ *(python|pair-detr|torchrun) ", re.MULTILINE)
PARTS = {title: (name, text) for name in DOCUMENTS for title, text in parts_of(name).items()}


def code_blocks(text: str, language: str) -> list[str]:
    """Blocks of code in a language; shell commands have none."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in blocks if name == language]


def commands_of(text: str) -> list[str]:
    """Blocks of commands, less those that install."""
    blocks = [block for block in code_blocks(text, "") if PROGRAM.search(block)]
    kept = [re.sub(r"^(make|source|pip) .*\n", "", block, flags=re.MULTILINE) for block in blocks]
    # One seed shows as much as several, but in figures of all of them.
    kept = [b if "plot_training" in b else re.sub(r"for seed in (\d+)[ \d]*;", r"for seed in \1;", b) for b in kept]
    # A training of one step has no checkpoints from its midst.
    return [re.sub(r"model_(\d{7}|best)\.pth", "model_final.pth", block) for block in kept]


def write_code(text: str) -> None:
    """Writes the blocks of code whose first line is a comment with a file name, as in "# my.yaml"."""
    for language in ("python", "yaml"):
        for code in code_blocks(text, language):
            if name := re.match(r"# (\w+\.(?:py|yaml))\n", code):
                Path(name[1]).write_text(code)


def custom_data(run: Callable[[str], None]) -> None:
    """my.yaml, and the data that it names."""
    write_code(DOCUMENTS["docs/datasets.md"].read_text())
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


def published_weights(run: Callable[[str], None]) -> None:
    run(
        "python train_net.py --config-file configs/conditional_detr/r50.yaml\n"
        "python -m pair_detr.tools.convert_weights output/conditional_detr/r50/model_final.pth ConditionalDETR_r50.pth "
        "--reverse official"
    )


def cards(run: Callable[[str], None]) -> None:
    for split in ("train", "valid"):
        folder = Path("cards", split)
        boxes = [{"image_id": 1 + i, "bbox": [5, 5, 20, 15], "category_id": 1 + i % 2} for i in range(8)]
        write_coco(folder, boxes, [(60, 40)] * 8).rename(folder / "_annotations.coco.json")


def weights_of_the_zoo(run: Callable[[str], None]) -> None:
    """Which cannot be downloaded: document_server.py takes this file for them."""
    run("pair-detr train --data cards --output zoo\ncp zoo/model_final.pth zoo.pth")


def detector_weights(run: Callable[[str], None]) -> None:
    run("python train_net.py --config-file configs/r50.yaml")


def text_encoder(run: Callable[[str], None]) -> None:
    # The width of its embeddings is that of the model whose name the file has.
    torch.save(CLIP(**TINY_CLIP | {"embed_dim": 512}).state_dict(), "ViT-B-32.pt")
    Path("coco_clip_a+cname.npy").symlink_to("../shared/clip_text_weights/coco_clip_a+cname.npy")


def photos_and_video(run: Callable[[str], None]) -> None:
    Path("photos").mkdir()
    Path("more/trip").mkdir(parents=True)
    for file in ("photo.jpg", "photos/1.jpg", "more/trip/2.jpg"):
        write_image(Path(file), 60, 40)
    video = VideoFile(Path("clip.mp4"), fps=5)
    video.write(np.zeros((48, 64, 3), dtype=np.uint8))
    video.close()


def shapes(run: Callable[[str], None]) -> None:
    run("python -m pair_detr.tools.make_shapes --val 100")


def quickstart_weights(run: Callable[[str], None]) -> None:
    run(
        "python -m pair_detr.tools.make_shapes\n"
        "python train_net.py --config-file configs/quickstart.yaml OUTPUT_DIR output/quickstart/pair_detr"
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm_start: None) -> Iterator[Path]:
    """The address of document_server.py; its folders are those of its requests."""
    folder = tmp_path_factory.mktemp("server")
    address = folder / "socket"
    process = start_program(str(ROOT / "tests/document_server.py"), str(address), output=folder)
    try:
        while not address.exists() and process.is_alive():
            time.sleep(0.1)
        assert process.is_alive(), (folder / "stderr").read_text()
        yield address
    finally:
        kill(process)


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
    if document == "docs/app.md":
        pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
    folder = tmp_path / "repository"
    for path in ("bin", "docs", "repository"):
        (tmp_path / path).mkdir()
    (folder / "docs/studies").mkdir(parents=True)
    for name in ("configs", "scripts", "train_net.py"):
        (folder / name).symlink_to(ROOT / name)
    # The data that there are before the commands make more.
    (tmp_path / "shared/datasets").mkdir(parents=True)
    for path in [*shared_dir.iterdir(), *(shared_dir / "datasets").iterdir()]:
        if path.name != "datasets":
            (tmp_path / "shared" / path.relative_to(shared_dir)).symlink_to(path)
    (folder / "datasets").symlink_to(tmp_path / "shared/datasets")
    for name, first in (("python", ""), ("pair-detr", "pair-detr "), ("torchrun", "torchrun ")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {ROOT / "tests/document_client.py"} {first}"$@"\n')
        program.chmod(0o755)
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
    write_code(text)
    for name in PREPARATION.get(document, ()):
        globals()[name](run)
    for block in commands:
        run(block)


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
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


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_no_command_is_left_out(document: Path) -> None:
    """What runs the commands knows them by their first word, in blocks without a language."""
    languages = re.findall(r"^ *```(\w+)$", document.read_text(), re.MULTILINE)
    assert set(languages) <= {"python", "yaml", "bibtex"}
    for block in code_blocks(document.read_text(), ""):
        if re.search(r"\bpython (\w+\.py|scripts|-m pair_detr\.(tools|studies)\.(?!NAME))", block):
            assert PROGRAM.search(block), block


def test_readme_is_short_and_leads_to_every_document() -> None:
    readme = DOCUMENTS["README.md"].read_text()
    assert len(readme.splitlines()) <= 150
    assert all(f"({name})" in readme for name in DOCUMENTS if name != "README.md")


def test_readme_tells_the_size_of_the_code() -> None:
    """To the hundred for the model, to the thousand for the rest; a tenth more or less is no reason to rewrite it."""
    readme = " ".join(DOCUMENTS["README.md"].read_text().split())
    core = int(re.search(r"The model itself is about ([\d,]+) lines", readme)[1].replace(",", ""))
    rest = int(re.search(r"Around it are another ([\d,]+) lines", readme)[1].replace(",", ""))
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "pair_detr").rglob("*.py")}
    of_core = sum(
        count
        for path, count in lines.items()
        if path.relative_to(ROOT / "pair_detr").parts[0] in ("layers", "modeling", "losses", "structures.py")
    )
    assert core == pytest.approx(of_core, rel=0.1)
    assert rest == pytest.approx(sum(lines.values()) - of_core, rel=0.1)


def test_places_that_people_change_are_marked_where_the_tour_says() -> None:
    tour = DOCUMENTS["docs/tour.md"].read_text()
    table = tour.split("| to add | go to |")[1].split("\n\n")[0]
    files = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\((\.\./[^)]+)\)", table)}
    marked = {path for path in (ROOT / "pair_detr").rglob("*.py") if "USER:" in path.read_text()}
    assert files == marked


def test_messages_of_detectron2_are_quoted_as_it_prints_them() -> None:
    """Without its compiled part, in the log of every run and where something needs that part."""
    install = DOCUMENTS["docs/install.md"].read_text()
    for module, message in (
        (coco_evaluation, "Fast COCO eval is not built"),
        (collect_env, "not built correctly"),
    ):
        assert message in inspect.getsource(module) and message in install
    with pytest.raises(ImportError) as error:
        create_dummy_class("DeformConv", "detectron2._C")()
    assert f"`{error.value}".rstrip(".") in install
    assert "detectron2._C" in inspect.getsource(collect_env) and "detectron2._C    not built correctly" in install
