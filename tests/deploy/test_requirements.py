"""The packages of the images are pinned by hash, and the files name no package registry."""

import os
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tests.processes import ROOT

FOLDER = ROOT / "deploy/requirements"
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
NAMES = ("service", "worker", "build")
EXTRAS = {"service": ("service", "otel"), "worker": ("arq", "metrics", "otel")}
IMAGE = {
    "python_version": "3.13",
    "python_full_version": "3.13.0",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
}


def pins(name: str) -> dict[str, tuple[Version, list[str]]]:
    """Return the version and the hashes of each package in a requirements file."""
    text = re.sub(r"#.*", "", (FOLDER / f"{name}.txt").read_text()).replace("\\\n", " ")
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        written, *hashes = re.split(r"\s+--hash=", line)
        package, version = written.split("==")
        found[package] = (Version(version), hashes)
    return found


def required(name: str) -> list[Requirement]:
    """Return the requirements in pyproject.toml that apply to an image's Python and platform."""
    if name == "build":
        texts = PYPROJECT["build-system"]["requires"]
    else:
        extras = PROJECT["optional-dependencies"]
        texts = PROJECT["dependencies"] + [t for extra in EXTRAS[name] for t in extras[extra]]
    requirements = [Requirement(text) for text in texts]
    return [each for each in requirements if not each.marker or each.marker.evaluate(IMAGE)]


@pytest.mark.parametrize("name", NAMES)
def test_hashes(name: str) -> None:
    """Every package is pinned to one version and has SHA-256 hashes."""
    found = pins(name)
    assert len(found) > 5
    for package, (_, hashes) in found.items():
        assert hashes, package
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), package


@pytest.mark.parametrize("name", NAMES)
def test_ranges(name: str) -> None:
    """Every requirement of pyproject.toml is pinned to a version in its range."""
    found = pins(name)
    for requirement in required(name):
        version, _ = found[requirement.name]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize("name", NAMES)
def test_no_address(name: str) -> None:
    """A requirements file contains no URL, no option of pip and no path."""
    text = (FOLDER / f"{name}.txt").read_text()
    assert not re.search(r"://|^-|@|(?<!\w)/\w", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_renew_command(name: str) -> None:
    """The head of a requirements file names the command that updates it."""
    head = (FOLDER / f"{name}.txt").read_text().splitlines()[:2]
    command = head[1].removeprefix("#").strip()
    assert command == "deploy/requirements/renew"
    assert os.access(ROOT / command, os.X_OK)


def test_python_version() -> None:
    """The packages are pinned for the Python version of the base image."""
    renewed = re.search(r"^PYTHON=(\S+)", (FOLDER / "renew").read_text(), re.MULTILINE)
    base = re.search(r"^ARG BASE=python:([\d.]+)-", DOCKERFILE, re.MULTILINE)
    assert renewed is not None
    assert base is not None
    assert renewed[1] == base[1] == IMAGE["python_version"]


def test_no_host() -> None:
    """The Dockerfile names no host."""
    assert not re.search(r"://|\b\w+\.(?:io|com|org|net|dev)/", DOCKERFILE)
