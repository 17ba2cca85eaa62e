"""Detects objects in images and videos, and draws them: ``python -m pair_detr.tools.demo``."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from pair_detr.deployment.predictor import ExportedPredictor
from pair_detr.drawing.detections import draw_detections
from pair_detr.drawing.supervision import require_supervision
from pair_detr.images.inputs import as_format, open_file
from pair_detr.open_vocabulary import read_class_list
from pair_detr.predictor import Predictor
from pair_detr.runtime.sessions import SESSIONS
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_predictor,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.batched import predict_in_order
from pair_detr.utils.outputs import require_outputs, require_writable, writing
from pair_detr.visualization.coco_results import CocoResults
from pair_detr.visualization.media import Frames, VideoFile, find_media, is_video
from pair_detr.visualization.opencv import require_opencv

logger = tool_logger("demo")

RESULTS = "results.json"
_WEBCAM = "webcam.mp4"
# A container's number of frames is an estimate.
_MISSING_FRAMES = 0.05


# What ends an input, but not the demo.
_PROBLEMS = (OSError, ValueError)
_Image = Image.Image | np.ndarray


class Demo:
    """Detects in one batch of images after the other; keeps what is above the confidence."""

    def __init__(self, predictor: Predictor | ExportedPredictor, confidence: float, batch_size: int = 4) -> None:
        self._predictor = predictor
        self._confidence = confidence
        self._batch_size = batch_size
        names = predictor.metadata.thing_classes
        self.results = CocoResults(names, predictor.category_ids)
        if predictor.category_ids is None:
            logger.info(
                "Category ids in %s are 1 to %d: neither the checkpoint nor a dataset of the config says which ids "
                "the classes have in their data.",
                RESULTS,
                len(names),
            )

    def detect(
        self, sources: Iterable[Any], read: Callable[[Any], _Image], is_live: bool = False
    ) -> Iterator[tuple[_Image, dict[str, Any]] | Exception]:
        """Detects in images.

        Args:
            sources: of the images.
            read: called in threads: an image, or a BGR frame, of a source.
            is_live: take a source only when the one before it is done with.

        Yields:
            For each source the image, and the model's outputs for it, with instances above the confidence on the CPU;
            or what was wrong with it.
        """

        def prepare(source: Any) -> tuple[tuple[_Image, dict[str, Any]], tuple[int, int]]:
            image = read(source)
            prepared, size = self._predictor.prepare_sized(image)
            return (image, prepared), size

        def predict(batch: list[tuple[_Image, dict[str, Any]]]) -> list[tuple[_Image, dict[str, Any]]]:
            images, prepared = zip(*batch, strict=True)
            results = self._predictor.predict(list(prepared))
            for outputs in results:
                # Masks of all queries, of many images, would fill the memory.
                instances = outputs["instances"].to("cpu")
                outputs["instances"] = instances[instances.scores >= self._confidence]
            return list(zip(images, results, strict=True))

        size = 1 if is_live else self._batch_size
        # As many images at their full size are in memory.
        window = 1 if is_live else 2 * size
        return predict_in_order(sources, prepare, predict, size, window, returned_errors=_PROBLEMS)

    def draw(self, image: _Image, outputs: dict[str, Any], name: str, **details: Any) -> np.ndarray:
        """Takes note of what was detected in an image under ``name``, and returns an RGB picture of it."""
        self.results.add(name, outputs["instances"], **details)
        return draw_detections(as_format(image, "BGR"), outputs, self._predictor.metadata)

    def images(self, files: Sequence[Path], outputs: Sequence[Path]) -> Iterator[str | None]:
        """Draws images, and yields for each what was wrong with it; None if nothing was."""
        for file, output, found in zip(files, outputs, self.detect(files, open_file), strict=True):
            try:
                if isinstance(found, Exception):
                    raise found
                picture = Image.fromarray(self.draw(*found, str(file)))
                with writing(output) as temporary:
                    picture.save(temporary, quality=92)
            except _PROBLEMS as error:
                yield str(error)
            else:
                yield None

    def video(self, source: Path | int, output: Path, limit: int | None = None) -> None:
        """Draws a video, frame by frame."""
        frames = Frames(source)
        name = f"webcam {source}" if isinstance(source, int) else str(source)
        total = frames.expected if limit is None else min(limit, frames.expected or limit)
        count = 0
        detected = self.detect(itertools.islice(frames, limit), lambda frame: frame, is_live=isinstance(source, int))
        with writing(output) as temporary:
            video = VideoFile(temporary, frames.fps)
            try:
                for found in tqdm(detected, name, total, unit="frame", leave=False, disable=None):
                    if isinstance(found, Exception):
                        raise found
                    video.write(self.draw(*found, name, frame=count))
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


def draw_all(demo: Demo, files: Sequence[Path], outputs: Sequence[Path], limit: int | None) -> Iterator[str | None]:
    """Draws images and videos in their order, and yields for each what was wrong with it; None if nothing was."""
    for are_videos, group in itertools.groupby(zip(files, outputs, strict=True), lambda pair: is_video(pair[0])):
        pairs = list(group)
        if not are_videos:
            yield from demo.images(*zip(*pairs, strict=True))
            continue
        for file, output in pairs:
            try:
                demo.video(file, output, limit)
            except _PROBLEMS as error:
                yield str(error)
            else:
                yield None


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
        "demo --weights output/quickstart/pair_detr/model_final.pth --input photos/ clip.mp4 "
        '"more/**/*.jpg" --output out',
    )
    add_model_arguments(parser, required=False)
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="an exported model, in place of --config-file and --weights"
    )
    parser.add_argument("--backend", choices=list(SESSIONS), help="that computes an exported model, if not its own")
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
    parser.add_argument(
        "--batch-size",
        type=int,
        default=4,
        metavar="N",
        help="images of one aspect ratio, or frames of a video, to detect in at once; a webcam's are taken one by one",
    )
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if args.model is None and args.config_file is None and not args.weights:
        parser.error("give --weights, or --config-file, or the --model that was exported")
    if args.model is None and args.backend:
        parser.error("--backend is for an exported --model; PyTorch computes others")
    if args.model is not None and (args.config_file or args.weights or args.opts):
        parser.error("an exported --model has neither --config-file nor --weights nor --opts")
    if not 0 <= args.confidence <= 1:
        parser.error(f"--confidence {args.confidence}: it must be from 0 to 1")
    if args.max_frames is not None and args.max_frames < 1:
        parser.error(f"--max-frames {args.max_frames}: it must be 1 or more")
    if args.batch_size < 1:
        parser.error(f"--batch-size {args.batch_size}: it must be 1 or more")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file: name a folder")
    require_supervision()
    files = find_media(args.input) if args.input else []
    if args.webcam is not None or any(map(is_video, files)):
        require_opencv()
    outputs = name_outputs(files, args.output)
    pictures = outputs if args.webcam is None else [args.output / _WEBCAM]
    require_outputs([*pictures, args.output / RESULTS], overwrite=args.overwrite)
    vocabulary = list(read_class_list(args.vocabulary)) if args.vocabulary else None
    predictor: Predictor | ExportedPredictor
    if args.model is not None:
        predictor = ExportedPredictor(args.model, vocabulary, args.backend)
    else:
        predictor = load_predictor(args, vocabulary)
    demo = Demo(predictor, args.confidence, args.batch_size)

    problems = []
    if args.webcam is not None:
        demo.video(args.webcam, args.output / _WEBCAM, args.max_frames)
    drawn = draw_all(demo, files, outputs, args.max_frames)
    for problem in tqdm(drawn, "inputs", len(files), unit="file", disable=None):
        if problem is not None:
            problems.append(problem)
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
