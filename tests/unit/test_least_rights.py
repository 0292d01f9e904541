"""What is shipped to run medd gives it no more rights than it needs."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from medd import settings
from tests.support import ROOT

CONFIG = ROOT / "config"


def unit() -> dict[str, list[str]]:
    """The settings of the service; a key may be repeated."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    text = (CONFIG / "systemd" / "medd.service").read_text()
    for line in text.partition("[Service]")[2].partition("[Install]")[0].splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def test_the_unit_runs_as_a_user_without_rights_who_writes_to_the_home_alone():
    service = unit()
    assert service["User"] == ["medd"]
    assert service["CapabilityBoundingSet"] == [""]
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "MemoryDenyWriteExecute"):
        assert service[key] == ["true"], key
    assert service["ProtectSystem"] == ["strict"]
    assert service["StateDirectory"] == ["medd"]
    assert "ReadWritePaths" not in service
    assert "@system-service" in service["SystemCallFilter"]


def test_systemd_calls_the_unit_hardened():
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze not installed")
    command = [analyze, "security", "--offline=true", str(CONFIG / "systemd" / "medd.service")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Overall exposure" not in said.stdout:
        pytest.skip("this systemd does not judge units offline")
    match = re.search(r"Overall exposure level for medd\.service: ([0-9.]+)", said.stdout)
    assert match is not None
    assert float(match[1]) <= 2.0


def manifests() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((CONFIG / "kubernetes" / "medd.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_pod_runs_without_rights_on_a_file_system_it_cannot_write():
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert container["resources"]["limits"]["memory"]


def test_what_the_pod_refers_to_is_there():
    found = manifests()
    deployment = found["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["strategy"] == {"type": "Recreate"}, "a home has one daemon"
    labels = deployment["template"]["metadata"]["labels"].items()
    assert deployment["selector"]["matchLabels"].items() <= labels
    assert found["Service"]["spec"]["selector"].items() <= labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == set(names)
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health/live", "port": "web"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claim = volumes["home"]["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["settings"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


def test_the_pods_settings_are_settings_and_hold_no_secret(tmp_path):
    found = manifests()
    file = tmp_path / "medd.toml"
    file.write_text(found["ConfigMap"]["data"]["medd.toml"])
    loaded = settings.load(tmp_path, file)
    ports = {loaded.listener.port, loaded.web.port}
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {port["containerPort"] for port in container["ports"]} == ports
    assert loaded.database == settings.DatabaseSettings()
    for variable in container["env"]:
        is_secret = variable["name"] == "MEDD_DATABASE__URL"
        assert ("valueFrom" in variable) is is_secret, variable["name"]


def test_the_container_is_no_root_and_has_no_tools():
    text = (CONFIG / "Containerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "/health/live'" in final.partition("HEALTHCHECK")[2]
    assert "COPY --from=build /opt/medd" in final
    assert not re.search(r"\b(pip install|apt-get|gcc|curl|ADD )\b", final)
    for name in re.findall(r"(MEDD_\w+)=", final):
        section = name.removeprefix("MEDD_").split("__")[0].lower()
        assert section in settings.Settings.model_fields, name
    assert not re.search(r"(?i)(password|secret|token)=", text)


def deployments() -> dict[str, dict[str, Any]]:
    documents = list(yaml.safe_load_all((CONFIG / "kubernetes" / "hosts.yaml").read_text()))
    return {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "Deployment"}


@pytest.mark.parametrize("name", deployments())
def test_pods_of_several_hosts_have_the_rights_of_the_single_one(name: str) -> None:
    single = manifests()["Deployment"]["spec"]["template"]["spec"]
    deployment = deployments()[name]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    assert container["securityContext"] == single["containers"][0]["securityContext"]
    assert pod["securityContext"].items() <= single["securityContext"].items()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["args"][:2] == ["serve", "--only"]
    assert all("value" in variable for variable in container["env"]), "secrets come from the secret alone"


def test_settings_of_several_hosts_are_settings(tmp_path: Path) -> None:
    (found,) = (
        one
        for one in yaml.safe_load_all((CONFIG / "kubernetes" / "hosts.yaml").read_text())
        if one["kind"] == "ConfigMap"
    )
    file = tmp_path / "medd.toml"
    file.write_text(found["data"]["medd.toml"])
    loaded = settings.load(tmp_path, file)
    assert loaded.spool.bucket.startswith("s3://")
    for name, deployment in deployments().items():
        (container,) = deployment["template"]["spec"]["containers"]
        (home,) = (one for one in deployment["template"]["spec"]["volumes"] if one["name"] == "home")
        assert int(home["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 10 > loaded.spool.cache_mib, name
        assert {port["containerPort"] for port in container.get("ports", ())} <= {loaded.listener.port}


def test_containers_of_several_hosts_write_to_volumes_only_and_know_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = yaml.safe_load((CONFIG / "compose.yaml").read_text())["services"]
    stages = set()
    for name in ("receiver", "worker", "desk"):
        service = services[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        stages |= set(service["command"][2].split(","))
        with monkeypatch.context() as environment:
            for key, value in service["environment"].items():
                environment.setenv(key, value)
            settings.load(tmp_path)
    assert stages == {"receive", "work", "deliver", "web"}
