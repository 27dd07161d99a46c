"""The packaging files agree with one another, and no committed file names the machine that it was made on."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest itself depends on tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent

# Put together here so that this file does not hold what it looks for.
REGISTRY_HOSTS = ("pypi" + ".org", "python" + "hosted", "registry.npm" + "js", "conda.ana" + "conda.org")
MACHINE_PATH = re.compile(r"(?<![\w.~+/-])/(?:" + "|".join(("r" + "oot", "h" + "ome", "w" + "ork")) + r")/\w")


def extras() -> dict[str, list[str]]:
    """The optional parts that pyproject.toml knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"]


def project_requirements() -> dict[str, Requirement]:
    """Everything pyproject.toml asks for, its extras included except the site's, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = {name: lines for name, lines in extras().items() if name != "site"}
    others = f"minivar[{','.join(name for name in parts if name != 'dev')}]"
    assert others in parts["dev"], "the dev extra should hold the others, as the lock does"
    asked = [project["dependencies"], *parts.values()]
    lines = [line for part in asked for line in part if line != others]
    requirements = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    assert len(requirements) == len(lines), "pyproject.toml names a package twice"
    return requirements


def locked_requirements(name: str = "requirements.lock") -> dict[str, list[Requirement]]:
    """The pins of a lock by canonical name; a package may have several, told apart by markers."""
    locked: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            locked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return locked


def committed_texts() -> dict[str, str]:
    """Tracked files, and new ones that git does not ignore, that are UTF-8 text."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git cannot list the files here")
    texts = {}
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            others = name.startswith("docs/vendor/onnxruntime-web/")  # Emscripten has a home of its own
            if b"\0" not in content and not others:
                texts[name] = content.decode("utf-8", errors="replace")
    return texts


def test_environment_yml_matches_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "minivar"
    (pip_lines,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    conda = [Requirement(line) for line in pip_lines if line != "-e ."]
    assert sorted(map(str, conda)) == sorted(map(str, project_requirements().values()))


def test_environment_python_is_supported():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (python,) = (e for e in environment["dependencies"] if isinstance(e, str) and e.startswith("python="))
    assert Requirement("python" + project["requires-python"]).specifier.contains(python.split("=")[1])


def test_lock_satisfies_pyproject():
    locked = locked_requirements()
    for name, wanted in project_requirements().items():
        assert name in locked, f"requirements.lock lacks {name}, which pyproject.toml asks for"
        for pin in locked[name]:
            (version,) = (clause.version for clause in pin.specifier)
            assert wanted.specifier.contains(version), f"requirements.lock has {pin}, expected {wanted}"


def test_the_sites_lock_satisfies_pyproject_and_only_adds_to_the_other():
    """One environment for both: a package is in one of the two locks."""
    locked, added = locked_requirements(), locked_requirements("site.lock")
    assert not locked.keys() & added.keys()
    for line in extras()["site"]:
        if line == "minivar[onnx]":
            continue
        wanted = Requirement(line)
        for pin in added[canonicalize_name(wanted.name)]:
            (version,) = (clause.version for clause in pin.specifier)
            assert wanted.specifier.contains(version), f"site.lock has {pin}, expected {wanted}"


@pytest.mark.parametrize("lock", ["requirements.lock", "site.lock"])
def test_lock_is_exact_and_unambiguous(lock):
    for name, pins in locked_requirements(lock).items():
        for pin in pins:
            assert [clause.operator for clause in pin.specifier] == ["=="], f"{pin} is not an exact pin"
            assert pin.url is None, f"{pin} names an address"
        here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
        assert len(here) <= 1, f"{lock} gives {name} {len(here)} versions for this Python"


@pytest.mark.parametrize("kind", ["registry host", "machine path"])
def test_no_committed_text_names(kind):
    found = []
    for name, text in committed_texts().items():
        for number, line in enumerate(text.splitlines(), start=1):
            if kind == "registry host":
                hit = any(host in line.lower() for host in REGISTRY_HOSTS)
            else:
                hit = MACHINE_PATH.search(line)
            if hit:
                found.append(f"{name}:{number}")
    assert not found, f"a {kind} is named in {', '.join(found)}"
