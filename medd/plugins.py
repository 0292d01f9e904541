"""The plugin manager: built-in plugins, the entry-point group ``medd``, and the files in ``plugins_dir``."""

import importlib.util
import inspect
import logging
import os
import pkgutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from medd import hookspecs, stuck
from medd.errors import PluginError
from medd.hookspecs import ClassifierSpec, Metric, Service, ServiceSpec
from medd.records import Attachment, InstanceHeader, ModelVersion, Objection, Prediction, Reason, Verdict, is_storable

if TYPE_CHECKING:  # `medd --help` loads this module, and must load nothing heavy with it
    import numpy as np
    import typer
    from numpy.typing import NDArray

GROUP = "medd"

log = logging.getLogger(__name__)


def load_plugins(plugins_dir: Path | None = None, builtin: tuple[ModuleType, ...] = ()) -> pluggy.PluginManager:
    """Find, check and register every plugin.

    Args:
        plugins_dir: A folder whose ``*.py`` files are plugins, each named after its file.
        builtin: Plugins of the core, registered first.

    Raises:
        PluginError: A plugin raises at import, has a name that is taken, or a hook that does not exist.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    if os.environ.get("MEDD_TRACE_PLUGINS"):
        manager.trace.root.setwriter(lambda line: print(line, end="", file=sys.stderr))
        manager.enable_tracing()
    for module in builtin:
        _register(manager, module, module.__name__)
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name):
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything; its name must be shown
            raise PluginError(f"plugin {point.name!r} ({point.value}) raised at import: {error!r}") from error
        _register(manager, plugin, point.name)
    if plugins_dir is not None and plugins_dir.is_dir():
        for path in sorted(plugins_dir.glob("*.py")):
            _register(manager, _import_file(path), path.stem)
    return manager


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"medd_plugins_dir.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # as above: a stranger's module may raise anything
        raise PluginError(f"plugin {path} raised at import: {error!r}") from error
    return module


def _register(manager: pluggy.PluginManager, plugin: Any, name: str) -> None:
    if manager.has_plugin(name):
        raise PluginError(f"plugin {name!r} is there twice; remove one of them")
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"plugin {name!r} is refused: {' '.join(str(error).split())}") from error
    known = {n for n, _ in inspect.getmembers(hookspecs, inspect.isfunction)}
    for attribute, value in inspect.getmembers(plugin, callable):
        if hasattr(value, f"{GROUP}_impl") and attribute not in known:
            raise PluginError(f"plugin {name!r} is refused: unknown hook {attribute!r}")


def classifiers(manager: pluggy.PluginManager) -> list[ClassifierSpec]:
    """Every classifier that the plugins bring, sorted by name.

    Raises:
        PluginError: Two plugins bring one of the same name.
    """
    found: dict[str, ClassifierSpec] = _brought(manager, "register_classifiers", "classifier", "name")
    return [found[name] for name in sorted(found)]


def destinations(manager: pluggy.PluginManager) -> dict[str, type[Any]]:
    """Every kind of destination that the plugins bring, by what ``[[destination]] type`` calls it.

    Raises:
        PluginError: Two plugins bring one of the same type.
    """
    return _brought(manager, "register_destinations", "destination", "kind")


def metrics(manager: pluggy.PluginManager) -> list[Metric]:
    """Every figure that the plugins add to those of ``medd evaluate``, sorted by name.

    Raises:
        PluginError: Two plugins bring one of the same name.
    """
    found: dict[str, Metric] = _brought(manager, "register_metrics", "metric", "name")
    return [found[name] for name in sorted(found)]


def services(manager: pluggy.PluginManager) -> dict[str, ServiceSpec]:
    """Every long-running part of the daemon that the plugins bring, by name.

    Raises:
        PluginError: Two plugins bring one of the same name.
    """
    return _brought(manager, "register_services", "service", "name")


def build_service(spec: ServiceSpec, settings: Any) -> Service:
    """What a service's ``build`` makes.

    Raises:
        PluginError: There is no such function.
        MeddError: As the function says.
    """
    try:
        build = pkgutil.resolve_name(spec.build)
        if not callable(build):
            raise ValueError("not a function")
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"service {spec.name!r}: {spec.build} cannot be imported. Received: {error!r}") from error
    service: Service = build(settings)
    return service


def add_commands(manager: pluggy.PluginManager, app: "typer.Typer") -> None:
    """Let every plugin add its commands.

    Raises:
        PluginError: One fails at it.
    """
    for implementation in manager.hook.register_commands.get_hookimpls():
        try:
            implementation.function(*([app] if implementation.argnames else []))
        except Exception as error:  # a stranger's code, at start
            raise PluginError(f"plugin {implementation.plugin_name!r}: register_commands raised {error!r}") from error


def _brought(manager: pluggy.PluginManager, hook_name: str, what: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    bringers: dict[str, str | None] = {}
    for plugin in manager.get_plugins():
        hook = getattr(plugin, hook_name, None)
        if hook is None or not hasattr(hook, f"{GROUP}_impl"):
            continue
        name = manager.get_name(plugin)
        try:
            things = [(getattr(thing, key), thing) for thing in hook()]
        except Exception as error:  # as above: a stranger's code, at start
            raise PluginError(f"plugin {name!r}: {hook_name} raised {error!r}") from error
        for word, thing in things:
            if word in found:
                raise PluginError(f"plugins {bringers[word]!r} and {name!r}: both bring a {what} {word!r}")
            found[word], bringers[word] = thing, name
    return found


def admit(manager: pluggy.PluginManager, header: InstanceHeader) -> Verdict:
    """Ask the plugins, and last the built-in gate, whether a model may judge an image.

    Raises:
        PluginError: A stranger's rule failed; the image is neither admitted nor refused.
    """
    try:
        with stuck.bounded("a plugin in admit_instance"):
            verdict = manager.hook.admit_instance(header=header)
    except Exception as error:  # a stranger's rule may raise anything
        log.exception("a plugin failed in admit_instance", extra={"event": "plugin.failed"})
        raise PluginError(f"plugin: admit_instance raised {type(error).__name__}") from error
    if not isinstance(verdict, Verdict):
        raise PluginError(f"plugin: admit_instance gives a Verdict or None. Received: {type(verdict).__name__}")
    # Here, as the database, or whoever reads the row, would fail with all that is committed together.
    try:
        reason = None if verdict.reason is None else Reason(verdict.reason)
    except ValueError as error:
        raise PluginError("plugin: a Verdict's reason is a word of medd.records.Reason, or None") from error
    if not isinstance(verdict.detail, str) or not is_storable(verdict.detail):
        raise PluginError("plugin: a Verdict's detail is text in UTF-8 without NUL")
    return verdict if reason is verdict.reason else replace(verdict, reason=reason)


def review(manager: pluggy.PluginManager, candidate: ModelVersion, champion: ModelVersion | None) -> list[Objection]:
    """What speaks against a candidate; a plugin that fails to answer speaks against it too."""
    objections: list[Objection] = []
    for implementation in manager.hook.review_candidate.get_hookimpls():
        facts: dict[str, Any] = {"candidate": candidate, "champion": champion}
        try:
            with stuck.bounded(f"plugin {implementation.plugin_name!r} in review_candidate"):
                answers: Any = implementation.function(*(facts[name] for name in implementation.argnames)) or ()
            objections += [Objection(str(answer.reason)) for answer in answers]
        except Exception as error:  # a stranger's rule may raise anything; what it did not answer it does not allow
            log.exception("a plugin failed in review_candidate", extra={"event": "plugin.failed"})
            objections.append(Objection(f"plugin {implementation.plugin_name!r} failed: {type(error).__name__}"))
    return objections


def explain(
    manager: pluggy.PluginManager, image: "NDArray[np.float32]", prediction: Prediction, classifier: Any
) -> Prediction:
    """Ask the plugins what explains a prediction; a name that is taken replaces what it names."""
    found = {one.name: one for one in prediction.attachments}
    for implementation in manager.hook.explain_prediction.get_hookimpls():
        known: dict[str, Any] = {"image": image, "prediction": prediction, "classifier": classifier}
        try:
            told: Any = implementation.function(*(known[name] for name in implementation.argnames))
            found |= {one.name: _checked(one) for one in told or ()}
        except Exception:  # a stranger's code; the prediction stands without its explanation
            log.exception("plugin failed in explain_prediction", extra={"event": "plugin.failed"})
    return replace(prediction, attachments=tuple(found.values()))


def _checked(told: Any) -> Attachment:
    # Here, as the database would refuse it with the whole batch.
    if not isinstance(told, Attachment) or not isinstance(told.content, bytes):
        raise PluginError(f"plugin: explain_prediction gives Attachments with bytes. Received: {type(told).__name__}")
    for word in (told.name, told.media_type):
        if not isinstance(word, str) or not 1 <= len(word) <= 64 or not is_storable(word):
            raise PluginError(f"plugin: an attachment's name and type have 1 to 64 characters. Received: {word!r}")
    return told


def tell(manager: pluggy.PluginManager, hook: str, **facts: object) -> None:
    """Tell every plugin a fact that is already committed; one that raises is logged and harms nothing."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        try:
            with stuck.bounded(f"plugin {implementation.plugin_name!r} in {hook}"):
                implementation.function(*(facts[name] for name in implementation.argnames))
        except Exception:  # the fact is committed: a listener's fault must not fail the job
            log.exception("plugin failed in %s", hook, extra={"event": "plugin.failed"})


def describe(manager: pluggy.PluginManager) -> list[dict[str, str]]:
    """Every plugin with the hooks it implements and the classifiers it brings, for people."""
    rows = []
    for name, plugin in manager.list_name_plugin():
        if plugin is None:
            continue
        hooks = sorted(caller.name for caller in manager.get_hookcallers(plugin) or [])
        bringer = getattr(plugin, "register_classifiers", list)
        brought = [spec.name for spec in bringer()] if "register_classifiers" in hooks else []
        rows.append({"plugin": name, "hooks": ", ".join(hooks), "classifiers": ", ".join(brought)})
    return rows
