"""The names that keys can be set to are those that the code knows."""

import re

import pytest

from pair_detr.config.ranges import RULES
from pair_detr.config.variants import VARIANTS, register_variant
from pair_detr.losses.contrastive import CONTRASTIVE_LOSSES
from pair_detr.losses.image_labels import IMAGE_LABEL_LOSSES


def choices(key: str) -> set[str]:
    return set(re.sub("^one of ", "", RULES[f"MODEL.DETR.{key}"].meaning).split(", "))


def test_losses() -> None:
    assert choices("IMAGE_LABELS.LOSS") == set(IMAGE_LABEL_LOSSES)
    assert choices("PAIR.CONTRASTIVE_LOSS") == set(CONTRASTIVE_LOSSES)


def test_variants_include_those_that_are_registered_later() -> None:
    rule = RULES["MODEL.DETR.VARIANT"]
    assert all(rule.accepts(name) for name in ("pair_detr", "conditional_detr", "detr"))
    assert not rule.accepts("late_detr")
    VARIANTS["late_detr"] = VARIANTS["detr"]
    try:
        assert rule.accepts("late_detr")
    finally:
        del VARIANTS["late_detr"]


def test_a_variant_is_registered_once_or_again_by_the_same_class() -> None:
    def define() -> type:
        @register_variant("noted_detr")
        class NotedDETR:
            pass

        return NotedDETR

    try:
        define()
        again = define()
        assert VARIANTS["noted_detr"] is again
        with pytest.raises(ValueError, match="'noted_detr' is registered already, as NotedDETR"):
            register_variant("noted_detr")(dict)
    finally:
        del VARIANTS["noted_detr"]
