"""Scoring: images per second and latency of a bundle's serving classifier and of Keras, the time from the start of the
process to the first score, memory, and what the heat map costs."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tables import arguments, machine, ratio, report, spread

from medd.testing import jpeg_radiograph

BUNDLE = Path(__file__).parents[1] / "plugins" / "medd_pneumonia" / "bundles" / "paper-1"
MIB = 1024 * 1024
SIZES = {1: "≥ 50×", 8: "", 32: "≥ 9×", 128: "≥ 4×"}


class Scorer:
    """A process of scorer.py.

    Attributes:
        first_s: From its start to its first score, seconds.
        calls: The ways it can be asked.
    """

    def __init__(self, runtime: str, bundle: Path, image: Path) -> None:
        # TensorFlow's own default, whatever the shell says.
        environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
        command = [sys.executable, str(Path(__file__).with_name("scorer.py")), runtime, str(bundle), str(image)]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.calls: list[str] = self._answer()["calls"]
        self.first_s = time.perf_counter() - start

    def _answer(self):
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {' '.join(map(str, self._process.args))} failed")
        return json.loads(line)

    def measure(self, call: str, images: int, seconds: float) -> list[float]:
        """How long each call with so many images took, seconds."""
        assert self._process.stdin
        print(json.dumps({"call": call, "images": images, "seconds": seconds}), file=self._process.stdin, flush=True)
        return self._answer()

    def memory(self) -> float:
        """Resident memory, MiB."""
        return psutil.Process(self._process.pid).memory_info().rss / MIB

    def close(self) -> None:
        self._process.communicate()


class Measured(dict):
    """Name → one value for each round."""

    def add(self, name: object, value: float) -> None:
        self.setdefault(name, []).append(value)


def one_round(runtime: str, args, image: Path, found: Measured) -> None:
    seconds = 0.2 if args.quick else args.seconds
    scorer = Scorer(runtime, args.bundle, image)
    found.add((runtime, "first"), scorer.first_s)
    found.add((runtime, "memory at first"), scorer.memory())
    for images in SIZES:
        for call in scorer.calls:
            took = scorer.measure(call, images, seconds)
            found.add((runtime, call, images), images * len(took) / sum(took))
            found.add((runtime, call, images, "ms"), 1000 * statistics.median(took))
        found.add((runtime, f"memory at {images}"), scorer.memory())
    scorer.close()


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="with model.keras in it (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="for each measurement (default: %(default)s)")
    args = parser.parse_args()
    args.bundle = args.bundle.resolve()
    rounds = 1 if args.quick else args.rounds
    found = Measured()
    with tempfile.TemporaryDirectory(prefix="medd-bench-", dir=args.scratch) as folder:
        image = Path(folder) / "image.jpg"
        image.write_bytes(jpeg_radiograph(0))
        for _ in range(rounds):
            for runtime in ("medd", "keras"):
                one_round(runtime, args, image, found)
    where = f"Bundle `{args.bundle.name}`. Median (lowest–highest) of {rounds} interleaved rounds. "
    where += f"{machine(args.scratch)}."

    rows = []
    for images, bar in SIZES.items():
        mine, predict, on_batch = (
            found[key, call, images]
            for key, call in (("medd", "predict"), ("keras", "predict"), ("keras", "predict_on_batch"))
        )
        shown = [spread(values) for values in (mine, predict, on_batch)]
        rows.append([str(images), *shown, ratio(mine, predict), bar, ratio(mine, on_batch)])
    header = ["images at a time", "medd", "`predict`", "`predict_on_batch`", "medd : `predict`", "bar"]
    report("Scoring, images per second", where, [*header, "medd : `predict_on_batch`"], rows, args.output)

    calls = (("medd", "predict"), ("keras", "predict"), ("keras", "predict_on_batch"))
    rows = [[str(n), *(spread(found[key, call, n, "ms"], 2) for key, call in calls)] for n in SIZES]
    header = ["images at a time", "medd", "`predict`", "`predict_on_batch`"]
    report("Scoring, latency of a call, ms", where, header, rows, args.output)

    rows = []
    for title, name, digits, bar in (
        ("from the start of the process to the first score, s", "first", 2, "≤ 0.25×"),
        ("resident memory after the first score, MiB", "memory at first", 0, "≤ 0.33×"),
        *((f"resident memory after batches of {n}, MiB", f"memory at {n}", 0, "") for n in SIZES),
    ):
        mine, theirs = found["medd", name], found["keras", name]
        rows.append([title, spread(mine, digits), spread(theirs, digits), ratio(mine, theirs), bar])
    report("Start and memory", where, ["", "medd", "Keras", "medd : Keras", "bar"], rows, args.output)

    if ("medd", "heat", 1) not in found:
        print(f"bench: {args.bundle.name} has no heat map: its cost is not measured", file=sys.stderr)
        return
    rows = []
    for images in SIZES:
        heat, plain = found["medd", "heat", images, "ms"], found["medd", "plain", images, "ms"]
        rows.append([str(images), spread(heat, 2), spread(plain, 2), ratio(heat, plain), "≤ 1.2×"])
    header = ["images at a time", "with the heat map", "without", "with : without", "bar"]
    report("Grad-CAM, ms", where, header, rows, args.output)


if __name__ == "__main__":
    main()
