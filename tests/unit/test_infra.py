"""The files under infra/ name what exists: settings, commands, options, paths, ports, labels."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from inspect import getsource
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
import typer
import yaml
from fastapi import FastAPI
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from engine.annotation.app import PAGES
from flows.cli.main import app as cli
from flows.page.make_app import make_app
from flows.services.definitions import BUCKET, DATABASE
from flows.workspace.setting_sections import ProductionSettings
from flows.workspace.settings import FILE_NAME, Settings, load_settings
from flows.workspace.workspace import open_workspace

Document: TypeAlias = dict[str, Any]

INFRA = Path(__file__).parents[2] / "infra"
K8S = INFRA / "k8s"
COMPOSE: Document = yaml.safe_load((INFRA / "compose.yaml").read_text())
TEMPLATE = "secrets.example.yaml"


def _documents() -> list[Document]:
    files = sorted(path for path in K8S.glob("*.yaml") if path.name != "secrets.yaml")
    return [item for path in files for item in yaml.safe_load_all(path.read_text())]


DOCUMENTS = _documents()
MANIFESTS = [item for item in DOCUMENTS if item["kind"] != "Kustomization"]


def _of_kind(*kinds: str) -> list[Document]:
    return [item for item in MANIFESTS if item["kind"] in kinds]


def _name(item: Document) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def _templates() -> dict[str, Document]:
    """Every pod template, by a name to show."""
    found = {_name(item): item["spec"]["template"] for item in _of_kind("Deployment", "Job")}
    for item in _of_kind("RayCluster"):
        groups = [item["spec"]["headGroupSpec"], *item["spec"]["workerGroupSpecs"]]
        for group in groups:
            found[f"{_name(item)}/{group.get('groupName', 'head')}"] = group["template"]
    return found


TEMPLATES = _templates()


def _containers(template: Document) -> list[Document]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


CONTAINERS = {
    f"{pod}/{item['name']}": item
    for pod, template in TEMPLATES.items()
    for item in _containers(template)
}


def _variables() -> Iterator[tuple[str, str, str]]:
    """Place, name and value of every environment variable; without `_FILE`."""
    for service, item in COMPOSE["services"].items():
        for name, value in item.get("environment", {}).items():
            yield f"compose/{service}", name.removesuffix("_FILE"), str(value)
    for item in _of_kind("ConfigMap", "Secret"):
        for name, value in (item.get("data") or item["stringData"]).items():
            yield _name(item), name, value
    for where, item in CONTAINERS.items():
        for row in item.get("env", []):
            yield where, row["name"], row.get("value", "")
    for name, value in re.findall(r"\b((?:DATAENGINE|PREFECT)_[A-Z_]+)=(\S+)", _dockerfile()):
        yield "Dockerfile", name, value


def _dockerfile() -> str:
    return (INFRA / "Dockerfile").read_text()


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Place and arguments of every command that one of our images runs."""
    for service, item in COMPOSE["services"].items():
        if item["image"].startswith("open-data-engine"):
            yield from _parts(f"compose/{service}", item["command"])
    for where, item in CONTAINERS.items():
        if "command" in item:
            yield from _parts(where, item["command"])
    default = re.search(r"^CMD (\[.*\])$", _dockerfile(), re.M)
    assert default is not None
    yield from _parts("Dockerfile", yaml.safe_load(default[1]))


def _parts(where: str, words: list[str]) -> Iterator[tuple[str, list[str]]]:
    if words[:2] == ["sh", "-c"]:
        for line in words[2].split("&&"):
            yield where, line.split()
    else:
        yield where, [str(word) for word in words]


@pytest.mark.parametrize(("where", "name", "value"), list(_variables()))
def test_a_variable_is_a_setting(where: str, name: str, value: str) -> None:
    from prefect.settings import Settings as PrefectSettings
    from prefect.settings.legacy import _get_valid_setting_names

    if name.startswith("PREFECT_"):
        assert name in _get_valid_setting_names(PrefectSettings)
    elif name.startswith("DATAENGINE_") and name != "DATAENGINE_WORKSPACE":
        model: type[BaseModel] = Settings
        *sections, last = name.removeprefix("DATAENGINE_").lower().split("__")
        for section in sections:
            inner = model.model_fields[section].annotation
            assert isinstance(inner, type)
            assert issubclass(inner, BaseModel)
            model = inner
        assert last in model.model_fields
    else:
        known = {"DATAENGINE_WORKSPACE", "RAY_USAGE_STATS_ENABLED"}
        known |= {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
        assert name in known or name.startswith("POSTGRES_")


@pytest.mark.parametrize("source", ["compose", "k8s"])
def test_the_values_make_settings(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE_NAME).touch()
    wanted = "compose/worker" if source == "compose" else ("ConfigMap/dataengine", "Secret/")
    for where, name, value in _variables():
        if where.startswith(wanted) and name.startswith("DATAENGINE_"):
            monkeypatch.setenv(name, value)
    found = load_settings(tmp_path)
    assert found.store_uri == f"s3://{BUCKET}"
    assert found.store.secret_key is not None
    assert found.operations.metrics_token is not None
    if source == "k8s":
        (cluster,) = _of_kind("RayCluster")
        host = f"{cluster['metadata']['name']}-head-svc"  # as KubeRay names it
        assert found.runner == "ray"
        assert found.ray.address == f"ray://{host}:10001"


@pytest.fixture(scope="module")
def prefect_worker_help() -> str:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(("where", "words"), list(_commands()))
def test_a_command_and_its_options_exist(
    where: str, words: list[str], prefect_worker_help: str
) -> None:
    if words[0] == "dataengine":
        group: Any = typer.main.get_command(cli)
        context: Any = group.context_class(group, info_name="dataengine")
        name, command, rest = group.resolve_command(context, words[1:])
        command.make_context(name, list(rest), parent=context)  # or reports the fault
    elif words[0] == "prefect":
        assert words[1:3] == ["worker", "start"]
        options = [word for word in words if word.startswith("--")]
        assert set(options) <= set(re.findall(r"--[a-z-]+", prefect_worker_help))
        assert words[words.index("--pool") + 1] == ProductionSettings().work_pool
    else:
        assert words[:2] == ["python", "-m"]
        assert callable(import_module(words[2]).main)
        told = getsource(import_module(words[2]).main)
        assert all(f'"{word}"' in told for word in words[3:] if word.startswith("--"))


# Compose


def test_services_wait_for_services_that_exist_and_can_be_asked() -> None:
    services = COMPOSE["services"]
    for name, item in services.items():
        assert "healthcheck" in item, name
        for other, how in item.get("depends_on", {}).items():
            asked = services[other]["healthcheck"]
            if how["condition"] == "service_healthy":
                assert asked["test"]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "no"


def test_services_are_reached_from_this_machine_only_and_have_what_they_name() -> None:
    services = COMPOSE["services"]
    for name, item in services.items():
        assert all(port.startswith("127.0.0.1:") for port in item.get("ports", [])), name
        assert set(item.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        for mount in item.get("volumes", []):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (INFRA / source).is_file(), (name, source)
        for variable, value in item.get("environment", {}).items():
            if variable.endswith("_FILE"):
                assert Path(value).name in item["secrets"], (name, variable)
            host = re.match(r"https?://([^:/]+)", str(value))
            assert host is None or host[1] in {*services, "127.0.0.1"}, (name, variable)
    assert f"CREATE DATABASE {DATABASE} " in (INFRA / "postgres" / "catalog.sql").read_text()
    assert services["worker"]["environment"]["DATAENGINE_STORE__URI"] == f"s3://{BUCKET}"
    assert (INFRA / COMPOSE["services"]["page"]["build"]["dockerfile"].split("/", 1)[1]).is_file()


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_limited_cannot_write_its_image_and_has_no_way_out(name: str) -> None:
    item = COMPOSE["services"][name]
    assert item["read_only"] is True
    assert item["cap_drop"] == ["ALL"]
    assert item["security_opt"] == ["no-new-privileges:true"]  # and Docker's own seccomp profile
    assert {"mem_limit", "cpus", "pids_limit"} <= set(item)
    for network in item["networks"]:
        chosen = COMPOSE["networks"][network]
        masquerades = "com.docker.network.bridge.enable_ip_masquerade"
        assert chosen.get("internal") or chosen["driver_opts"][masquerades] == "false"
    assert ("published" in item["networks"]) == ("ports" in item)
    shared = [set(item["networks"]) & set(COMPOSE["services"][other]["networks"])
              for other in item.get("depends_on", {})]  # fmt: skip
    assert all(shared)


def test_of_the_object_store_only_s3_is_reached_from_other_containers() -> None:
    (script,) = COMPOSE["services"]["seaweedfs"]["command"]
    words = re.search(r"exec weed (.*)", script.replace("\\\n", " "))
    assert words is not None
    given = dict(word.partition("=")[::2] for word in words[1].split())
    assert given["-ip.bind"] == "127.0.0.1"
    assert given["-s3.ip.bind"] == "0.0.0.0"  # noqa: S104
    assert (given["-s3.port.iceberg"], given["-s3.port.lance"]) == ("0", "0")
    assert (given["-s3.allowedOrigins"], given["-filer.allowedOrigins"]) == ("", "")


def test_others_images_can_be_had_by_digest(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho sha256:$(echo $4 | tr -dc a-z)\n")
    (tmp_path / "docker").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(INFRA / "digests.sh")], env={"PATH": path}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    told = dict(line.split("=") for line in done.stdout.splitlines())
    text = (INFRA / "compose.yaml").read_text() + _dockerfile()
    assert set(told) == set(re.findall(r"\b[A-Z]+_DIGEST\b", text))
    assert told["POSTGRES_DIGEST"] == "@sha256:postgresbookworm"
    assert told["PYTHON_DIGEST"] == "@sha256:pythonslimbookworm"


def test_what_the_image_installs_is_pinned_by_version_and_sum() -> None:
    locked = dict(
        line.split("==") for line in (INFRA.parent / "requirements.lock").read_text().split()
    )
    known = {canonicalize_name(name): version for name, version in locked.items()}
    rows = [line.split() for line in (INFRA / "image.lock").read_text().splitlines()]
    for pin, *sums in rows:
        name, _, version = pin.partition("==")
        assert known.get(canonicalize_name(name), version) == version
        assert sums
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", sum) for sum in sums)
    pinned = {row[0].partition("==")[0] for row in rows}
    project = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["ray"]]
    wanted = {canonicalize_name(Requirement(need).name) for need in needs}
    assert wanted - pinned == {"torch", "torchvision"}
    assert "pip install --require-hashes --no-deps --requirement image.lock" in _dockerfile()


def test_secrets_are_made_up_once(tmp_path: Path) -> None:
    script = shutil.copy(INFRA / "secrets.sh", tmp_path)
    subprocess.run(["sh", script], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    wanted = {Path(item["file"]).name for item in COMPOSE["secrets"].values()}
    assert set(made) == wanted
    assert len(set(made.values())) == len(made)
    for role, name, url in (
        ("dataengine", "catalog", "database_url"),
        ("prefect", "prefect", "prefect_database_url"),
    ):
        assert f"//{role}:{made[f'{name}_password']}@" in made[url]
    assert made["postgres_password"] not in made["database_url"] + made["prefect_database_url"]
    assert made["prefect_auth"].startswith("dataengine:")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    subprocess.run(["sh", script], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


# Image


def test_the_image_is_built_in_stages_and_is_nobodys_root() -> None:
    text = _dockerfile()
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
    assert re.findall(r"^USER (.*)$", text, re.M) == ["10001:10001"]
    assert "HEALTHCHECK" in text
    assert "ARG VARIANT=cpu" in text
    pinned = (INFRA.parent / "requirements.lock").read_text()
    assert len(re.findall(r"^(?:torch|torchvision)==", pinned, re.M)) == 2
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (INFRA.parent / source).exists(), source
            assert f"!{source}" in ignored, source


@pytest.mark.parametrize("name", ["DATAENGINE_STORE__SECRET_KEY", "PREFECT_API_KEY"])
def test_the_entrypoint_reads_secrets_from_files(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("it's $HOME\n")
    entrypoint, show = str(INFRA / "entrypoint.sh"), ["sh", "-c", f'echo "${name}|${name}_FILE"']

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", entrypoint, *show],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run(**{f"{name}_FILE": str(secret)}).stdout == "it's $HOME|\n"
    assert run(**{f"{name}_FILE": str(secret), name: "mine"}).stdout == "mine|\n"
    missing = run(**{f"{name}_FILE": str(tmp_path / "none")})
    assert missing.returncode == 78
    assert name in missing.stderr


# Kubernetes


def test_every_manifest_is_listed_and_complete() -> None:
    (kustomization,) = (item for item in DOCUMENTS if item["kind"] == "Kustomization")
    files = {path.name for path in K8S.glob("*.yaml")}
    aside = {"kustomization.yaml", TEMPLATE, "secrets.yaml"}
    assert set(kustomization["resources"]) == files - aside
    names = [_name(item) for item in MANIFESTS]
    assert len(set(names)) == len(names)
    assert all(item["apiVersion"] for item in MANIFESTS)
    mapped = {image["name"] for image in kustomization["images"]}
    assert {item["image"] for item in CONTAINERS.values()} == mapped


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kustomize_renders_them() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) == len(MANIFESTS) - len(_of_kind("Secret"))
    assert all(
        item["metadata"]["namespace"] == "dataengine"
        for item in rendered
        if item["kind"] != "Namespace"
    )


@pytest.mark.parametrize("where", TEMPLATES)
def test_a_pod_is_not_root_and_mounts_what_it_has(where: str) -> None:
    spec = TEMPLATES[where]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    volumes = {item["name"] for item in spec["volumes"]}
    for item in _containers(TEMPLATES[where]):
        assert {mount["name"] for mount in item["volumeMounts"]} == volumes
    on_gpu = any("nvidia.com/gpu" in item["resources"]["limits"] for item in spec["containers"])
    assert on_gpu == ("tolerations" in spec)


@pytest.mark.parametrize("where", CONTAINERS)
def test_a_container_is_limited_and_told_by_what_exists(where: str) -> None:
    item = CONTAINERS[where]
    assert {"cpu", "memory"} <= set(item["resources"]["limits"])
    assert {"cpu", "memory"} <= set(item["resources"]["requests"])
    assert item["securityContext"]["allowPrivilegeEscalation"] is False
    assert item["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert item["securityContext"]["readOnlyRootFilesystem"] is True
    named = {_name(other) for other in _of_kind("ConfigMap", "Secret")}
    for row in item.get("envFrom", []):
        ((kind, reference),) = row.items()
        kind = {"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind]
        assert f"{kind}/{reference['name']}" in named


def test_the_server_and_those_who_ask_it_are_told_one_login() -> None:
    told = {(where, name): value for where, name, value in _variables()}
    server = told["Secret/prefect", "PREFECT_SERVER_API_AUTH_STRING"]
    assert told["Secret/dataengine", "PREFECT_API_AUTH_STRING"] == server
    assert told["compose/prefect", "PREFECT_SERVER_API_AUTH_STRING"].endswith("/prefect_auth")
    for asker in ("init", "worker", "page"):
        path = told[f"compose/{asker}", "PREFECT_API_AUTH_STRING"]
        assert path == told["compose/prefect", "PREFECT_SERVER_API_AUTH_STRING"]


@pytest.mark.parametrize("source", ["compose", "k8s"])
def test_prefect_answers_to_the_name_that_it_is_asked_by(source: str) -> None:
    told = {(where, name): value for where, name, value in _variables()}
    where = "compose/worker" if source == "compose" else "ConfigMap/dataengine"
    asked = httpx.URL(told[where, "PREFECT_API_URL"]).host
    (container,) = TEMPLATES["Deployment/prefect"]["spec"]["containers"]
    command = (
        COMPOSE["services"]["prefect"]["command"] if source == "compose" else container["command"]
    )
    assert command[command.index("--name") + 1] == asked
    if source == "k8s":
        for probe in _probes("prefect").values():
            assert probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_selectors_match_and_ports_are_open() -> None:
    for item in _of_kind("Deployment"):
        wanted = item["spec"]["selector"]["matchLabels"].items()
        assert wanted <= item["spec"]["template"]["metadata"]["labels"].items()
    for item in _of_kind("Service"):
        selected = _selected(item["spec"]["selector"])
        open_ports = {port["name"] for pod in selected for port in _ports(pod)}
        assert {port["targetPort"] for port in item["spec"]["ports"]} <= open_ports
    hosts = {item["metadata"]["name"] for item in _of_kind("Service")}
    told = {(where, name): value for where, name, value in _variables()}
    api = told["ConfigMap/dataengine", "PREFECT_API_URL"]
    assert api.removeprefix("http://").split(":")[0] in hosts


def test_the_network_policies_are_about_pods_and_ports_that_exist() -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in _of_kind("NetworkPolicy")}
    nobody = policies.pop("nobody")
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not policies.pop("dns")["podSelector"]
    for name, spec in policies.items():
        chosen = list(_label_choices(spec["podSelector"]))
        selected = [pod for labels in chosen for pod in _selected(labels)]
        assert len(selected) >= len(chosen) > 0, name
        assert {"ingress": "Ingress", "egress": "Egress"}.items() >= {
            (way.lower(), way) for way in spec["policyTypes"]
        }
        for rule in spec.get("ingress", []):
            assert _numbers(rule) <= _open_ports(selected)
            for source in rule["from"]:
                for labels in _label_choices(source.get("podSelector", {})):
                    assert _selected(labels), labels
        for rule in spec.get("egress", []):
            for target in rule.get("to", []):
                (labels,) = _label_choices(target["podSelector"])
                assert _numbers(rule) <= _open_ports(_selected(labels)), name


def test_whoever_may_be_reached_may_be_asked_by_the_same_pods() -> None:
    """Allowed ingress has a matching egress."""
    policies = {item["metadata"]["name"]: item["spec"] for item in _of_kind("NetworkPolicy")}
    (askers,) = policies["to-prefect"]["podSelector"]["matchExpressions"]
    (asked,) = policies["prefect"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"]
    assert askers == asked
    assert {"page", "worker", "setup", "ray", "prefect"} == {
        pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in TEMPLATES.values()
    }


def _numbers(rule: Document) -> set[int]:
    return {port["port"] for port in rule.get("ports", [])}


def _open_ports(pods: list[Document]) -> set[int]:
    return {port["containerPort"] for pod in pods for port in _ports(pod)}


def _selected(labels: dict[str, str]) -> list[Document]:
    return [
        template
        for template in TEMPLATES.values()
        if labels.items() <= template["metadata"]["labels"].items()
    ]


def _ports(template: Document) -> list[Document]:
    return [port for item in _containers(template) for port in item.get("ports", [])]


def _label_choices(selector: Document) -> Iterator[dict[str, str]]:
    if "matchLabels" in selector:
        yield selector["matchLabels"]
    for row in selector.get("matchExpressions", []):
        assert row["operator"] == "In"
        yield from ({row["key"]: value} for value in row["values"])


def _probes(name: str) -> dict[str, Document]:
    (container,) = TEMPLATES[f"Deployment/{name}"]["spec"]["containers"]
    found = {kind: probe["httpGet"] for kind, probe in container.items() if kind.endswith("Probe")}
    assert {"startupProbe", "livenessProbe"} <= set(found)
    ports = {port["name"] for port in container["ports"]}
    assert {probe["port"] for probe in found.values()} <= ports
    return found


def _page(folder: Path, words: list[str]) -> FastAPI:
    """The page's app as started by this command."""
    (folder / FILE_NAME).touch()
    workspace = open_workspace(str(folder))
    workspace.prepare()
    workspace.catalog.annotators.get_or_create("ada", role="admin")
    names = [words[place + 1] for place, word in enumerate(words) if word == "--name"]
    return make_app(workspace, words[words.index("--host") + 1], names)


def _status(app: FastAPI, path: str, headers: dict[str, str]) -> int:
    """The app's status for another machine; by its address if no Host is given."""

    async def ask() -> int:
        transport = httpx.ASGITransport(app, client=("10.1.2.4", 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://10.1.2.3") as client:
            return (await client.get(path, headers=headers)).status_code

    return asyncio.run(ask())


def test_the_page_answers_its_probes_and_no_other_host(tmp_path: Path) -> None:
    (container,) = TEMPLATES["Deployment/page"]["spec"]["containers"]
    app = _page(tmp_path, container["command"])
    for probe in _probes("page").values():
        headers = {row["name"]: row["value"] for row in probe["httpHeaders"]}
        assert 200 <= _status(app, probe["path"], headers) < 400
        assert _status(app, probe["path"], {}) == 400
    checks = re.findall(r"http://127.0.0.1:8765(/[a-z-]*)", _dockerfile() + str(COMPOSE))
    assert set(checks) == {"/sign-in"}
    assert "/sign-in" in PAGES


@pytest.mark.parametrize("source", ["compose", "k8s"])
def test_prometheus_is_let_in_by_the_name_it_asks_for_and_with_the_token(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, words = _scraped_in_compose() if source == "compose" else _scraped_in_kubernetes()
    host, _, port = target.partition(":")
    assert words[words.index("--port") + 1] == port
    monkeypatch.setenv("DATAENGINE_OPERATIONS__METRICS_TOKEN", "a-token")
    app = _page(tmp_path, words)
    for given, status in (("a-token", 200), ("another", 403)):
        headers = {"Host": target, "Authorization": f"Bearer {given}"}
        assert _status(app, "/metrics", headers) == status, host


def _scraped_in_compose() -> tuple[str, list[str]]:
    """The requests of Prometheus, and the command of the page with the same token."""
    asker = COMPOSE["services"]["prometheus"]
    mounts = dict(mount.split(":")[:2] for mount in asker["volumes"])
    (file,) = [path for path, at in mounts.items() if at == "/etc/prometheus/prometheus.yml"]
    config = yaml.safe_load((INFRA / file).read_text())
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} <= set(mounts.values())
    (job,) = config["scrape_configs"]
    ((target,),) = [item["targets"] for item in job["static_configs"]]
    page = COMPOSE["services"][target.partition(":")[0]]
    token = job["authorization"]["credentials_file"]
    assert token == page["environment"]["DATAENGINE_OPERATIONS__METRICS_TOKEN_FILE"]
    assert Path(token).name in asker["secrets"]
    return target, page["command"]


def _scraped_in_kubernetes() -> tuple[str, list[str]]:
    """The same; the file's comment names the request, from an admitted namespace."""
    told = (INFRA / "monitoring" / "prometheus-compose.yml").read_text()
    (service,) = [item for item in _of_kind("Service") if item["metadata"]["name"] == "page"]
    (kustomization,) = (item for item in DOCUMENTS if item["kind"] == "Kustomization")
    (port,) = [item["port"] for item in service["spec"]["ports"]]
    target = f"page.{kustomization['namespace']}.svc:{port}"
    assert target in told
    (policy,) = [item for item in _of_kind("NetworkPolicy") if item["metadata"]["name"] == "page"]
    assert "'kubernetes.io/metadata.name': 'monitoring'" in str(policy["spec"]["ingress"])
    assert "DATAENGINE_OPERATIONS__METRICS_TOKEN" in told
    (container,) = TEMPLATES["Deployment/page"]["spec"]["containers"]
    return target, container["command"]


def test_prefect_has_the_paths_that_it_is_asked_at() -> None:
    from prefect.server.api import root, server
    from prefect.workers import server as worker

    for probe in _probes("prefect").values():
        path = probe["path"].removeprefix("/api")
        assert f'"{path}"' in getsource(server) + getsource(root)
    for probe in _probes("worker").values():
        assert f'"{probe["path"]}"' in getsource(worker)


def test_rays_version_is_the_one_that_is_installed() -> None:
    (cluster,) = _of_kind("RayCluster")
    assert cluster["spec"]["rayVersion"] == version("ray")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    (worker,) = TEMPLATES["Deployment/worker"]["spec"]["containers"]
    token = next(row for row in worker["env"] if row["name"] == "RAY_AUTH_TOKEN")
    secret = {"name": cluster["metadata"]["name"], "key": "auth_token"}  # as KubeRay names it
    assert token["valueFrom"]["secretKeyRef"] == secret
    extra = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    assert f"ray=={version('ray')}" in " ".join(extra["optional-dependencies"]["ray"])
