"""The text classifier alone: its formula, its start, and what an exchange of texts changes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_helpers import make_boxes
from open_vocabulary_helpers import NAMES, PUBLISHED, make_vocabulary
from torch import Tensor, nn

from pair_detr.losses.classification import ClassScoring, SigmoidFocal, Softmax
from pair_detr.modeling.heads import classification_head
from pair_detr.modeling.text_classifier import TextClassifier
from pair_detr.open_vocabulary import Vocabulary
from pair_detr.structures import Assignment, Targets


def test_logits_by_hand() -> None:
    vocabulary = Vocabulary(["x", "y"], [[3.0, 4.0], [0.0, 2.0]])
    head = TextClassifier(2, vocabulary, logit_scale=10, prior_prob=0.01, no_object=True)
    with torch.no_grad():
        head.projection.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        head.no_object.copy_(torch.tensor([[0.0, -5.0]]))
    # W h = (6, 8) of length 10.
    logits = head(torch.tensor([[[3.0, 8.0]]]))
    bias = -math.log(99)
    expected = [10 * (0.6 * 0.6 + 0.8 * 0.8) + bias, 10 * 0.8 + bias, -10 * 0.8]
    torch.testing.assert_close(logits, torch.tensor([[expected]]))


def test_only_projection_and_bias_are_learned() -> None:
    head = TextClassifier(8, make_vocabulary())
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {"projection.weight": (12, 8), "bias": ()}
    assert set(head.state_dict()) == {"projection.weight", "bias"}
    assert head.bias.item() == pytest.approx(-math.log(99))
    assert TextClassifier(8, make_vocabulary(), prior_prob=None).bias.item() == 0
    assert set(TextClassifier(8, make_vocabulary(), no_object=True).state_dict()) == {
        "projection.weight",
        "bias",
        "no_object",
    }


def test_permuted_classes_permute_the_logits() -> None:
    vocabulary = make_vocabulary("abcdefg")
    head = TextClassifier(8, vocabulary, no_object=True)
    states = torch.randn(2, 3, 5, 8)
    before = head(states)
    order = torch.randperm(7)
    head.set_vocabulary(vocabulary.select([vocabulary.names[i] for i in order]))
    torch.testing.assert_close(head(states), before[..., [*order, 7]])
    assert head.names == tuple("abcdefg"[i] for i in order)


def test_other_classes_keep_their_logits() -> None:
    vocabulary = make_vocabulary()
    head = TextClassifier(8, vocabulary)
    states = torch.randn(5, 8)
    before, weights = head(states), {k: v.clone() for k, v in head.state_dict().items()}
    other = make_vocabulary(["new", "newer"], seed=1)
    head.set_vocabulary(
        Vocabulary(
            ("new", *NAMES[1:], "newer"), torch.cat((other.weights[:1], vocabulary.weights[1:], other.weights[1:]))
        )
    )
    after = head(states)
    assert after.shape == (5, 4)
    torch.testing.assert_close(after[:, 1:3], before[:, 1:])
    assert (after[:, 0] - before[:, 0]).abs().max() > 0.1
    assert all(torch.equal(weights[name], value) for name, value in head.state_dict().items())


def test_texts_of_another_width_are_refused() -> None:
    head = TextClassifier(8, make_vocabulary())
    with pytest.raises(ValueError, match=r"have 10 columns, but the model was trained with 12.*text encoder"):
        head.set_vocabulary(make_vocabulary(dim=10))
    assert head.names == NAMES
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.LOGIT_SCALE is nan"):
        TextClassifier(8, make_vocabulary(), logit_scale=float("nan"))
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.LOGIT_SCALE is 0"):
        TextClassifier(8, make_vocabulary(), logit_scale=0)


def test_weights_load_across_vocabularies() -> None:
    torch.manual_seed(1)
    head = TextClassifier(8, make_vocabulary())
    other = TextClassifier(8, make_vocabulary("abcdefg", seed=1))
    other.load_state_dict(head.state_dict())
    other.set_vocabulary(make_vocabulary())
    states = torch.randn(4, 8)
    torch.testing.assert_close(other(states), head(states))


def test_cosines_stay_in_fp32_under_autocast() -> None:
    head = TextClassifier(8, make_vocabulary())
    states = torch.randn(50, 8)
    expected = head(states)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(states)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.5, rtol=0)


def test_texts_move_with_the_model() -> None:
    head = TextClassifier(8, make_vocabulary()).to("meta")
    head.set_vocabulary(make_vocabulary("abcd"))
    assert head.texts.device.type == "meta"
    with torch.device("meta"):
        vocabulary = Vocabulary(["a", "b"], [[1.0, 0.0], [0.6, 0.8]])
        assert vocabulary.weights.device.type == "cpu"
        assert TextClassifier(8, vocabulary, no_object=True).texts.device.type == "meta"


def first_loss(head: nn.Module, states: Tensor, class_scoring: ClassScoring) -> float:
    """ClassScoring loss of 7 boxes, matched with 7 queries at random."""
    logits = head(states)[None, None]
    targets = Targets.pack([make_boxes(7)], [torch.randint(3, (7,))])
    none = torch.zeros(7, dtype=torch.int64)
    assignment = Assignment(none, none, torch.randperm(states.shape[0])[:7], torch.arange(7))
    return class_scoring.loss(logits, assignment, targets, torch.tensor(7.0)).item()


def states_of(alike: bool) -> Tensor:
    """(300, 256) states as the decoder's last norm leaves them; those of a fresh model are much alike."""
    own, shared = torch.randn(300, 256), torch.randn(1, 256)
    return F.layer_norm(shared + 0.1 * own if alike else own, (256,))


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_first_loss_is_that_of_a_linear_classifier(shared_dir: Path, name: str, alike: bool) -> None:
    file, count = PUBLISHED[name]
    texts = np.load(shared_dir / "clip_text_weights" / file)
    vocabulary = Vocabulary([str(i) for i in range(count)], texts)
    for class_scoring in (SigmoidFocal(), Softmax()):
        linear, text = [], []
        for _ in range(2):
            states = states_of(alike)
            rows, prior = class_scoring.num_logits(count), class_scoring.prior_prob
            linear.append(first_loss(classification_head(256, rows, prior), states, class_scoring))
            head = TextClassifier(256, vocabulary, prior_prob=prior, no_object=rows > count)
            text.append(first_loss(head, states, class_scoring))
        assert max(text) < 1.5 * min(linear), (class_scoring, linear, text)


def test_first_loss_would_be_thirty_times_that_with_a_random_projection(shared_dir: Path) -> None:
    """What the initialization is for; notes: 39.8 with the bias, and 1.1 for a linear classifier."""
    texts = np.load(shared_dir / "clip_text_weights" / PUBLISHED["coco"][0])
    head = TextClassifier(256, Vocabulary([str(i) for i in range(80)], texts))
    states = states_of(alike=False)
    assert first_loss(head, states, SigmoidFocal()) < 1.3
    nn.init.orthogonal_(head.projection.weight)
    assert first_loss(head, states, SigmoidFocal()) > 15


def test_gradients_reach_the_states_from_the_first_step_on() -> None:
    head = TextClassifier(32, make_vocabulary())
    states = torch.randn(5, 32, requires_grad=True)
    head(states)[0, 1].backward()
    assert states.grad[0].norm() > 1e-3
    assert not states.grad[1:].any()
    assert head.projection.weight.grad.any()
    assert head.bias.grad == 1


def test_it_learns_classes_whose_texts_are_alike(shared_dir: Path) -> None:
    """Cat and dog, cosine 0.936, are told apart from fixed states in a few steps."""
    texts = np.load(shared_dir / "clip_text_weights" / PUBLISHED["coco"][0])[[15, 16]]
    head = TextClassifier(32, Vocabulary(["cat", "dog"], texts))
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    centers = torch.randn(3, 32)
    for _ in range(80):
        labels = torch.randint(3, (64,))
        states = F.layer_norm(centers[labels] + 0.5 * torch.randn(64, 32), (32,))
        loss = F.binary_cross_entropy_with_logits(head(states), F.one_hot(labels, 3)[:, :2].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prob = head(F.layer_norm(centers, (32,))).sigmoid()
    torch.testing.assert_close(prob, torch.eye(3)[:, :2], atol=0.1, rtol=0)
