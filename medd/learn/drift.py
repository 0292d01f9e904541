"""Whether the images of a device still look, and score, like those that the model was measured on.

Each device's scores and input statistics are put into the bins of the bundle's reference and compared by the
population stability index, for every day and for all days together:

    PSI = Σ (o - e) · ln(o / e)         o, e: share of the observed and of the reference's images in a bin

Rules of thumb from credit scoring (Siddiqi 2006, Credit Risk Scorecards): below 0.1 nothing has changed, above 0.25 a
lot has. But few images scatter: with B bins, n observed and m reference images PSI / (1/n + 1/m) follows χ² with B - 1
degrees of freedom where nothing has changed (Yurdakul & Naranjo 2020, J. Risk Model Validation 14(4)). A device is
therefore marked only above the threshold *and* above what chance reaches once in a thousand times.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date
from enum import StrEnum
from math import log, sqrt
from statistics import NormalDist
from typing import Any

from medd.records import Status
from medd.registry.reference import Distribution, Reference
from medd.store.devices import Sighting

THRESHOLD = 0.25
#: Fewer images than this are not compared.
MIN_IMAGES = 30
#: How often chance alone may mark a quantity of a device and a day, where nothing has changed.
FALSE_ALARMS = 0.001

QUANTITIES = ("score", "input_mean", "input_std")
COLUMNS = (
    "device manufacturer station_name source day images not_assessed state marked drifted score_psi score "
    "score_reference input_mean_psi input_mean input_mean_reference input_std_psi input_std input_std_reference"
).split()


class State(StrEnum):
    """What the comparison of a device's images, of a day or of all days, came to."""

    #: Something has changed, and more than chance would.
    DRIFT = "drift"
    #: Nothing has.
    STEADY = "steady"
    #: There are not enough images to say.
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """Where images come from."""

    #: (0008,0070) Manufacturer; "" where the image does not say.
    manufacturer: str
    #: (0008,1010) Station Name.
    station_name: str
    #: The calling AE title, or "file" for files.
    source: str

    @classmethod
    def of(cls, seen: Sighting) -> "Device":
        """The device that an instance came from.

        The host is left out: addresses change. So is a file's folder: inboxes have one for each patient or study.
        """
        kind, _, rest = seen.origin.partition(":")
        source = rest.removeprefix("//").rpartition("@")[0] if kind == "dicom" else kind
        return cls(seen.manufacturer, seen.station_name, source)

    def __str__(self) -> str:
        return " ".join(word for word in (self.manufacturer, self.station_name, self.source) if word)


def psi(counts: Sequence[int], expected: Sequence[int]) -> float:
    """Population stability index of two histograms over the same bins; half an image more in each keeps it finite."""
    bins = len(expected)
    n, m = sum(counts) + bins / 2, sum(expected) + bins / 2
    shares = (((o + 0.5) / n, (e + 0.5) / m) for o, e in zip(counts, expected, strict=True))
    return sum((o - e) * log(o / e) for o, e in shares)


def chance(bins: int, n: int, m: int, rate: float = FALSE_ALARMS) -> float:
    """The PSI that n images from the reference's own distribution, of m images, reach at `rate`.

    The quantile of χ² is the approximation of Wilson & Hilferty 1931.
    """
    degrees = bins - 1
    z = NormalDist().inv_cdf(1 - rate)
    quantile = degrees * (1 - 2 / (9 * degrees) + z * sqrt(2 / (9 * degrees))) ** 3
    return float(quantile * (1 / n + 1 / m))


@dataclass(slots=True)
class _Histogram:
    """One quantity of one device and day."""

    expected: Distribution
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.expected.counts)

    def add(self, value: float) -> None:
        self.counts[bisect_right(self.expected.edges, value)] += 1
        self.total += value

    @property
    def images(self) -> int:
        return sum(self.counts)

    def psi(self) -> float:
        return psi(self.counts, self.expected.counts)

    def drifted(self, threshold: float) -> bool:
        noise = chance(len(self.counts), self.images, self.expected.images)
        return self.psi() > max(threshold, noise)


class _Group:
    """Everything seen of one device on one day, or on all."""

    def __init__(self, reference: Reference) -> None:
        self.histograms = {name: _Histogram(getattr(reference, name)) for name in QUANTITIES}
        self.images = self.not_assessed = 0

    def add(self, seen: Sighting) -> None:
        if seen.probability is None:
            self.not_assessed += seen.status == Status.NOT_ASSESSED
            return
        self.images += 1
        for name, value in zip(QUANTITIES, (seen.probability, seen.input_mean, seen.input_std), strict=True):
            if value is not None:
                self.histograms[name].add(value)

    def row(self, threshold: float, min_images: int) -> dict[str, Any]:
        """Its columns; a quantity of too few images has no PSI."""
        enough = {name: h for name, h in self.histograms.items() if h.images >= min_images}
        drifted = [name for name, histogram in enough.items() if histogram.drifted(threshold)]
        state = State.DRIFT if drifted else State.STEADY if enough else State.TOO_FEW
        row: dict[str, Any] = {
            "images": self.images,
            "not_assessed": self.not_assessed,
            "state": str(state),
            "drifted": drifted,
        }
        for name, histogram in self.histograms.items():
            row[f"{name}_psi"] = round(histogram.psi(), 4) if name in enough else None
            row[name] = round(histogram.total / histogram.images, 4) if histogram.images else None
            row[f"{name}_reference"] = round(histogram.expected.mean, 4)
        return row


def compare(
    seen: Iterable[Sighting], reference: Reference, *, threshold: float = THRESHOLD, min_images: int = MIN_IMAGES
) -> Iterator[dict[str, Any]]:
    """Compare what was seen with the reference.

    Args:
        seen: Instances, in any order.
        reference: Of the model that scored them.
        threshold: The PSI above which a quantity has drifted, where chance does not explain it.
        min_images: Fewer are not compared.

    Yields:
        Rows with the keys `COLUMNS`: for each device one of all its days (`day` is "all"), then one for each day (UTC)
        on which something came in, and the devices that are marked first. A device is marked when any row of it
        has drifted.
    """
    groups: dict[Device, dict[date | None, _Group]] = {}
    for one in seen:
        days = groups.setdefault(Device.of(one), {})
        for day in (None, one.received_at.astimezone(UTC).date()):
            if day not in days:
                days[day] = _Group(reference)
            days[day].add(one)
    tables: list[tuple[bool, Device, list[dict[str, Any]]]] = []
    for device, days in groups.items():
        ordered = sorted(days, key=lambda day: day or date.min)
        rows = [
            {"day": "all" if day is None else day.isoformat()} | days[day].row(threshold, min_images) for day in ordered
        ]
        tables.append((any(row["state"] == State.DRIFT for row in rows), device, rows))
    for marked, device, rows in sorted(tables, key=lambda table: (not table[0], table[1])):
        names = {
            "device": str(device),
            "manufacturer": device.manufacturer,
            "station_name": device.station_name,
            "source": device.source,
            "marked": marked,
        }
        for row in rows:
            both = names | row
            yield {column: both[column] for column in COLUMNS}
