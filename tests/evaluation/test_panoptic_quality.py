"""Panoptic quality of data in all their forms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import needs_panopticapi
from detectron2.data import MetadataCatalog
from engine_helpers import tiny_options
from panoptic_helpers import (
    assert_by_hand,
    cfg_for,
    edit,
    predictions,
    quality,
    register,
    things_alone,
)
from PIL import Image

from pair_detr.data import register_coco_panoptic
from pair_detr.data.datasets.panoptic_png import rgb_to_id
from pair_detr.engine import argument_parser, main
from pair_detr.evaluation.build import build_evaluator, require_test_set
from pair_detr.evaluation.panoptic import panoptic_annotations

pytestmark = pytest.mark.usefixtures("catalogs")


@needs_panopticapi
@pytest.mark.parametrize("form", ["RGB", "RGBA", "L", "I;16", "P", "palette of ids", "mixed"])
def test_quality_whatever_the_kind_of_pixels(tmp_path: Path, form: str) -> None:
    paths = register(tmp_path / "data")
    for number, file in enumerate(sorted(paths["SEGMENTS"].iterdir())):
        ids = rgb_to_id(np.asarray(Image.open(file)))
        kind = form if form != "mixed" else ("RGB", "L")[number]
        image = Image.fromarray(ids.astype(np.uint16 if kind == "I;16" else np.uint8))
        if kind == "P":
            image = image.convert("P")
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        elif kind == "palette of ids":
            image = Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE)
        elif kind in ("RGB", "RGBA"):
            image = Image.open(file).convert(kind)
        image.save(file)
        assert Image.open(file).mode == ("P" if kind == "palette of ids" else kind)
    cfg = cfg_for("own", tmp_path / "out")
    require_test_set(cfg, "own")
    assert_by_hand(quality(cfg, "own"))


@needs_panopticapi
def test_quality_without_area_and_crowds_and_with_names_that_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images a/x.png and b/x.png with ids as text; relative paths; things by true and false."""
    paths = register(tmp_path / "data")
    content = json.loads(paths["JSON"].read_text())
    for image, annotation, folder in zip(content["images"], content["annotations"], ("a", "b"), strict=True):
        for key in ("IMAGES", "SEGMENTS"):
            (paths[key] / folder).mkdir()
        (paths["IMAGES"] / image["file_name"]).rename(paths["IMAGES"] / folder / "x.png")
        (paths["SEGMENTS"] / annotation["file_name"]).rename(paths["SEGMENTS"] / folder / "x.png")
        image["file_name"] = annotation["file_name"] = f"{folder}/x.png"
        image["id"] = annotation["image_id"] = f"image {folder}"
        for segment in annotation["segments_info"]:
            del segment["area"]
            if not segment["iscrowd"]:
                del segment["iscrowd"]
    for category in content["categories"]:
        category["isthing"] = bool(category["isthing"])
    edit(paths["JSON"], **content)
    monkeypatch.chdir(tmp_path)
    folders = [str(paths[key].relative_to(tmp_path)) for key in ("JSON", "SEGMENTS", "IMAGES")]
    register_coco_panoptic("relative", *folders)
    cfg = cfg_for("relative", tmp_path / "out")
    require_test_set(cfg, "relative")
    assert_by_hand(quality(cfg, "relative"))
    file = tmp_path / "out" / "inference" / "relative" / "predictions.json"
    written = json.loads(file.read_text())
    assert [x["image_id"] for x in written["annotations"]] == ["image a", "image b"]
    assert [x["category_id"] for x in written["annotations"][0]["segments_info"]] == [9, 4, 2]
    assert [x["id"] for x in written["images"]] == ["image a", "image b"]
    evaluator = build_evaluator(cfg, "relative")
    evaluator.reset()
    records, outputs = predictions("relative")
    evaluator.process(records[:1], outputs[:1])
    with pytest.raises(ValueError, match=r'"relative": there are no predictions for 1 of its 2 images.*image b'):
        evaluator.evaluate()
    with pytest.raises(
        ValueError, match=r"predictions are made for image 5 \(c\.png\), which its ground truth has not"
    ):
        evaluator.process([{"image_id": 5, "file_name": "c.png"}], outputs[:1])


@needs_panopticapi
def test_training_ends_with_a_result(tmp_path: Path) -> None:
    """Of one-channel files with stuff by its quality, of things alone by AP, for boxes and for masks."""
    paths = register(tmp_path / "data")
    for file in paths["SEGMENTS"].iterdir():
        Image.fromarray(np.asarray(Image.open(file))[..., 0]).save(file)
    masks = {"MODEL__MASK_ON": True, "MODEL__DETR__PANOPTIC__ENABLED": True}

    def run(name: str, **changes: Any) -> dict[str, Any]:
        entry = {"NAME": name, "FORMAT": "coco_panoptic", **{key: str(path) for key, path in paths.items()}}
        changes |= {"DATASETS__TEST": (name,), "SOLVER__MAX_ITER": 1, "SOLVER__IMS_PER_BATCH": 2, "TEST__PICTURES": 1}
        options = tiny_options(entry, tmp_path / "out", **changes)
        return main(argument_parser().parse_args(["--num-gpus", "1", *options]))

    assert set(run("with_stuff", **masks, MODEL__DETR__PANOPTIC__SCORE_THRESHOLD=0.0)) == {"panoptic_seg"}
    things_alone(paths)
    Image.new("L", (48, 32)).save(paths["SEGMENTS"] / "seg12.png")
    assert set(run("things", **masks, TEST__EVALUATOR="coco")) == {"bbox", "segm"}
    assert set(run("things", TEST__EVALUATOR="coco")) == {"bbox"}


def test_segments_of_the_separated_form_as_other_programs_write_them(tmp_path: Path) -> None:
    segments = [{"id": 1, "category_id": 2, "iscrowd": value} for value in (None, "0", 0.0, "true", 1)]
    content = {"annotations": [{"image_id": "11", "file_name": "11.png", "segments_info": segments}]}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    metadata = MetadataCatalog.get("apart")
    metadata.set(panoptic_json=str(tmp_path / "panoptic.json"), panoptic_root=str(tmp_path))
    (annotation,) = panoptic_annotations("apart", [{"image_id": 11}])
    assert (annotation["image_id"], annotation["file_name"]) == (11, str(tmp_path / "11.png"))
    assert [segment["iscrowd"] for segment in annotation["segments_info"]] == [0, 0, 0, 1, 1]
