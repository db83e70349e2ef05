"""Fields and shapes that phantoms are painted with: all float32, channel-first, coordinates in -1..1.

Noise is drawn on a coarse lattice and upsampled, and shapes are evaluated only inside their bounding box: that is what
makes more than fifty images a second possible on one core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw


@lru_cache(maxsize=8)
def grid(px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel-centre coordinates ``y, x``, each (px, px) float32 in -1..1; treat as read-only."""
    axis = ((np.arange(px, dtype=np.float32) + 0.5) * (2.0 / px) - 1.0).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    y.flags.writeable = x.flags.writeable = False
    return y, x


def resize(field: np.ndarray, px: int, *, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Resample a 2-D float32 field to (px, px)."""
    return np.array(Image.fromarray(np.ascontiguousarray(field, dtype=np.float32)).resize((px, px), method))


def noise(rng: np.random.Generator, px: int, cells: int, *, stretch: float = 1.0) -> np.ndarray:
    """Return smooth noise of about unit variance with ``cells`` lattice points a side; ``stretch`` > 1 elongates in
    x."""
    rows, columns = max(2, int(cells)), max(2, int(cells / stretch))
    return resize(rng.standard_normal((rows, columns), dtype=np.float32), px) * np.float32(1.25)


def fractal(rng: np.random.Generator, px: int, *, cells: int = 4, octaves: int = 4, gain: float = 0.55) -> np.ndarray:
    """Return the sum of ``octaves`` of noise, each twice as fine and ``gain`` as strong; about unit variance."""
    size, weight, total = max(2, cells), 1.0, 1.0
    field = rng.standard_normal((size, size), dtype=np.float32)
    for _ in range(octaves - 1):
        size, weight = size * 2, weight * gain
        fine = rng.standard_normal((size, size), dtype=np.float32)
        # Octaves finer than the picture are drawn, so the stream does not depend on px, but not painted.
        if size <= px:
            field = resize(field, size) + np.float32(weight) * fine
            total += weight**2
    return resize(field, px) * np.float32(1.2 / np.sqrt(total))


def soften(field: np.ndarray, passes: int = 1) -> np.ndarray:
    """Blur the last two axes with the kernel [1, 2, 1] / 4 (sigma 0.7 px a pass), edges repeated."""
    for _ in range(passes):
        padded = np.concatenate([field[..., :1, :], field, field[..., -1:, :]], axis=-2)
        field = (padded[..., :-2, :] + padded[..., 2:, :]) * 0.25 + padded[..., 1:-1, :] * 0.5
        padded = np.concatenate([field[..., :1], field, field[..., -1:]], axis=-1)
        field = (padded[..., :-2] + padded[..., 2:]) * 0.25 + padded[..., 1:-1] * 0.5
    return field


def wide_blur(field: np.ndarray, radius: float) -> np.ndarray:
    """Blur a 2-D field by about ``radius`` (share of the width) through a smaller picture: cost independent of
    radius."""
    small = max(4, round(0.6 / max(radius, 1e-3)))
    px = field.shape[0]
    return field if small >= px else resize(resize(field, small, method=Image.Resampling.HAMMING), px)


@dataclass(frozen=True)
class Blob:
    """A star-shaped outline: an ellipse whose radius is modulated by cosine waves.

    Centre ``x, y`` and radii ``rx, ry`` in -1..1 units, ``angle`` in radians, ``waves`` as (order, amplitude, phase).
    """

    x: float
    y: float
    rx: float
    ry: float
    angle: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()

    def scaled(self, factor: float) -> Blob:
        """Return the blob with both radii times ``factor``."""
        return replace(self, rx=self.rx * factor, ry=self.ry * factor)


def blob(
    rng: np.random.Generator, x: float, y: float, rx: float, ry: float, *, angle: float = 0.0, rough: float = 0.08
) -> Blob:
    """Return a blob with random waves of orders 2 to 6 whose amplitudes fall with the order; ``rough`` is the first."""
    amplitude = rng.normal(0.0, 1.0, 5) * rough / np.arange(1, 6)
    phase = rng.uniform(0.0, 2 * np.pi, 5)
    waves = tuple(
        (order, float(np.clip(amplitude[order - 2], -0.3, 0.3)), float(phase[order - 2])) for order in range(2, 7)
    )
    return Blob(x, y, rx, ry, angle, waves if rough > 0 else ())


def depth(shape: Blob, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return 1 - rho / R(theta): 1 at the centre, 0 on the outline, negative outside (times the radius: distance)."""
    cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    u, v = x - np.float32(shape.x), y - np.float32(shape.y)
    u, v = (u * cos + v * sin) * np.float32(1 / shape.rx), (v * cos - u * sin) * np.float32(1 / shape.ry)
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    if not shape.waves:
        return 1.0 - rho
    c1, s1 = u / rho, v / rho
    ck, sk = c1, s1
    radius = np.ones_like(rho)
    powers = {1: (c1, s1)}
    for order in range(2, max(order for order, _, _ in shape.waves) + 1):
        ck, sk = ck * c1 - sk * s1, sk * c1 + ck * s1
        powers[order] = (ck, sk)
    for order, amplitude, phase in shape.waves:
        ck, sk = powers[order]
        radius += ck * np.float32(amplitude * np.cos(phase)) + sk * np.float32(amplitude * np.sin(phase))
    return 1.0 - rho / np.maximum(radius, 0.2)


def box(shape: Blob, px: int, *, margin: float = 1.5) -> tuple[slice, slice]:
    """Return the slices (rows, columns) of the pixels that ``margin`` times the blob can touch."""
    reach = max(shape.rx, shape.ry) * margin
    low_y, high_y = ((shape.y + side * reach + 1.0) * px / 2 for side in (-1, 1))
    low_x, high_x = ((shape.x + side * reach + 1.0) * px / 2 for side in (-1, 1))
    rows = slice(max(0, int(low_y)), max(0, min(px, int(high_y) + 2)))
    return rows, slice(max(0, int(low_x)), max(0, min(px, int(high_x) + 2)))


def local_depth(shape: Blob, px: int, *, margin: float = 1.5) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return a blob's bounding box and its depth in it."""
    where = box(shape, px, margin=margin)
    y, x = grid(px)
    return where, depth(shape, y[where], x[where])


def stamp(labels: np.ndarray, shape: Blob, value: float, *, within: np.ndarray | None = None) -> None:
    """Write ``value`` inside the blob into ``labels`` (px, px), only where ``within`` holds if it is given."""
    where, inside = local_depth(shape, labels.shape[0])
    hit = inside > 0
    if within is not None:
        hit &= within[where]
    labels[where][hit] = value


def cover(shape: Blob, px: int, *, soft: float = 0.0) -> np.ndarray:
    """Return the (px, px) coverage 0..1 of a blob whose edge is ``soft`` wide (share of radius; at least one pixel)."""
    result = np.zeros((px, px), np.float32)
    where, inside = local_depth(shape, px, margin=1.6 + soft)
    width = max(soft, 2.0 / (px * min(shape.rx, shape.ry) + 1e-6))
    result[where] = np.clip(0.5 + inside / np.float32(width), 0, 1)
    return result


def raster(shape: Blob, px: int) -> np.ndarray:
    """Return the exact mask (px, px) uint8: pixels whose centre lies inside the blob."""
    result = np.zeros((px, px), np.uint8)
    stamp(result, shape, 1)
    return result


def strokes(lines: list[tuple[np.ndarray, float, float]], px: int) -> np.ndarray:
    """Return the coverage 0..1 of polylines (points (n, 2) as x, y; width in -1..1 units; strength 0..1),
    anti-aliased."""
    scale = 2
    picture = Image.new("L", (px * scale, px * scale))
    pen = ImageDraw.Draw(picture)
    for points, width, strength in lines:
        path = ((points + 1.0) * (px * scale / 2)).ravel().tolist()
        pen.line(path, fill=round(255 * strength), width=max(1, round(width * px * scale / 2)), joint="curve")
    return np.asarray(picture.reduce(scale), dtype=np.float32) * np.float32(1 / 255)


def curve(start: np.ndarray, bend: np.ndarray, end: np.ndarray, *, points: int = 14) -> np.ndarray:
    """Return a quadratic Bezier curve as (points, 2) coordinates x, y."""
    t = np.linspace(0.0, 1.0, points)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end


def tint(image: np.ndarray, colour: tuple[float, float, float] | np.ndarray, amount: np.ndarray) -> None:
    """Blend ``colour`` (0..1 RGB) into the (3, px, px) image in place by ``amount`` (px, px) in 0..1."""
    for channel in range(3):
        image[channel] += (np.float32(colour[channel]) - image[channel]) * amount


def relief(height: np.ndarray, *, light: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Shade a height field (units of half the width) lit from the camera plus ``light``: (lambert, facing) in 0..1."""
    step = np.float32(height.shape[0] / 4)
    slope_y, slope_x = np.zeros_like(height), np.zeros_like(height)
    slope_y[1:-1] = (height[2:] - height[:-2]) * step
    slope_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * step
    facing = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    lambert = (1.0 - slope_x * np.float32(light[0]) - slope_y * np.float32(light[1])) * facing
    return np.clip(lambert, 0.0, 1.6), facing
