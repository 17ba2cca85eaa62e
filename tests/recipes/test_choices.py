from dataclasses import replace

import pytest

from pair_detr.config_files import load_config
from pair_detr.recipes.choices import Request, choose
from pair_detr.recipes.data_summary import DataSummary
from pair_detr.recipes.hardware import Hardware
from pair_detr.recipes.starting_point import Start

BLOOD = DataSummary(205, 3, 13.7, 28, 480, 640, 0.186, 0.083, have_masks=False)
STREETS = DataSummary(20_000, 8, 15.0, 120, 1080, 1920, 0.05, 0.02, have_masks=False)
CPU = Hardware("cpu", "a CPU", 2)
GPU = Hardware("cuda", "a GPU", 16, memory=78.0, has_bf16=True)
SMALL_GPU = Hardware("cuda", "an old GPU", 4, memory=7.5)


def backbone() -> Start:
    return Start(load_config("recipes/small"), "ImageNet weights", "", {})


def detector(**changes: bool) -> Start:
    return replace(Start(load_config("finetune/r50"), "weights of a detector", "", {}, detects=True), **changes)


def values(data: DataSummary, machine: Hardware, start: Start, **request: int) -> dict[str, object]:
    return {choice.key: choice.value for choice in choose(data, machine, start, Request(**request))}


def test_every_choice_has_its_reason_and_its_key_once() -> None:
    for start in (backbone(), detector()):
        for machine in (CPU, GPU, SMALL_GPU):
            choices = choose(BLOOD, machine, start, Request())
            assert len({choice.key for choice in choices}) == len(choices)
            assert all(choice.reason for choice in choices)
            # They exist, and are of the right type.
            start.cfg.merge_from_list([part for choice in choices for part in (choice.key, choice.value)])


def test_blood_cells_on_a_cpu() -> None:
    chosen = values(BLOOD, CPU, backbone())
    # 0.083 of 288 pixels are 24 pixels, one and a half cells of stride 16.
    assert (chosen["INPUT.MIN_SIZE_TRAIN"], chosen["INPUT.MAX_SIZE_TRAIN"]) == ((288,), 384)
    assert chosen["MODEL.DETR.NUM_QUERIES"] == 100
    assert chosen["SOLVER.IMS_PER_BATCH"] == 4
    # 18 epochs of 51 steps.
    assert chosen["SOLVER.EPOCHS.MAX"] == 18
    assert "SOLVER.AMP.ENABLED" not in chosen


@pytest.mark.parametrize(("small_side", "side"), [(0.2, 240), (0.1, 240), (0.075, 320), (0.06, 400), (0.01, 480)])
def test_small_objects_need_large_images(small_side: float, side: int) -> None:
    chosen = values(replace(BLOOD, small_side=small_side), CPU, backbone())
    assert chosen["INPUT.MIN_SIZE_TRAIN"] == (side,)
    assert chosen["INPUT.MIN_SIZE_TEST"] == side
    assert chosen["INPUT.MAX_SIZE_TEST"] * 3 >= side * 4


def test_images_are_not_enlarged_but_for_tiny_ones() -> None:
    small = replace(BLOOD, small_side=0.01, height=300, width=300)
    assert values(small, CPU, backbone())["INPUT.MIN_SIZE_TRAIN"] == (304,)
    tiny = replace(BLOOD, height=96, width=64)
    assert values(tiny, CPU, backbone())["INPUT.MIN_SIZE_TRAIN"] == (240,)


def test_crowded_images_need_queries() -> None:
    chosen = values(STREETS, CPU, backbone())
    assert chosen["MODEL.DETR.NUM_QUERIES"] >= 2 * STREETS.most_objects
    assert chosen["MODEL.DETR.LOSS.PRIOR_PROB"] == pytest.approx(15 / chosen["MODEL.DETR.NUM_QUERIES"], abs=0.01)


def test_a_detector_keeps_its_network_and_its_sizes() -> None:
    chosen = values(BLOOD, GPU, detector())
    assert not any(key.startswith(("MODEL.", "INPUT.")) for key in chosen)
    assert chosen["SOLVER.AMP.ENABLED"] is True
    on_cpu = values(BLOOD, CPU, detector())
    assert on_cpu["INPUT.MIN_SIZE_TRAIN"] == (288,)
    assert on_cpu["INPUT.RESIZE_CROP.ENABLED"] is False
    assert not any(key.startswith("INPUT.") for key in values(BLOOD, CPU, detector(fixes_sizes=True)))


def test_a_detector_learns_at_a_lower_rate() -> None:
    lower = values(BLOOD, CPU, detector())["SOLVER.BASE_LR"]
    assert lower <= values(BLOOD, CPU, backbone())["SOLVER.BASE_LR"] / 5


def test_batches_fit_into_the_memory_and_into_the_data() -> None:
    assert values(STREETS, GPU, detector())["SOLVER.IMS_PER_BATCH"] == 16
    # 0.7 * 7.5 - 2 GiB for images of 800 x 1440 pixels, each 0.9 GiB in fp32, and the half of it in bfloat16.
    assert values(STREETS, SMALL_GPU, detector())["SOLVER.IMS_PER_BATCH"] == 2
    assert values(STREETS, replace(SMALL_GPU, has_bf16=True), detector())["SOLVER.IMS_PER_BATCH"] == 4
    assert values(STREETS, replace(SMALL_GPU, memory=2.0), detector())["SOLVER.IMS_PER_BATCH"] == 1
    assert values(replace(BLOOD, images=30), GPU, detector())["SOLVER.IMS_PER_BATCH"] == 2


def test_processes_share_a_batch() -> None:
    assert values(STREETS, GPU, detector(), processes=8)["SOLVER.IMS_PER_BATCH"] == 16
    assert values(STREETS, GPU, detector(), processes=2)["SOLVER.IMS_PER_BATCH"] == 16
    assert values(STREETS, CPU, backbone(), processes=2)["SOLVER.IMS_PER_BATCH"] == 8
    assert values(STREETS, CPU, backbone(), processes=3)["SOLVER.IMS_PER_BATCH"] % 3 == 0


def test_what_is_asked_for_counts() -> None:
    chosen = values(BLOOD, CPU, backbone(), epochs=3, batch=6)
    assert (chosen["SOLVER.EPOCHS.MAX"], chosen["SOLVER.IMS_PER_BATCH"]) == (3, 6)
    assert chosen["SOLVER.EPOCHS.EVAL_PERIOD"] == 1


@pytest.mark.parametrize("images", [1, 5, 60, 500, 5_000, 100_000])
@pytest.mark.parametrize("start", [backbone, detector])
def test_schedules_are_whole_for_any_number_of_images(images: int, start: object) -> None:
    for epochs in (0, 1, 2, 7):
        chosen = values(replace(BLOOD, images=images), CPU, start(), epochs=epochs)
        length = chosen["SOLVER.EPOCHS.MAX"]
        assert 1 <= chosen["SOLVER.EPOCHS.STEPS"][0] <= length
        assert 1 <= chosen["SOLVER.EPOCHS.EVAL_PERIOD"] <= length
        steps = length * images / chosen["SOLVER.IMS_PER_BATCH"]
        assert chosen["SOLVER.WARMUP_ITERS"] <= max(1, steps) / 5
        if not epochs:
            assert length >= 6


def test_a_larger_batch_has_a_higher_rate() -> None:
    rates = [values(STREETS, CPU, backbone(), batch=batch)["SOLVER.BASE_LR"] for batch in (1, 4, 16)]
    assert rates == [0.00025, 0.0005, 0.001]
