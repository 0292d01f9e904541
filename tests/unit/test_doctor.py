"""The doctor finds what is wrong, says what to do, and is stopped by nothing."""

import contextlib
import errno
import http.server
import json
import os
import socket
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom.uid import UID
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import Verification

from medd import pipeline, settings, supervisor
from medd.dicom import samples
from medd.dicom.network import associate
from medd.dicom.pseudonyms import load_pseudonyms
from medd.doctor import CHECKS, Finding, State, codecs, data, examine, host, network
from medd.errors import InputError, TransientError
from medd.ingest.listener import supported_transfer_syntaxes
from medd.ingest.retrieve import TRANSFER_SYNTAXES
from medd.registry.changes import Change, set_candidate
from medd.store.tables import instance
from medd.testing import StubClassifier, stub_bundle, write_stub_plugin
from tests.certificates import Authority
from tests.rows import instance_row
from tests.support import free_port


@pytest.fixture
def loaded(tmp_path: Path) -> settings.Settings:
    """A home with the stub classifier, whose listener's port is free."""
    home = tmp_path / "home"
    home.mkdir()
    write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle"))
    return change(settings.load(home), model={"classifier": "stub"}, listener={"port": free_port()})


def change(loaded: settings.Settings, **tables: Any) -> settings.Settings:
    """The settings with other values in some tables."""
    values = loaded.model_dump()
    for name, table in tables.items():
        values[name] = values[name] | table if isinstance(table, dict) else table
    return settings.Settings(**values)


def one(findings: Any) -> Finding:
    [finding] = findings
    return finding


def states(findings: Any) -> dict[str, State]:
    return {finding.name: finding.state for finding in findings}


@pytest.fixture
def pacs() -> Iterator[dict[str, Any]]:
    """A peer that answers C-ECHO and rejects calls for another AE title."""
    entity = AE("PACS")
    entity.require_called_aet = True
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda event: 0x0000)])
    yield {"name": "pacs", "host": "127.0.0.1", "port": server.server_address[1], "ae_title": "PACS"}
    server.shutdown()


def test_a_fresh_home_fails_nowhere_and_stays_as_it_was(loaded):
    before = {path for path in loaded.home.rglob("*") if "__pycache__" not in path.parts}
    found = list(examine(loaded))
    assert [finding for finding in found if finding.state is State.FAIL] == []
    assert {finding.name.split()[0] for finding in found} >= {
        "settings",
        "database",
        "model",
        "decoder",
        "fsync",
        "tls",
    }
    assert {path for path in loaded.home.rglob("*") if "__pycache__" not in path.parts} == before


def test_every_check_is_made_whatever_comes_of_the_others(loaded):
    def stumbles(_):
        raise ZeroDivisionError("of all things")

    def fails(_):
        raise TransientError("away")

    def tells_and_stumbles(_):
        yield Finding(State.OK, "told", "first")
        raise KeyError("then")

    found = list(
        examine(loaded, (("a", stumbles), ("b", fails), ("c", tells_and_stumbles), ("ae", network.check_ae_title)))
    )
    assert [(finding.state, finding.name) for finding in found] == [
        ("FAIL", "a"),
        ("FAIL", "b"),
        ("OK", "told"),
        ("FAIL", "c"),
        ("OK", "ae title"),
    ]
    assert "ZeroDivisionError: of all things" in found[0].found
    assert found[1].found == "away"


def test_checks_have_a_name_each():
    assert len({name for name, _ in CHECKS}) == len(CHECKS)


# -- decoders ------------------------------------------------------------------------------------------------------


def test_a_sample_is_there_for_whatever_is_accepted_and_can_be_decoded():
    accepted = frozenset().union(*supported_transfer_syntaxes().values())
    assert accepted >= samples.SAMPLES.keys()
    # What we ask a PACS for is what we can decode.
    assert set(TRANSFER_SYNTAXES) == samples.SAMPLES.keys()


def test_a_missing_decoder_fails_by_the_syntax_and_the_package(loaded, monkeypatch):
    def without_jpeg_ls(path):
        if UID("1.2.840.10008.1.2.4.80").encode() in path.read_bytes():
            raise InputError("unreadable", "no decoder")
        return samples.expected()

    monkeypatch.setattr(codecs, "load", without_jpeg_ls)
    failed = one(finding for finding in codecs.check_decoders(loaded) if finding.state is State.FAIL)
    assert failed.name == "decoder 1.2.840.10008.1.2.4.80"
    assert "JPEG-LS Lossless" in failed.found
    assert "pip install" in failed.advice
    assert "pyjpegls" in failed.advice


def test_a_decoder_that_gives_other_pixels_fails(loaded, monkeypatch):
    monkeypatch.setattr(codecs, "load", lambda path: samples.expected() + np.float32(0.02))
    assert {finding.state for finding in codecs.check_decoders(loaded)} == {State.FAIL, State.OK}
    monkeypatch.setattr(codecs, "load", lambda path: samples.expected()[:32])
    assert "(64, 64) expected" in next(iter(codecs.check_decoders(loaded))).found


# -- host ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_fails(loaded, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    for check in (host.check_home, host.check_spool):
        finding = one(check(loaded))
        assert (finding.state, "Read-only" in finding.found) == (State.FAIL, True)


def test_a_key_that_others_may_read_warns(loaded):
    load_pseudonyms(loaded.home)
    assert states(host.check_home(loaded)) == {"home": State.OK}
    (loaded.home / "export.key").chmod(0o644)
    assert states(host.check_home(loaded)) == {"home": State.OK, "export key": State.WARN}


def test_a_file_in_place_of_the_spool_fails(loaded):
    (loaded.home / "spool").write_text("")
    assert one(host.check_spool(loaded)).state is State.FAIL


def test_an_inbox_that_cannot_be_made_read_or_written_fails(loaded, monkeypatch, tmp_path):
    assert "can be made" in one(host.check_inboxes(loaded)).found
    assert one(host.check_inboxes(change(loaded, inbox=[]))).state is State.OK
    for path in (Path("/proc/nonexistent"), tmp_path / "a file" / "below"):
        (tmp_path / "a file").touch()
        assert one(host.check_inboxes(change(loaded, inbox=[{"path": path}]))).state is State.FAIL
    (tmp_path / "in").mkdir()
    tables = [{"path": tmp_path / "in", "after": after} for after in ("move", "delete", "leave")]
    several = change(loaded, inbox=tables)
    assert [finding.state for finding in host.check_inboxes(several)] == ["OK", "OK", "OK"]
    assert list((tmp_path / "in").iterdir()) == []

    def refuse(*_, **__):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert [finding.state for finding in host.check_inboxes(several)] == ["FAIL", "FAIL", "OK"]
    assert 'after = "leave"' in next(host.check_inboxes(several)).advice
    monkeypatch.setattr(host.os, "scandir", refuse)
    assert [finding.state for finding in host.check_inboxes(several)] == ["FAIL", "FAIL", "FAIL"]


def test_the_folder_of_a_database_outside_the_home_is_looked_at(loaded, monkeypatch, tmp_path):
    assert list(host.check_database_folder(loaded)) == []
    outside = change(loaded, database={"url": f"sqlite:///{tmp_path}/db/medd.db"})
    finding = one(host.check_database_folder(outside))
    assert (finding.state, "is not there" in finding.found) == (State.FAIL, True)
    (tmp_path / "db").mkdir()
    assert one(host.check_database_folder(outside)).state is State.OK
    kinds = {loaded.home: "ext4", loaded.home.parent: "ext4"}
    for kind, state in (("ext4", State.OK), ("tmpfs", State.FAIL), ("cifs", State.FAIL)):
        monkeypatch.setattr(host, "file_system_of", lambda folder, kind=kind: kinds.get(folder, kind))
        found = states(host.check_file_system(outside))
        assert found == {"file system home": "OK", "file system spool": "OK", "file system database": state}
    # Where no database lies, no lock of it can fail.
    monkeypatch.setattr(host, "file_system_of", lambda folder: "ext4" if folder == tmp_path / "db" else "nfs4")
    assert set(states(host.check_file_system(outside)).values()) == {State.OK}
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(host.shutil, "disk_usage", lambda folder: usage(2**40, 0, 0 if folder.name == "db" else 2**39))
    monkeypatch.setattr(Path, "stat", lambda self: namedtuple("stat", "st_dev")(self.name == "db"))
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    assert states(host.check_disk(outside)) == {"disk home": State.OK, "disk database": State.FAIL}


def test_a_database_url_that_is_none_keeps_no_other_check_from_its_work(loaded):
    odd = change(loaded, database={"url": "nonsense"})
    assert set(states(host.check_disk(odd))) >= {"disk home"}
    assert one(examine(odd, (("database", data.check_database),))).state is State.FAIL


@pytest.mark.parametrize(
    ("free_gib", "total_gib", "state"), [(100, 500, "OK"), (40, 500, "WARN"), (4, 10, "WARN"), (0.5, 10, "FAIL")]
)
def test_a_disk_warns_before_it_is_full(loaded, monkeypatch, free_gib, total_gib, state):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: usage(total_gib * 2**30, 0, int(free_gib * 2**30)))
    finding = one(host.check_disk(loaded))
    assert finding.state == state
    assert f"{free_gib:.1f} GiB" in finding.found
    assert bool(finding.advice) == (state != "OK")


def test_a_slow_disk_warns_and_leaves_nothing_behind(loaded, monkeypatch):
    pipeline.open_spool(loaded)
    assert one(host.check_fsync(loaded)).found.startswith(str(loaded.home / "spool" / "incoming"))
    monkeypatch.setattr(host, "WARN_FSYNC_MS", 0.0)
    assert one(host.check_fsync(loaded)).state is State.WARN
    assert list((loaded.home / "spool" / "incoming").iterdir()) == []


def test_inotify_counts_the_folders_of_inboxes_that_are_not_polled(loaded, monkeypatch, tmp_path):
    for number in range(9):
        (loaded.home / "inbox" / str(number)).mkdir(parents=True)
    (tmp_path / "max_user_watches").write_text("1000\n")
    (tmp_path / "max_user_instances").write_text("128\n")
    monkeypatch.setattr(host, "_INOTIFY", tmp_path)
    assert one(host.check_inotify(loaded)).found.startswith("10 folders watched, 1000 allowed")
    for allowed, state in (("15", State.WARN), ("9", State.FAIL)):
        (tmp_path / "max_user_watches").write_text(allowed)
        assert one(host.check_inotify(loaded)).state is state
    polled = change(loaded, inbox=[{"path": "inbox", "poll": True}])
    assert one(host.check_inotify(polled)).found.startswith("not needed")
    monkeypatch.setattr(host, "_try_inotify", lambda: errno.EMFILE)
    finding = one(host.check_inotify(loaded))
    assert (finding.state, "max_user_instances" in finding.advice) == (State.FAIL, True)


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /mnt/pacs\\040share rw shared:2 - nfs4 server:/pacs rw
24 22 0:22 / /dev/shm rw shared:3 - tmpfs tmpfs rw
25 22 0:23 / /data rw - ext4 /dev/sdb1 rw
26 25 0:24 / /data rw - cifs //server/data rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/medd", "ext4"),
        ("/mnt/pacs share/home", "nfs4"),
        ("/dev/shm", "tmpfs"),
        ("/data/x", "cifs"),
        ("/database", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path, folder, kind):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert host.file_system_of(Path(folder), tmp_path / "mountinfo") == kind


@pytest.mark.parametrize(
    ("kind", "url", "state"),
    [
        ("ext4", "sqlite:///medd.db", "OK"),
        ("", "sqlite:///medd.db", "OK"),
        ("nfs4", "sqlite:///medd.db", "FAIL"),
        ("nfs4", "postgresql+psycopg://medd@db/medd", "OK"),
        ("tmpfs", "postgresql+psycopg://medd@db/medd", "FAIL"),
    ],
)
def test_sqlite_on_a_network_drive_and_images_in_memory_fail(loaded, monkeypatch, kind, url, state):
    monkeypatch.setattr(host, "file_system_of", lambda folder: kind)
    assert next(host.check_file_system(change(loaded, database={"url": url}))).state == state


def test_a_file_system_with_another_clock_warns(loaded, monkeypatch):
    assert one(host.check_clock(loaded)).state is State.OK
    now = datetime.now(UTC).timestamp()
    monkeypatch.setattr(host.time, "time", lambda: now - 3600)
    finding = one(host.check_clock(loaded))
    assert (finding.state, "+3600" in finding.found or "+3599" in finding.found) == (State.WARN, True)


# -- data ----------------------------------------------------------------------------------------------------------


def test_settings_that_do_not_fit_together_fail(loaded):
    table = {"source": "nobody", "at": "01:00"}
    found = list(examine(change(loaded, pull=[table]), (("settings", data.check_settings),)))
    assert (one(found).state, "nobody" in one(found).found) == (State.FAIL, True)
    odd = change(loaded, destination=[{"type": "pigeon"}])
    assert "pigeon" in one(examine(odd, (("settings", data.check_settings),))).found
    missing = list(data.check_settings(change(loaded, retrain={"data": "gone"})))
    assert [finding.state for finding in missing] == [State.WARN, State.OK]


def test_a_plugin_that_cannot_be_loaded_fails_and_the_rest_is_still_told(loaded):
    (loaded.home / "plugins" / "broken.py").write_text("raise RuntimeError('no')")
    found = states(examine(loaded))
    assert (found["plugins"], found["model"], found["settings"]) == (State.FAIL, State.FAIL, State.FAIL)
    assert found["home"] is found["ae title"] is State.OK


def test_a_database_that_is_away_fails(loaded):
    away = change(loaded, database={"url": f"postgresql+psycopg://medd@127.0.0.1:{free_port()}/medd"})
    found = one(examine(away, (("database", data.check_database),)))
    assert (found.state, found.name) == (State.FAIL, "database")


def test_an_old_schema_fails_and_names_the_command(loaded):
    database = pipeline.open_database(loaded)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    finding = one(data.check_database(loaded))
    assert (finding.state, finding.advice) == (State.FAIL, "medd db upgrade")


def test_a_clock_that_was_put_back_shows_in_the_newest_image(loaded):
    database = pipeline.open_database(loaded)
    assert states(data.check_database(loaded)) == {"database": State.OK}
    with database.write() as connection:
        later = datetime.now(UTC) + timedelta(hours=1)
        connection.execute(instance.insert().values(**instance_row(1, received_at=later)))
    assert states(data.check_database(loaded)) == {"database": State.OK, "clock history": State.WARN}


@pytest.mark.peers
def test_the_clock_of_postgresql_is_compared_with_ours(loaded, postgres_url, monkeypatch):
    on_server = change(loaded, database={"url": postgres_url})
    assert "empty" in one(data.check_database(on_server)).found
    pipeline.open_database(on_server).close()
    assert states(data.check_database(on_server)) == {"database": State.OK, "clock database": State.OK}
    monkeypatch.setattr(data, "WARN_CLOCK_S", -1)
    assert states(data.check_database(on_server))["clock database"] is State.WARN


def test_the_shipped_model_is_verified_before_there_is_a_database(loaded):
    assert one(data.check_models(loaded)).found.startswith("stub/1, as shipped")
    (loaded.home / "stub-bundle" / "stub.json").write_text("altered")
    assert "altered" in one(examine(loaded, (("model", data.check_models),))).found


def test_a_champion_that_was_altered_fails_and_a_candidate_warns(loaded, tmp_path):
    desk = pipeline.open_models(loaded)
    desk.champion()
    for version in ("2", "3"):
        stub_bundle(loaded.home / "models" / f"stub-{version}", version=version)
    desk.promote("stub-2", "anna", "")
    set_candidate(desk.database, desk.find("stub-3", "anna"), Change("anna", ""))
    assert states(data.check_models(loaded)) == {"model candidate": State.OK, "model champion": State.OK}
    for version in ("2", "3"):
        (loaded.home / "models" / f"stub-{version}" / "stub.json").write_text("altered")
    assert states(data.check_models(loaded)) == {"model candidate": State.WARN, "model champion": State.FAIL}


def test_a_model_that_cannot_score_fails_though_its_bytes_are_right(loaded, monkeypatch):
    shipped = change(loaded, model={"classifier": "pneumonia"})
    assert "a film was scored" in one(data.check_models(shipped)).found
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # the import fails
    finding = one(data.check_models(shipped))
    assert (finding.state, "onnxruntime" in finding.found) == (State.FAIL, True)
    pipeline.open_models(shipped).champion()
    finding = one(data.check_models(shipped))
    assert (finding.state, finding.name, "onnxruntime" in finding.found) == (State.FAIL, "model champion", True)


def test_a_model_that_fails_on_a_film_fails(loaded, monkeypatch):
    monkeypatch.setattr(StubClassifier, "predict", lambda self, batch: np.full((len(batch), 2), np.nan, np.float32))
    finding = one(data.check_models(loaded))
    assert (finding.state, "sum to 1" in finding.found) == (State.FAIL, True)


def test_a_model_on_duty_is_not_guessed_from_another_schema(loaded):
    database = pipeline.open_database(loaded)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    finding = one(data.check_models(loaded))
    assert (finding.state, "0001" in finding.found, "as shipped" in finding.found) == (State.WARN, True, False)


# -- network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "state"), [("MEDD", "OK"), ("MEDD_2-A", "OK"), ("medd", "WARN"), ("ME DD", "WARN")])
def test_an_ae_title_that_peers_may_misread_warns(loaded, title, state):
    assert one(network.check_ae_title(change(loaded, listener={"ae_title": title}))).state == state


def test_an_ae_title_that_a_peer_has_too_warns(loaded, pacs):
    twin = change(loaded, peer=[pacs], listener={"ae_title": "PACS"})
    assert one(network.check_ae_title(twin)).state is State.WARN


def test_a_free_port_is_fine_and_a_strangers_is_not(loaded):
    assert "is free" in one(network.check_listener(loaded)).found
    with socket.create_server(("127.0.0.1", loaded.listener.port)):
        finding = one(network.check_listener(loaded))
    assert (finding.state, "taken" in finding.found) == (State.FAIL, True)


def test_a_port_that_our_own_receiver_serves_is_fine(loaded):
    receiver = pipeline.build_receiver(loaded)
    lock = supervisor.lock_stage(loaded, "receive")
    receiver.start()
    try:
        finding = one(network.check_listener(loaded))
        assert (finding.state, "answers C-ECHO" in finding.found) == (State.OK, True)
    finally:
        receiver.stop()
    finding = one(network.check_listener(loaded))
    assert (finding.state, "is free" in finding.found) == (State.WARN, True)
    os.close(lock)
    assert one(network.check_listener(loaded)).state is State.OK


@pytest.fixture
def served(loaded: settings.Settings) -> Iterator[Callable[..., settings.Settings]]:
    """Serves the home with other settings of the listener, as a daemon would, and gives these settings."""
    with contextlib.ExitStack() as ends:

        def serve(**table: Any) -> settings.Settings:
            changed = change(loaded, listener=table)
            receiver = pipeline.build_receiver(changed)
            ends.callback(os.close, supervisor.lock_stage(changed, "receive"))
            receiver.start()
            ends.callback(receiver.stop)
            return changed

        yield serve


@pytest.mark.parametrize(
    ("table", "state", "told"),
    [
        ({"allowed_hosts": ["10.0.0.0/8"]}, "OK", "not asked, as listener.allowed_hosts leaves out 127.0.0.1"),
        ({"allowed_hosts": ["10.0.0.0/8", "127.0.0.0/8"]}, "OK", "answers C-ECHO"),
        ({"allowed_hosts": ["10.0.0.0/8"], "host": "0.0.0.0"}, "OK", "leaves out 127.0.0.1"),
        ({"allowed_calling_ae": ["MODALITY"]}, "OK", "rejects the association"),
    ],
)
def test_a_healthy_listener_that_does_not_want_us_is_fine(served, table, state, told):
    finding = one(network.check_listener(served(**table)))
    assert (finding.state, told in finding.found) == (state, True)


def test_a_listener_that_is_full_for_the_moment_warns(served):
    full = served(max_associations=1)
    me = settings.PeerSettings(name="me", host="127.0.0.1", port=full.listener.port, ae_title="MEDD")
    with associate(me, "OTHER", [build_context(Verification)]):
        finding = one(network.check_listener(full))
    assert (finding.state, "rejects the association" in finding.found) == (State.WARN, True)


def test_an_allowed_host_that_is_no_address_fails(loaded):
    odd = change(loaded, listener={"allowed_hosts": ["modality.example"]})
    finding = one(examine(odd, (("listener", network.check_listener),)))
    assert (finding.state, finding.found.startswith("listener.allowed_hosts: ")) == (State.FAIL, True)


def test_a_listener_that_answers_c_echo_with_a_failure_fails(loaded):
    lock = supervisor.lock_stage(loaded, "receive")
    entity = AE("MEDD")
    entity.add_supported_context(Verification)
    handlers = [(evt.EVT_C_ECHO, lambda event: 0x0110)]
    server = entity.start_server(("127.0.0.1", loaded.listener.port), block=False, evt_handlers=handlers)
    finding = one(network.check_listener(loaded))
    server.shutdown()
    os.close(lock)
    assert (finding.state, "0x0110" in finding.found) == (State.FAIL, True)


@pytest.mark.peers
def test_a_listener_with_tls_is_asked_unless_its_callers_need_a_certificate(served, loaded):
    certificate, key = Authority(loaded.home).issue("own")
    table = {"certificate": certificate.name, "key": key.name, "ca": ""}
    with_tls = served(tls=table)
    finding = one(network.check_listener(with_tls))
    assert (finding.state, "answers C-ECHO" in finding.found) == (State.OK, True)
    finding = one(network.check_listener(change(with_tls, listener={"tls": table | {"ca": "ca.pem"}})))
    assert (finding.state, "not asked" in finding.found) == (State.OK, True)


@pytest.mark.parametrize("tls", [{}, {"certificate": "own.pem"}])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves the socket open
def test_a_receiver_that_does_not_answer_fails(loaded, monkeypatch, tls):
    monkeypatch.setattr(network, "TIMEOUT_S", 0.5)
    lock = supervisor.lock_stage(loaded, "receive")
    with socket.create_server(("127.0.0.1", loaded.listener.port)):
        assert one(network.check_listener(change(loaded, listener={"tls": tls}))).state is State.FAIL
    os.close(lock)


def test_whose_port_it_is_cannot_be_told_by_a_stranger(loaded, monkeypatch):
    lock = supervisor.lock_stage(loaded, "receive")
    openly = os.open

    def refuse(path, *arguments, **named):
        if str(path).endswith("receive.lock"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return openly(path, *arguments, **named)

    monkeypatch.setattr(network.os, "open", refuse)
    with socket.create_server(("127.0.0.1", loaded.listener.port)):
        finding = one(network.check_listener(loaded))
    os.close(lock)
    assert (finding.state, "cannot be told" in finding.found) == (State.WARN, True)
    assert "as the user" in finding.advice


def test_an_address_that_is_not_ours_fails(loaded):
    finding = one(network.check_listener(change(loaded, listener={"host": "192.0.2.1"})))
    assert (finding.state, "listener.host" in finding.advice) == (State.FAIL, True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves the socket open
def test_peers_and_pacs_destinations_are_called(loaded, pacs):
    away = pacs | {"name": "away", "port": free_port()}
    stranger = pacs | {"name": "stranger", "ae_title": "OTHER", "type": "pacs"}
    called = list(network.check_peers(change(loaded, peer=[pacs, away], destination=[stranger])))
    assert states(called) == {"peer pacs": State.OK, "peer away": State.FAIL, "destination stranger": State.FAIL}
    assert "is it running" in called[1].advice
    assert "AE title" in called[2].advice


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves the socket open
def test_a_destination_is_called_where_it_is_also_when_a_peer_has_its_name(loaded, pacs):
    elsewhere = pacs | {"type": "pacs", "port": free_port(), "tls": {"ca": "nowhere.pem"}}
    both = change(loaded, peer=[pacs], destination=[elsewhere])
    assert states(network.check_peers(both)) == {"peer pacs": State.OK, "destination pacs": State.FAIL}
    assert states(network.check_tls(both)) == {"tls destination pacs: tls": State.FAIL}
    in_the_clear = change(both, destination=[elsewhere | {"tls": None}])
    assert states(network.check_peers(in_the_clear)) == {"peer pacs": State.OK, "destination pacs": State.FAIL}


def test_a_dicomweb_server_is_asked_for_a_study_that_nobody_has(loaded):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps([]).encode()
            self.send_response(200 if self.path.startswith("/good/") else 401)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        root = f"http://127.0.0.1:{server.server_address[1]}"
        servers = [{"name": "good", "url": f"{root}/good"}, {"name": "bad", "url": f"{root}/bad"}]
        found = list(network.check_dicomweb(change(loaded, dicomweb=servers)))
        server.shutdown()
    away = one(network.check_dicomweb(change(loaded, dicomweb=[{"name": "away", "url": root}])))
    assert states(found) == {"dicomweb good": State.OK, "dicomweb bad": State.FAIL}
    assert "token" in found[1].found
    assert away.state is State.FAIL
    assert all("StudyInstanceUID=2.25.0" in path for path in asked)


def test_certificates_are_told_by_the_days_they_have_left(loaded, pacs):
    authority = Authority(loaded.home)
    tables = {}
    for name, days in (("long", 400), ("short", 20), ("gone", 0)):
        certificate, key = authority.issue(name, days=days)
        tables[name] = {"certificate": certificate.name, "key": key.name, "ca": ""}
    assert one(network.check_tls(loaded)).found == "not used"
    peers = [pacs | {"name": "short", "tls": tables["short"]}, pacs | {"name": "gone", "tls": tables["gone"]}]
    found = states(network.check_tls(change(loaded, listener={"tls": tables["long"]}, peer=peers)))
    assert found == {
        "tls listener.tls.certificate": State.OK,
        "tls peer short: tls.certificate": State.WARN,
        "tls peer gone: tls.certificate": State.FAIL,
    }


@pytest.mark.peers
def test_a_chain_is_judged_by_our_own_certificate_and_authorities_warn_at_worst(loaded):
    authority = Authority(loaded.home)
    for name, days in (("long", 400), ("gone", 0)):
        authority.issue(name, days=days)
    texts = {name: (loaded.home / f"{name}.pem").read_text() for name in ("long", "gone")}
    (loaded.home / "chain.pem").write_text(texts["long"] + texts["gone"])
    table = {"certificate": "chain.pem", "key": "long.key", "ca": "long.pem"}
    found = states(network.check_tls(change(loaded, listener={"tls": table})))
    assert found == {"tls listener.tls.certificate": State.OK, "tls listener.tls.ca": State.OK}
    found = list(network.check_tls(change(loaded, listener={"tls": table | {"ca": "chain.pem"}})))
    assert states(found)["tls listener.tls.ca"] is State.WARN
    assert "of 2 certificates that are trusted, 1 ran out" in found[1].found


def test_a_certificate_that_cannot_be_used_fails_and_the_next_is_still_told(loaded, pacs):
    broken = {"certificate": "nowhere.pem", "key": "", "ca": ""}
    trusting = pacs | {"tls": {}}
    found = list(network.check_tls(change(loaded, listener={"tls": broken}, peer=[trusting])))
    assert [finding.state for finding in found] == [State.FAIL, State.OK]
    assert "nowhere.pem" in found[0].found
