"""Operations of image augmentation on blocks of small pictures, as Pillow does them one by one.

Each takes uint8 pictures and one amount per picture, and gives uint8: results are whole grey
levels after every step, as in a chain of Pillow calls. What a warp brings in from outside is black.
All run on the pictures' device without waiting for it.

Sources: Pillow's ImageEnhance, ImageOps and affine transform, whose formulas these follow.
Shapes: B pictures, 3 colours, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(uint8 [B, 3, H, W], float32 amounts [B]) -> uint8 [B, 3, H, W]."""


def identity(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    del amounts
    return images


def shear_x(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Each row moves sideways by `amount` pixels per row from the top."""
    one, none = torch.ones_like(amounts), torch.zeros_like(amounts)
    return warp(images, torch.stack([one, amounts, none, none, one, none], dim=1))


def shear_y(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    one, none = torch.ones_like(amounts), torch.zeros_like(amounts)
    return warp(images, torch.stack([one, none, none, amounts, one, none], dim=1))


def translate_x(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Moves to the right by whole pixels, cut towards zero."""
    one, none = torch.ones_like(amounts), torch.zeros_like(amounts)
    return warp(images, torch.stack([one, none, -amounts.trunc(), none, one, none], dim=1))


def translate_y(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    one, none = torch.ones_like(amounts), torch.zeros_like(amounts)
    return warp(images, torch.stack([one, none, none, none, one, -amounts.trunc()], dim=1))


def rotate(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Turns counter-clockwise about the middle, in degrees."""
    cosine, sine = torch.cos(torch.deg2rad(amounts)), torch.sin(torch.deg2rad(amounts))
    middle_y, middle_x = images.shape[2] / 2, images.shape[3] / 2
    across = middle_x - cosine * middle_x + sine * middle_y
    down = middle_y - sine * middle_x - cosine * middle_y
    return warp(images, torch.stack([cosine, -sine, across, sine, cosine, down], dim=1))


def warp(images: torch.Tensor, maps_B6: torch.Tensor) -> torch.Tensor:
    """The pixel at (x, y) comes from (a x + b y + c, d x + e y + f), the nearest one; both count
    from the corner, so a pixel's middle lies at a half."""
    count, colours, height, width = images.shape
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    a, b, c, d, e, f = maps_B6[:, :, None, None].unbind(1)
    column, row = (a * x + b * y + c).floor().long(), (d * x + e * y + f).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    places = (row * width + column).where(inside, 0).view(count, 1, -1).expand(-1, colours, -1)
    moved = images.flatten(2).gather(2, places).view_as(images)
    return moved * inside[:, None]


def brightness(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Away from black: amounts are factors, 1 changes nothing; so for the next three."""
    return _blend(torch.zeros_like(images), images, amounts)


def color(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Away from grey; also known as saturation."""
    return _blend(_grey(images).expand_as(images), images, amounts)


def contrast(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Away from the picture's mean grey."""
    grey = _grey(images)
    # Whole numbers add up to the same in any order, and so on any device.
    total = grey.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64)
    pixels = grey[0].numel()
    return _blend((2 * total + pixels) // (2 * pixels), images, amounts)


def sharpness(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Away from the smoothed picture; pixels at the border stay."""
    whole = images.int()
    across = whole[..., :-2] + whole[..., 1:-1] + whole[..., 2:]
    around = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
    smooth = whole.clone()
    # Weights 1 around and 5 in the middle, 13 in all, to the nearest whole level.
    smooth[..., 1:-1, 1:-1] = (2 * (around + 4 * whole[..., 1:-1, 1:-1]) + 13) // 26
    return _blend(smooth, images, amounts)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Luma in whole levels, int32 [B, 1, H, W]."""
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blend(away: torch.Tensor, images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    away, factors = away.float(), factors[:, None, None, None]
    return (away + factors * (images.float() - away)).clamp_(0, 255).to(torch.uint8)


def posterize(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Keeps the highest `amount` bits, a whole number 0 .. 8."""
    dropped = 8 - amounts.to(torch.int32)[:, None, None, None]
    return ((images.int() >> dropped) << dropped).to(torch.uint8)


def solarize(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Inverts levels from `amount` on."""
    return torch.where(images >= amounts[:, None, None, None], 255 - images, images)


def autocontrast(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Stretches each colour over all levels; a colour of one level stays."""
    del amounts
    low, high = (edge.int() for edge in torch.aminmax(images.flatten(2), dim=2, keepdim=True))
    spread = high - low
    stretched = (images.flatten(2).int() - low) * 255 // spread.clamp(min=1)
    return torch.where(spread > 0, stretched.to(torch.uint8), images.flatten(2)).view_as(images)


def equalize(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Spreads the levels of each colour so that about as many pixels have each."""
    del amounts
    levels = torch.arange(256, dtype=torch.int16, device=images.device)
    flat = images.flatten(2)
    # Counts by sorting: counting with atomic additions is refused in deterministic mode.
    ascending = flat.to(torch.int16).sort(dim=2).values
    wanted = levels.expand(*flat.shape[:2], 256).contiguous()
    below = torch.searchsorted(ascending, wanted)
    brightest = ascending[..., -1:].long()
    step = below.gather(2, brightest) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    spread = table.gather(2, flat.long()).to(torch.uint8)
    several = (ascending[..., :1] < ascending[..., -1:]) & (step > 0)
    return torch.where(several, spread, flat).view_as(images)


def hue(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Turns the hue of HSV by `amount` of the circle, -0.5 .. 0.5."""
    rgb = images.float()
    value, low = rgb.amax(1), rgb.amin(1)
    spread = value - low
    red, green, blue = rgb.unbind(1)
    safe = spread.clamp(min=1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turned = sector + 6 * amounts[:, None, None]
    shown = []
    for first in (5, 3, 1):
        place = (turned + first) % 6
        shown.append(value - spread * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(shown, dim=1).round_().clamp_(0, 255).to(torch.uint8)


OPERATIONS: dict[str, Operation] = {
    "identity": identity,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "hue": hue,
}


def apply_each(
    images: torch.Tensor, names: tuple[str, ...], chosen_B: torch.Tensor, amounts_B: torch.Tensor
) -> torch.Tensor:
    """One operation per picture: those with the same one go through it together.

    Args:
        chosen_B: int64 places in `names`, on the pictures' device.
        amounts_B: float32, what the chosen operation takes.
    """
    out = images.clone()
    # One wait for the device per call: the groups are then cut on the host.
    chosen = chosen_B.cpu()
    for number, name in enumerate(names):
        places = (chosen == number).nonzero()[:, 0]
        if len(places) and name != "identity":
            rows = places.to(images.device)
            out[rows] = OPERATIONS[name](images[rows], amounts_B[rows])
    return out
