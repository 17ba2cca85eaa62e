"""Writes a report: a page with everything inside, its pictures as PNG files, and its numbers as JSON."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from pair_detr.report import figures
from pair_detr.report.averages import precision_recall
from pair_detr.report.content import Content
from pair_detr.report.image_outcomes import ImageOutcome, worst_and_best
from pair_detr.report.page import Picture, Section, embed_figure, embed_image, render
from pair_detr.report.pictures import beside, draw_outcome
from pair_detr.utils.json_files import finite_or_null
from pair_detr.utils.outputs import is_made_here, require_outputs, write_marked_json, writing

logger = logging.getLogger(__name__)

PAGE, NUMBERS = "report.html", "report.json"
FIGURES, IMAGES = "figures", "images"


def require_report(folder: Path, overwrite: bool = False) -> None:
    """Makes sure that a report can be written into a folder, where an earlier one is replaced.

    Raises:
        FileExistsError, OSError: see :func:`pair_detr.utils.outputs.require_outputs`.
    """
    earlier = [file for part in (FIGURES, IMAGES) for file in (folder / part).glob("*") if file.is_file()]
    require_outputs([folder / PAGE, folder / NUMBERS, *earlier], overwrite=overwrite)


def write_report(
    content: Content, images: Mapping[int, Mapping[str, Any]], about: Mapping[str, str], folder: Path, count: int = 8
) -> Path:
    """Draws and writes a report.

    Args:
        content: what it says.
        images: records of the images, with their "file_name", by the ids that they have in the evaluation.
        about: what was evaluated: lines of a table; "dataset" becomes the title.
        folder: to write into; pictures of an earlier report there are removed.
        count: of the worst images, and of the best.

    Returns:
        the page.

    Raises:
        OSError: an image cannot be read, or a file cannot be written.
    """
    drawn: dict[str, str] = {}
    written: list[Path] = []
    for name, figure in _figures(content):
        written.append(folder / FIGURES / f"{name}.png")
        with writing(written[-1]) as temporary:
            figure.savefig(temporary)
        drawn[name] = embed_figure(written[-1])
    worst, best = worst_and_best(content.images, count)
    progress = tqdm(total=len(worst) + len(best), desc="pictures", unit="image", disable=None)
    sections = []
    for kind, outcomes in (("worst", worst), ("best", best)):
        pictures = [
            _picture(content, outcome, images[outcome.image]["file_name"], folder / IMAGES / f"{kind}_{place:02}.png")
            for place, outcome in enumerate(_ticking(outcomes, progress), start=1)
        ]
        sections.append(Section(kind, pictures))
        written += [folder / IMAGES / f"{kind}_{place:02}.png" for place in range(1, len(pictures) + 1)]
    progress.close()
    files = {outcome.image: images[outcome.image]["file_name"] for outcome in content.images}
    numbers = {"info": dict(about), **content.numbers(), "images": [_row(x, files[x.image]) for x in content.images]}
    write_marked_json(finite_or_null(numbers), folder / NUMBERS)
    with writing(folder / PAGE) as temporary:
        temporary.write_text(render(content, about, drawn, sections), encoding="utf-8")
    # Not before the new report is whole.
    for part in (FIGURES, IMAGES):
        _remove_others(folder / part, written)
    return folder / PAGE


def _figures(content: Content) -> Iterator[tuple[str, Figure]]:
    evaluation, names = content.evaluation, content.class_names
    curves = {name: precision_recall(evaluation, index) for index, name in enumerate(names)}
    yield "thresholds", figures.draw_thresholds(content.curve)
    if content.lost is not None:
        yield "error_types", figures.draw_error_types(content.lost)
    yield "classes", figures.draw_classes(content.by_class)
    yield "sizes", figures.draw_sizes(content.by_size)
    yield "confusion", figures.draw_confusion(content.confusion, names)
    yield "precision_recall", figures.draw_precision_recall(precision_recall(evaluation), curves)
    yield "calibration", figures.draw_calibration(content.calibration)


def _picture(content: Content, outcome: ImageOutcome, file: str, output: Path) -> Picture:
    truth, found = draw_outcome(outcome, file, content.evaluation, content.class_names)
    with writing(output) as temporary:
        Image.fromarray(beside(truth, found)).save(temporary)
    return Picture(outcome, Path(file).name, embed_image(truth), embed_image(found))


def _row(outcome: ImageOutcome, file: str) -> dict[str, Any]:
    counts = {name: len(getattr(outcome, name)) for name in ("found", "missed", "correct", "wrong")}
    return {"file_name": file, **counts, "f1": outcome.f1}


def _ticking(outcomes: Sequence[ImageOutcome], progress: tqdm) -> Iterator[ImageOutcome]:
    for outcome in outcomes:
        yield outcome
        progress.update()


def _remove_others(folder: Path, kept: Collection[Path]) -> None:
    for file in folder.glob("*.png"):
        if file not in kept and is_made_here(file):
            file.unlink()
