"""Which classes take part in the classification loss: federated sampling, and classes without annotations."""

from collections.abc import Iterator

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from model_helpers import default_cfg, make_boxes, make_targets
from torch import Tensor

from pair_detr.losses.classification import ClassScoring, SigmoidFocal, Softmax
from pair_detr.losses.criterion import SetCriterion
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.matcher import HungarianMatcher
from pair_detr.losses.objectness import ObjectnessScoring
from pair_detr.losses.terms import ClassTerm, MatchedPredictions
from pair_detr.modeling.class_sampling import build_federated_sampler
from pair_detr.structures import Assignment, Predictions, Targets

NAMES = ["cat", "dog", "owl", "newt"]
DATASET = "class_selection_test"


@pytest.fixture
def cfg() -> Iterator[CfgNode]:
    """The config of a dataset of four classes, whose metadata the test completes."""
    DatasetCatalog.register(DATASET, list)
    MetadataCatalog.get(DATASET).set(thing_classes=NAMES)
    cfg = default_cfg()
    cfg.DATASETS.TRAIN = (DATASET,)
    yield cfg
    DatasetCatalog.pop(DATASET)
    MetadataCatalog.pop(DATASET)


def select(selection: FederatedLossSampler, *labels: int) -> list[int]:
    return selection(torch.tensor(labels, dtype=torch.int64)).nonzero()[:, 0].tolist()


def test_all_classes_of_ordinary_data(cfg: CfgNode) -> None:
    assert build_federated_sampler(cfg) is None
    assert build_federated_sampler(default_cfg()) is None
    cfg.DATASETS.TRAIN = ("of another machine",)
    assert build_federated_sampler(cfg) is None


def test_novel_classes_are_left_out(cfg: CfgNode) -> None:
    MetadataCatalog.get(DATASET).novel_classes = ["dog"]
    selection = build_federated_sampler(cfg)
    assert select(selection) == select(selection, 2) == [0, 2, 3]
    # An object of the class is not hidden.
    assert select(selection, 1) == [0, 1, 2, 3]
    assert not selection.state_dict()
    cfg.MODEL.DETR.CLASS_AGNOSTIC = True
    assert build_federated_sampler(cfg) is None


def test_labels_of_images_add_classes(cfg: CfgNode) -> None:
    """Only those that images have, and for scores that learn classes from annotated objects alone."""
    MetadataCatalog.get(DATASET).novel_classes = ["dog", "owl"]
    queries = torch.randn(1, 1, 5, 5)
    labels = Targets.pack_image_labels([torch.tensor([1])])
    nothing = torch.zeros(0, dtype=torch.int64)
    for learns in (False, True):
        selection = build_federated_sampler(cfg)
        term = ClassTerm(1.0, ObjectnessScoring(SigmoidFocal()), selection, learns_from_labels=learns)
        predictions = Predictions(queries, make_boxes(1, 1, 5))
        matcher = HungarianMatcher(term.class_scoring, 1.0, 1.0, 1.0)
        term(MatchedPredictions(predictions, labels, Assignment(*[nothing] * 4), torch.ones(()), matcher))
        assert select(selection) == ([0, 1, 3] if learns else [0, 3])
    assert not selection.state_dict()


def test_added_classes_are_as_frequent_as_the_average_one() -> None:
    selection = FederatedLossSampler(torch.tensor([2.0, 0.0, 6.0, 0.0]), limit=2)
    selection.add(torch.tensor([1, 1, 2]))
    assert selection.weights.tolist() == [2.0, 4.0, 6.0, 0.0]


def test_classes_without_images_are_left_out(cfg: CfgNode) -> None:
    """Ids are those of the file, not positions."""
    counts = [{"id": 9, "image_count": 0}, {"id": 2, "image_count": 5}, {"id": 4, "image_count": 7}]
    MetadataCatalog.get(DATASET).class_image_count = [*counts, {"id": 1, "image_count": 3}]
    for power in (0.5, 0.0):
        cfg.MODEL.DETR.LOSS.FEDERATED_POWER = power
        assert select(build_federated_sampler(cfg)) == [0, 1, 2]
    cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES = 2
    torch.testing.assert_close(build_federated_sampler(cfg).weights, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    cfg.MODEL.DETR.LOSS.FEDERATED_POWER = 0.5
    torch.testing.assert_close(build_federated_sampler(cfg).weights, torch.tensor([3.0, 5.0, 7.0, 0.0]).sqrt())


def test_rare_classes_of_lvis_are_novel() -> None:
    cfg = default_cfg()
    cfg.DATASETS.TRAIN = ("lvis_v1_train_norare",)
    selection = build_federated_sampler(cfg)
    assert len(select(selection)) == 866
    cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES = 50
    assert len(select(build_federated_sampler(cfg), 3, 5, 3)) == 50


def test_federated_loss_needs_frequencies(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES = 2
    with pytest.raises(ValueError, match=rf'FEDERATED_CLASSES is 2, but dataset "{DATASET}" has no class_image_count'):
        build_federated_sampler(cfg)


def test_negative_limit(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES = -5
    with pytest.raises(ValueError, match=r"FEDERATED_CLASSES is -5; it must be 0"):
        build_federated_sampler(cfg)


def test_unknown_novel_class(cfg: CfgNode) -> None:
    MetadataCatalog.get(DATASET).novel_classes = ["dog", "cow"]
    with pytest.raises(ValueError, match=rf'"{DATASET}": the novel classes cow are not among its classes'):
        build_federated_sampler(cfg)


def test_sample_is_in_proportion_to_the_weights() -> None:
    """One class in addition to that of the batch: its probability is known."""
    weights = torch.tensor([4.0, 1.0, 0.0, 2.0, 1.0])
    selection, draws = FederatedLossSampler(weights, 2), 4000
    drawn = torch.stack([selection(torch.tensor([0])) for _ in range(draws)]).float()
    assert (drawn.sum(1) == 2).all()
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, 0.25, 0.0, 0.5, 0.25]), atol=0.03, rtol=0)


def test_sample_follows_from_the_seed() -> None:
    selection = FederatedLossSampler(torch.rand(100), 20)

    def draw(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return select(selection, 7)

    assert draw(1) == draw(1) != draw(2)


def test_more_objects_or_fewer_classes_than_the_limit() -> None:
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert select(FederatedLossSampler(weights, 2), 0, 1, 3) == [0, 1, 3]
    assert select(FederatedLossSampler(weights, 4), 0) == [0, 2, 3]
    assert select(FederatedLossSampler(weights, 9)) == [0, 2, 3]


@pytest.mark.parametrize("class_scoring", [SigmoidFocal(), Softmax()], ids=["focal", "softmax"])
def test_hidden_classes_are_no_negatives(class_scoring: ClassScoring) -> None:
    targets, boxes = make_targets([2, 0]), make_boxes(2, 2, 5)
    targets.labels[:] = torch.tensor([0, 3])
    # Softmax's matching sees the logits of all classes: the boxes decide here.
    matcher = HungarianMatcher(class_scoring, 0.0, 5.0, 2.0)

    def loss_of(logits: Tensor, federated_sampler: FederatedLossSampler | None = None) -> Tensor:
        terms = [ClassTerm(1.0, class_scoring, federated_sampler)]
        losses = SetCriterion(matcher=matcher, terms=terms)(Predictions(logits, boxes), targets)
        return losses["loss_class"] + losses["loss_class_aux"]

    logits = torch.randn(2, 2, 5, class_scoring.num_logits(4), requires_grad=True)
    selection = FederatedLossSampler(torch.tensor([1.0, 1.0, 0.0, 1.0]))
    loss = loss_of(logits, federated_sampler=selection)
    loss.backward()
    assert not logits.grad[..., 2].any()
    assert logits.grad[..., [0, 1, 3]].all()
    # It is the loss of a model that does not have the class.
    targets.labels[1] = 2
    rest = [c for c in range(logits.shape[-1]) if c != 2]
    torch.testing.assert_close(loss, loss_of(logits[..., rest]))
