from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pair_detr.config_files import load_config
from pair_detr.recipes.choices import Request, choose
from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware
from pair_detr.recipes.starting_point import Start

BLOOD = DataSummary(205, 3, 13.7, 28, 480, 4 / 3, 0.186, 0.083, have_masks=False)
STREETS = DataSummary(20_000, 8, 15.0, 120, 1080, 16 / 9, 0.05, 0.02, have_masks=False)
CPU = Hardware("cpu", "a CPU", 2)
GPU = Hardware("cuda", "a GPU", 16, memory=78.0, has_bf16=True)
SMALL_GPU = Hardware("cuda", "an old GPU", 4, memory=7.5)


def backbone() -> Start:
    return Start(load_config("recipes/small"), "ImageNet weights", "", {})


def detector(**changes: bool) -> Start:
    return replace(Start(load_config("finetune/r50"), "weights of a detector", "", {}, detects=True), **changes)


def values(
    data: DataSummary, machine: Hardware, start: Start, given: dict[str, Any] | None = None, **request: int
) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(data, machine, start, Request(**request), given or {})}


def reasons(data: DataSummary, machine: Hardware, start: Start, **request: int) -> dict[str, str]:
    return {choice.key: choice.reason for choice in choose(data, machine, start, Request(**request), {})}


def test_every_choice_has_its_reason_and_its_key_once() -> None:
    for start in (backbone(), detector()):
        for machine in (CPU, GPU, SMALL_GPU):
            choices = choose(BLOOD, machine, start, Request(), {})
            assert len({choice.key for choice in choices}) == len(choices)
            assert all(choice.reason for choice in choices)
            # They exist, and are of the right type.
            start.cfg.merge_from_list([part for choice in choices for part in (choice.key, choice.value)])


def test_blood_cells_on_a_cpu() -> None:
    assert values(BLOOD, CPU, backbone()) == {
        # 0.083 of 288 pixels are 24 pixels, one and a half cells of stride 16.
        "INPUT.MIN_SIZE_TRAIN": (288,),
        "INPUT.MAX_SIZE_TRAIN": 384,
        "INPUT.MIN_SIZE_TEST": 288,
        "INPUT.MAX_SIZE_TEST": 384,
        "MODEL.DETR.NUM_QUERIES": 100,
        "MODEL.DETR.LOSS.PRIOR_PROB": 0.1,
        "MODEL.DETR.DENSE.BOX_SIZE": 0.19,
        "SOLVER.IMS_PER_BATCH": 4,
        # 900 steps of 4 images, in whole epochs of 205; 70 percent of them are 12.6.
        "SOLVER.EPOCHS.MAX": 18,
        "SOLVER.EPOCHS.STEPS": (13,),
        "SOLVER.EPOCHS.EVAL_PERIOD": 3,
        "SOLVER.EPOCHS.CHECKPOINT_PERIOD": 3,
        "SOLVER.BASE_LR": 0.0005,
        "SOLVER.WARMUP_ITERS": 100,
        "DATALOADER.NUM_WORKERS": 0,
        "SEED": 0,
    }


def test_blood_cells_on_a_gpu() -> None:
    assert values(BLOOD, GPU, detector()) == {
        "SOLVER.IMS_PER_BATCH": 16,
        # 600 steps of 16 images.
        "SOLVER.EPOCHS.MAX": 47,
        "SOLVER.EPOCHS.STEPS": (33,),
        "SOLVER.EPOCHS.EVAL_PERIOD": 9,
        "SOLVER.EPOCHS.CHECKPOINT_PERIOD": 9,
        "SOLVER.BASE_LR": 0.0001,
        "SOLVER.WARMUP_ITERS": 100,
        "DATALOADER.NUM_WORKERS": 4,
        "SOLVER.AMP.ENABLED": True,
        "SEED": 0,
    }


@pytest.mark.parametrize(("small_side", "side"), [(0.2, 240), (0.1, 240), (0.075, 320), (0.06, 400), (0.01, 480)])
def test_small_objects_need_large_images(small_side: float, side: int) -> None:
    chosen = values(replace(BLOOD, small_side=small_side), CPU, backbone())
    assert chosen["INPUT.MIN_SIZE_TRAIN"] == (side,)
    assert chosen["INPUT.MIN_SIZE_TEST"] == side
    assert 0 <= chosen["INPUT.MAX_SIZE_TEST"] - side * 4 / 3 < 32


def test_images_are_not_enlarged_but_for_tiny_ones() -> None:
    small = replace(BLOOD, small_side=0.01, short_side=300)
    assert values(small, CPU, backbone())["INPUT.MIN_SIZE_TRAIN"] == (304,)
    tiny = replace(BLOOD, short_side=64)
    assert values(tiny, CPU, backbone())["INPUT.MIN_SIZE_TRAIN"] == (240,)


def test_crowded_images_need_queries() -> None:
    chosen = values(STREETS, CPU, backbone())
    assert chosen["MODEL.DETR.NUM_QUERIES"] == 250
    assert chosen["MODEL.DETR.LOSS.PRIOR_PROB"] == 0.06


def test_a_detector_keeps_its_network_and_its_sizes() -> None:
    on_cpu = values(BLOOD, CPU, detector())
    # Twice the stride, and so twice the pixels, but for the limit.
    assert on_cpu["INPUT.MIN_SIZE_TRAIN"] == (480,)
    assert values(replace(BLOOD, small_side=0.15), CPU, detector())["INPUT.MIN_SIZE_TRAIN"] == (320,)
    assert on_cpu["INPUT.RESIZE_CROP.ENABLED"] is False
    assert not any(key.startswith("MODEL.") for key in on_cpu)
    assert not any(key.startswith("INPUT.") for key in values(BLOOD, CPU, detector(fixes_sizes=True)))


def test_batches_fit_into_the_memory_and_into_the_data() -> None:
    assert values(STREETS, GPU, detector())["SOLVER.IMS_PER_BATCH"] == 16
    # 0.7 * 7.5 - 2 = 3.25 GiB for images of 800 x 1333 pixels, each 0.83 GiB in fp32, and the half of it in bfloat16.
    assert values(STREETS, SMALL_GPU, detector())["SOLVER.IMS_PER_BATCH"] == 2
    assert values(STREETS, replace(SMALL_GPU, has_bf16=True), detector())["SOLVER.IMS_PER_BATCH"] == 4
    assert values(STREETS, replace(SMALL_GPU, memory=2.0), detector())["SOLVER.IMS_PER_BATCH"] == 1
    # The small network's images are smaller: 480 x 864 pixels, 0.32 GiB.
    assert values(STREETS, SMALL_GPU, backbone())["SOLVER.IMS_PER_BATCH"] == 8
    assert values(replace(BLOOD, images=30), GPU, detector())["SOLVER.IMS_PER_BATCH"] == 2


def test_a_batch_has_the_reason_that_limits_it() -> None:
    key = "SOLVER.IMS_PER_BATCH"
    assert reasons(STREETS, GPU, detector())[key] == "more gains little"
    assert "8 GiB" in reasons(STREETS, SMALL_GPU, detector())[key]
    assert "30 images" in reasons(replace(BLOOD, images=30), GPU, detector())[key]
    assert reasons(BLOOD, CPU, backbone(), batch=2)[key] == "as on the command line"


def test_processes_share_a_batch() -> None:
    assert values(STREETS, GPU, detector(), processes=8)["SOLVER.IMS_PER_BATCH"] == 16
    assert values(STREETS, GPU, detector(), processes=2)["SOLVER.IMS_PER_BATCH"] == 16
    assert values(STREETS, CPU, backbone(), processes=2)["SOLVER.IMS_PER_BATCH"] == 8
    assert values(STREETS, CPU, backbone(), processes=3)["SOLVER.IMS_PER_BATCH"] == 12
    assert values(STREETS, GPU, detector(), processes=8)["DATALOADER.NUM_WORKERS"] == 2


def test_what_is_asked_for_counts() -> None:
    chosen = values(BLOOD, CPU, backbone(), epochs=3, batch=6)
    assert (chosen["SOLVER.EPOCHS.MAX"], chosen["SOLVER.IMS_PER_BATCH"]) == (3, 6)
    assert chosen["SOLVER.EPOCHS.STEPS"] == (2,)
    assert chosen["SOLVER.EPOCHS.EVAL_PERIOD"] == 1


def test_a_batch_has_no_more_images_than_there_are() -> None:
    with pytest.raises(ValueError, match="206 images, and there are 205"):
        values(BLOOD, CPU, backbone(), batch=206)
    assert values(BLOOD, CPU, backbone(), batch=205)["SOLVER.IMS_PER_BATCH"] == 205


def test_other_entries_follow_from_given_ones() -> None:
    larger = values(BLOOD, CPU, backbone(), {"INPUT.MIN_SIZE_TRAIN": (480,), "INPUT.MIN_SIZE_TEST": 400})
    assert (larger["INPUT.MAX_SIZE_TRAIN"], larger["INPUT.MAX_SIZE_TEST"]) == (640, 544)
    assert not larger.keys() & {"INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST"}
    batches = values(BLOOD, CPU, backbone(), {"SOLVER.IMS_PER_BATCH": 16})
    assert batches["SOLVER.BASE_LR"] == 0.001
    assert batches["SOLVER.EPOCHS.MAX"] == 71
    epochs = values(BLOOD, CPU, backbone(), {"SOLVER.EPOCHS.MAX": 40})
    assert (epochs["SOLVER.EPOCHS.STEPS"], epochs["SOLVER.EPOCHS.EVAL_PERIOD"]) == ((28,), 8)
    iterations = values(BLOOD, CPU, backbone(), {"SOLVER.MAX_ITER": 50})
    assert iterations["SOLVER.WARMUP_ITERS"] == 10
    assert not any(key.startswith("SOLVER.EPOCHS") for key in iterations)


@pytest.mark.parametrize("images", [1, 5, 60, 500, 5_000, 100_000])
@pytest.mark.parametrize("start", [backbone, detector])
def test_schedules_are_whole_for_any_number_of_images(images: int, start: Callable[[], Start]) -> None:
    for epochs in (0, 1, 2, 7):
        chosen = values(replace(BLOOD, images=images), CPU, start(), epochs=epochs, batch=1 if images < 4 else 0)
        length = chosen["SOLVER.EPOCHS.MAX"]
        # Detectron2 wants them within the training.
        assert all(0 < step < length for step in chosen["SOLVER.EPOCHS.STEPS"])
        assert bool(chosen["SOLVER.EPOCHS.STEPS"]) == (length > 1)
        assert 1 <= chosen["SOLVER.EPOCHS.EVAL_PERIOD"] <= length
        assert chosen["SOLVER.WARMUP_ITERS"] <= max(1, length * images / chosen["SOLVER.IMS_PER_BATCH"]) / 5
        if not epochs:
            assert length >= 6


def test_a_larger_batch_has_a_higher_rate() -> None:
    rates = [values(STREETS, CPU, backbone(), batch=batch)["SOLVER.BASE_LR"] for batch in (1, 4, 16)]
    assert rates == [0.00025, 0.0005, 0.001]
    assert values(STREETS, CPU, detector(), batch=4)["SOLVER.BASE_LR"] == 0.00005
