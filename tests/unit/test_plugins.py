import logging
import textwrap
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import typer

from medd import hookimpl, hookspecs, plugins
from medd.errors import PluginError
from medd.ingest import admission
from medd.plugins import classifiers, describe, load_plugins, tell
from medd.records import Attachment, InstanceHeader, MediaType, Reason, Verdict
from medd.testing import stub_bundle, stub_plugin, write_stub_plugin
from tests.rows import prediction_of

DOCUMENTED = [
    "admit_instance",
    "delivery_sent",
    "explain_prediction",
    "instance_received",
    "job_buried",
    "model_promoted",
    "prediction_recorded",
    "register_classifiers",
    "register_commands",
    "register_destinations",
    "register_metrics",
    "register_services",
    "review_candidate",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def lay(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text("from medd import hookimpl\n" + textwrap.dedent(code))


def refusal(folder: Path, *, use: bool = False) -> str:
    """The one line by which the plugins of a folder are refused."""
    with pytest.raises(PluginError) as caught:
        start(folder, use=use)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def start(folder: Path, *, use: bool) -> None:
    manager = load_plugins(folder, builtin=(admission,))
    if use:
        classifiers(manager)


# Refused at start


def test_misspelt_hook_is_refused(folder):
    lay(folder, "typo", "@hookimpl\ndef admit_instances(header): ...")
    assert "'typo'" in refusal(folder)
    assert "admit_instances" in refusal(folder)


def test_unknown_argument_of_a_hook_is_refused(folder):
    lay(folder, "greedy", "@hookimpl\ndef admit_instance(header, pixels): ...")
    assert "'greedy'" in refusal(folder)
    assert "pixels" in refusal(folder)


def test_plugin_that_raises_at_import_is_refused(folder):
    lay(folder, "broken", "raise ValueError('no licence')")
    assert "broken" in refusal(folder)
    assert "no licence" in refusal(folder)


def test_plugin_that_is_no_python_is_refused(folder):
    lay(folder, "scribble", "def (:")
    assert "scribble" in refusal(folder)


def test_plugin_whose_import_ends_the_program_is_refused(folder):
    lay(folder, "quitter", "raise SystemExit(0)")
    assert "quitter" in refusal(folder)


def test_two_plugins_of_one_name_are_refused(folder):
    lay(folder, "pneumonia", "")  # the one that is installed has this name
    assert "'pneumonia' is there twice" in refusal(folder)


def test_two_classifiers_of_one_name_are_refused(folder):
    code = """
    from medd.hookspecs import ClassifierSpec
    @hookimpl
    def register_classifiers():
        return [ClassifierSpec("mine")]
    """
    lay(folder, "first", code)
    lay(folder, "second", code)
    message = refusal(folder, use=True)
    assert "'mine'" in message
    assert "'first'" in message or "'second'" in message


def test_plugin_that_raises_while_it_registers_is_refused(folder):
    lay(folder, "moody", "@hookimpl\ndef register_classifiers():\n    raise OSError('no bundle here')")
    assert "'moody'" in refusal(folder, use=True)
    assert "no bundle here" in refusal(folder, use=True)


# Found


def test_plugins_dir_that_is_missing_is_no_error(folder):
    load_plugins(folder / "nowhere")


def test_file_in_the_plugins_dir_brings_a_classifier(folder):
    bundle = stub_bundle(folder / "bundle")
    write_stub_plugin(folder / "plugins", bundle)
    specs = {spec.name: spec for spec in classifiers(load_plugins(folder / "plugins"))}
    assert specs["stub"].bundle == bundle
    assert "paper" in specs  # the one that ships with medd comes in by its entry point


def test_plugin_is_described_by_its_hooks_and_classifiers():
    rows = {row["plugin"]: row for row in describe(load_plugins(builtin=(admission, stub_plugin)))}
    assert rows["medd.ingest.admission"]["hooks"] == "admit_instance"
    assert rows["medd.testing.stub_plugin"] == {
        "plugin": "medd.testing.stub_plugin",
        "hooks": "register_classifiers",
        "classifiers": "stub",
    }
    assert "paper" in rows["pneumonia"]["classifiers"]


def test_every_hook_there_is_has_a_test_that_names_it():
    from medd import hookspecs

    named = {name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "medd_spec")}
    assert sorted(named) == DOCUMENTED


# Asked and told


def test_strangers_plugin_refuses_before_the_built_in_gate_is_asked(folder):
    lay(
        folder,
        "strict",
        """
        from medd.records import Reason, Verdict
        @hookimpl
        def admit_instance(header):
            if header.station_name == "TEST":
                return Verdict(Reason.REFUSED_BY_PLUGIN, "the test machine")
        """,
    )
    hook = load_plugins(folder, builtin=(admission,)).hook.admit_instance
    ct = {"modality": "CT", "has_pixel_data": True, "rows": 9, "columns": 9}
    refused = InstanceHeader(MediaType.DICOM, station_name="TEST", **ct)
    passed_on = InstanceHeader(MediaType.DICOM, station_name="ROOM 1", **ct)
    assert hook(header=refused) == Verdict(Reason.REFUSED_BY_PLUGIN, "the test machine")
    assert hook(header=passed_on).reason is Reason.NOT_A_RADIOGRAPH


def test_strangers_plugin_can_admit_what_the_built_in_gate_would_refuse(folder):
    lay(
        folder,
        "generous",
        "from medd.records import Verdict\n@hookimpl\ndef admit_instance(header):\n    return Verdict()",
    )
    hook = load_plugins(folder, builtin=(admission,)).hook.admit_instance
    assert hook(header=InstanceHeader(MediaType.DICOM, modality="CT")).reason is None


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict("training_room", "the training room"),
        Verdict(["not_chest"]),
        Verdict(Reason.NOT_CHEST, "a\0b"),
        Verdict(detail="\udc80"),
        Verdict(detail=None),
        "not_chest",
    ],
)
def test_verdict_that_no_row_can_hold_is_its_plugins_failure(verdict):
    manager = load_plugins(builtin=(admission,))
    manager.register(_plugin(admit_instance=lambda: verdict), "careless")
    with pytest.raises(PluginError, match=r"Verdict"):
        plugins.admit(manager, InstanceHeader(MediaType.DICOM))


def test_verdict_may_spell_its_reason():
    manager = load_plugins(builtin=(admission,))
    manager.register(_plugin(admit_instance=lambda: Verdict("not_chest")), "speller")
    assert plugins.admit(manager, InstanceHeader(MediaType.DICOM)).reason is Reason.NOT_CHEST


def _plugin(**functions) -> ModuleType:
    module = ModuleType("told")
    for name, function in functions.items():
        setattr(module, name, hookimpl(function))
    return module


def test_plugin_that_raises_when_told_harms_nobody_and_is_logged(caplog):
    heard = []

    def buried(reason):  # a plugin takes the arguments it wants
        heard.append(reason)

    def raises(instance_id, reason):
        raise ValueError(f"cannot bear {instance_id}")

    manager = load_plugins()
    for name, function in (("a", buried), ("b", raises), ("c", buried)):
        manager.register(_plugin(job_buried=function), name)
    with caplog.at_level(logging.ERROR):
        tell(manager, "job_buried", instance_id=7, reason="tried too often")
    assert heard == ["tried too often"] * 2
    [line] = caplog.records
    assert line.event == "plugin.failed"
    assert "job_buried" in line.getMessage()
    assert "cannot bear 7" in caplog.text


@pytest.mark.parametrize(
    "told",
    [
        Attachment("note", "text/plain", "a str"),
        Attachment("n" * 65, "text/plain", b""),
        Attachment("", "text/plain", b""),
        Attachment("note", "t" * 65, b""),
        Attachment("note", None, b""),
        Attachment("no\0te", "text/plain", b""),
        SimpleNamespace(name="note", media_type="text/plain", content=b""),
    ],
)
def test_malformed_attachment_is_its_plugins_failure_and_the_prediction_stands(told, caplog):
    good = Attachment("good", "text/plain", b"so")
    manager = load_plugins()
    manager.register(_plugin(explain_prediction=lambda: [told]), "malformed")
    manager.register(_plugin(explain_prediction=lambda: [good]), "sound")
    made = plugins.explain(manager, np.zeros((2, 2, 1), np.float32), prediction_of(1), None)
    assert made == replace(prediction_of(1), attachments=(good,))
    assert [line.event for line in caplog.records] == ["plugin.failed"]


# Services and commands


def test_services_come_from_plugins_and_are_built_by_name(folder):
    lay(
        folder,
        "noter",
        """
        from medd.hookspecs import ServiceSpec
        def build(settings):
            return ["built with", settings]
        @hookimpl
        def register_services():
            return [ServiceSpec("note", build="medd_plugins_dir.noter:build", is_wanted=lambda settings: settings == 1)]
        """,
    )
    found = plugins.services(load_plugins(folder))
    assert found.keys() == {"note", "web"}
    assert [found["note"].is_wanted(n) for n in (0, 1)] == [False, True]
    assert plugins.build_service(found["note"], 7) == ["built with", 7]


@pytest.mark.parametrize("build", ["nowhere:build", "medd.plugins:nothing", "", "medd plugins", "medd.plugins:"])
def test_service_whose_builder_is_not_there_is_refused_by_name(build):
    with pytest.raises(PluginError, match=r"service 'note': .* cannot be imported"):
        plugins.build_service(hookspecs.ServiceSpec("note", build), None)


def test_two_services_of_one_name_are_refused(folder):
    code = """
    from medd.hookspecs import ServiceSpec
    @hookimpl
    def register_services():
        return [ServiceSpec("note", build="x:y")]
    """
    lay(folder, "first", code)
    lay(folder, "second", code)
    with pytest.raises(PluginError, match="both bring a service 'note'"):
        plugins.services(load_plugins(folder))


def test_plugins_add_commands_and_groups_of_them(capsys):
    def commands(app):
        group = typer.Typer()
        group.command("hello")(lambda: print("hello from a group"))
        app.add_typer(group, name="mine")
        app.command("hello")(lambda: print("hello"))

    manager = load_plugins()
    manager.register(_plugin(register_commands=commands), "mine")
    app = typer.Typer()
    plugins.add_commands(manager, app)
    for arguments in (["hello"], ["mine", "hello"]):
        app(arguments, standalone_mode=False)
    assert capsys.readouterr().out == "hello\nhello from a group\n"


def test_plugin_that_cannot_add_its_commands_is_named():
    def raises(app):
        raise OSError("no such thing")

    manager = load_plugins()
    manager.register(_plugin(register_commands=raises), "clumsy")
    with pytest.raises(PluginError, match="plugin 'clumsy': register_commands raised OSError"):
        plugins.add_commands(manager, typer.Typer())


def test_telling_nobody_is_no_error():
    plugins.tell(load_plugins(), "job_buried", instance_id=1, reason="")


def test_tracing_shows_the_calls_on_stderr(monkeypatch, capsys):
    monkeypatch.setenv("MEDD_TRACE_PLUGINS", "1")
    load_plugins(builtin=(admission,)).hook.admit_instance(header=InstanceHeader(MediaType.JPEG))
    assert "admit_instance" in capsys.readouterr().err
