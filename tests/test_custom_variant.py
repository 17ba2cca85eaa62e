"""A variant that is not shipped, by public joints alone: hybrid matching (arXiv 2207.13080) on Conditional DETR."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_helpers import restored_catalogs
from detectron2.config import CfgNode, configurable
from engine_helpers import tiny_config, write_dataset
from model_helpers import build, make_batch, tiny_cfg
from torch import Tensor, nn

from pair_detr.config.variants import are_related, register_variant
from pair_detr.engine import Trainer
from pair_detr.losses.classification import ClassScoring
from pair_detr.losses.federated import FederatedLossSampler
from pair_detr.losses.terms import LossTerm, MatchedPredictions
from pair_detr.modeling import ConditionalDETR
from pair_detr.modeling.denoising import DenoisingQueries
from pair_detr.modeling.options import DetectorOptions
from pair_detr.structures import Memory, Predictions, Queries, Targets

EXTRA, REPEATS = 6, 2
_catalogs = pytest.fixture(autouse=True)(restored_catalogs)


class OneToManyTerm(LossTerm):
    """The terms of a branch in which each object has several queries."""

    def __init__(self, terms: list[LossTerm]) -> None:
        super().__init__(**{f"many_{name}": weight for term in terms for name, weight in term.weights.items()})
        self.terms = nn.ModuleList(terms)

    def forward(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        branch, given = matched.predictions.auxiliary["one_to_many"], matched.targets
        repeated = [x.repeat(REPEATS, 1) for x in given.boxes.split(given.counts)]
        targets = Targets.pack(repeated, [x.repeat(REPEATS) for x in given.labels.split(given.counts)])
        assignment = matched.matcher(branch.logits, branch.boxes, targets)
        own = replace(matched, predictions=branch, targets=targets, assignment=assignment)
        return {f"many_{name}": loss for term in self.terms for name, loss in term(own).items()}


@register_variant("hybrid_detr")
class HybridDETR(ConditionalDETR):
    """Trains with further queries, which the others do not attend to and inference does not have."""

    extra_parts = frozenset({"extra_queries"})

    @configurable
    def __init__(self, options: DetectorOptions) -> None:
        super().__init__(options)
        self.extra_queries = nn.Embedding(EXTRA, options.dim)

    def decode(self, memory: Memory, copies: DenoisingQueries | None = None) -> Predictions:
        if not self.training:
            return super().decode(memory)
        queries = torch.cat((self.query_embed.weight, self.extra_queries.weight))
        count = self.query_embed.num_embeddings
        states, reference = self.decoder(memory, Queries(queries, groups=((1, count), (1, EXTRA))))
        parts = slice(0, count), slice(count, None)
        main, extra = (self.predict(states[:, :, x], reference[x], memory) for x in parts)
        return replace(main, auxiliary={"one_to_many": extra})

    @classmethod
    def loss_terms(
        cls, cfg: CfgNode, class_scoring: ClassScoring, federated_sampler: FederatedLossSampler | None
    ) -> list[LossTerm]:
        terms = super().loss_terms(cfg, class_scoring, federated_sampler)
        return [*terms, OneToManyTerm(terms)]


# The variant ends here; what follows tests it.


def hybrid() -> nn.Module:
    return build(tiny_cfg("hybrid_detr"))


def test_the_branch_changes_nothing_but_the_training() -> None:
    """Detections are those of Conditional DETR with the same weights, and so are the losses that it has."""
    batch = make_batch([(40, 56), (32, 24)], [2, 0])
    ours, plain = hybrid(), build(tiny_cfg("conditional_detr"))
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if "extra_queries" not in k})
    found, expected = (model.eval()(batch) for model in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a["instances"].scores, b["instances"].scores)
    losses, expected = ours.train()(batch), plain.train()(batch)
    assert losses.keys() - expected.keys() == {
        f"loss_many_{x}{y}" for x in ("class", "box", "giou") for y in ("", "_aux")
    }
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)


def test_each_object_has_several_queries_of_the_branch() -> None:
    model, batch = hybrid().train(), make_batch([(40, 56)], [2])
    images = model.preprocess(batch)
    predictions, targets = model.detector(images), model.pack_targets(batch, images)
    predictions.auxiliary["one_to_many"].boxes.retain_grad()
    model.criterion(predictions, targets)["loss_many_box"].backward()
    gradient = predictions.auxiliary["one_to_many"].boxes.grad[-1, 0]
    assert (gradient.abs().sum(-1) > 0).sum() == REPEATS * 2


def test_it_is_a_relative_of_what_it_extends() -> None:
    assert are_related("hybrid_detr", "conditional_detr") and are_related("conditional_detr", "hybrid_detr")
    assert not are_related("hybrid_detr", "pair_detr") and not are_related("hybrid_detr", "detr")
    assert not are_related(None, "detr") and not are_related("detr", "unknown_detr")


def test_it_is_trained_by_its_name_alone(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, "noise")
    trainer = Trainer(tiny_config(dataset, tmp_path / "output", MODEL__DETR__VARIANT="hybrid_detr"))
    before = trainer.model.detector.extra_queries.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.detector.extra_queries.weight, before)
