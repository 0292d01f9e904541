"""A sweep's tables and figures, beside the article's own."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from medd.learn import plots
from medd.learn.sweep import Cell, Study

#: Accuracy of the article's cells on the official test part of 624 images, percent.
ARTICLE = {
    Cell(5, 326): 82.21,
    Cell(10, 326): 81.25,
    Cell(20, 326): 87.66,
    Cell(25, 326): 86.54,
    Cell(20, 100): 81.25,
    Cell(20, 200): 86.06,
}
_TRAINING, _VALIDATION, _TEST, _ARTICLE = "0.55", "#E69F00", "#0072B2", "#D55E00"

Take = Callable[[dict[str, Any]], float]
#: Column → what of a cell stands in it, and its factor and digits.
_COLUMNS: dict[str, tuple[Take, float, int]] = {
    "accuracy_%": (lambda cell: cell["test"]["accuracy"], 100, 2),
    "auroc": (lambda cell: cell["test"]["auroc"], 1, 4),
    "sensitivity_%": (lambda cell: cell["test"]["sensitivity"], 100, 1),
    "specificity_%": (lambda cell: cell["test"]["specificity"], 100, 1),
    "loss": (lambda cell: cell["test"]["loss"], 1, 3),
    "threshold": (lambda cell: cell["threshold"], 1, 3),
    "accuracy_at_threshold_%": (lambda cell: cell["test"]["at_threshold"]["accuracy"], 100, 2),
    "validation_accuracy_%": (lambda cell: cell["val"]["accuracy"], 100, 2),
    "minutes": (lambda cell: cell["seconds"], 1 / 60, 1),
}


def write(folder: Path, study: Study) -> None:
    """Write ``sweep.md`` with both tables, each as CSV too, ``cells.csv`` with every seed, and the two figures."""
    plan = study.plan
    text = [_heading(study)]
    for number, varied, cells in ((2, "epochs", plan.table_2), (3, "steps", plan.table_3)):
        fixed = f"{plan.steps_of_table_2} steps per epoch" if number == 2 else f"{plan.epochs_of_table_3} epochs"
        figure = f"figure{number + 3}.png"
        rows = [_row(study, cell) for cell in cells]
        _write_csv(folder / f"table{number}.csv", rows)
        kind = "Epochs" if varied == "epochs" else "Steps per epoch"
        text += [f"## Table {number}: {kind.lower()} varied, {fixed}\n", _markdown(study, cells, kind)]
        text.append(f"![Accuracy and loss over {kind.lower()}]({figure})\n")
        draw(folder / figure, study, cells, varied)
    every = sorted({*plan.table_2, *plan.table_3})
    _write_csv(folder / "cells.csv", [_seed_row(study, seed, cell) for cell in every for seed in plan.seeds])
    (folder / "sweep.md").write_text("\n".join(text), encoding="utf-8")


def _heading(study: Study) -> str:
    test, val = study.sides["test"], study.sides["val"]
    seeds = len(study.plan.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "only ones, of one seed"
    options = study.options
    whose = "that the data state" if study.test_is_stated else "of our own split by patient"
    other = (
        ""
        if study.test_is_stated
        else " They are other images, and harder ones:\n  compare how the columns move from row to row."
    )
    return f"""# Sweep: the article's study, repeated

Network `{options.network}`, batches of {options.batch_size}, learning rate {options.optimizer.learning_rate:g}, weights
as they are at the end of the last epoch. Figures are the {spread}.

- **Ours** are measured on the test part {whose} ({test[0]} images of {test[1]} patients), which took no part in the
  training; the validation part ({val[0]} images of {val[1]} patients) chooses the threshold. Accuracy, sensitivity and
  specificity are at 0.5, the article's rule, where no other threshold is named.
- **The article's** are of one run each, on the official test part of 624 images.{other}
"""


def _markdown(study: Study, cells: Sequence[Cell], varied: str) -> str:
    head = (
        varied,
        "Accuracy, %",
        "lowest – highest",
        "AUROC",
        "Sensitivity, %",
        "Specificity, %",
        "Threshold by validation",
        "Accuracy at it, %",
        "Validation accuracy, %",
        "Article, official test part: accuracy, %",
    )
    lines = [head, tuple("---:" for _ in head)]
    for cell in cells:
        accuracies = [100 * value for value in _values(study, cell, "accuracy_%")]
        lines.append(
            (
                str(cell.epochs if varied == "Epochs" else cell.steps),
                _spread(study, cell, "accuracy_%"),
                f"{min(accuracies):.2f} – {max(accuracies):.2f}",
                *(_spread(study, cell, name) for name in ("auroc", "sensitivity_%", "specificity_%", "threshold")),
                _spread(study, cell, "accuracy_at_threshold_%"),
                _spread(study, cell, "validation_accuracy_%"),
                f"{ARTICLE[cell]:.2f}" if cell in ARTICLE else "–",
            )
        )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _values(study: Study, cell: Cell, column: str) -> list[float]:
    take = _COLUMNS[column][0]
    return [take(study.cells[seed, cell]) for seed in study.plan.seeds]


def _spread(study: Study, cell: Cell, column: str) -> str:
    _, factor, digits = _COLUMNS[column]
    values = [factor * value for value in _values(study, cell, column)]
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def _row(study: Study, cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"epochs": cell.epochs, "steps_per_epoch": cell.steps, "seeds": len(study.plan.seeds)}
    for name, (_, factor, digits) in _COLUMNS.items():
        values = [factor * value for value in _values(study, cell, name)]
        row[name] = round(mean(values), digits + 2)
        row[f"{name}_sd"] = round(stdev(values), digits + 2) if len(values) > 1 else ""
    return row | {"article_accuracy_%": ARTICLE.get(cell, "")}


def _seed_row(study: Study, seed: int, cell: Cell) -> dict[str, Any]:
    found = study.cells[seed, cell]
    row: dict[str, Any] = {"epochs": cell.epochs, "steps_per_epoch": cell.steps, "seed": seed}
    return row | {name: round(factor * take(found), digits + 2) for name, (take, factor, digits) in _COLUMNS.items()}


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(path: Path, study: Study, cells: Sequence[Cell], varied: str) -> None:
    """Draw accuracy and loss over what is varied: the mean over the seeds, with the lowest and the highest.

    Args:
        path: The PNG to write.
        study: The results.
        cells: Those of one table.
        varied: "epochs" (the course of the longest run as lines behind) or "steps".
    """
    figure = plots.new_figure(11, 4.4)
    test = "test" if study.test_is_stated else "test (our split, by patient)"
    accuracy, loss = figure.subplots(1, 2)
    places = [getattr(cell, varied) for cell in cells]
    for axes, quantity, factor in ((accuracy, "accuracy", 100), (loss, "loss", 1)):
        found = [[study.cells[seed, cell] for seed in study.plan.seeds] for cell in cells]
        if varied == "epochs":
            _course(axes, study, max(cells), quantity, factor)
        else:
            values = [[factor * one["history"][quantity][-1] for one in seeds] for seeds in found]
            _points(axes, places, values, _TRAINING, "training")
            values = [[factor * one["history"][f"val_{quantity}"][-1] for one in seeds] for seeds in found]
            _points(axes, places, values, _VALIDATION, "validation")
        values = [[factor * one["test"][quantity] for one in seeds] for seeds in found]
        _points(axes, places, values, _TEST, test)
        axes.set(xlabel="epochs" if varied == "epochs" else "steps per epoch")
        axes.set_xticks(places)
        axes.grid(alpha=0.3)
    known = [(place, ARTICLE[cell]) for place, cell in zip(places, cells, strict=True) if cell in ARTICLE]
    if known:
        accuracy.plot(*zip(*known, strict=True), "D--", color=_ARTICLE, ms=5, lw=1, label="the article (official test)")
    accuracy.set_ylabel("accuracy at 0.5, %")
    loss.set_ylabel("cross-entropy, nats")
    loss.set_ylim(bottom=0)
    accuracy.legend(fontsize=8, framealpha=0.9)
    plots.save(figure, path)


def _course(axes: Any, study: Study, longest: Cell, quantity: str, factor: float) -> None:
    """The training and validation figures of every epoch."""
    epochs = range(1, longest.epochs + 1)
    for name, colour, label in ((quantity, _TRAINING, "training"), (f"val_{quantity}", _VALIDATION, "validation")):
        courses = [study.cells[seed, longest]["history"][name] for seed in study.plan.seeds]
        low, middle, high = zip(
            *([factor * f(at) for f in (min, mean, max)] for at in zip(*courses, strict=True)), strict=True
        )
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(epochs, middle, color=colour, lw=1.5, label=label)


def _points(axes: Any, places: Sequence[int], values: Sequence[Sequence[float]], colour: str, label: str) -> None:
    """The mean of each place's values, with the lowest and the highest."""
    low, middle, high = ([f(one) for one in values] for f in (min, mean, max))
    reach = [
        [m - edge for m, edge in zip(middle, low, strict=True)],
        [e - m for m, e in zip(middle, high, strict=True)],
    ]
    axes.errorbar(places, middle, reach, fmt="o-", color=colour, lw=1.5, ms=5, capsize=3, label=label)
