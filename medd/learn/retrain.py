"""The closed loop: base data and readers' corrections become a candidate, which has to beat the champion.

::

    base data ─┐
               ├─▶ merge ─▶ train ─▶ compare, paired, on the champion's locked test part ─▶ promote
    annotations┘     │                                    │                                   ▲
                     └── too few, contradicting, overlap ──┴── no better, a plugin objects ──▶ refuse
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from medd.classify.classifier import load
from medd.classify.desk import ModelDesk
from medd.errors import GateRefused, ModelUnusable, SettingsError
from medd.learn import gate, manifest
from medd.learn.assess import sides_of
from medd.learn.compare import compare
from medd.learn.corrections import Merged, merge
from medd.learn.dataset import Part, decode
from medd.learn.evaluate import Scored, score
from medd.learn.options import TrainOptions, read_options
from medd.learn.train import Prepared, prepare_samples, require_extra, train_prepared
from medd.records import ModelChange, ModelVersion
from medd.registry import bundle as bundles
from medd.registry import changes, registry
from medd.registry.bundle import Bundle
from medd.registry.changes import Change
from medd.store.annotations import find_truths
from medd.store.models import find_events, find_model
from medd.store.spool import Spool


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        data: The base data.
        who: By whom.
        why: And why.
        min_labels: Fewer new labels are refused.
        if_changed: Do nothing when data and annotations are those of the last run.
        leave_out: Leave contradicted images and those of locked patients out instead of refusing.
        recipe: Instead of the champion's.
        outliers: `TrainOptions.outliers`, which no bundle keeps, instead of the recipe's.
    """

    data: Path
    who: str
    why: str = ""
    min_labels: int = 20
    if_changed: bool = False
    leave_out: bool = False
    recipe: Path | None = None
    outliers: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    #: True: the candidate is on duty. False: refused. None: there was nothing to do.
    promoted: bool | None
    #: Why, in a sentence.
    reason: str
    #: "name/version" of the candidate; "" where none was trained.
    model: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def retrain(desk: ModelDesk, spool: Spool, wanted: Request, console: Console) -> Outcome:
    """Learn from the base data and what readers said, and promote what beats the champion.

    A run that was killed goes on where it stood; a candidate that was trained already from the same data, annotations
    and recipe is not trained again. Every outcome but "nothing to do" is kept on record with its figures.

    Raises:
        SettingsError: The data, the recipe or the installation do not allow it.
        PluginError: The network cannot be trained.
        ModelUnusable: There is no champion, or it is broken.
        TransientError: The database is away.
    """
    require_extra()
    # Not what workers go on with where it is broken: what replaces it has to be compared with it.
    champion = registry.champion(desk.database, desk.spec)
    registry.check(champion)
    about = bundles.read(champion.path)
    options = _options(about, wanted.recipe, wanted.outliers)
    if options.network != desk.spec.name:
        raise SettingsError(f"the recipe trains {options.network!r}; on duty is a model of {desk.spec.name!r}")
    with desk.database.read() as connection:
        truths = find_truths(connection)
    base, skipped = manifest.read(wanted.data)
    merged = merge(base, truths, sides_of(champion.path), spool, leave_out=wanted.leave_out)
    fingerprint = _fingerprint(merged, options)
    last = _last_run(desk)
    if wanted.if_changed and last.get("fingerprint") == fingerprint and champion.ref in last["champions"]:
        return Outcome(None, "nothing has changed since the last run")

    if about.training.get("outliers") and not options.outliers:
        missing = f"{about.ref} was shown images to refuse; without --outliers the candidate knows of none"
        console.print(missing, highlight=False, soft_wrap=True)
    learned = _learned(desk, champion)
    new_labels = sum(truth.newest > learned for truth in merged.truths) + merged.new_base
    figures: dict[str, Any] = {
        "fingerprint": fingerprint,
        "newest_annotation": max((truth.newest for truth in merged.truths), default=0),
        "new_labels": new_labels,
        "corrected": merged.corrected,
        "corrected_test": merged.corrected_test,
        "added": merged.added,
        "left_out": len(skipped) + len(merged.skipped),
        "champion": champion.ref,
    }
    by = Change(wanted.who, wanted.why, figures)
    problems = merged.problems
    if new_labels < wanted.min_labels:
        problems.append(f"too few new labels: {new_labels}, and {wanted.min_labels} are wanted")
    if problems:
        return _refuse(desk, "", by, "; ".join(problems))

    version, output = _place(desk, about.name, f"r{fingerprint[:12]}")
    options = options.model_copy(update={"name": about.name, "version": version})
    prepared = prepare_samples(merged.samples, [*skipped, *merged.skipped], options, console)
    # In this order: the first is no finding, the others are.
    if (prepared.labels, prepared.labels[1:]) != (about.labels, about.positive_labels):
        raise SettingsError(f"{wanted.data}: not the labels of {about.ref}. Received: {', '.join(prepared.labels)}")
    try:
        if not output.exists():
            train_prepared(prepared, wanted.data.name, output, options, desk.specs, console)
        candidate = changes.register(desk.database, output, desk.specs, Change(wanted.who, "made by medd retrain"))
    except ModelUnusable as error:  # on record, so that a timer does not train every night what diverges every night
        return _refuse(desk, "", by, str(error))
    if candidate.ref == champion.ref:
        return Outcome(None, f"{candidate.ref} has learned from these data and is on duty", candidate.ref)
    return _decide(desk, candidate, champion, prepared, by)


def _decide(
    desk: ModelDesk, candidate: ModelVersion, champion: ModelVersion, prepared: Prepared, by: Change
) -> Outcome:
    """Compare the two on the locked part, and promote or refuse."""
    test = prepared.parts["test"]
    try:
        desk.try_out(candidate)
        one, threshold = _judge(desk, candidate, test)
    except ModelUnusable as error:
        return _refuse(desk, candidate.ref, by, str(error))
    other, champion_threshold = _judge(desk, champion, test)
    if not np.array_equal(one.truth, other.truth):
        return _refuse(desk, candidate.ref, by, "its labels do not mean what those of the model on duty mean")
    patients = [sample.patient for sample in test.samples]
    found = compare(one.truth, one.scores, other.scores, threshold, champion_threshold, patients=patients)
    refused = {"candidate": float(one.refused.mean()), "champion": float(other.refused.mean())}
    figures = {**by.figures, "candidate": candidate.ref, "comparison": asdict(found), "refused": refused}
    by = Change(by.who, by.why or gate.describe(found), figures)
    if reason := gate.objection(found, one.refused, other.refused):
        return _refuse(desk, candidate.ref, by, reason)
    try:
        changes.promote(desk.database, candidate, desk.manager, by, expected=champion.ref)
    except GateRefused as error:  # it is on record already
        return Outcome(False, str(error), candidate.ref, figures)
    return Outcome(True, gate.describe(found), candidate.ref, figures)


def _judge(desk: ModelDesk, version: ModelVersion, test: Part) -> tuple[Scored, float]:
    """What a model says of the locked test part, and its threshold."""
    model = load(version.path, desk.specs)
    part = test if model.bundle.preprocess == test.spec else _decoded(test, model.bundle)
    return score(model, part), model.bundle.threshold


def _decoded(test: Part, bundle: Bundle) -> Part:
    part, skipped = decode(test.samples, bundle.labels, bundle.preprocess)
    if skipped:
        raise SettingsError(f"{skipped[0].path}: {skipped[0].why}")
    return part


def _refuse(desk: ModelDesk, ref: str, by: Change, reason: str) -> Outcome:
    changes.refuse(desk.database, desk.spec.name, ref, Change(by.who, reason, by.figures))
    return Outcome(False, reason, ref, dict(by.figures))


def _place(desk: ModelDesk, name: str, version: str) -> tuple[str, Path]:
    """The candidate's version, and its folder.

    A name and version stand for the same bytes for ever, and a training gives no bytes twice: what was made, registered
    and deleted is made again as "…-2".
    """
    tried, number = version, 1
    with desk.database.read() as connection:
        while (known := find_model(connection, f"{name}/{tried}")) is not None and not known.path.exists():
            number += 1
            tried = f"{version}-{number}"
    return tried, known.path if known else desk.models_dir / f"{name}-{tried}"


def _options(about: Bundle, recipe: Path | None, outliers: Path | None) -> TrainOptions:
    """The champion's recipe, or the one that is named, with these outliers if any."""
    if recipe is not None:
        return read_options(recipe, {"outliers": outliers})
    stated = about.training.get("options")
    if not isinstance(stated, dict):
        raise SettingsError(f"{about.ref} does not say how it was trained; name a recipe by --recipe")
    if lost := about.training.get("files"):
        raise SettingsError(
            f"{about.ref} was trained with a file and does not say where it lay; name a recipe by --recipe. "
            f"Received: network_options: {', '.join(map(str, lost))}"
        )
    kept = {"preprocess": about.preprocess, "licence": about.licence, "intended_use": about.intended_use}
    kept |= {"outliers": outliers}
    try:
        return TrainOptions(**{**stated, **kept})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise SettingsError(
            f"{about.ref}: its recipe is not one of this medd's; name one by --recipe. Received: {where}"
        ) from error


def _fingerprint(merged: Merged, options: TrainOptions) -> str:
    """SHA-256, in hex, over what the outcome depends on: images, labels, sides, contradictions and the recipe."""
    recipe = options.model_dump(mode="json", exclude={"name", "version", "outliers"})
    facts = [manifest.digest(merged.samples), merged.contradicted, recipe]
    if options.outliers:
        try:
            facts.append(sorted(bundles.file_digest(path) for path in manifest.files_of(options.outliers)))
        except OSError as error:
            raise SettingsError(f"outliers: cannot be read. Received: {error}") from error
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _last_run(desk: ModelDesk) -> dict[str, Any]:
    """What the retraining before this one asked, and which champions it answers for; {} where there was none."""
    with desk.database.read() as connection:
        events = find_events(connection, desk.spec.name, kinds=(ModelChange.PROMOTED, ModelChange.REFUSED))
    for event in events:
        if "fingerprint" in event.figures:
            promoted = [event.model] if event.what is ModelChange.PROMOTED else []
            champions = [event.figures.get("champion"), *promoted]
            return {"fingerprint": event.figures["fingerprint"], "champions": champions}
    return {}


def _learned(desk: ModelDesk, champion: ModelVersion) -> int:
    """Row id of the newest annotation that the champion has learned from; 0 where it learned from none.

    Asked of its own events alone: others may have learned more and been rolled back since.
    """
    with desk.database.read() as connection:
        # A candidate that was refused, and promoted by hand, learned what its refusal says.
        events = find_events(connection, champion.classifier, champion.ref, (ModelChange.PROMOTED, ModelChange.REFUSED))
    return max((event.figures.get("newest_annotation", 0) for event in events), default=0)
