"""Detects objects in images and videos, and draws them: ``python -m pair_detr.tools.demo``."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from pair_detr.deployment.predictor import ExportedPredictor
from pair_detr.drawing.supervision import require_supervision
from pair_detr.open_vocabulary import read_class_list
from pair_detr.prediction.formats import FORMATS
from pair_detr.prediction.media import Source, find_media, is_video
from pair_detr.prediction.names import name_outputs, unique_names
from pair_detr.prediction.opencv import require_opencv
from pair_detr.prediction.runner import Job, Runner
from pair_detr.prediction.tiles import BatchPredictor, TiledPredictor
from pair_detr.prediction.tracking import LOWEST_SCORE, require_trackers
from pair_detr.runtime.sessions import SESSIONS
from pair_detr.tools.common import (
    add_model_arguments,
    add_overwrite_argument,
    load_predictor,
    run,
    tool_logger,
    tool_parser,
)
from pair_detr.utils.outputs import require_outputs, require_writable

logger = tool_logger("demo")

_WEBCAM = "webcam"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 1 if an input could not be read.
    """
    args = _parse(arguments)
    sources = find_media(args.input, args.recursive, args.allow_urls, args.output) if args.input else []
    _require_packages(args, sources)
    jobs = _plan(args, sources)
    vocabulary = list(read_class_list(args.vocabulary)) if args.vocabulary else None
    predictor: BatchPredictor
    if args.model is not None:
        predictor = ExportedPredictor(args.model, vocabulary, args.backend)
    else:
        predictor = load_predictor(args, vocabulary)
    if args.tile:
        least = min(LOWEST_SCORE, args.confidence) if args.track else args.confidence
        predictor = TiledPredictor(predictor, args.tile, args.tile_overlap, args.batch_size, least)

    problems = []
    names = predictor.metadata.thing_classes
    with ExitStack() as stack:
        writers = [
            stack.enter_context(FORMATS[name](args.output, names, predictor.category_ids)) for name in args.format
        ]
        runner = Runner(predictor, args.confidence, writers, args.batch_size, args.track)
        if args.webcam is not None:
            runner.video(jobs[0], args.max_frames)
        else:
            done = runner.run(jobs, args.max_frames)
            for problem in tqdm(done, "inputs", len(jobs), unit="file", disable=None):
                if problem is not None:
                    problems.append(problem)
                    # Else, on a disk that has become full, each of the others would be detected in for nothing.
                    require_writable(args.output)
    for problem in problems:
        logger.error("%s", problem)
    if miss := runner.summary.describe_miss():
        logger.warning("%s", miss)
    logger.info(
        "%d detections of at least %g in %d images or frames: %s in %s (%s)",
        runner.summary.num_detections,
        args.confidence,
        runner.summary.num_images,
        " and ".join([*(() if args.no_pictures else ("pictures",)), *(writer.output for writer in writers)]),
        args.output,
        runner.summary.describe_speed(),
    )
    return 1 if problems else 0


def _require_packages(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    if not args.no_pictures or args.tile or "supervision" in args.format:
        require_supervision()
    has_frames = args.webcam is not None or any(map(is_video, sources))
    if has_frames:
        require_opencv()
    if args.track:
        if not has_frames:
            raise ValueError("--track follows objects through videos, but the inputs are images alone: leave it out.")
        require_trackers()


def _plan(args: argparse.Namespace, sources: Sequence[Source]) -> list[Job]:
    """What to do, after it is known that all outputs can be written and replace nothing of the user's."""
    if args.webcam is not None:
        jobs = [Job(args.webcam, _WEBCAM, None if args.no_pictures else args.output / f"{_WEBCAM}.mp4")]
    else:
        pictures = [None] * len(sources) if args.no_pictures else name_outputs(sources, args.output)
        jobs = [Job(*columns) for columns in zip(sources, unique_names(sources), pictures, strict=True)]
    videos = [job.name for job in jobs if isinstance(job.source, int) or is_video(job.source)]
    images = [job.name for job in jobs if not (isinstance(job.source, int) or is_video(job.source))]
    outputs = [job.picture for job in jobs if job.picture is not None]
    for name in args.format:
        outputs += FORMATS[name].files(args.output, images, videos)
    inputs = [source for source in sources if isinstance(source, Path)]
    require_outputs(outputs, overwrite=args.overwrite, inputs=inputs)
    return jobs


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(
        "Detects objects in images, folders, patterns and videos. Writes a picture or video for each, and all "
        "detections in files of the formats that are chosen. An input that cannot be read is named, the others go on, "
        "and the exit status is 1.",
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
    parser.add_argument("--recursive", action="store_true", help="of folders, also take what is in the folders in them")
    parser.add_argument(
        "--allow-urls", action="store_true", help="also take addresses of images (http, https), and download them"
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="FOLDER", help="for the results")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=list(FORMATS),
        default=["coco"],
        help="of the results: coco is results.json; yolo is labels/*.txt and classes.txt; csv is results.csv; "
        "supervision is detections.json, as by its JSONSink",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write results alone, which takes less time")
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
    parser.add_argument(
        "--track", action="store_true", help="number the objects of videos, by ByteTrack; needs the package trackers"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="detect in square tiles of that size of the images, for objects that are small in large ones",
    )
    parser.add_argument(
        "--tile-overlap", type=float, default=0.2, metavar="SHARE", help="of a tile that the next one has as well"
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
    if args.tile is not None and args.tile < 1:
        parser.error(f"--tile {args.tile}: it must be 1 or more")
    if not 0 <= args.tile_overlap < 1 or (args.tile and round(args.tile_overlap * args.tile) >= args.tile):
        parser.error(f"--tile-overlap {args.tile_overlap}: it must be from 0 to below 1")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file: name a folder")
    args.format = list(dict.fromkeys(args.format))
    return args


if __name__ == "__main__":
    run(main)
