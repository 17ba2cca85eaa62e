"""From a graph's masks to those of an image."""

import numpy as np

# Masks that are in memory at the size of the image at a time.
_CHUNK = 16


def resize_masks(
    logits: np.ndarray, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> np.ndarray:
    """(N, h, w) fp32 logits over a padded image -> (N, *output_size) bool; as the function of the same name in torch.

    Args:
        logits: at the stride of the finest feature map.
        padded_size: height and width of the batch that the graph had.
        image_size: of the image in it.
        output_size: of the image that was given.
    """
    masks = np.zeros((len(logits), *output_size), dtype=bool)
    for start in range(0, len(logits), _CHUNK):
        chunk = logits[start : start + _CHUNK]
        chunk = resize_bilinear(chunk, padded_size)[:, : image_size[0], : image_size[1]]
        # Overflow of exp is a probability of 0.
        with np.errstate(over="ignore"):
            probs = 1 / (1 + np.exp(-chunk))
        masks[start : start + _CHUNK] = resize_bilinear(probs, output_size) > 0.5
    return masks


def resize_bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, h, w) -> (N, *size), as torch's ``interpolate(mode="bilinear")``: without a low-pass filter."""
    if maps.shape[1:] == size:
        return maps
    rows, columns = (_weights(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    return rows @ maps @ columns.T


def _weights(old: int, new: int) -> np.ndarray:
    """(new, old) fp32: what each sample takes of each of the old ones along an axis."""
    position = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    distance = np.abs(position[:, None] - np.arange(old))
    return np.maximum(1 - distance, 0).astype(np.float32)
