"""What the panel takes from SynthCTLib. Nothing of it is imported before it is asked for."""

import importlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from SynthCTSlicer.signals import PanelError

# What registry, job types and worker import; SimpleITK, numpy, scipy and pydicom come with Slicer.
NEEDED = {
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "psutil": "psutil",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "SimpleITK": "SimpleITK",
    "scipy": "scipy",
    "pydicom": "pydicom",
    "typer": "typer",
}

EVALUATE = "evaluate"
"""The task of the panel that is no synthesis: two volumes are compared."""


@dataclass(frozen=True)
class ModelLine:
    """A model as the panel shows it; ``card`` is the text of its card in HTML.

    ``weights_bytes``: of its network's weights, 0 without a network.
    """

    name: str
    title: str
    default: bool
    card: str
    weights_bytes: int = 0


def missing_packages():
    """The packages (by their PyPI names) that are not installed."""
    importlib.invalidate_caches()
    return tuple(
        package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None
    )


def require():
    """Raise PanelError when packages are missing."""
    missing = missing_packages()
    if missing:
        raise PanelError(
            f"SynthCT needs Python packages that are not installed ({', '.join(missing)}): "
            "press Install at the top of the panel."
        )


def task_names():
    """The tasks in the order of the library, then the comparison."""
    require()
    from SynthCTLib.synthesis.task import Task

    return (*(task.value for task in Task), EVALUATE)


def input_slot(task):
    """The slot of the input of a task."""
    from SynthCTLib.synthesis.task import Task

    return "synthetic_ct" if task == EVALUATE else Task(task).input_role.value


def output_role(task):
    """The role of what a task makes."""
    from SynthCTLib.synthesis.task import Task

    return "ct" if task == EVALUATE else Task(task).output_role.value


def slots():
    """The slots that a request can have."""
    from SynthCTLib.workflow.request import Slot

    return {slot.value for slot in Slot}


def models(task):
    """The models of a task, its default first."""
    require()
    if task == EVALUATE:
        return ()
    from SynthCTLib.errors import SynthCTError
    from SynthCTLib.synthesis.registry import list_models
    from SynthCTLib.synthesis.task import Task

    try:
        cards = list_models(Task(task), models_dir())
    except SynthCTError as error:
        raise PanelError(str(error)) from error
    return tuple(
        ModelLine(c.name, c.title, c.default, card_html(c), _weights_bytes(c)) for c in cards
    )


def _weights_bytes(card):
    files = [card.file(name) for name in card.files if name.endswith(".safetensors")]
    return sum(file.stat().st_size for file in files if file.is_file())


def models_dir():
    """The folder of the user's own models."""
    from SynthCTLib.cli.screen import default_models_folder

    return default_models_folder()


def export_formats():
    """(name, whether it is DICOM, suffix or None) of each format the library exports to."""
    from SynthCTLib.export.formats import Format

    return tuple((f.value, f.is_dicom, f.suffix) for f in Format)


def card_html(card):
    """A model card: training data, measured accuracy, limits."""
    from html import escape

    def origin(simulated):
        return "simulated" if simulated else "real"

    data = [
        f"{escape(d.name)}: {d.subjects} subjects, {origin(d.simulated)}"
        for d in card.training_data
    ]
    accuracy = [
        f"{escape(m.data)} (N = {m.subjects}, {origin(m.simulated)}): {escape(m.text)}"
        for m in card.measured_accuracy
    ]
    parts = [
        f"<p><b>{escape(card.title)}</b><br>version {escape(card.version)}</p>",
        _list("Made from", data or ["no data: a fixed rule"]),
        _list("Measured accuracy", accuracy or ["not measured"]),
        _list("Limits", [escape(limit) for limit in card.limits]),
    ]
    return "".join(parts)


def _list(title, lines):
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<p style='margin-bottom:2px'><b>{title}</b></p><ul style='margin:0'>{items}</ul>"


def conventions():
    """Names of the HU to µ conventions, and the default of a job."""
    require()
    from SynthCTLib.physics.mumap import CONVENTIONS
    from SynthCTLib.workflow.request import Options

    return tuple(CONVENTIONS), Options().convention


def write_request(folder, content):
    """Check a request (plain values) and write ``job.json``. Raises PanelError with the reason."""
    require()
    from SynthCTLib.errors import SynthCTError
    from SynthCTLib.workflow.request import request_from

    try:
        request = request_from(json.dumps(content), "of the panel")
    except SynthCTError as error:
        raise PanelError(str(error)) from error
    path = Path(folder) / "job.json"
    path.write_text(request.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return request


def read_result(folder):
    """The finished job of a folder. Raises PanelError when there is none."""
    from SynthCTLib.workflow.result import JobResult

    try:
        return JobResult.model_validate_json((Path(folder) / "result.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PanelError(f"The job folder {folder} holds no complete result: run again.") from error
