"""What the images install: every file by its hash, from nowhere in particular."""

import os
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tests.processes import ROOT

FOLDER = ROOT / "deploy/requirements"
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
    """Each package of a file: the one version that is named, and its hashes."""
    text = re.sub(r"#.*", "", (FOLDER / f"{name}.txt").read_text()).replace("\\\n", " ")
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        written, *hashes = re.split(r"\s+--hash=", line)
        package, version = written.split("==")
        found[package] = (Version(version), hashes)
    return found


def asked(name: str) -> list[Requirement]:
    """What pyproject.toml asks for, of those that an image's Python and platform need."""
    if name == "build":
        texts = PYPROJECT["build-system"]["requires"]
    else:
        extras = PROJECT["optional-dependencies"]
        texts = PROJECT["dependencies"] + [t for extra in EXTRAS[name] for t in extras[extra]]
    all_of_them = [Requirement(text) for text in texts]
    return [each for each in all_of_them if not each.marker or each.marker.evaluate(IMAGE)]


@pytest.mark.parametrize("name", NAMES)
def test_hashes(name: str) -> None:
    """Every package is pinned to one version, and every file of it to a hash."""
    found = pins(name)
    assert len(found) > 5
    for package, (_, hashes) in found.items():
        assert hashes, package
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), package


@pytest.mark.parametrize("name", NAMES)
def test_ranges(name: str) -> None:
    """Each pin is within the range that pyproject.toml gives, and none of these is missing."""
    found = pins(name)
    for requirement in asked(name):
        version, _ = found[requirement.name]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


@pytest.mark.parametrize("name", NAMES)
def test_no_address(name: str) -> None:
    """A file has neither an address nor an option, a path or anything else of one machine."""
    text = (FOLDER / f"{name}.txt").read_text()
    assert not re.search(r"://|^-|@|(?<!\w)/\w", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_renewal(name: str) -> None:
    """The head of a file names the command that renews it."""
    head = (FOLDER / f"{name}.txt").read_text().splitlines()[:2]
    command = head[1].removeprefix("#").strip()
    assert command == "deploy/requirements/renew"
    assert os.access(ROOT / command, os.X_OK)


def test_one_python() -> None:
    """The pins are those of the Python that the images have."""
    renewed = re.search(r"^PYTHON=(\S+)", (FOLDER / "renew").read_text(), re.MULTILINE)
    base = re.search(r"^ARG BASE=python:([\d.]+)-", _dockerfile(), re.MULTILINE)
    assert renewed is not None
    assert base is not None
    assert renewed[1] == base[1] == IMAGE["python_version"]


def test_no_registry() -> None:
    """The Dockerfile names no host, neither a registry's nor any other."""
    assert not re.search(r"://|\b\w+\.(?:io|com|org|net|dev)/", _dockerfile())


def _dockerfile() -> str:
    return (ROOT / "deploy/Dockerfile").read_text()
