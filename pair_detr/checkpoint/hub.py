"""Weights by name from a hub of models: ``MODEL.WEIGHTS hub://owner/name[/file.pth][@revision]``.

The files lie in the hub's own cache, where other programs find them as well, and are read from there without a network.
"""

import logging
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler

from pair_detr.checkpoint.reading import WEIGHT_FILES
from pair_detr.utils.json_files import read_json

logger = logging.getLogger(__name__)

SCHEME = "hub://"

_NAME = r"[A-Za-z0-9][\w.-]*"
_FILE = r"[\w.-]+(?:/[\w.-]+)*\.(?:pth|safetensors)"
_ADDRESS = re.compile(rf"{SCHEME}(?P<repo>{_NAME}/{_NAME})(?:/(?P<file>{_FILE}))?(?:@(?P<revision>\S+))?")
_CONFIG = "config.json"


class HubError(OSError):
    """Weights cannot be had from the hub; the message says why."""


class _AbsentError(HubError):
    pass


class HubHandler(PathHandler):
    """Downloads weights from the hub on their first use; their local path is a folder of transformers, or a file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(_fetch(path)[0])

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return _fetch(path)[0].open(mode, buffering)


def pin_revision(weights: str) -> str:
    """An address of the hub with the commit that its branch or tag is at now; other weights as they are.

    Raises:
        HubError, ImportError: they cannot be had from the hub.
    """
    if not weights.startswith(SCHEME):
        return weights
    return f"{weights.partition('@')[0]}@{_fetch(weights)[1]}"


@lru_cache(maxsize=16)
def _fetch(address: str) -> tuple[Path, str]:
    """Local path and commit of an address. What a branch is at is asked for once in a process."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise HubError(
            f"the address is {SCHEME}OWNER/NAME, with /FILE.pth behind it for a file of this package, and @REVISION "
            "for another one than that of the main branch"
        )
    repo, file, revision = match["repo"], match["file"] or _CONFIG, match["revision"] or "main"
    path = _download(repo, file, revision)
    # The cache has a folder for each commit.
    folder = path.parents[file.count("/")]
    commit = folder.name
    if match["file"] is None:
        _download_model(repo, commit)
        path = folder
    logger.info("%s is at commit %s: %s", address, commit, path)
    return path, commit


def _download_model(repo: str, commit: str) -> None:
    """Downloads the weights of transformers, the first kind that a repository has; those without code come first."""
    for name in WEIGHT_FILES:
        try:
            found = _download(repo, name, commit)
        except _AbsentError:
            continue
        if found.suffix == ".json":
            for shard in _shards(found):
                _download(repo, shard, commit)
        return
    raise HubError(f"commit {commit} of {repo} has none of {', '.join(WEIGHT_FILES)}, or the cache of the hub has not")


def _shards(index: Path) -> list[str]:
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise HubError(f"{index} names no files of weights in weight_map")
    return sorted(set(names.values()))


def _download(repo: str, file: str, revision: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise ImportError("it needs the package huggingface_hub: pip install 'pair_detr[hub]'") from error
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off")
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise _AbsentError(f"{why}, and its cache does not have {file} of {repo} at {revision}") from error
    except EntryNotFoundError as error:
        raise _AbsentError(f"{repo} has no {file} at {revision}") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"the hub has no {repo}, or not for you: see its command hf auth login") from error
    except Exception as error:  # of the HTTP client, which is another one in each major release
        raise HubError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
