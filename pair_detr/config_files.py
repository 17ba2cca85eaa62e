"""Finds the config files that come with the package."""

from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent


def config_file(name: str) -> Path:
    """Path of a config file that comes with the package.

    Args:
        name: path under ``configs/``, with or without ``.yaml``; for example ``"r50"`` or ``"detr/r50.yaml"``.

    Raises:
        FileNotFoundError: there is no such file; the message lists those that exist.
    """
    folder = _config_folder()
    path = folder / (name if name.endswith(".yaml") else f"{name}.yaml")
    if not path.is_file():
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml"))
        raise FileNotFoundError(f"no config file {name!r} in {folder}; there are: {', '.join(names)}")
    return path


def _config_folder() -> Path:
    installed = PACKAGE_ROOT / "configs"
    # setup.py moves the folder into the package; in a checkout, and so in an editable install, it is beside it.
    return installed if installed.is_dir() else PACKAGE_ROOT.parent / "configs"
