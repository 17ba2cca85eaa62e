"""The tool that measures the memory of the mask head."""

import pytest
import torch

from pair_detr.modeling.mask_head import MaskHead
from pair_detr.tools import benchmark_masks as tool


def test_both_heads_have_the_same_loss() -> None:
    asked = tool.make_queries(2, (64, 96), 4, torch.device("cpu"))
    torch.manual_seed(0)
    head = MaskHead(256, 8, [1024, 512, 256])
    targets = torch.rand(4, 64, 96) > 0.5
    ours, plain = (loss(head, asked, 2, targets) for loss in (tool.our_loss, tool.plain_loss))
    torch.testing.assert_close(ours, plain)


def test_memory_does_not_depend_on_the_number_of_queries(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Detectron2's loggers hand nothing on to the root, where the fixture listens.
    monkeypatch.setattr(tool.logger, "handlers", [caplog.handler])
    tool.main(["--queries", "100", "300"])
    rows = [line.split("|") for line in caplog.text.splitlines() if " features " in line]
    kept = [float(row[3]) for row in rows]
    assert kept[0] == kept[2] < 0.05 * kept[1]
    assert kept[3] > 2.9 * kept[1]
