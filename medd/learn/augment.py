"""What training does to an image so that the network learns the finding and not the film."""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """How far training may change an image. All zero and False: not at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Rotation by up to ± this many degrees.
    rotation_deg: float = Field(default=10, ge=0, le=180)
    #: Shift by up to ± this part of the side, in x and in y.
    shift: float = Field(default=0.1, ge=0, lt=1)
    #: Scale between 1 - zoom and 1 + zoom, in x and in y independently (as Keras' ImageDataGenerator does).
    zoom: float = Field(default=0.2, ge=0, lt=1)
    #: Shear by up to ± this part of the side.
    shear: float = Field(default=0, ge=0, lt=1)
    #: Mirror every other image, left to right.
    flip: bool = True
    #: Gamma between exp(-gamma) and exp(gamma).
    gamma: float = Field(default=0, ge=0, le=2)
    #: Contrast about middle grey, between 1 - contrast and 1 + contrast.
    contrast: float = Field(default=0, ge=0, lt=1)
    #: Added to every pixel, up to ± this part of the range.
    brightness: float = Field(default=0, ge=0, lt=1)
    #: Gaussian blur of two images in five, sigma up to this many pixels.
    blur: float = Field(default=0, ge=0, le=10)
    #: Gaussian noise on every other image, sigma up to this part of the range.
    noise: float = Field(default=0, ge=0, lt=1)

    @property
    def is_none(self) -> bool:
        """Whether it leaves every image as it is."""
        return not any(self.model_dump().values())

    def apply(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Change an image at random: `warp`, then `recolour`.

        Args:
            image: (size, size) uint8.
            rng: Draws the same count of numbers for each image, whatever the amounts; the noise comes on top.

        Returns:
            (size, size) uint8.
        """
        return self.recolour(self.warp(image, rng), rng)

    def warp(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Move an image by one random affine map about its centre; edge pixels fill what comes in.

        Args:
            image: (size, size) uint8.
            rng: Draws seven numbers.

        Returns:
            (size, size) uint8.
        """
        angle, shift_x, shift_y, zoom_x, zoom_y, shear, mirror = rng.uniform(-1, 1, 7)
        turn = np.deg2rad(angle * self.rotation_deg)
        scale_x, scale_y = 1 + zoom_x * self.zoom, 1 + zoom_y * self.zoom
        if self.flip and mirror < 0:
            scale_x = -scale_x
        # WARP_INVERSE_MAP: the matrix takes a pixel of the result to its place in the source.
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear = rotation @ np.array([[1, 2 * shear * self.shear], [0, 1]]) @ np.diag([scale_x, scale_y])
        size = image.shape[0]
        centre = np.full(2, (size - 1) / 2)
        offset = centre - linear @ centre + np.array([shift_x, shift_y]) * self.shift * size
        matrix = np.column_stack([linear, offset])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, np.uint8)

    def recolour(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Change the grey values of an image: gamma, contrast, brightness, blur, noise.

        Args:
            image: (size, size) uint8.
            rng: Draws seven numbers, and where there is noise one for each pixel.

        Returns:
            (size, size) uint8.
        """
        gamma, contrast, brightness = rng.uniform(-1, 1, 3)
        blurred, blur, noisy, noise = rng.uniform(0, 1, 4)
        if self.gamma or self.contrast or self.brightness:
            curve = (np.arange(256) / 255) ** np.exp(gamma * self.gamma)
            curve = (curve - 0.5) * (1 + contrast * self.contrast) + 0.5 + brightness * self.brightness
            image = np.asarray(cv2.LUT(image, np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)), np.uint8)
        if self.blur and blurred < 0.4:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.3 + blur * self.blur), np.uint8)
        if self.noise and noisy < 0.5:
            grain = rng.standard_normal(image.shape, np.float32) * np.float32(255 * noise * self.noise)
            image = np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)
        return image
