"""Every extension point of medd, in one file.

``register_*`` runs once at start and returns things. ``admit_*`` asks about one item and the first answer wins.
``explain_*`` and ``review_*`` ask every plugin: all that is said counts. A past participle tells a fact after it was
committed: it is logged when it raises and never fails a job.

A plugin is a module, installed under the entry-point group ``medd`` or laid into ``plugins_dir``::

    from medd import hookimpl

    @hookimpl
    def admit_instance(header):
        ...
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from medd.records import (
    Attachment,
    Delivery,
    Instance,
    InstanceHeader,
    ModelVersion,
    Objection,
    Prediction,
    StudyReport,
    Verdict,
)

if TYPE_CHECKING:  # `medd --help` loads this module, and must load nothing heavy with it
    import numpy as np
    import typer
    from numpy.typing import NDArray

    from medd.settings import Settings

hookspec = pluggy.HookspecMarker("medd")


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """A classifier that a plugin brings. Builders are named, not imported, so that nothing heavy is loaded early."""

    #: As ``[model] classifier`` names it; unique among all plugins.
    name: str
    #: "module:function"; called as ``load(bundle_dir: Path, threads: int) -> medd.classify.Classifier``.
    load: str = "medd.classify.onnx:load"
    #: "module:function"; called as ``build(input_shape: tuple[int, int, int], n_labels: int, **hyper) -> keras.Model``.
    #: ``hyper`` is ``head``, ``dropout`` and the recipe's table ``[network_options]``; a layer named "features" gives
    #: the last feature maps. Empty where the classifier cannot be trained by medd.
    build: str = ""
    #: The bundle that is on duty until another is promoted; None where the plugin ships none.
    bundle: Path | None = None
    #: A folder that tells of that bundle: ``MODEL_CARD.md``, and folders that ``medd evaluate --output`` wrote. The
    #: models' page shows them; None where there is none.
    about: Path | None = None
    #: "module:function"; called as ``thaw(model) -> None`` once the recipe's ``frozen_epochs`` have passed, to let move
    #: what ``build`` has frozen; the model is compiled again afterwards. Empty where nothing is frozen.
    thaw: str = ""
    #: What a label is called in reports: label → (code value, coding scheme designator, code meaning), such as
    #: ("233604007", "SCT", "Pneumonia"). A label without one is reported in words of its own.
    codes: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that a plugin adds to those of ``medd evaluate``, with its bootstrap interval and for each sub-group."""

    #: Its key in JSON and CSV, such as "specificity_at_98"; unique among all plugins and medd's own.
    name: str
    #: Called as scikit-learn's metrics are, ``compute(y_true, y_score, *, threshold, sample_weight) -> float``, for the
    #: figure and again for each bootstrap draw: (N,) bool, whether the finding is there; (N,) probability of it, in
    #: [0, 1]; the model's threshold; (N,) how often each image counts, which may be 0. NaN says that these images
    #: cannot tell it, as one class has no AUROC; whatever it raises ends the command.
    compute: "Callable[..., float]"


class Service(Protocol):
    """What a service's ``build`` returns."""

    #: For the log and the ready line, such as an address; never anything of a patient.
    name: str

    def run(self) -> None:
        """Work until `stop` is called. Returning before that is a failure: it is started again."""

    def stop(self) -> None:
        """End `run` soon; called from another thread."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A long-running part of the daemon that a plugin brings: under `medd serve` a process of its own."""

    #: As ``medd serve --only`` names it; unique among all plugins.
    name: str
    #: "module:function"; called in that process as ``build(settings: medd.settings.Settings) -> Service``. One that
    #: raises a SettingsError stops the daemon at its start; any other error of medd's lets it be tried again later.
    build: str
    #: Whether ``medd serve`` runs it without being asked to. Called at start: be quick.
    is_wanted: "Callable[[Settings], bool]" = lambda settings: True


@hookspec
def register_classifiers() -> Iterable[ClassifierSpec]:  # type: ignore[empty-body]
    """Return the classifiers this plugin brings. Called at start by the worker and by training."""


@hookspec
def register_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]
    """Return the figures this plugin adds to those of ``medd evaluate``."""


@hookspec(firstresult=True)
def admit_instance(header: InstanceHeader) -> Verdict | None:
    """Accept or refuse an image by its header alone; None leaves it to others. Called by the receiver: be quick."""


@hookspec
def instance_received(instance: Instance, header: InstanceHeader) -> None:
    """An instance and its row are safe on disk."""


@hookspec
def explain_prediction(  # type: ignore[empty-body]
    image: "NDArray[np.float32]", prediction: Prediction, classifier: Any
) -> Iterable[Attachment]:
    """Add what explains a prediction, before it is committed: ``image`` is the network's input, (size, size, channels).

    ``classifier`` is what the plugin's ``load`` returned. Called by the worker. One that raises is logged, and the
    prediction stands without it.
    """


@hookspec
def prediction_recorded(prediction: Prediction) -> None:
    """A prediction is in the database."""


@hookspec
def register_destinations() -> Iterable[type[Any]]:  # type: ignore[empty-body]
    """Return the kinds of destination this plugin brings: subclasses of `medd.deliver.destination.Destination`.

    Called at start by the daemon. ``[[destination]] type`` chooses one, and its own ``Settings`` check the other keys.
    """


@hookspec
def register_services() -> Iterable[ServiceSpec]:  # type: ignore[empty-body]
    """Return the long-running parts of the daemon that this plugin brings. Called at start by ``medd serve``."""


@hookspec
def register_commands(app: "typer.Typer") -> None:
    """Add commands to the command line: ``app.command()(function)``, or ``app.add_typer(group, name="…")``.

    Only plugins that are installed are asked: where ``plugins_dir`` lies is not known yet. Called for ``medd --help``
    too: import what is heavy inside the command.
    """


@hookspec
def delivery_sent(delivery: Delivery, report: StudyReport) -> None:
    """A destination has acknowledged all that a study's report has for it."""


@hookspec
def job_buried(instance_id: int, reason: str) -> None:
    """A job failed for good."""


@hookspec
def review_candidate(  # type: ignore[empty-body]
    candidate: ModelVersion, champion: ModelVersion | None
) -> Iterable[Objection]:
    """Say what speaks against a candidate that is about to be promoted; any objection keeps it off duty.

    Its figures stand in the bundle at ``candidate.path``. One that raises objects by that. Not asked at a rollback.
    """


@hookspec
def model_promoted(model: ModelVersion) -> None:
    """A model has gone on duty, by promotion or rollback."""
