"""What the 3D Slicer extension, the Extensions Index and an ordinary install need of the tree."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "SynthCT"


def test_every_python_file_beside_the_module_is_a_module() -> None:
    """Slicer loads each as a module of its own: helpers belong into a package."""
    assert [p.name for p in MODULE.glob("*.py")] == ["SynthCT.py"]


def test_module_declares_its_classes_and_imports_only_what_slicer_bundles() -> None:
    tree = ast.parse((MODULE / "SynthCT.py").read_text())
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes == {
        *("SynthCT", "SynthCTWidget", "SynthCTLogic", "SynthCTFileReader", "SynthCTTest"),
    }
    imported = {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    } | {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {*sys.stdlib_module_names, "slicer", "vtk", "SynthCTSlicer"}


def test_panel_imports_at_file_scope_only_what_slicer_bundles() -> None:
    bundled = {*sys.stdlib_module_names, "slicer", "qt", "vtk", "SynthCTSlicer"}
    for path in (MODULE / "SynthCTSlicer").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {n.split(".")[0] for n in names} <= bundled, path.name


SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(M "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(M_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown arguments: ${M_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${M_SCRIPTS} ${M_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "listed but missing: ${file}")
    endif()
  endforeach()
  file(WRITE ${CMAKE_BINARY_DIR}/listed.txt "${M_SCRIPTS};${M_RESOURCES}")
endfunction()
function(slicer_add_python_unittest)
endfunction()
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake here")
def test_build_lists_every_file_of_the_module(tmp_path: Path) -> None:
    """With a stand-in for Slicer's macros: a file that is not listed is missing once installed."""
    (tmp_path / "SlicerConfig.cmake").write_text(SLICER_CONFIG)
    (tmp_path / "empty.cmake").write_text("")
    (tmp_path / "top").mkdir()
    top = tmp_path / "top" / "CMakeLists.txt"
    project = (
        (ROOT / "CMakeLists.txt").read_text().replace("project(SynthCT)", "project(SynthCT NONE)")
    )
    top.write_text(project)
    (tmp_path / "top" / "SynthCT").symlink_to(MODULE)
    command = ["cmake", "-S", str(top.parent), "-B", str(tmp_path / "build")]
    done = subprocess.run(
        [*command, f"-DSlicer_DIR={tmp_path}", "-DBUILD_TESTING=ON"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    listed = set((tmp_path / "build" / "listed.txt").read_text().split(";"))
    tree = {
        str(path.relative_to(MODULE))
        for folder in ("SynthCTLib", "SynthCTSlicer", "Resources")
        for path in (MODULE / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert listed == tree | {"SynthCT.py"}


def test_catalogue_entry_has_what_the_index_asks_for() -> None:
    entry = json.loads((ROOT / "SynthCT.json").read_text())
    assert {"$schema", "category", "scm_url"} <= entry.keys()
    allowed = {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory"}
    allowed |= {"enabled", "tier", "dicom_support_rule", "$schema", "category", "scm_url"}
    assert entry.keys() <= allowed
    assert f"project({(ROOT / 'SynthCT.json').stem})" in (ROOT / "CMakeLists.txt").read_text()


def test_cmake_installs_every_file_and_only_python_as_scripts() -> None:
    text = (MODULE / "CMakeLists.txt").read_text()
    globs = {
        name: patterns.split()
        for name, patterns in re.findall(
            r"file\(GLOB_RECURSE (\w+) RELATIVE \S+ CONFIGURE_DEPENDS\s+([^)]*)\)", text
        )
    }
    scripts = re.search(r"\n +SCRIPTS (.*)", text)
    resources = re.search(r"\n +RESOURCES (.*)", text)
    assert scripts
    assert resources
    as_scripts, as_resources = (
        [p for name, patterns in globs.items() if name in found[1] for p in patterns]
        for found in (scripts, resources)
    )
    assert as_scripts
    assert all(pattern.endswith(".py") for pattern in as_scripts)
    assert not any(pattern.endswith(".py") for pattern in as_resources)
    folders = [p for p in MODULE.iterdir() if p.is_dir() and p.name != "Testing"]
    for file in (f for folder in folders for f in folder.rglob("*") if f.is_file()):
        name = file.relative_to(MODULE).as_posix()
        if "__pycache__" in name:
            continue
        chosen = as_scripts if file.suffix == ".py" else as_resources
        assert any(fnmatch(name, pattern) for pattern in chosen), f"{name} is not installed"


def test_icon_is_a_png_of_128_pixels() -> None:
    header = (MODULE / "Resources" / "Icons" / "SynthCT.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (128, 128)


def test_repository_is_small_enough_for_the_index() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(f.stat().st_size for f in files if f.is_file()) < 90e6


def test_installed_wheel_holds_models_atlases_and_templates(tmp_path: Path) -> None:
    """An ordinary (not editable) install, used from elsewhere."""
    target = tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"),
            *("--target", str(target), str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import SynthCTLib;"
        "from SynthCTLib.synthesis.registry import list_models, verify;"
        f"assert SynthCTLib.__file__.startswith({str(target)!r});"
        "print(sum(len(verify(card)) for card in list_models()))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    assert list((target / "SynthCTLib" / "report" / "templates").glob("*.j2"))


def test_importing_the_library_loads_nothing_heavy() -> None:
    program = (
        "import sys, SynthCTLib, SynthCTLib.volume, SynthCTLib.errors;"
        "heavy = {'torch', 'matplotlib', 'pydicom', 'slicer', 'qt'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# What Slicer's Python bundles or .github/workflows/slicer.yml installs into it is not here.
NOT_IN_SLICER = ("torch", "monai", "safetensors", "typer", "rich", "highdicom", "pynetdicom")
IN_SLICER = """
import sys

class NotInSlicer:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInSlicer())
from SynthCTLib.worker import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("model", "sample", "code", "says"),
    [
        ("uniform-body", "STS_014/mr.nii.gz", 0, ""),
        ("atlas-affine", "adult_t1_1.6mm_neck.nii.gz", 2, "needs the package torch"),
    ],
)
def test_the_worker_needs_torch_only_for_models_that_do(
    tmp_path: Path, model: str, sample: str, code: int, says: str
) -> None:
    mr = {"path": str(MODULE / "Resources" / "SampleData" / sample)}
    options = {"bias_correction": False}
    request = {"task": "mr-to-ct", "model": model, "inputs": {"mr": mr}, "options": options}
    (tmp_path / "job.json").write_text(json.dumps(request))
    script = IN_SLICER.format(packages=NOT_IN_SLICER)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(MODULE)},
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert (tmp_path / "result.json").exists() == (code == 0)


def test_continuous_integration_fails_where_a_program_is_absent(
    request: pytest.FixtureRequest,
    program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elsewhere the tests that need it are skipped."""
    assert "--require-programs" in (ROOT / ".ci" / "run").read_text()
    monkeypatch.setattr(request.config.option, "require_programs", True)
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        program("no-such-program")
    monkeypatch.setattr(request.config.option, "require_programs", False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        program("no-such-program")
