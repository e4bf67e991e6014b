"""The files in `deploy` and the workflows: they parse, their commands exist, their configuration makes a pipeline."""

from __future__ import annotations

import configparser
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import psycopg.conninfo
import pytest

from pgcdc.cli import EXIT_CONFIGURATION, main
from pgcdc.cli.building import build
from pgcdc.cli.redaction import Redactor

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
yaml: Any = importlib.import_module("yaml")
"""Without types of its own."""


def takes(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """Fails unless `pgcdc` has the verb of a command line, and the options that are given to it."""
    assert command[0] == "pgcdc"
    assert main([command[1], "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (one for one in command[2:] if one.startswith("--")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"pgcdc {command[1]} has no {option}"


def test_the_unit_of_systemd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = configparser.RawConfigParser(strict=True, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "pgcdc@.service")
    assert unit.sections() == ["Unit", "Service", "Install"]
    path, *arguments = shlex.split(unit["Service"]["ExecStart"])
    takes(capsys, [Path(path).name, *arguments])
    assert unit["Service"]["RestartPreventExitStatus"] == str(EXIT_CONFIGURATION)
    # It is asked of the main process alone: what another one finds wrong would be tried again for ever.
    assert [key for key in unit["Service"] if key.startswith("Exec")] == ["ExecStart"]
    wrong = tmp_path / "shop.toml"
    wrong.write_text("[pipeline]\nname = 'shop'\nno_such_key = 1\n")
    assert main([str(wrong) if one.endswith("%i.toml") else one for one in arguments]) == EXIT_CONFIGURATION


def test_the_container(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (DEPLOY / "container" / "Containerfile").read_text().splitlines()
    entry, command = (
        json.loads(line.split(" ", 1)[1]) for word in ("ENTRYPOINT", "CMD") for line in lines if line.startswith(word)
    )
    takes(capsys, [*entry, *command])
    [extras] = [set(found[1].split(",")) for line in lines if (found := re.search(r"pgcdc\[(.*?)\]", line))]
    offered = re.search(r"optional-dependencies\]\n(.*?)\n\n", (REPOSITORY / "pyproject.toml").read_text(), re.DOTALL)
    assert offered is not None
    assert extras <= set(re.findall(r"^(\w+) =", offered[1], re.MULTILINE))


def test_the_manifest_of_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One reader; probes at a port that is there; what is mounted exists; the file makes the pipeline."""
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "pipeline.yaml").read_text()))
    configuration, secret, authority, service, workload = documents
    assert [one["kind"] for one in documents] == ["ConfigMap", "Secret", "ConfigMap", "Service", "StatefulSet"]
    [container] = workload["spec"]["template"]["spec"]["containers"]
    takes(capsys, ["pgcdc", *container["args"]])
    assert workload["spec"]["replicas"] == 1
    [port] = container["ports"]
    assert f"0.0.0.0:{port['containerPort']}" in container["args"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
        # A standby is well and not ready: an update waits until it is what the probe asks for.
        assert container[probe]["httpGet"]["path"] == "/healthz"
        assert container[probe]["timeoutSeconds"] > 2, "an answer may wait so long for the server"
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == workload["spec"]["template"]["metadata"]["labels"]
    [offered] = service["spec"]["ports"]
    assert (offered["name"], offered["port"]) == (port["name"], port["containerPort"])
    assert f"regex: {port['name']}," in (REPOSITORY / "docs" / "deploying.md").read_text(), "as Prometheus finds it"
    volumes = {one["name"] for one in workload["spec"]["template"]["spec"]["volumes"]}
    volumes |= {one["metadata"]["name"] for one in workload["spec"]["volumeClaimTemplates"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes
    # What libpq verifies the server by is a file that is mounted.
    dsn = psycopg.conninfo.conninfo_to_dict(secret["stringData"]["SHOP_DSN"])
    certificate = Path(str(dsn["sslrootcert"]))
    [mounted] = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == str(certificate.parent)]
    [volume] = [one for one in workload["spec"]["template"]["spec"]["volumes"] if one["name"] == mounted]
    assert dsn["sslmode"] == "verify-full" and volume["configMap"]["name"] == authority["metadata"]["name"]
    assert certificate.name in authority["data"]
    file = tmp_path / "pgcdc.toml"
    file.write_text(configuration["data"]["pgcdc.toml"])
    for name, value in secret["stringData"].items():
        monkeypatch.setenv(name, value)
    assert build(str(file), Redactor({})).consumers == ("cache",)


@pytest.mark.parametrize("workflow", ["checks", "release"])
def test_the_workflows(workflow: str) -> None:
    """They parse, and every file of the project that they run is there and may be run."""
    text = (REPOSITORY / ".github" / "workflows" / f"{workflow}.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    needed = {name for job in jobs.values() for name in job.get("needs", [])}
    assert needed <= set(jobs)
    for step in (one for job in jobs.values() for one in job["steps"]):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for path in re.findall(r"(?:\./dev|\.ci/run|tools/\w+\.sh)", "\n".join(commands)):
        assert (REPOSITORY / path).is_file(), path


def test_a_release_is_made_for_every_python_that_is_supported() -> None:
    release = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "release.yml").read_text())
    named = re.findall(r"Python :: (3\.\d+)", (REPOSITORY / "pyproject.toml").read_text())
    assert release["env"]["PYTHONS"].split() == named
