"""The images of the study, made so that what an image says of position is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.data import PHOTO_BRIGHTNESS, LabelledImages, mnist_digits, photo_pieces, stratified_split

SIZE = 32  # of an image in pixels
BLOCK = 5  # of a red or green block
GAP = 14  # most pixels between the two blocks: more than the network sees at once
NOISE = 0.1  # brightest background
DIGIT = 16  # of a digit
NEAR = 1  # pixels from the border at most
STRIP = (3, 12)  # thickness and length of a patch
INWARD = 5  # pixels that a patch is moved from the border to the interior
SHIFTS = (1, 2, 3, 4)


def red_green(count: int, seed: int, swapped: bool = False) -> tuple[Tensor, Tensor]:
    """Two blocks side by side on a dark background; the order of their colours is the class.

    Class 0, red left of green, is in the upper half and class 1 in the lower; ``swapped`` exchanges the halves. After
    the Red-Green data of Kayhan and van Gemert (2020): position says as much as the colours, and must not be used.

    Returns:
        Images (count, 3, 32, 32) and classes (count,), as many of each.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> Tensor:
        return (torch.rand(count, generator=generator) * (torch.as_tensor(most) + 1)).long()

    labels = torch.arange(count) % 2
    lower = labels.bool() ^ swapped
    tops = draw(SIZE // 2 - BLOCK) + lower * (SIZE // 2)
    gaps = draw(GAP)
    lefts = draw(SIZE - 2 * BLOCK - gaps)
    images = NOISE * torch.rand(count, 3, SIZE, SIZE, generator=generator)
    for image, label, top, left, gap in zip(
        images, labels.tolist(), tops.tolist(), lefts.tolist(), gaps.tolist(), strict=True
    ):
        rows = slice(top, top + BLOCK)
        image[label, rows, left : left + BLOCK] = 1
        image[1 - label, rows, left + BLOCK + gap : left + 2 * BLOCK + gap] = 1
    return images, labels


def red_green_sets(seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images of one seed, positions as in training."""
    return tuple(LabelledImages(*red_green(count, 3 * seed + part), 3) for part, count in enumerate((1000, 500)))


def held_out(seed: int) -> Tensor:
    """The digits that PlacedDigitsData keeps for validation."""
    return stratified_split(mnist_digits()[1], seed=seed)[1]


def scene(digits: Tensor, tops: Tensor, lefts: Tensor, size: int, seed: int) -> Tensor:
    """Digits at given places of pieces of photographs, (digits, size, size) in 0 ... 1; made as PlacedDigits are."""
    generator = torch.Generator().manual_seed(seed)
    images = PHOTO_BRIGHTNESS * photo_pieces(len(digits), size, generator)
    small = F.interpolate(mnist_digits()[0][digits][:, None], DIGIT, mode="bilinear", antialias=True)[:, 0]
    for image, digit, top, left in zip(images, small, tops.tolist(), lefts.tolist(), strict=True):
        window = image[top : top + DIGIT, left : left + DIGIT]
        torch.maximum(window, digit, out=window)
    return images


def places(count: int, low: int, high: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tops and lefts between two bounds, the bounds included."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(low, high + 1, (count,), generator=generator) for _ in range(2))


def near_and_central(digits: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The same digits on the same backgrounds, next to the border and in the middle."""
    last = SIZE - DIGIT
    tops, lefts = places(len(digits), 0, last, seed)
    gaps, sides = places(len(digits), 0, NEAR, seed + 1)[0], torch.arange(len(digits)) % 4
    tops = torch.where(sides == 0, gaps, torch.where(sides == 1, last - gaps, tops))
    lefts = torch.where(sides == 2, gaps, torch.where(sides == 3, last - gaps, lefts))
    middle = places(len(digits), last // 2 - 2, last // 2 + 2, seed + 2)
    return scene(digits, tops, lefts, SIZE, seed), scene(digits, *middle, SIZE, seed)


def of_size(digits: Tensor, size: int, seed: int) -> Tensor:
    """Digits of the usual size anywhere in images of another one."""
    return scene(digits, *places(len(digits), 0, size - DIGIT, seed), size, seed)


def windows(images: Tensor, shift: int, room: int) -> list[Tensor]:
    """The middle of larger images, and the four windows beside it: the same world, the camera moved.

    Args:
        images: Images with ``room`` more pixels on every side.
        shift: Pixels to move, at most ``room``.
        room: Pixels around the middle.

    Returns:
        The middle, then the windows above, below, left and right of it.
    """
    size = images.shape[-1] - 2 * room
    moves = ((0, 0), (-shift, 0), (shift, 0), (0, -shift), (0, shift))
    return [images[..., room + y : room + y + size, room + x : room + x + size] for y, x in moves]


def shiftable(digits: Tensor, seed: int) -> Tensor:
    """Images with room for the largest shift around them, the digit in every window."""
    room = max(SHIFTS)
    return scene(digits, *places(len(digits), 2 * room, SIZE - DIGIT, seed), SIZE + 2 * room, seed)


@dataclass(frozen=True)
class Patched:
    """Images as they are, with a patch at the border, and with the same patch in an empty place inside."""

    plain: Tensor
    border: Tensor
    interior: Tensor


def patched(digits: Tensor, seed: int, noise: bool) -> Patched:
    """Digits away from one side, where a bright strip or a strip of noise is put.

    Args:
        digits: Which digits.
        seed: Seed of places, backgrounds and noise.
        noise: Whether the strip is noise; it is white otherwise.
    """
    last = SIZE - DIGIT
    along, away = places(len(digits), 0, last, seed)[0], places(len(digits), 2 * INWARD, last, seed + 1)[0]
    sides = torch.arange(len(digits)) % 4
    distance = torch.where(
        sides % 2 == 0, away, last - away
    )  # from the top or left: sides are top, bottom, left, right
    tops, lefts = torch.where(sides < 2, distance, along), torch.where(sides < 2, along, distance)
    plain = scene(digits, tops, lefts, SIZE, seed)
    return patch(plain, sides, seed + 2, STRIP, INWARD, noise)


def patch(
    images: Tensor,
    sides: Tensor,
    seed: int,
    strip: tuple[int, int],
    inward: int,
    noise: bool,
    paint: Callable[[Tensor], Tensor] = lambda brightness: brightness,
) -> Patched:
    """Puts a strip on one side of each image, and the same strip further in.

    Args:
        images: Images (images, ..., size, size).
        sides: 0 top, 1 bottom, 2 left, 3 right.
        seed: Seed of the place along the side, and of the noise.
        strip: Thickness and length.
        inward: Pixels from the border to the interior strip, and at least to the other borders.
        noise: Whether the strip is noise; it is white otherwise.
        paint: Brightness in 0 ... 1 to what the images hold.
    """
    generator = torch.Generator().manual_seed(seed)
    thick, length = strip
    border, interior = images.clone(), images.clone()
    for index, side in enumerate(sides.tolist()):
        start = int(torch.randint(inward, images.shape[-1] - length - inward + 1, (), generator=generator))
        brightness = torch.rand(thick, length, generator=generator) if noise else torch.ones(thick, length)
        for canvas, depth in ((border[index], 0), (interior[index], inward)):
            turned = canvas if side < 2 else canvas.transpose(-1, -2)
            first = depth if side % 2 == 0 else turned.shape[-2] - depth - thick
            turned[..., first : first + thick, start : start + length] = paint(brightness)
    return Patched(images, border, interior)
