"""Says what is installed, and how to get what is missing: ``pair-detr doctor``."""

import argparse
import sys
from collections.abc import Sequence

from pair_detr_cli.commands import PROGRAM
from pair_detr_cli.findings import Finding, find_all, find_features, try_import

_DESCRIPTION = (
    "Says which Python, PyTorch, Detectron2 and packages there are, what the GPU and the CPU can do, what is missing "
    "for which feature, and the command that mends it. Exits with 0 if training can run. Changes nothing."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool.

    Returns:
        the exit status: 0 if training can run.
    """
    argparse.ArgumentParser(prog=f"{PROGRAM} doctor", description=_DESCRIPTION).parse_args(arguments)
    findings = list(find_all())
    faults = [finding for finding in findings if finding.stops]
    if not faults and (fault := try_import()):
        findings.append(fault)
        faults = [fault]
    features = list(find_features())
    width = max(len(finding.subject) for finding in findings + features)
    _write(findings, width)
    sys.stdout.write("\nNot needed for training:\n")
    _write(features, width)
    verdict = "Training can run." if not faults else "Training cannot run. Mend the lines with !! from top to bottom."
    sys.stdout.write(f"\n{verdict}\n")
    return 1 if faults else 0


def _write(findings: Sequence[Finding], width: int) -> None:
    for finding in findings:
        mark = "!!" if finding.stops else " -" if finding.remedy else "ok"
        sys.stdout.write(f"{mark} {finding.subject:<{width}}  {finding.text}\n")
        if finding.remedy:
            sys.stdout.write(f"   {'':<{width}}  -> {finding.remedy}\n")
