"""Text classifiers in every variant: training, exchange of the vocabulary, checkpoints, evaluation."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from engine_helpers import tiny_options, write_dataset
from model_helpers import VARIANTS, build, make_batch, tiny_cfg
from open_vocabulary_helpers import NAMES, PUBLISHED, build_text_model, make_vocabulary, text_cfg
from torch import Tensor

from pair_detr.checkpoint.checkpointer import AtomicCheckpointer
from pair_detr.checkpoint.weights import CheckpointError, load_weights, read_weights
from pair_detr.data import register_coco
from pair_detr.engine import argument_parser, main
from pair_detr.modeling.meta_arch import DetectionTransformer
from pair_detr.modeling.text_classifier import TextClassifier
from pair_detr.open_vocabulary import Vocabulary

SIZES = [(40, 48), (64, 96)]
CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("detr", {}),
    ("detr", {"LOSS__CLASSIFICATION": "focal"}),
    ("conditional_detr", {}),
    ("conditional_detr", {"LOSS__CLASSIFICATION": "softmax"}),
    ("pair_detr", {}),
    ("pair_detr", {"PAIR__CLASS_DECODER": "top_left"}),
    ("pair_detr", {"PAIR__CLASS_DECODER": "top_left", "PAIR__BOX_DECODING": "pair"}),
    (
        "pair_detr",
        {"PAIR__CLASS_DECODER": "top_left", "PAIR__TOP_LEFT_WEIGHT": 0.0, "PAIR__CONTRASTIVE_WEIGHT": 0.0},
    ),
]


@torch.no_grad()
def raw(model: DetectionTransformer, batch: list[dict]) -> tuple[Tensor, Tensor]:
    predictions = model.eval().detector(model.preprocess(batch))
    return predictions.logits[-1], predictions.boxes[-1]


@pytest.mark.parametrize(("variant", "options"), CHOICES)
def test_every_variant_trains(tmp_path: Path, variant: str, options: dict[str, Any]) -> None:
    model = build_text_model(tmp_path, variant, **options)
    assert isinstance(model.detector.class_head, TextClassifier)
    assert model.vocabulary == NAMES
    for counts in ((2, 3), (0, 0)):
        model.zero_grad(set_to_none=True)
        losses = model(make_batch(SIZES, counts))
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            # Otherwise DistributedDataParallel waits for a parameter for ever.
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert model.detector.class_head.projection.weight.grad.any()
    softmax = "softmax" in (options.get("LOSS__CLASSIFICATION"), "softmax" if variant == "detr" and not options else "")
    assert raw(model, make_batch(SIZES, (0, 0)))[0].shape[-1] == (4 if softmax else 3)
    detections = model(make_batch(SIZES, (0, 0)))[0]["instances"]
    assert detections.pred_classes.max() < 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_loss_is_that_of_a_linear_model(shared_dir: Path, variant: str) -> None:
    """COCO's published texts, 300 queries and 7 boxes, with the queries and states of a fresh model."""
    cfg = tiny_cfg(variant, NUM_QUERIES=300, HIDDEN_DIM=256, NUM_HEADS=8, NUM_CLASSES=80)
    batch = make_batch([(64, 96)], [7])
    linear = build(cfg, randomize=False)(batch)
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(shared_dir / "clip_text_weights" / PUBLISHED["coco"][0])
    cfg.MODEL.CLIP.VOCABULARY = "coco"
    text = build(cfg, randomize=False)(batch)
    assert text["loss_class"] < 1.5 * linear["loss_class"]
    assert text["loss_class_aux"] < 1.5 * linear["loss_class_aux"]


def test_prior_and_logit_scale_come_from_the_config(tmp_path: Path) -> None:
    cfg = text_cfg(tmp_path, LOSS__PRIOR_PROB=0.2)
    cfg.MODEL.CLIP.LOGIT_SCALE = 20.0
    head = build(cfg).detector.class_head
    assert head.bias.sigmoid().item() == pytest.approx(0.2)
    assert head.logit_scale == 20
    assert build(text_cfg(tmp_path, "detr")).detector.class_head.bias == 0


def test_the_chosen_decoder_classifies(tmp_path: Path) -> None:
    batch = make_batch(SIZES, (1, 2))
    for decoder, busy, idle in (("center", "decoder", "top_left_decoder"), ("top_left", "top_left_decoder", "decoder")):
        model = build_text_model(tmp_path, PAIR__CLASS_DECODER=decoder)
        # Its batch norms differ between training and inference.
        model.detector.backbone.eval()
        logits = model.detector(model.preprocess(batch)).logits
        logits.square().sum().backward()
        touched = {name for name, p in model.detector.named_parameters() if p.grad is not None and p.grad.any()}
        assert not any(name.startswith(f"{idle}.") for name in touched)
        assert any(name.startswith(f"{busy}.") for name in touched)
        # At inference as in training.
        training = logits[-1].detach()
        torch.testing.assert_close(raw(model, batch)[0], training, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.PAIR\.CLASS_DECODER is 'corner'.*center.*top_left"):
        build(tiny_cfg(PAIR__CLASS_DECODER="corner"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_exchange_of_the_vocabulary(tmp_path: Path, variant: str) -> None:
    model = build_text_model(tmp_path, variant)
    batch = make_batch(SIZES, (0, 0))
    before, state = raw(model, batch), {k: v.clone() for k, v in model.state_dict().items()}
    old, new = make_vocabulary(), make_vocabulary(["cat", "dog"], seed=1)
    names = ("cat", *NAMES[::-1], "dog")
    model.set_vocabulary(names, torch.cat((new.weights[:1], old.weights.flip(0), new.weights[1:])))
    after = raw(model, batch)
    assert (model.vocabulary, model.num_classes) == (names, 5)
    torch.testing.assert_close(after[0][..., 1:4], before[0][..., :3].flip(-1))
    if variant == "detr":
        torch.testing.assert_close(after[0][..., 5], before[0][..., 3])
    assert torch.equal(after[1], before[1])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="2 text weights do not agree with 3 classes"):
        model.set_vocabulary(NAMES, new.weights)
    with pytest.raises(ValueError, match="4 columns, but the model was trained with 12"):
        model.set_vocabulary(NAMES, torch.eye(4)[:3])
    assert model.vocabulary == names


def test_a_linear_classifier_has_no_vocabulary() -> None:
    model = build(tiny_cfg())
    assert model.vocabulary is None
    with pytest.raises(TypeError, match=r"linear.*MODEL\.CLIP\.TEXT_WEIGHTS"):
        model.set_vocabulary(NAMES, make_vocabulary().weights)


def test_checkpoints_hold_names_but_no_texts(tmp_path: Path) -> None:
    model = build_text_model(tmp_path)
    AtomicCheckpointer(model, str(tmp_path)).save("model")
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    assert saved["pair_detr"]["class_names"] == list(NAMES)
    assert {k for k in saved["model"] if "class_head" in k} == {
        "detector.class_head.projection.weight",
        "detector.class_head.bias",
    }

    other = build(text_cfg(tmp_path, names=["forklift", "cat", "dog", "helmet"]))
    load_weights(other, read_weights(str(tmp_path / "model.pth")), complete=True)
    assert other.vocabulary == ("forklift", "cat", "dog", "helmet")
    other.set_vocabulary(NAMES, make_vocabulary().weights)
    batch = make_batch(SIZES, (0, 0))
    for found, expected in zip(raw(other, batch), raw(model, batch), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_is_new_in_the_vocabulary_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = text_cfg(tmp_path)
    cfg.OUTPUT_DIR = str(tmp_path)
    AtomicCheckpointer(build(cfg), str(tmp_path)).save("model")
    weights = read_weights(str(tmp_path / "model.pth"))

    def logged(*names: str, resume: bool = False) -> str:
        model = build(text_cfg(tmp_path, names=names))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            if resume:
                AtomicCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
            else:
                load_weights(model, weights, complete=True)
        return " ".join(record.getMessage() for record in caplog.records if "vocabulary" in record.getMessage())

    for resume in (False, True):
        assert not logged(*NAMES, resume=resume)
        found = logged("Forklift", "cat", "dog", resume=resume)
        assert "New classes: cat, dog. Classes that are gone: helmet, traffic cone." in found
    assert "New classes: none. Classes that are gone: helmet." in logged(*NAMES[1:])
    assert "in another order" in logged(*NAMES[::-1])


def test_checkpoints_of_another_text_encoder_are_refused(tmp_path: Path) -> None:
    cfg = text_cfg(tmp_path)
    AtomicCheckpointer(build(cfg), str(tmp_path)).save("model")
    make_vocabulary(dim=10).save(cfg.MODEL.CLIP.TEXT_WEIGHTS)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be.*projection\.weight.*random start.*TEXT_WEIGHTS of the"):
        load_weights(build(cfg), read_weights(str(tmp_path / "model.pth")), complete=True)


def test_a_seed_gives_the_weights_that_it_gives_a_linear_model(tmp_path: Path) -> None:
    """Up to the classifier: results of the two can be compared."""
    linear, text = (build(cfg, randomize=False).state_dict() for cfg in (tiny_cfg("detr"), text_cfg(tmp_path, "detr")))
    same = [name for name in linear if name.startswith("detector.decoder.")]
    assert same
    assert all(torch.equal(linear[name], text[name]) for name in same)


def test_class_agnostic_models_find_boxes_only(tmp_path: Path) -> None:
    cfg = tiny_cfg(CLASS_AGNOSTIC=True)
    model = build(cfg)
    assert model.num_classes == 1
    batch = make_batch(SIZES, (2, 3))
    batch[0]["instances"].gt_classes += 5
    targets = model.pack_targets(batch, model.preprocess(batch))
    assert targets.labels.tolist() == [0] * 5
    assert batch[0]["instances"].gt_classes.min() >= 5
    assert raw(model, batch)[0].shape[-1] == 1
    cfg = text_cfg(tmp_path, CLASS_AGNOSTIC=True)
    with pytest.raises(ValueError, match=r"CLASS_AGNOSTIC and MODEL\.CLIP\.TEXT_WEIGHTS exclude"):
        build(cfg)


def run(entry: dict[str, str], output: Path, *flags: str, **changes: Any) -> dict:
    options = tiny_options(entry, output, **changes)
    return main(argument_parser().parse_args(["--num-gpus", "1", *flags, *options]))


def test_training_then_evaluation_with_another_vocabulary(tmp_path: Path) -> None:
    """From the command line; the test set has other classes than the training set."""
    entry = write_dataset(tmp_path, "open_vocabulary_trained")
    make_vocabulary(["one", "two"]).save(tmp_path / "trained.npy")
    trained = {"MODEL__CLIP__TEXT_WEIGHTS": str(tmp_path / "trained.npy"), "SOLVER__MAX_ITER": 2}
    run(entry, tmp_path / "out", **trained)
    final = tmp_path / "out" / "model_final.pth"
    assert torch.load(final, weights_only=False)["pair_detr"]["class_names"] == ["one", "two"]

    content = json.loads((tmp_path / "annotations.json").read_text())
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "one"}, {"id": 3, "name": "dog"}]
    (tmp_path / "annotations_other.json").write_text(json.dumps(content))
    other = "open_vocabulary_other"
    register_coco(other, str(tmp_path / "annotations_other.json"), entry["IMAGES"])
    make_vocabulary(["cat", "one", "dog"], seed=1).save(tmp_path / "other.npy")
    evaluation = {"MODEL__WEIGHTS": str(final), "DATASETS__TEST": (other,), "MODEL__DETR__NUM_CLASSES": 2}
    swapped = {**evaluation, "MODEL__CLIP__TEXT_WEIGHTS": str(tmp_path / "other.npy")}
    results = run(entry, tmp_path / "eval", "--eval-only", **swapped)
    assert {"AP-cat", "AP-one", "AP-dog"} < set(results["bbox"])

    with pytest.raises(
        ValueError, match=rf'2 classes \(one, two\), those of .*trained\.npy, but test set "{other}" has 3'
    ):
        run(entry, tmp_path / "eval", "--eval-only", **evaluation, **trained)
    with pytest.raises(ValueError, match=r'"open_vocabulary_trained" does not agree with .*other\.npy'):
        run(entry, tmp_path / "eval", **swapped)
    MetadataCatalog.pop(other)


def test_set_vocabulary_takes_what_a_vocabulary_holds(tmp_path: Path) -> None:
    model = build_text_model(tmp_path)
    vocabulary = Vocabulary.load(tmp_path / "texts.npy").select(["forklift"])
    model.set_vocabulary(vocabulary.names, vocabulary.weights.numpy())
    assert raw(model, make_batch(SIZES, (0, 0)))[0].shape == (2, 7, 1)
