"""Soft drawing on a grey grid: areas, lines, tubes and clouds."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

#: Limits of the shorter side of the drawing grid, pixels. Edges are soft, so a finer grid shows nothing more.
COARSEST, FINEST = 256, 512
#: Fractional bits of the coordinates given to OpenCV.
_SHIFT = 4

Image = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Canvas:
    """The drawing grid and its frame."""

    height: int
    width: int
    #: Pixels to one unit of the frame.
    scale: int

    @classmethod
    def of(cls, height: int, width: int) -> "Canvas":
        """The grid for a film of `height` by `width` pixels."""
        scale = min(max(min(height, width), COARSEST), FINEST)
        zoom = scale / min(height, width)
        return cls(round(height * zoom), round(width * zoom), scale)

    @property
    def empty(self) -> Image:
        """(H, W) float32 zeros."""
        return np.zeros((self.height, self.width), np.float32)

    def grid(self) -> tuple[Image, Image]:
        """The frame's x as (1, W) and y as (H, 1)."""
        x = (np.arange(self.width) - self.width / 2) / self.scale + 0.5
        y = (np.arange(self.height) - self.height / 2) / self.scale + 0.5
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        centre = (self.width / 2, self.height / 2)
        return np.rint(((points - 0.5) * self.scale + centre) * (1 << _SHIFT)).astype(np.int32)

    def area(self, *outlines: Points, blur: float = 0.003) -> Image:
        """Fill closed outlines: (H, W) float32 in [0, 1]."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self._pixels(outline)], 255, cv2.LINE_AA, _SHIFT)
        return self.soften(np.divide(mask, 255, dtype=np.float32), blur)

    def lines(self, *curves: Points, width: float, blur: float = 0.0015) -> Image:
        """Draw open curves: (H, W) float32 in [0, 1]."""
        mask = np.zeros((self.height, self.width), np.uint8)
        pixels = [self._pixels(curve) for curve in curves]
        wanted = width * self.scale
        # What is finer than a pixel is drawn paler.
        cv2.polylines(mask, pixels, False, 255 * min(1, wanted), max(1, round(wanted)), cv2.LINE_AA, _SHIFT)
        return self.soften(np.divide(mask, 255, dtype=np.float32), blur)

    def bones(self, *curves: Points, width: float) -> Image:
        """Draw curves as tubes: bright cortex, paler marrow."""
        return self.lines(*curves, width=width) - 0.45 * self.lines(*curves, width=width * 0.5, blur=0.004)

    def clouds(self, rng: np.random.Generator, cells: int) -> Image:
        """Smooth noise with about `cells` waves across the film: (H, W) float32, mean 0, deviation about 1."""
        coarse = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
        fine = cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(1.4 * fine, dtype=np.float32)

    def soften(self, image: Image, sigma: float) -> Image:
        """Blur by `sigma`, in units of the frame; wide blurs on a smaller grid, where they cost less."""
        pixels = sigma * self.scale
        if pixels < 6:
            return np.asarray(cv2.GaussianBlur(image, (0, 0), pixels))
        height, width = image.shape
        small = cv2.resize(image, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), pixels / 4), (width, height)))


def curve(*points: tuple[float, float], closed: bool = False, steps: int = 10) -> Points:
    """A Catmull-Rom spline through `points`: (N, 2) float64."""
    knots = np.asarray(points, dtype=np.float64)
    p = np.vstack([knots[-1:], knots, knots[:2]]) if closed else np.vstack([knots[:1], knots, knots[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    spline = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return spline.transpose(1, 0, 2).reshape(-1, 2)
