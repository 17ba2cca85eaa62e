"""Schedules in epochs."""

import logging

from detectron2.config import CfgNode, get_cfg

logger = logging.getLogger(__name__)

_SOLVER_KEYS = ("MAX_ITER", "STEPS", "CHECKPOINT_PERIOD")


def warn_of_ignored_iterations(cfg: CfgNode) -> None:
    """Warns of iterations that were set, but which ``SOLVER.EPOCHS`` replaces; call it before anything scales them."""
    if cfg.SOLVER.EPOCHS.MAX == 0:
        return
    default = get_cfg()
    ignored = [f"SOLVER.{key}" for key in _SOLVER_KEYS if cfg.SOLVER[key] != default.SOLVER[key]]
    if cfg.TEST.EVAL_PERIOD != default.TEST.EVAL_PERIOD:
        ignored.append("TEST.EVAL_PERIOD")
    if ignored:
        logger.warning(
            "%s do not count, as SOLVER.EPOCHS.MAX is %s: set SOLVER.EPOCHS.MAX 0 to count in iterations, or the keys "
            "under SOLVER.EPOCHS.",
            ", ".join(ignored),
            cfg.SOLVER.EPOCHS.MAX,
        )


def resolve_epochs(cfg: CfgNode, num_images: int) -> CfgNode:
    """Turns ``SOLVER.EPOCHS`` into iterations.

    Args:
        cfg: config; it is returned unchanged if ``SOLVER.EPOCHS.MAX`` is 0.
        num_images: images of the training set, after filtering. An epoch is ``num_images / IMS_PER_BATCH`` iterations;
            positions in the schedule are rounded to whole ones, but an epoch is not, so a long schedule does not drift.

    Returns:
        Copy of ``cfg`` with MAX_ITER, STEPS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD set, frozen as ``cfg`` was.

    Raises:
        ValueError: there are no images, or the steps do not ascend within the training.
    """
    epochs = cfg.SOLVER.EPOCHS
    if epochs.MAX == 0 and cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; it must be positive.")
    if epochs.MAX == 0:
        return cfg
    if num_images < 1:
        raise ValueError(f"No training images in DATASETS.TRAIN {cfg.DATASETS.TRAIN}.")
    steps = list(epochs.STEPS)
    if epochs.MAX < 0 or steps != sorted(set(steps)) or any(not 0 < step < epochs.MAX for step in steps):
        raise ValueError(
            f"SOLVER.EPOCHS.STEPS {steps} must ascend and lie between 0 and SOLVER.EPOCHS.MAX ({epochs.MAX})."
        )

    def iterations(number_of_epochs: float) -> int:
        return max(1, round(number_of_epochs * num_images / cfg.SOLVER.IMS_PER_BATCH))

    resolved = cfg.clone()
    resolved.defrost()
    max_iter = iterations(epochs.MAX)
    resolved.SOLVER.MAX_ITER = max_iter
    resolved.SOLVER.STEPS = tuple(iterations(step) for step in steps)
    # A period that is never reached: the end of the training writes a checkpoint of its own.
    never = max_iter + 1
    resolved.SOLVER.CHECKPOINT_PERIOD = iterations(epochs.CHECKPOINT_PERIOD) if epochs.CHECKPOINT_PERIOD > 0 else never
    resolved.TEST.EVAL_PERIOD = iterations(epochs.EVAL_PERIOD) if epochs.EVAL_PERIOD > 0 else 0
    logger.info(
        "%d epochs of %d images in batches of %d: %d iterations, learning rate steps at %s.",
        epochs.MAX,
        num_images,
        cfg.SOLVER.IMS_PER_BATCH,
        max_iter,
        resolved.SOLVER.STEPS,
    )
    if cfg.is_frozen():
        resolved.freeze()
    return resolved
