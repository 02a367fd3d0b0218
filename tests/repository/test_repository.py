# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for the repository as a whole: files that travel to the Hub, scripts, documents, versions."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, script
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

import algm_hf


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest requires it there

PACKAGE = ROOT / "algm_hf"
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a checkpoint names in its `auto_map`; everything these import relatively is copied beside it.
REMOTE_ENTRY_POINTS = ("configuration_algm", "modeling_algm", "image_processing_algm")
# A machine that can load any Transformers vision model has these; its image code needs numpy and pillow.
REMOTE_PACKAGES = {"torch", "transformers", "numpy", "PIL"}
GENERATED_FOLDERS = {".git", ".venv", ".venv-oldest", ".venv-app", "outputs"}
GENERATED_FOLDERS |= {".pytest_cache", ".ruff_cache", "__pycache__"}


def remote_files() -> list[Path]:
    files = set()
    for name in REMOTE_ENTRY_POINTS:
        entry = PACKAGE / f"{name}.py"
        files |= {entry, *map(Path, get_relative_import_files(entry))}
    return sorted(files)


def project_files() -> list[Path]:
    """The files of the project: what git knows or would add; without git, everything that is not generated."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        files = [ROOT / name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [path for path in ROOT.rglob("*") if not GENERATED_FOLDERS & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in files if path.is_file())


def minimum_versions() -> dict[str, str]:
    requirements = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    return dict(requirement.split(">=") for requirement in requirements)


def option_helps(help_text: str) -> dict[str, str]:
    """The explanation of every option in the output of `--help`, without the default that argparse appends."""
    helps, option = {}, None
    for line in help_text.partition("\noptions:\n")[2].splitlines():
        start = re.match(r"  (-.*?)(?:  +(.*))?$", line)
        if start:
            option = start.group(1)
            helps[option] = start.group(2) or ""
        elif option and line.strip():
            helps[option] += " " + line.strip()
    return {option: re.sub(r"\(default: .*", "", text).strip() for option, text in helps.items()}


@pytest.fixture(scope="module")
def make() -> str:
    program = shutil.which("make")
    if program is None:
        pytest.skip("make is not installed")
    return program


def test_a_file_directly_in_the_package_travels_with_a_checkpoint_and_a_folder_stays_home():
    directly = {path for path in PACKAGE.iterdir() if path.is_file()}
    assert set(remote_files()) == directly - {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}


def imported_rooms(path: Path) -> set[str]:
    """The folders of the package (`""` for the files that travel) from which a file of a folder imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            rooms.add(node.module.split(".")[0] if "." in node.module else "")
    return rooms


@pytest.mark.parametrize("room", [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"])
def test_folders_import_only_from_those_below_them(room):
    floors = [{"runs"}, {"data", "inference", "conversion"}, {"evaluation"}]
    top = {"app", "benchmarking", "publishing", "training"}
    floor = next((number for number, rooms in enumerate(floors) if room in rooms), len(floors))
    allowed = {""}.union(*floors[:floor])
    assert room in top.union(*floors)
    for path in (PACKAGE / room).glob("*.py"):
        assert imported_rooms(path) <= allowed, path.name


@pytest.mark.parametrize("path", remote_files(), ids=lambda path: path.name)
def test_files_that_travel_with_a_checkpoint_need_only_torch_and_transformers(path):
    assert set(get_imports(path)) - set(sys.stdlib_module_names) <= REMOTE_PACKAGES


@pytest.mark.parametrize("path", remote_files(), ids=lambda path: path.name)
def test_files_that_travel_with_a_checkpoint_import_only_flat_neighbours(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"line {node.lineno}: expected `from .x import y`"
            assert (PACKAGE / f"{node.module}.py").is_file(), f"line {node.lineno}: no file {node.module}.py"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.split(".")[0] == "algm_hf" for name in names), f"line {node.lineno}: absolute import"


@pytest.mark.parametrize("name", REMOTE_ENTRY_POINTS)
def test_entry_points_themselves_import_every_file_they_need(name):
    # From a local folder, older transformers copy what the entry point imports, not what its imports import.
    entry = PACKAGE / f"{name}.py"
    needed = {Path(path).stem for path in get_relative_import_files(entry)} - {name}
    assert needed == set(get_relative_imports(entry))


@pytest.mark.parametrize("name", algm_hf.__all__)
def test_every_public_name_exists_and_is_documented(name):
    documentation = getattr(algm_hf, name).__doc__
    assert documentation and documentation.strip()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_explains_every_option(path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        script(path.stem).main()
    printed = capsys.readouterr().out
    assert ended.value.code in (None, 0)
    helps = option_helps(printed)
    assert len(helps) > 1, f"no options besides --help in:\n{printed}"
    assert [option for option, text in helps.items() if not text] == []


def test_every_file_test_and_make_target_that_a_document_names_exists(make):
    folders = r"(?:algm_hf|scripts|tests|model_cards|docs|\.ci)/[\w./*-]*\w"
    tests = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    known = {*tests, *re.findall(r"def (test_\w+)\(", "\n".join(tests.values()))}
    targets = set()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
        assert [link for link in links if not (path.parent / link).exists()] == [], path.name
        names = re.findall(rf"(?<![\w/.-])({folders})(?![\w/])", text)
        assert [name for name in names if not any(ROOT.glob(name))] == [], path.name
        assert sorted(set(re.findall(r"\btest_\w+", text)) - known) == [], path.name
        targets |= set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    subprocess.run([make, "-n", *sorted(targets)], cwd=ROOT, capture_output=True, check=True)


def test_oldest_environment_installs_exactly_the_declared_minimum_versions(make):
    # -B: as if nothing were installed yet; -n: only say what would be done
    command = [make, "-n", "-B", "install-oldest"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pinned = dict(re.findall(r"([a-z0-9-]+)==([0-9.]+)", output))
    assert pinned == minimum_versions()


def test_versions_agree():
    assert re.fullmatch(r"\d+\.\d+\.\d+", algm_hf.__version__)
    assert f"\nversion: {algm_hf.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_no_file_names_a_path_of_one_machine():
    pattern = re.compile(rb"(?<![\w.:/$}-])/(?:home|root|Users|work|tmp|opt|mnt)/\w|[A-Z]:\\Users\\|\.\./shared")
    offenders = []
    for path in project_files():
        content = path.read_bytes()
        if path != Path(__file__) and b"\0" not in content and pattern.search(content):
            offenders.append(path.relative_to(ROOT).as_posix())
    assert offenders == []


def test_continuous_integration_can_be_executed():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    for command in ("make quality", "make test", "make test-oldest", "make demo"):
        assert f"\nstep {command}" in script.read_text(encoding="utf-8")
