"""Keys without effect: none of the package's configs has one, and the table agrees with what is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from data_helpers import restored_catalogs
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from engine_helpers import default_config, tiny_config, tiny_options, write_dataset
from model_helpers import VARIANTS, tiny_cfg

from pair_detr.config.conflicts import conflicts
from pair_detr.config.idle_keys import IDLE
from pair_detr.config.validation import check_config, flatten, idle_keys
from pair_detr.config_files import config_file, load_config
from pair_detr.engine import Trainer
from pair_detr.predictor import Predictor
from pair_detr.tools.common import load_model_config, tool_parser

FOLDER = config_file("r50").parent
OF_LABELS = ("DATALOADER.SAMPLER_TRAIN", "MultiDatasetSampler")
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with restored_catalogs():
        yield write_dataset(tmp_path_factory.mktemp("dataset"), "config_checks")


def config(*options: Any) -> CfgNode:
    return load_config("", [str(option) for option in options])


@pytest.mark.parametrize("name", FILES)
def test_the_package_s_configs_have_none(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those of a variant's own, and those for all variants with each."""
    for variant in VARIANTS if name.startswith("bases/") and name != "bases/pair_detr.yaml" else [None]:
        options = ["MODEL.DETR.VARIANT", variant] if variant else []
        check_config(load_config(name, [*options, "MODEL.DETR.NUM_CLASSES", "3"]))
    assert not caplog.text


def test_what_a_run_has_written_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """YAML has lists where the defaults have tuples, inside of others as well."""
    file = tmp_path / "config.yaml"
    file.write_text(config("MODEL.DETR.NUM_CLASSES", 3).dump())
    check_config(load_config(str(file)))
    assert not caplog.text


def test_defaults_have_none(caplog: pytest.LogCaptureFixture) -> None:
    check_config(default_config())
    assert not caplog.text


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.DETR.NUM_CLASSES"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5, "instances.scores"),
        ("MODEL.RETINANET.SCORE_THRESH_TEST", 0.5, "instances.scores"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.7, "suppresses no"),
        ("MODEL.RPN.NMS_THRESH", 0.9, "suppresses no"),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "FEDERATED_CLASSES"),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "MODEL.DETR.LOSS.CLASSIFICATION focal"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6), "MODEL.DETR"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8]], "MODEL.DETR"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.DETR"),
        ("MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.DETR.PANOPTIC"),
        ("MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", 0.1, "MODEL.DETR.PANOPTIC"),
        ("MODEL.FPN.OUT_CHANNELS", 64, "no FPN"),
        ("DATASETS.PROPOSAL_FILES_TRAIN", ("a",), "MODEL.DETR"),
        ("TEST.AUG.MIN_SIZES", (400,), "no test-time augmentation"),
        ("TEST.KEYPOINT_OKS_SIGMAS", [0.1], "no keypoints"),
        ("INPUT.CROP.SIZE", [0.5, 0.5], "INPUT.RESIZE_CROP"),
        ("INPUT.MASK_FORMAT", "bitmask", "any format"),
        ("INPUT.MOSAIC.PROB", 1.0, "INPUT.MOSAIC.ENABLED is False"),
        ("INPUT.LARGE_SCALE_JITTER.SCALE_RANGE", [0.5, 1.0], "ENABLED is False"),
        ("VIS_PERIOD", 100, "visualize_data"),
        ("SOLVER.MOMENTUM", 0.5, "OPTIMIZER is ADAMW"),
        ("SOLVER.NESTEROV", True, "OPTIMIZER is not SGD"),
        ("SOLVER.AMP.DTYPE", "float16", "SOLVER.AMP.ENABLED is False"),
        ("SOLVER.WARMUP_FACTOR", 0.1, "WARMUP_ITERS is 0"),
        ("SOLVER.BASE_LR_END", 1e-6, "WarmupCosineLR"),
        ("MODEL.TIMM.NAME", "resnet18", "build_timm_backbone"),
        ("MODEL.CONVNET.CHANNELS", [8], "build_convnet_backbone"),
        ("MODEL.CLIP.VOCABULARY", "coco", "TEXT_WEIGHTS is empty"),
        ("MODEL.DETR.LOSS.NO_OBJECT_WEIGHT", 0.2, "focal"),
        ("MODEL.DETR.LOSS.DICE", 2.0, "MASK_ON is False"),
        ("MODEL.DETR.LOSS.FEDERATED_POWER", 1.0, "FEDERATED_CLASSES is 0"),
        ("MODEL.DETR.IMAGE_LABELS.WEIGHT", 1.0, "MultiDatasetSampler"),
        ("DATALOADER.DATASET_RATIO", [1, 2], "MultiDatasetSampler"),
        ("DATALOADER.REPEAT_THRESHOLD", 0.1, "RepeatFactorTrainingSampler"),
        ("TEST.PRECISE_BN.ENABLED", True, "frozen"),
    ],
)
def test_what_is_set_without_effect_is_said(
    key: str, value: Any, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_config(config(key, value))
    (record,) = caplog.records
    title, line = record.message.splitlines()
    assert title == "What is set here has no effect:"
    assert line.startswith(f"{key} {list(value) if isinstance(value, list) else value}: ")
    assert remedy in line


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("MODEL.BACKBONE.NAME", "build_convnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 3), "MODEL.BACKBONE.FREEZE_AT"),
        (("MODEL.BACKBONE.NAME", "build_convnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0), None),
        (
            ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.RESNETS.RES5_DILATION", 2),
            "MODEL.RESNETS.RES5_DILATION",
        ),
        (("MODEL.RESNETS.RES5_DILATION", 2), None),
        (("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", 64), None),
        (("MODEL.DETR.VARIANT", "detr", "MODEL.DETR.PAIR.TEMPERATURE", 1.0), "MODEL.DETR.PAIR.TEMPERATURE"),
        (("MODEL.DETR.PAIR.TEMPERATURE", 1.0), None),
        (("MODEL.DETR.VARIANT", "detr", "MODEL.DETR.LOSS.FOCAL_GAMMA", 1.0), "MODEL.DETR.LOSS.FOCAL_GAMMA"),
        (("MODEL.DETR.LOSS.FOCAL_GAMMA", 1.0), None),
        (("SOLVER.OPTIMIZER", "sgd", "SOLVER.MOMENTUM", 0.5), None),
        (("SOLVER.OPTIMIZER", "muon", "SOLVER.MOMENTUM", 0.5), None),
        (("SOLVER.OPTIMIZER", "muon", "SOLVER.NESTEROV", True), "SOLVER.NESTEROV"),
        (("SOLVER.GAMMA", 0.5), None),
        (("SOLVER.LR_SCHEDULER_NAME", "WarmupStableDecayLR", "SOLVER.GAMMA", 0.5), "SOLVER.GAMMA"),
        (("SOLVER.LR_SCHEDULER_NAME", "WarmupStableDecayLR", "SOLVER.BASE_LR_END", 1e-6), None),
        (("SOLVER.WARMUP_FACTOR", 0.1, "SOLVER.WARMUP_ITERS", 10), None),
        (("INPUT.MOSAIC.PROB", 1.0, "INPUT.MOSAIC.ENABLED", True), None),
        (("INPUT.RESIZE_CROP.ENABLED", False), None),
        (("MODEL.CLIP.TEXT_WEIGHTS", "a.npy", "MODEL.CLIP.VOCABULARY", "coco"), None),
        (("MODEL.RESNETS.NORM", "BN", "TEST.PRECISE_BN.ENABLED", True), None),
        (
            (*OF_LABELS, "MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS", True),
            "MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS",
        ),
        ((*OF_LABELS, "MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS", True, "MODEL.RESNETS.NORM", "BN"), None),
        (("TEST.DETECTIONS_PER_IMAGE", 300, "MODEL.DETR.NUM_CLASSES", 2, "MODEL.DETR.NUM_QUERIES", 150), None),
        (("TEST.DETECTIONS_PER_IMAGE", 301, "MODEL.DETR.NUM_CLASSES", 2, "MODEL.DETR.NUM_QUERIES", 150), "150 times 2"),
        (("TEST.DETECTIONS_PER_IMAGE", 301, "MODEL.DETR.VARIANT", "detr"), "NUM_QUERIES 300"),
        (("TEST.DETECTIONS_PER_IMAGE", 300, "MODEL.DETR.VARIANT", "detr"), None),
        (("MODEL.DETR.VARIANT", "detr", "MODEL.DETR.NUM_QUERIES", 20), None),
    ],
)
def test_what_has_an_effect_depends_on_other_keys(
    options: tuple[Any, ...], key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    check_config(config(*options))
    assert len(caplog.records) == (key is not None)
    if key is not None:
        assert key in caplog.text


@pytest.mark.parametrize("key", ["TEST.AUG.ENABLED", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_what_would_change_the_results_is_refused(key: str, dataset: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{key} is True, but .*set it to False"):
        check_config(config(key, True))
    # Before the data are read or the model is built.
    with pytest.raises(ValueError, match=rf"{key} is True"):
        Trainer(tiny_config(dataset, tmp_path, **{key.replace(".", "__"): True}))
    (tmp_path / "config.yaml").write_text("MODEL: {DEVICE: cpu}")
    parser = tool_parser("A tool.", "tool")
    parser.set_defaults(config_file=str(tmp_path / "config.yaml"), opts=[key, "True"])
    with pytest.raises(ValueError, match=rf"{key} is True"):
        load_model_config(parser.parse_args([]))


class Recording(CfgNode):
    """A config that takes note of what is read."""

    seen: ClassVar[set[str]] = set()

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if not isinstance(value, CfgNode):
            self.seen.add(self.__dict__["path"] + key)
        return value


def recording(cfg: CfgNode, path: str = "") -> Recording:
    node = Recording()
    node.__dict__.update(cfg.__dict__, path=path)
    for key, value in cfg.items():
        dict.__setitem__(node, key, recording(value, f"{path}{key}.") if isinstance(value, CfgNode) else value)
    return node


def test_the_table_agrees_with_what_is_read(dataset: dict[str, str], tmp_path: Path) -> None:
    """Every key of Detectron2's is read in a training, or in the table: then never, or under conditions."""
    changes: dict[str, Any] = {
        "SOLVER__MAX_ITER": 2,
        "DATASETS__TEST": (dataset["NAME"],),
        "DATALOADER__SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "TEST__PRECISE_BN__ENABLED": True,
        "TEST__PRECISE_BN__NUM_ITER": 1,
    }
    Recording.seen.clear()
    cfg = recording(tiny_config(dataset, tmp_path, **changes))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    for changes in (
        {"OPTIMIZER": "SGD", "CLIP_GRADIENTS__CLIP_TYPE": "norm", "LR_SCHEDULER_NAME": "WarmupCosineLR"},
        {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR"},
    ):
        cfg = recording(tiny_config(dataset, tmp_path, **{f"SOLVER__{key}": value for key, value in changes.items()}))
        Trainer.build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, trainer.model))
    build_backbone(recording(default_config()))
    keys = flatten(get_cfg()).keys()
    always = {key for key in keys if any(entry.matches(key) and entry.applies.__name__ == "always" for entry in IDLE)}
    # A mapper of Detectron2 reads these three, two of which are refused and one replaced; and so for the crop.
    read_but_idle = {"MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS", "INPUT.MASK_FORMAT", "INPUT.CROP.ENABLED"}
    assert Recording.seen & always <= read_but_idle
    in_table = {key for key in keys if any(entry.matches(key) for entry in IDLE)}
    # Read from a dump by Detectron2's default_setup, or by the command line.
    elsewhere = {"VERSION", "CUDNN_BENCHMARK", "GLOBAL.HACK"}
    assert keys - Recording.seen - in_table == elsewhere


def test_what_a_run_warns_of_is_said_once(
    dataset: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Trainer(tiny_config(dataset, tmp_path, MODEL__ROI_HEADS__NUM_CLASSES=2, SOLVER__MOMENTUM=0.5))
    (record,) = (record for record in caplog.records if "has no effect" in record.message)
    assert [line.split()[0] for line in record.message.splitlines()[1:]] == [
        "MODEL.ROI_HEADS.NUM_CLASSES",
        "SOLVER.MOMENTUM",
    ]
    assert idle_keys(load_config("", tiny_options(dataset, tmp_path))) == {}


def test_predictors_say_it_once_and_refuse_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Detectron2's users set its threshold before they build a predictor."""
    cfg = tiny_cfg("detr")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.625
    for _ in range(2):
        Predictor(cfg)
    assert caplog.text.count("MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.625: ") == 1
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(ValueError, match=r"TEST\.AUG\.ENABLED is True, but there is no test-time augmentation"):
        Predictor(cfg)


def test_statistics_of_batches_with_labels_are_not_recomputed() -> None:
    values = {"TEST.PRECISE_BN.ENABLED": True, "MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS": True}
    assert any("TEST.PRECISE_BN.ENABLED is True" in fault for fault in conflicts(values))
    assert not list(conflicts(values | {"MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS": False}))
