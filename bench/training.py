"""Training of the article's network: images per second of `medd train`'s loop and of the textbook's Keras loop, and
what each is worth on images of patients that it has not seen."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import arguments, machine, ratio, report, spread
from xrays import DATA, RUNS, Material, material

RECIPE = Path(__file__).parents[1] / "plugins" / "medd_pneumonia" / "paper-1.toml"
SIDES = ("medd", "textbook")


def run(side: str, made: Material, args, epochs: int, steps: int, seed: int, test: bool) -> dict:
    """One training in a fresh process, as TensorFlow reads its environment when it is imported."""
    # The textbook runs with TensorFlow's own default, and so does medd, which sets its own.
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    with tempfile.TemporaryDirectory(prefix="run-", dir=made.table.parent) as scratch:
        spec = {
            "table": str(made.table),
            "folder": str(made.folder),
            "recipe": str(args.recipe.resolve()),
            "precision": args.precision,
            "scratch": scratch,
            "epochs": epochs,
            "steps": steps,
            "seed": seed,
            "test": [path for path, _ in made.test] if test else [],
        }
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("trainers.py")), side],
            input=json.dumps(spec),
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"bench: {side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def speed(args, scratch: Path) -> None:
    """Images per second, in turns."""
    made = material(args.data, scratch, seed=0, small=True)
    epochs, steps = (2, 3) if args.quick else (args.epochs or 4, args.steps or made.images // 16)
    loop: dict[str, list[float]] = {side: [] for side in SIDES}
    whole: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(args.rounds):
        for side in SIDES:
            done = run(side, made, args, epochs, steps, number, test=False)
            images, ends = done["images"], done["ends"]
            loop[side].append(images * (epochs - 1) / (ends[-1] - ends[0]))
            whole[side].append(images * epochs / ends[-1])
    rows = [
        [title, spread(of["medd"]), spread(of["textbook"]), ratio(of["medd"], of["textbook"]), bar]
        for title, of, bar in (
            ("the loop, from the second epoch on", loop, "≥ 4.5× (goal 6×)"),
            (f"the whole run of {epochs} × {steps} steps, reading and compiling included", whole, ""),
        )
    ]
    note = (
        f"{made.images} JPEGs, recipe `{args.recipe.name}`, medd in {args.precision}. Median (lowest–highest) of "
        f"{args.rounds} interleaved rounds. {machine(scratch)}."
    )
    header = ["images per second", "medd", "textbook", "medd : textbook", "bar"]
    report("Training the article's network", note, header, rows, args.output)


def accuracy(args, scratch: Path) -> None:
    """Accuracy and AUROC on the test side, for each seed."""
    from medd.learn.metrics import figures

    rows = []
    plan = [(f"normals of `{run}*`, tested on the other run", run) for run in RUNS] if args.shift else [("", "")]
    for title, learned_run in plan:
        made = material(args.data, scratch / (learned_run or "plain"), seed=0, learned_run=learned_run)
        epochs, steps = (1, 3) if args.quick else (args.epochs or 20, args.steps or made.images // 16)
        truth = np.array([finding for _, finding in made.test])
        found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in SIDES}
        for seed in range(1 if args.quick else args.seeds):
            for side in SIDES:
                done = run(side, made, args, epochs, steps, seed, test=True)
                half = figures(truth, np.array(done["scores"]), 0.5)
                own = figures(truth, np.array(done["served"]), done["threshold"])
                found[side].append((100 * half["accuracy"], 100 * own["accuracy"], half["auroc"]))
        for side in SIDES:
            half, own, auroc = zip(*found[side], strict=True)
            shown = [pm(half, 1), pm(own, 1) if side == "medd" else "", pm(auroc, 3)]
            rows.append([f"{side}{', ' if title else ''}{title}", f"{epochs} × {steps}", str(len(truth)), *shown])
    note = (
        f"Mean ± standard deviation over {1 if args.quick else args.seeds} seeds. Both learn from the same images "
        f"and are tested on those of other patients; medd by the recipe `{args.recipe.name}` in {args.precision}, its "
        f"epochs and steps as stated. {machine(scratch)}."
    )
    header = [
        "trained by",
        "epochs × steps",
        "test images",
        "accuracy at 0.5, %",
        "calibrated, at the bundle's threshold, %",
        "AUROC",
    ]
    report("What the two loops come to", note, header, rows, args.output)


def pm(values: tuple[float, ...], digits: int) -> str:
    """Mean and standard deviation: "88.1 ± 0.7"."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--data", type=Path, default=DATA, help="a folder for each label (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="medd's recipe (default: %(default)s)")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16, medd's (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="default: 4 for speed, 20 for accuracy")
    parser.add_argument("--steps", type=int, help="batches of 16 in an epoch (default: what the data hold)")
    parser.add_argument("--accuracy", action="store_true", help="train both to the end and test them")
    parser.add_argument("--seeds", type=int, default=3, help="of --accuracy (default: %(default)s)")
    parser.add_argument("--shift", action="store_true", help="train on one run of normals, test on the other, and back")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    if not args.data.is_dir():
        # Other benchmarks go on without it, and `all.py` with them.
        print(f"bench: no X-rays at {args.data}: training is not measured", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="medd-bench-", dir=args.scratch) as folder:
        (accuracy if args.accuracy or args.shift else speed)(args, Path(folder))


if __name__ == "__main__":
    main()
