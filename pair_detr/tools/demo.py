"""Detects objects in images and videos, and draws them: ``python -m pair_detr.tools.demo``."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from pair_detr.data.image_input import as_format, open_file
from pair_detr.open_vocabulary import read_class_list
from pair_detr.predictor import Predictor
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_predictor,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.outputs import require_outputs, require_writable, writing
from pair_detr.visualization.coco_results import CocoResults
from pair_detr.visualization.detections import draw_detections
from pair_detr.visualization.media import Frames, VideoFile, find_media, is_video
from pair_detr.visualization.opencv import require_opencv

logger = tool_logger("demo")

RESULTS = "results.json"
_WEBCAM = "webcam.mp4"
# A container's number of frames is an estimate.
_MISSING_FRAMES = 0.05


class Demo:
    """Detects in one image after the other; keeps what is above the confidence."""

    def __init__(self, predictor: Predictor, confidence: float) -> None:
        self._predictor = predictor
        self._confidence = confidence
        names = predictor.metadata.thing_classes
        self.results = CocoResults(names, predictor.category_ids)
        if predictor.category_ids is None:
            logger.info(
                "Category ids in %s are 1 to %d: neither the checkpoint nor a dataset of the config says which ids "
                "the classes have in their data.",
                RESULTS,
                len(names),
            )

    def detect(self, image: Image.Image | np.ndarray, name: str, **details: Any) -> np.ndarray:
        """Detects in an image or a BGR frame, takes note of the result under ``name``, and returns an RGB picture."""
        outputs = self._predictor(image)
        outputs["instances"] = instances = outputs["instances"].to("cpu")
        outputs["instances"] = instances = instances[instances.scores >= self._confidence]
        self.results.add(name, instances, **details)
        return draw_detections(as_format(image, "BGR"), outputs, self._predictor.metadata)

    def image(self, file: Path, output: Path) -> None:
        """Draws an image."""
        picture = Image.fromarray(self.detect(open_file(file), str(file)))
        with writing(output) as temporary:
            picture.save(temporary, quality=92)

    def video(self, source: Path | int, output: Path, limit: int | None = None) -> None:
        """Draws a video, frame by frame."""
        frames = Frames(source)
        name = f"webcam {source}" if isinstance(source, int) else str(source)
        total = frames.expected if limit is None else min(limit, frames.expected or limit)
        count = 0
        with writing(output) as temporary:
            video = VideoFile(temporary, frames.fps)
            try:
                for frame in tqdm(
                    itertools.islice(frames, limit), name, total, unit="frame", leave=False, disable=None
                ):
                    video.write(self.detect(frame, name, frame=count))
                    count += 1
            except KeyboardInterrupt:
                if not isinstance(source, int):
                    raise
                logger.info("Stopped after %d frames.", count)
            finally:
                video.close()
            if count == 0:
                raise OSError(f"{name} has no frames: replace it, or remove it from the inputs.")
        if total is not None and isinstance(source, Path) and count < (1 - _MISSING_FRAMES) * total:
            raise OSError(f"{name} ends after {count} of {total} frames, which were drawn: the file is damaged.")


def name_outputs(files: Sequence[Path], folder: Path) -> list[Path]:
    """Where to draw each file: under its name, numbered where several have the same one.

    Raises:
        ValueError: a picture would replace an input.
    """
    outputs: dict[Path, None] = {}
    for file in files:
        suffix = ".mp4" if is_video(file) else ".jpg" if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        names = itertools.chain([file.stem], (f"{file.stem}_{number}" for number in itertools.count(2)))
        outputs[next(path for name in names if (path := folder / f"{name}{suffix}") not in outputs)] = None
    inputs = {file.resolve() for file in files}
    if replaced := [output for output in outputs if output.resolve() in inputs]:
        raise ValueError(f"--output: {replaced[0]} is one of the inputs; choose a folder without them.")
    return list(outputs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 1 if an input could not be read.
    """
    parser = tool_parser(
        "Detects objects in images, folders, patterns and videos. Writes a picture or video for each, and one file in "
        f"COCO's format, {RESULTS}, with all detections. An input that cannot be read is named, the others go on, and "
        "the exit status is 1.",
        "demo --config-file quickstart --weights output/quickstart/pair_detr/model_final.pth --input photos/ clip.mp4 "
        '"more/**/*.jpg" --output out',
    )
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="PATH", help="images, videos, folders or quoted patterns")
    source.add_argument(
        "--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help="film until Ctrl-C; 0 is the first webcam"
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="FOLDER", help="for the results")
    parser.add_argument(
        "--vocabulary", metavar="CLASSES", help='for models with text weights: "cat,traffic cone", coco, lvis or a file'
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.5,
        help="least score of a detection, 0 to 1; that of panoptic segments is MODEL.DETR.PANOPTIC.SCORE_THRESHOLD",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="of a video or webcam")
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if not 0 <= args.confidence <= 1:
        parser.error(f"--confidence {args.confidence}: it must be from 0 to 1")
    if args.max_frames is not None and args.max_frames < 1:
        parser.error(f"--max-frames {args.max_frames}: it must be 1 or more")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file: name a folder")
    require_opencv()
    files = find_media(args.input) if args.input else []
    outputs = name_outputs(files, args.output)
    pictures = outputs if args.webcam is None else [args.output / _WEBCAM]
    require_outputs([*pictures, args.output / RESULTS], overwrite=args.overwrite)
    predictor = load_predictor(args, list(read_class_list(args.vocabulary)) if args.vocabulary else None)
    demo = Demo(predictor, args.confidence)

    problems = []
    if args.webcam is not None:
        demo.video(args.webcam, args.output / _WEBCAM, args.max_frames)
    for file, output in zip(tqdm(files, "inputs", unit="file", disable=None), outputs, strict=True):
        try:
            if is_video(file):
                demo.video(file, output, args.max_frames)
            else:
                demo.image(file, output)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            # Else, on a disk that has become full, each of the others would be detected in for nothing.
            require_writable(args.output)
    demo.results.write(args.output / RESULTS)
    for problem in problems:
        logger.error("%s", problem)
    logger.info(
        "%d detections of at least %g in %d images or frames: pictures and %s in %s",
        demo.results.num_detections,
        args.confidence,
        demo.results.num_images,
        RESULTS,
        args.output,
    )
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
