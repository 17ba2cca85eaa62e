"""How to call the package's program, for the commands that it proposes."""

import shutil
import sys
from pathlib import Path

from pair_detr_cli.commands import PROGRAM


def console_script() -> str:
    """``pair-detr``, or its path where the environment is not active but lies in the working directory."""
    program = Path(sys.executable).with_name(PROGRAM)
    found = shutil.which(PROGRAM)
    is_active = found is not None and program.exists() and Path(found).samefile(program)
    return str(program.relative_to(Path.cwd())) if not is_active and program.is_relative_to(Path.cwd()) else PROGRAM
