"""Draws docs/open_shapes.jpg: what detectors of docs/open_vocabulary.md find of classes without boxes.

``python scripts/draw_open_shapes.py BOXES LABELS COMPOSITION``, the output folders of three trainings: on boxes of the
holdout "shape", continued with image labels, and on boxes of the holdout "composition".
"""

import argparse
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from matplotlib.figure import Figure
from PIL import Image

from pair_detr import Predictor, load_config
from pair_detr.data import load_dataset
from pair_detr.drawing.detections import draw_detections
from pair_detr.utils.atomic import atomic_write

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "open_shapes.jpg"
PANELS = 4
# Larger, so that the labels are legible.
SCALE = 5
MIN_SCORE = 0.3


def main() -> None:
    """Runs the detectors on validation images with novel objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs=3, type=Path, metavar="FOLDER")
    folders = parser.parse_args().folders
    figure = Figure(figsize=(3.1 * PANELS, 9.8), layout="constrained")
    titles = "boxes only", "after image labels of circles", "no box of blue circles and red triangles"
    rows = zip(figure.subplots(3, PANELS), folders, titles, ("shape", "shape", "composition"), strict=True)
    for axes, folder, title, holdout in rows:
        predictor = Predictor(load_config(folder / "config.yaml", ["MODEL.WEIGHTS", str(folder / "model_final.pth")]))
        metadata = MetadataCatalog.get(f"open_shapes_{holdout}_val")
        for axis, record in zip(axes, images_with_novel_objects(f"open_shapes_{holdout}_val"), strict=True):
            image = Image.open(record["file_name"]).convert("RGB")
            found = predictor(record["file_name"])["instances"]
            large = image.resize((SCALE * image.width, SCALE * image.height), Image.Resampling.NEAREST)
            pixels = draw_detections(np.asarray(large)[:, :, ::-1], {"instances": enlarged(found)}, metadata)
            axis.imshow(pixels)
            axis.set_axis_off()
        axes[0].set_title(title, loc="left")
    with atomic_write(OUTPUT) as temporary:
        figure.savefig(temporary, dpi=80, pil_kwargs={"quality": 88})


def images_with_novel_objects(name: str) -> list[dict]:
    """The first images of a dataset in which at least two objects are novel, and one is not."""
    metadata = MetadataCatalog.get(name)
    novel = {metadata.thing_classes.index(own) for own in metadata.novel_classes}
    counts = [
        (record, [annotation["category_id"] in novel for annotation in record["annotations"]])
        for record in load_dataset(name)
    ]
    return [record for record, is_novel in counts if sum(is_novel) >= 2 and not all(is_novel)][:PANELS]


def enlarged(instances: Instances) -> Instances:
    """Confident detections, in pixels of the enlarged image."""
    kept = instances[instances.scores > MIN_SCORE]
    kept.pred_boxes.scale(SCALE, SCALE)
    return kept


if __name__ == "__main__":
    main()
