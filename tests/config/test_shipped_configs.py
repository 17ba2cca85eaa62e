"""Config files and keys: every file builds every variant, every key is explained, bad values are named."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from model_helpers import VARIANTS, default_cfg

import pair_detr.config
from pair_detr.config import validation
from pair_detr.config.bases import read_config_files
from pair_detr.config.schedule import flatten_content
from pair_detr.config_files import config_file, find_config, load_config
from pair_detr.data import check_input
from pair_detr.losses.criterion import SetCriterion
from pair_detr.modeling import DETR, ConditionalDETR, PairDETR
from pair_detr.modeling.meta_arch import DetectionTransformer

FOLDER = config_file("r50").parent
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))
COCO_MODELS = [
    f"{folder}{name}.yaml"
    for folder in ("", "conditional_detr/", "detr/")
    for name in ("r50", "r101", "dc5_r50", "dc5_r101", "panoptic_boxes_r50")
]
# The second stage, which trains the mask head.
MASK_MODELS = [
    f"{folder}{name}.yaml" for folder in ("", "conditional_detr/", "detr/") for name in ("segm_r50", "panoptic_r50")
]
FIXED_SIZE_MODELS = {"detr/fixed_1024_r50.yaml": (1024, 1024), "detr/voc_fixed_512_r50.yaml": (512, 512)}
CLASSES = {
    "pair_detr": (PairDETR, ["ClassTerm", "BoxTerm", "TopLeftTerm", "PairTerm"]),
    "conditional_detr": (ConditionalDETR, ["ClassTerm", "BoxTerm"]),
    "detr": (DETR, ["ClassTerm", "BoxTerm"]),
}


def merged(name: str) -> CfgNode:
    cfg = load_config(name)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    cfg.MODEL.DEVICE = "cpu"
    # Building needs no data, and texts have to be made first.
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.CLIP.TEXT_WEIGHTS = ""
    cfg.MODEL.CLIP.REGION.ENABLED = cfg.MODEL.DETR.IMAGE_LABELS.OBJECTNESS = False
    if cfg.MODEL.BACKBONE.NAME == "build_clip_backbone":
        # As for a trained detector, which needs no checkpoint of CLIP.
        cfg.MODEL.CLIP.CHECKPOINT, cfg.MODEL.WEIGHTS = "absent.pt", "trained.pth"
    cfg.MODEL.DETR.PANOPTIC.ENABLED = False
    return cfg


def build_fast(cfg: CfgNode) -> DetectionTransformer:
    """Builds without memory for the weights, where no weights are read from a file."""
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        if cfg.MODEL.TIMM.WEIGHTS and not Path(cfg.MODEL.TIMM.WEIGHTS).is_file():
            pytest.skip(f"{cfg.MODEL.TIMM.WEIGHTS} is absent")
        return build_model(cfg)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        # There, it takes almost half of the time to draw nothing.
        patch.setattr(torch.nn.init, "kaiming_normal_", lambda tensor, **_: tensor)
        return build_model(cfg)


def test_find_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("") == ""
    assert find_config("configs/quickstart.yaml") == str(config_file("quickstart"))
    assert find_config("quickstart") == str(config_file("quickstart"))
    with pytest.raises(FileNotFoundError, match="no_such"):
        find_config("configs/no_such.yaml")
    (tmp_path / "own.yaml").touch()
    assert find_config("own.yaml") == "own.yaml"


def test_load_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options count before the file, the file before the defaults; the result can be changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("MODEL: {DETR: {NUM_QUERIES: 7, ENC_LAYERS: 1}}\n")
    cfg = load_config("own.yaml", ["MODEL.DETR.ENC_LAYERS", "2"])
    model = cfg.MODEL.DETR
    assert (model.NUM_QUERIES, model.ENC_LAYERS, model.DEC_LAYERS) == (7, 2, default_cfg().MODEL.DETR.DEC_LAYERS)
    assert not cfg.is_frozen()
    assert load_config("detr/r50").MODEL.DETR.VARIANT == "detr"
    assert load_config("").MODEL.META_ARCHITECTURE == "DetectionTransformer"
    for content, error, message in (
        ("MODEL: {DETR: {QUERIES: 7}}", KeyError, r"own\.yaml: .*MODEL\.DETR\.QUERIES"),
        ("MODEL: {DETR: {NUM_QUERIES: many}}", ValueError, r"own\.yaml: .*MODEL\.DETR\.NUM_QUERIES"),
        ("MODEL: [", ValueError, r"own\.yaml is not valid YAML"),
    ):
        (tmp_path / "own.yaml").write_text(content)
        with pytest.raises(error, match=message):
            load_config("own.yaml")


def test_options_that_cannot_be_read() -> None:
    with pytest.raises(KeyError, match=r"no config key SOLVER\.BASELR; did you mean SOLVER\.BASE_LR"):
        load_config("r50", ["SOLVER.BASELR", "1"])
    with pytest.raises(ValueError, match=r"SOLVER\.MAX_ITER 5 SEED ends with a key"):
        load_config("r50", ["SOLVER.MAX_ITER", "5", "SEED"])


def test_the_promised_configs_exist() -> None:
    assert {*COCO_MODELS, *MASK_MODELS, *FIXED_SIZE_MODELS} <= set(FILES)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FILES)
def test_every_config_builds_every_variant(
    name: str, variant: str, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root)
    cfg = merged(name)
    cfg.MODEL.DETR.VARIANT = variant
    if cfg.MODEL.DETR.IMAGE_LABELS.LOSS == "pair_score" and variant != "pair_detr":
        # It takes two decoders.
        cfg.MODEL.DETR.IMAGE_LABELS.LOSS = "first"
    if cfg.MODEL.DETR.QUERY_SELECTION != "none" and variant == "detr":
        with pytest.raises(
            ValueError, match=r"QUERY_SELECTION is .* MODEL\.DETR\.VARIANT detr have no reference points"
        ):
            build_fast(cfg)
        return
    model = build_fast(cfg)
    detector, (of_class, of_box, *others) = CLASSES[variant]
    pair = cfg.MODEL.DETR.PAIR
    branches = {"OneToManyTerm": cfg.MODEL.DETR.DENSE.ENABLED, "DenoisingTerm": cfg.MODEL.DETR.DENOISING.GROUPS > 0}
    terms = [of_class, of_box, *(name for name, is_on in branches.items() if is_on)]
    if others:
        top_left, contrastive = others
        terms += ["OneToManyTerm"] * (pair.QUERIES_PER_OBJECT > 1) + [top_left]
        terms += [contrastive] * (pair.CONTRASTIVE_WEIGHT > 0)
    assert type(model.detector) is detector
    assert type(model.criterion) is SetCriterion
    expected = [*terms, "MaskTerm"] if model.detector.mask_head is not None else terms
    if cfg.MODEL.DETR.MASK.FREEZE_DETECTOR:
        # What is frozen has no losses.
        expected = ["MaskTerm"]
    assert [type(term).__name__ for term in model.criterion.terms] == expected


@pytest.mark.parametrize("name", COCO_MODELS)
def test_coco_configs_are_what_they_are_called(name: str) -> None:
    cfg = merged(name)
    folder, _, file = name.removesuffix(".yaml").rpartition("/")
    variant = folder or "pair_detr"
    assert variant == cfg.MODEL.DETR.VARIANT
    assert (100 if variant == "detr" else 300) == cfg.MODEL.DETR.NUM_QUERIES
    assert (101 if "r101" in file else 50) == cfg.MODEL.RESNETS.DEPTH
    assert (2 if "dc5" in file else 1) == cfg.MODEL.RESNETS.RES5_DILATION
    assert f"R-{cfg.MODEL.RESNETS.DEPTH}.pkl" in cfg.MODEL.WEIGHTS
    assert f"output/{variant}/{file}" == cfg.OUTPUT_DIR
    # 8 GPUs x 2 images; DC5 x 1.
    assert (8 if "dc5" in file else 16) == cfg.SOLVER.IMS_PER_BATCH


def test_pair_detr_adds_one_file_to_the_published_recipe() -> None:
    """Which says what lets it converge in fewer iterations, and nothing else."""
    added = flatten_content(yaml.safe_load((FOLDER / "bases/pair_detr.yaml").read_text()))
    for name in COCO_MODELS:
        if "/" in name:
            continue
        own, published = validation.flatten(load_config(name)), validation.flatten(load_config(f"bases/{name}"))
        changed = {key: value for key, value in own.items() if value != published[key]}
        assert changed.keys() - {"OUTPUT_DIR", "SOLVER.EPOCHS.STEPS"} == added.keys() - {"MODEL.DETR.VARIANT"}
        assert own["SOLVER.EPOCHS.STEPS"] == [0.7 * own["SOLVER.EPOCHS.MAX"]]
        assert all(own[key] == value for key, value in added.items())


@pytest.mark.parametrize("name", [name if "/" in name else f"bases/{name}" for name in COCO_MODELS])
def test_coco_configs_follow_the_published_recipe(name: str) -> None:
    cfg = merged(name)
    solver = cfg.SOLVER
    assert (
        "ADAMW",
        1e-4,
        pytest.approx(1e-5),
    ) == (solver.OPTIMIZER, solver.BASE_LR, solver.BASE_LR * solver.BACKBONE_MULTIPLIER)
    assert solver.WEIGHT_DECAY == solver.WEIGHT_DECAY_NORM == 1e-4
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "full_model", 0.1)
    # The schedules of the AP in docs/model_zoo.md.
    schedule = (500, (400,)) if name.startswith("detr/") else (50, (40,))
    assert (solver.EPOCHS.MAX, tuple(solver.EPOCHS.STEPS), solver.GAMMA) == (*schedule, 0.1)
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == (
        2,
        "FrozenBN",
        False,
    )
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == tuple(range(480, 801, 32))
    assert cfg.INPUT.MAX_SIZE_TRAIN == cfg.INPUT.MAX_SIZE_TEST == 1333
    resize_crop = cfg.INPUT.RESIZE_CROP
    assert (resize_crop.ENABLED, resize_crop.PROB) == (True, 0.5)
    assert (list(resize_crop.SCALES), list(resize_crop.SIZE_RANGE)) == ([400, 500, 600], [384, 600])
    assert (cfg.INPUT.FORMAT, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS) == ("RGB", False)
    assert pytest.approx([255 * x for x in (0.485, 0.456, 0.406)]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([255 * x for x in (0.229, 0.224, 0.225)]) == cfg.MODEL.PIXEL_STD
    model = cfg.MODEL.DETR
    assert (model.HIDDEN_DIM, model.NUM_HEADS, model.FFN_DIM) == (256, 8, 2048)
    # On attention weights as elsewhere.
    assert (model.DROPOUT, model.ATTENTION_DROPOUT) == (0.1, -1)
    assert (model.ENC_LAYERS, model.DEC_LAYERS, model.LOSS.DEEP_SUPERVISION) == (6, 6, True)


@pytest.mark.parametrize("name", MASK_MODELS)
def test_mask_configs_are_the_second_stage_of_those_of_boxes(name: str) -> None:
    cfg = load_config(name)
    folder, _, file = name.removesuffix(".yaml").rpartition("/")
    panoptic = file == "panoptic_r50"
    assert f"output/{folder or 'pair_detr'}/{file}" == cfg.OUTPUT_DIR
    first = load_config(f"{folder}/{'panoptic_boxes_r50' if panoptic else 'r50'}".removeprefix("/"))
    assert f"{first.OUTPUT_DIR}/model_final.pth" == cfg.MODEL.WEIGHTS
    # 25 epochs with a step after 15, as in DETR's code.
    assert (cfg.SOLVER.EPOCHS.MAX, tuple(cfg.SOLVER.EPOCHS.STEPS), cfg.SOLVER.BASE_LR) == (25, (15,), 1e-4)
    assert panoptic == cfg.MODEL.DETR.PANOPTIC.ENABLED
    assert cfg.DATASETS == first.DATASETS
    assert ("panoptic" in cfg.DATASETS.TRAIN[0]) == panoptic
    assert cfg.MODEL.MASK_ON
    assert cfg.MODEL.DETR.MASK.FREEZE_DETECTOR
    # Nothing else differs.
    for key in ("WEIGHTS", "MASK_ON"):
        cfg.MODEL[key] = first.MODEL[key]
    for key in ("MASK", "PANOPTIC"):
        cfg.MODEL.DETR[key] = first.MODEL.DETR[key]
    cfg.SOLVER.EPOCHS, cfg.OUTPUT_DIR = first.SOLVER.EPOCHS, first.OUTPUT_DIR
    # DETR's step, for the mask head.
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    cfg.SOLVER.LR_SCHEDULER_NAME = first.SOLVER.LR_SCHEDULER_NAME
    assert cfg == first


@pytest.mark.parametrize("name", FIXED_SIZE_MODELS)
def test_fixed_size_configs(name: str) -> None:
    cfg = load_config(name)
    assert f"output/{name.removesuffix('.yaml')}" == cfg.OUTPUT_DIR
    assert FIXED_SIZE_MODELS[name] == tuple(cfg.INPUT.FIXED_SIZE)
    check_input(cfg)
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY) == (1e-4, 1, 1e-4)
    assert (solver.EPOCHS.MAX, tuple(solver.EPOCHS.STEPS), solver.GAMMA) == (500, (400,), 0.1)
    # All else is the config of DETR on COCO.
    first = load_config("detr/r50")
    if name.startswith("detr/voc"):
        assert cfg.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval")
        assert cfg.DATASETS.TEST == ("voc_2007_test",)
        cfg.DATASETS = first.DATASETS
    assert cfg.DATASETS == first.DATASETS
    solver.EPOCHS, solver.BACKBONE_MULTIPLIER = first.SOLVER.EPOCHS, first.SOLVER.BACKBONE_MULTIPLIER
    cfg.INPUT.FIXED_SIZE, cfg.OUTPUT_DIR = first.INPUT.FIXED_SIZE, first.OUTPUT_DIR
    assert cfg == first


@pytest.mark.parametrize("name", [*COCO_MODELS, *MASK_MODELS])
def test_baselines_inherit_from_neutral_configs(name: str) -> None:
    """No variant's config builds on that of another, one file names it, and the schedule stands in the first line."""
    *bases, own = read_config_files(str(FOLDER / name), FOLDER)
    for base in bases:
        path = Path(base.path).resolve().relative_to(FOLDER.resolve())
        assert path.parts[0] in ("bases", "Base-COCO-DETR.yaml")
    stated = [
        content["VARIANT"]
        for file in (*bases, own)
        if "VARIANT" in (content := file.content.get("MODEL", {}).get("DETR", {}))
    ]
    assert stated == [load_config(name).MODEL.DETR.VARIANT]
    first_line = (FOLDER / name).read_text().splitlines()[0]
    assert f" {load_config(name).SOLVER.EPOCHS.MAX} epochs" in first_line


@pytest.mark.parametrize("name", COCO_MODELS)
def test_coco_configs_are_small_deltas(name: str) -> None:
    def leaves(node: dict[str, Any]) -> int:
        return sum(leaves(value) if isinstance(value, dict) else 1 for value in node.values())

    content = yaml.safe_load((FOLDER / name).read_text())
    assert content.pop("_BASE_")
    assert leaves(content) <= (5 if name.startswith("detr/") else 4)


def flatten(cfg: CfgNode, prefix: str = "cfg") -> set[str]:
    keys = set()
    for key, value in cfg.items():
        # A node without keys of its own is filled by the user.
        nested = isinstance(value, CfgNode) and len(value) > 0
        keys |= flatten(value, f"{prefix}.{key}") if nested else {f"{prefix}.{key}"}
    return keys


def test_every_key_is_explained() -> None:
    """A comment stands above each key of the project's, or above the group of lines that it is in."""
    config = pair_detr.config
    modules = (config.defaults, config.query_keys, config.clip_keys, config.solver_keys)
    sources = map(inspect.getsource, modules)
    lines = [line.strip() for source in sources for line in source.splitlines()]
    added = flatten(default_cfg()) - flatten(get_cfg())
    assert len(added) > 40
    for key in added:
        (number,) = (i for i, line in enumerate(lines) if line.startswith(f"{key} = "))
        while lines[number].startswith("cfg."):
            number -= 1
        assert lines[number].startswith("#"), f"{key} has no comment"


def test_defaults_train_pair_detr() -> None:
    cfg = load_config("")
    assert cfg.MODEL.META_ARCHITECTURE == "DetectionTransformer"
    assert cfg.MODEL.DETR.VARIANT == "pair_detr"
    assert ("cuda" if torch.cuda.is_available() else "cpu") == cfg.MODEL.DEVICE


def test_configs_name_no_machine() -> None:
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert not re.search(r"(?<![\w.])/(home|work|root|usr|data)\b", text), name
