"""Files of backbones that were trained with other pixels or padding than timm's, which their tensors do not tell."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pair_detr.utils.checksums import sha256_of

# What such weights need of a config, by their SHA-256; without it AP is lower, and nothing says why.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # timm's mobilenetv2_100 from TensorFlow, as in github.com/google-coral/test_data (Apache-2.0): pixels from -1 to 1.
    "7ad839d71729513c13b8d83595e466c413cc153e6caeca844c241a5b132e1f9f": {
        "MODEL.PIXEL_MEAN": [127.5, 127.5, 127.5],
        "MODEL.PIXEL_STD": [127.5, 127.5, 127.5],
        "MODEL.TIMM.KWARGS": {"pad_type": "same"},
    },
}


def settings_of_file(file: Path) -> Mapping[str, Any]:
    """Config entries by their full names; none for a file that is not known, which is taken for timm's own."""
    return _SETTINGS.get(sha256_of(file), {})
