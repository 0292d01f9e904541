"""A synthetic frontal chest radiograph: drawn anatomy, no patient.

It looks like a small child's AP film to a lay eye, which is enough to show a pipeline at work. It says nothing about
how well a model does on real films.

Anatomy is drawn in a frame of its own: x to the viewer's right, y downwards, the film's shorter side from 0 to 1. The
patient's right is the viewer's left, side -1; the patient's left is side +1. Grey is added up layer by layer: 0 is air
around the body, 0.5 soft tissue, about 0.8 the spine.
"""

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from medd.testing.canvas import Canvas, Image, Points, curve

#: Highest size on a side, pixels.
MAX_SIDE = 8192

_CIRCLE = np.linspace(0, 2 * np.pi, 25)


def radiograph(seed: int, *, size: int | tuple[int, int] = 1024, opacity: bool = False) -> Image:
    """Draw a chest radiograph.

    The same seed gives the same child: with and without `opacity`, and in every size, only the noise differs.

    Args:
        seed: Chooses the anatomy, the opacity and the noise.
        size: Side of the square film, or (H, W), pixels.
        opacity: Whether one or several soft consolidations lie in the lungs.

    Returns:
        (H, W) float32 in [0, 1]; air is black.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 8 or max(height, width) > MAX_SIDE:
        raise ValueError(f"a film has 8 to {MAX_SIDE} pixels on a side. Received: {height}x{width}")
    canvas = Canvas.of(height, width)
    child = _Child(canvas, seed)
    grey = child.draw(opacity)
    interpolation = cv2.INTER_AREA if height < grey.shape[0] else cv2.INTER_LINEAR
    grey = cv2.resize(grey, (width, height), interpolation=interpolation)
    noise = np.random.default_rng((seed, 3)).standard_normal((height, width), dtype=np.float32)
    # Quantum noise: coarse grain, and less of it where the film is black.
    grain = cv2.GaussianBlur(noise, (0, 0), 0.8)
    grey += grain * (0.008 + 0.022 * grey)
    return np.asarray(np.clip(grey, 0, 1), dtype=np.float32)


def lung_field(seed: int, *, size: int | tuple[int, int] = 1024) -> NDArray[np.bool_]:
    """Where the lungs of `radiograph(seed)` are free of heart and diaphragm: (H, W) bool."""
    height, width = (size, size) if isinstance(size, int) else size
    field = _Child(Canvas.of(height, width), seed).aerated
    return np.asarray(cv2.resize(field, (width, height)) > 0.5)


class _Child:
    """One child's anatomy, varied by the seed."""

    def __init__(self, canvas: Canvas, seed: int) -> None:
        self.canvas = canvas
        self.seed = seed
        rng = np.random.default_rng((seed, 0))

        def vary(mean: float, spread: float) -> float:
            return float(mean + spread * rng.uniform(-1, 1))

        #: The midline: its x at the height of the shoulders, and how far it leans to a side at the diaphragm.
        self.middle, self.lean = vary(0.5, 0.015), vary(0, 0.012)
        #: Half the width of the chest, at the lower ribs.
        self.half = vary(0.36, 0.03)
        #: y of the lungs' apices, and of the two domes: side -1, side +1.
        self.apex = vary(0.14, 0.02)
        self.dome = {-1: vary(0.66, 0.03), +1: vary(0.69, 0.03)}
        #: Reach of the heart to the right and to the left of the midline.
        self.heart = {-1: vary(0.085, 0.015), +1: vary(0.195, 0.03)}
        #: How the arms lie: 0 along the body, 1 away from it.
        self.arms = vary(0.5, 0.4)
        self.clavicle_tilt = vary(0.03, 0.025)
        self.ribs = 9
        self.bone = vary(0.13, 0.02)
        self.air = vary(0.28, 0.03)
        self.exposure = vary(1.0, 0.05)
        self.stomach_gas = rng.uniform() < 0.6
        self.marker = "R" if rng.uniform() < 0.7 else "L"

    # Frame --------------------------------------------------------------------------------------------------------

    def at(self, side: int, across: float, y: float) -> tuple[float, float]:
        """A point `across` half chest widths from the midline."""
        return self.middle + self.lean * y + side * across * self.half, y

    # Lungs --------------------------------------------------------------------------------------------------------

    def chest_wall(self, y: float) -> float:
        """Half the inner width of the chest at `y`, in half chest widths."""
        depth = (y - self.apex) / (0.78 - self.apex)
        return float(np.interp(depth, [0, 0.1, 0.25, 0.45, 0.7, 1.0], [0.42, 0.62, 0.77, 0.89, 0.98, 1.0]))

    def lung(self, side: int) -> Points:
        """The outline of one lung."""
        apex, dome = self.apex, self.dome[side]
        wall = [(self.chest_wall(y) - 0.02, y) for y in np.linspace(apex + 0.06, dome + 0.05, 6)]
        outline = [
            (0.22, apex + 0.05),
            (0.30, apex),
            (0.42, apex + 0.005),
            *wall,
            (1.0, dome + 0.095),  # costophrenic angle
            (0.90, dome + 0.035),
            (0.68, dome),
            (0.45, dome + 0.005),
            (0.20, dome + 0.05),
            (0.14, dome),
            (0.15, apex + 0.2),
        ]
        return curve(*(self.at(side, x, y) for x, y in outline), closed=True)

    @cached_property
    def lungs(self) -> dict[int, Image]:
        return {side: self.canvas.area(self.lung(side), blur=0.005) for side in (-1, 1)}

    @cached_property
    def heart_shadow(self) -> Image:
        """Heart and great vessels."""
        low = min(self.dome.values()) + 0.06
        right, left = self.heart[-1] / self.half, self.heart[+1] / self.half
        outline = [
            self.at(-1, 0.14, self.apex - 0.02),
            self.at(-1, 0.17, self.apex + 0.17),
            self.at(-1, right, low - 0.19),
            self.at(-1, right, low - 0.07),
            self.at(-1, right * 0.7, low + 0.04),
            self.at(+1, left * 0.6, low + 0.06),
            self.at(+1, left * 1.02, low - 0.01),
            self.at(+1, left * 0.95, low - 0.10),
            self.at(+1, left * 0.58, low - 0.22),
            self.at(+1, 0.23, self.apex + 0.15),  # aortic knob
            self.at(+1, 0.13, self.apex - 0.02),
        ]
        return self.canvas.area(curve(*outline, closed=True), blur=0.006)

    @cached_property
    def aerated(self) -> Image:
        """Lung that no heart covers: (H, W) float32 in [0, 1]."""
        return (self.lungs[-1] + self.lungs[+1]) * (1 - self.heart_shadow)

    # Layers -------------------------------------------------------------------------------------------------------

    def draw(self, opacity: bool) -> Image:
        """All layers on the grid: (H, W) float32, about [0, 1]."""
        canvas = self.canvas
        x, y = canvas.grid()
        body = self.body()
        lungs = self.lungs[-1] + self.lungs[+1]
        # Tissue grows thicker from the skin inwards, and from the shoulders down to the belly.
        depth = self.canvas.soften(body, 0.05) ** 2
        grey = body * (0.20 + 0.28 * depth)
        belly = 1 / (1 + np.exp(-(y - self.dome[-1]) / 0.035))
        grey += 0.19 * belly * depth * self.canvas.soften(body, 0.02)
        air = self.air * lungs * (0.8 + 0.2 * self.canvas.soften(lungs, 0.04))
        air -= self.air * 0.72 * self.heart_shadow * lungs
        if opacity:
            air -= self.air * 0.85 * self.opacities() * lungs
        # Below the dome the heart's edge is lost in the belly, which is as dense.
        heart = 0.11 * self.heart_shadow + 0.05 * self.canvas.soften(self.heart_shadow, 0.03)
        grey += heart * (1 - 0.7 * belly) - air
        grey += self.vessels() * np.clip(lungs, 0, 1)
        grey += self.spine() + self.rib_cage() * (1 - 0.7 * belly) + self.shoulders()
        if self.stomach_gas:
            spot = self.at(+1, 0.45, self.dome[+1] + 0.10)
            grey -= 0.20 * self.blob(spot, (0.07, 0.045)) * belly
        grey += body * 0.007 * canvas.clouds(np.random.default_rng((self.seed, 2)), 70)
        grey *= self.exposure * (1.03 - 0.25 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
        grey += 0.02
        # Bright parts saturate as on film.
        grey = np.where(grey > 0.7, 0.7 + 0.3 * np.tanh((grey - 0.7) / 0.3), grey)
        self.mark(grey)
        return grey

    def blob(self, centre: tuple[float, float], radii: tuple[float, float]) -> Image:
        """A soft ellipse: (H, W) float32 in [0, 1]."""
        x, y = self.canvas.grid()
        return np.exp(-(((x - centre[0]) / radii[0]) ** 2) - ((y - centre[1]) / radii[1]) ** 2).astype(np.float32)

    def body(self) -> Image:
        """Trunk, neck and arms."""
        outline = []
        arms = []
        for side in (-1, 1):
            half = [
                (0.42, -0.4),
                (0.40, -0.02),
                (0.55, 0.035),
                (0.95, 0.06),
                (1.17, 0.14),
                (1.16, 0.30),
                (1.13, 0.50),
                (1.13, 0.75),
                (1.16, 1.1),
                (1.2, 1.6),
            ]
            points = [self.at(side, a, b) for a, b in half]
            outline += points if side < 0 else points[::-1]
            away = 0.12 + 0.30 * self.arms
            shoulder, elbow = self.at(side, 1.10, 0.13), self.at(side, 1.22 + away, 0.62)
            arms.append(curve(shoulder, self.at(side, 1.22 + away * 0.45, 0.32), elbow, self.at(side, 1.3 + away, 1.3)))
        trunk = self.canvas.area(curve(outline[0], *outline[1:], closed=True), blur=0.004)
        return np.maximum(trunk, self.canvas.lines(*arms, width=0.125, blur=0.004))

    def spine(self) -> Image:
        """Vertebrae, discs and the air of the trachea."""
        x, y = self.canvas.grid()
        axis = self.middle + self.lean * y
        column = np.exp(-(np.abs((x - axis) / 0.050) ** 4))
        pitch = 0.052 + 0.012 * y
        phase = y / pitch % 1
        disc = np.exp(-(((phase - 0.5) / 0.13) ** 2))
        edge = np.exp(-(((np.abs(x - axis) - 0.040) / 0.006) ** 2))
        pedicle = np.exp(-(((np.abs(x - axis) - 0.026) / 0.008) ** 2) - ((phase - 0.95) / 0.12) ** 2)
        grey = column * (0.10 - 0.06 * disc) + 0.025 * edge * (1 - disc) + 0.04 * pedicle
        carina = self.apex + 0.17
        trachea = np.exp(-(((x - axis - 0.006) / 0.017) ** 4)) / (1 + np.exp((y - carina) / 0.012))
        return np.asarray(grey - 0.09 * trachea, dtype=np.float32)

    def rib_cage(self) -> Image:
        """Ribs: each runs from the spine outwards, around the side, then forwards and down to its cartilage."""
        rng = np.random.default_rng((self.seed, 5))
        back, front = [], []
        span = max(self.dome.values()) + 0.10 - self.apex
        for side in (-1, 1):
            for i in range(self.ribs + 2):
                start = self.apex + 0.01 + span * (i / self.ribs) ** 0.95 + rng.uniform(-0.004, 0.004)
                drop = 0.06 + 0.125 * min(1.0, i / 5) + rng.uniform(-0.006, 0.006)
                reach = self.chest_wall(start + 0.45 * drop) + 0.015
                # Seen from the front, a rib is the loop of a tilted ring.
                angle = np.linspace(0.03, 0.82 * np.pi, 30)
                across = 0.03 + (reach - 0.03) * np.sin(angle) ** 0.8
                y = start + drop * (1 - np.cos(angle)) / 2 - 0.04 * np.sin(2 * np.minimum(angle, np.pi / 2))
                points = np.array([self.at(side, a, b) for a, b in zip(across, y, strict=True)])
                back.append(points[:18])
                if 1 <= i < self.ribs:
                    front.append(points[15:])
        x, y = self.canvas.grid()
        across = np.abs(x - self.middle - self.lean * y) / self.half
        # Behind the spine ribs are lost; in front they end in cartilage, which X-rays hardly see.
        behind, ahead = np.clip((across - 0.10) / 0.14, 0, 1), np.clip((across - 0.48) / 0.25, 0, 1)
        grey = self.canvas.bones(*back, width=0.021) * behind + 0.7 * self.canvas.bones(*front, width=0.023) * ahead
        return np.asarray(grey * self.bone, dtype=np.float32)

    def shoulders(self) -> Image:
        """Clavicles, shoulder blades and the upper arms."""
        canvas, clavicles, blades, shafts, heads = self.canvas, [], [], [], []
        top = self.apex - 0.005
        for side in (-1, 1):
            clavicles.append(
                curve(
                    self.at(side, 0.13, top + 0.045),
                    self.at(side, 0.35, top + 0.035 - self.clavicle_tilt * 0.3),
                    self.at(side, 0.68, max(0.095, top - 0.005 - self.clavicle_tilt)),
                    self.at(side, 0.98, max(0.095, top - 0.015 - self.clavicle_tilt)),
                )
            )
            blade = [(1.0, 0.13), (0.80, 0.15), (0.76, 0.25), (0.86, 0.37), (0.93, 0.36), (1.0, 0.22)]
            blades.append(curve(*(self.at(side, a, b) for a, b in blade), closed=True))
            away = 0.12 + 0.30 * self.arms
            head = self.at(side, 1.10, 0.135)
            shafts.append(
                curve(
                    head,
                    self.at(side, 1.22 + away * 0.45, 0.32),
                    self.at(side, 1.22 + away, 0.62),
                    self.at(side, 1.3 + away, 1.3),
                )
            )
            heads.append(curve(*(self.at(side, 1.09 + 0.09 * np.cos(a), 0.125 + 0.03 * np.sin(a)) for a in _CIRCLE)))
        grey = canvas.empty
        grey += 0.17 * canvas.bones(*clavicles, width=0.021)
        grey += 0.06 * canvas.area(*blades, blur=0.006) + 0.05 * canvas.lines(*blades, width=0.008, blur=0.003)
        grey += 0.15 * canvas.bones(*shafts, width=0.032) + 0.12 * canvas.area(*heads, blur=0.006)
        return grey

    def vessels(self) -> Image:
        """The lungs' vessels, branching from the hila, and their haze."""
        rng = np.random.default_rng((self.seed, 1))
        canvas, thick, thin = self.canvas, [], []
        hila = self.canvas.empty
        for side in (-1, 1):
            root = self.at(side, 0.26, (self.apex + self.dome[side]) / 2 + 0.01)
            hila += self.blob(root, (0.035, 0.06))
            for _ in range(13):
                heading, bend = rng.uniform(-1.4, 1.4), rng.uniform(-0.5, 0.5)
                length = rng.uniform(0.10, 0.26)
                trunk = np.array(root) + _towards(side, heading) * length * 0.4
                thick.append(np.array([root, trunk]))
                for fork in (bend, bend + rng.uniform(0.3, 0.8)):
                    thin.append(np.array([trunk, trunk + _towards(side, heading + fork) * length * 0.6]))
        grey = 0.050 * canvas.lines(*thick, width=0.007, blur=0.003)
        grey += 0.035 * canvas.lines(*thin, width=0.004, blur=0.002)
        return np.asarray(grey + 0.07 * hila + 0.009 * canvas.clouds(rng, 28), dtype=np.float32)

    def opacities(self) -> Image:
        """One lobar or several patchy consolidations: (H, W) float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, 4))
        clouds = self.canvas.clouds(rng, 14) + 0.6 * self.canvas.clouds(rng, 34)
        lobar = rng.uniform() < 0.5
        field = self.canvas.empty
        for _ in range(1 if lobar else int(rng.integers(2, 5))):
            side = int(rng.choice([-1, 1]))
            bottom = self.dome[side]
            if lobar:
                upper = rng.uniform() < 0.35
                height = self.apex + 0.14 if upper else bottom - rng.uniform(0.06, 0.14)
                centre, radii = self.at(side, 0.55, height), (rng.uniform(0.19, 0.25), rng.uniform(0.16, 0.22))
            else:
                centre = self.at(side, rng.uniform(0.35, 0.72), rng.uniform(self.apex + 0.14, bottom - 0.05))
                radii = (rng.uniform(0.10, 0.16), rng.uniform(0.08, 0.14))
            field = np.maximum(field, self.blob(centre, radii))
        # The clouds fray the edge; the core stays filled.
        return self.canvas.soften(np.clip(2.4 * field - 0.75 + 0.5 * clouds * np.sqrt(field), 0, 1), 0.010)

    def mark(self, grey: Image) -> None:
        """Burn the side marker in, in place."""
        side = -1 if self.marker == "R" else 1
        x, y = 0.5 + side * 0.44 - 0.02, 0.30
        scale = self.canvas.scale
        origin = (round((x - 0.5) * scale + self.canvas.width / 2), round((y - 0.5) * scale + self.canvas.height / 2))
        mask = np.zeros(grey.shape, np.uint8)
        stroke = max(1, round(scale / 170))
        cv2.putText(mask, self.marker, origin, cv2.FONT_HERSHEY_SIMPLEX, scale / 640, 255, stroke, cv2.LINE_AA)
        np.maximum(grey, mask.astype(np.float32) * (0.95 / 255), out=grey)


def _towards(side: int, angle: float) -> Points:
    """A step away from the midline, `angle` radians downwards."""
    return np.array([side * np.cos(angle), np.sin(angle)])
