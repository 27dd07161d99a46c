"""The workflows call what exists, and publish what was built and tried."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_and_scripts_that_exist(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    runs = [step["run"] for step in steps(workflow) if "run" in step]
    assert runs
    for command in runs:
        kind, what = command.split()[:2]
        assert (kind == "make" and what in targets) or (kind == "bash" and (ROOT / what).is_file()), command
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps(workflow) if "uses" in step)
    assert workflow["permissions"] == {"contents": "read"}  # more only for the job that publishes


def test_the_site_that_is_published_was_tried():
    (site,) = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS if path.stem == "site")
    build, publish = site["jobs"]["build"], site["jobs"]["publish"]
    names = [step.get("run", step.get("uses", "")).split("@")[0] for step in build["steps"]]
    assert names.index("make test-site") < names.index("actions/upload-pages-artifact")
    assert publish["needs"] == "build" and "main" in publish["if"]
