"""Progressive resizing in numbers: the image sizes of a stage, and the epochs of each.

As EfficientNetV2 was trained (Tan & Le, 2021, section 4): the size grows linearly, with equally
many epochs at each.
"""

from __future__ import annotations

Size = tuple[int, int]

_SMALLEST = 0.5  # of the full side; 128 of 300 in the paper
_STRIDE = 32  # of nearly all backbones: feature maps of whole sides, the same layers at each size


def side_shares(number: int) -> list[float]:
    """Give the sides of so many image sizes, as shares of the full one, from small to 1."""
    steps = max(number - 1, 1)
    return [1.0 - (1.0 - _SMALLEST) * (number - 1 - index) / steps for index in range(number)]


def image_sizes(full: Size, number: int) -> list[Size]:
    """Give the image sizes of a stage.

    Args:
        full: (height, width) in pixels that the stage ends with.
        number: How many are wanted.

    Returns:
        (height, width) of each, rising; sides of all but the full one are multiples of 32 pixels.
        Equal ones are given but once, so there may be fewer.
    """
    height, width = full
    smaller = [
        (_rounded(share * height, height), _rounded(share * width, width))
        for share in side_shares(number)[:-1]
    ]
    return list(dict.fromkeys([*smaller, full]))


def epochs_of_sizes(epochs: int, number: int) -> list[int]:
    """Divide epochs among image sizes: equally, and what is left over among the largest."""
    each, left_over = divmod(epochs, number)
    return [each] * (number - left_over) + [each + 1] * left_over


def _rounded(side: float, most: int) -> int:
    return min(max(int(side / _STRIDE + 0.5), 1) * _STRIDE, most)
