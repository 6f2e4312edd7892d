"""The files of a cohort: tables as CSV and JSON, and the page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from SynthCTLib.errors import InputError, OutputError
from SynthCTLib.metrics.cohort import CohortTables, Record
from SynthCTLib.metrics.definitions import PET_FIGURES, UPTAKE_FIGURES, sentence
from SynthCTLib.metrics.error_curve import ErrorCurve
from SynthCTLib.metrics.evaluation import DEFINITIONS
from SynthCTLib.metrics.lesions import LesionDetection
from SynthCTLib.report.cohort import CohortContent, cohort_page
from SynthCTLib.whole_file import reason_of, whole_file, whole_files
from SynthCTLib.workflow.result import software_versions

FIGURES, STATISTICS, PAGE = "figures.json", "statistics.json", "cohort.html"
SCHEMA = "synthct-cohort/1"


@dataclass(frozen=True)
class Failure:
    """A subject and method that has no result, and why."""

    subject: str
    method: str
    reason: str


def record_of(
    subject: str, method: str, fold: str | None, strata: Mapping[str, str], metrics: Path
) -> Record | None:
    """The figures that a job's ``metrics.json`` holds; None where it was not evaluated."""
    content = json.loads(metrics.read_text(encoding="utf-8"))
    if content["uptake"] is not None:
        return Record(subject, method, _uptake_figures(content["uptake"]), fold, strata)
    evaluation = content["evaluation"]
    if evaluation is None:
        return None
    figures: dict[str, float] = {}
    for row in evaluation["masks"]:
        figures |= {f"{row['mask']}.{k}": _float(row[k]) for k in DEFINITIONS if k in row}
    for key in DEFINITIONS:
        part, _, name = key.partition(".")
        if name:
            figures[key] = _float(evaluation[part][name])
    figures |= _pet_figures(content["pet"])
    curve = evaluation["error_curve"]
    return Record(
        subject,
        method,
        figures,
        fold,
        strata,
        _curve(curve),
        (evaluation["bone"]["reference_ml"], evaluation["bone"]["synthetic_ml"]),
    )


def _pet_figures(pet: Mapping[str, Any] | None) -> dict[str, float]:
    if pet is None:
        return {}
    figures: dict[str, float] = {}
    for row in pet["masks"]:
        beyond = row["beyond"] or {}
        values = {
            **{f"pet_{name}": row[name] for name in ("mean_percent", "sd_percent", "mae_percent")},
            **{f"pet_beyond_{limit}": beyond.get(limit) for limit in ("5", "10", "15")},
        }
        figures |= {f"{row['mask']}.{name}": _float(value) for name, value in values.items()}
    return figures


def _uptake_figures(uptake: Mapping[str, Any]) -> dict[str, float]:
    lesions = LesionDetection(**uptake["lesions"])
    counted = {
        "uptake.lesions_found": lesions.true_positive_rate,
        "uptake.false_lesions": float(lesions.false_positives),
    }
    return {
        key: counted[key] if key in counted else _float(uptake[key.rpartition(".")[2]])
        for key in UPTAKE_FIGURES
    }


def write_cohort(
    folder: Path,
    title: str,
    tables: CohortTables,
    failures: Sequence[Failure],
    *,
    reports: Mapping[tuple[str, str], str],
    notes: Sequence[str] = (),
) -> Path:
    """Write figures, summary, comparisons, failures and the page, together; returns the page.

    ``reports`` are the folders of the jobs relative to ``folder``. No file holds a time or an
    address of a machine but the page, so that the same figures give the same bytes. Raises
    OutputError.
    """

    def picture(subject: str, method: str) -> bytes | None:
        at = reports.get((subject, method))
        path = folder / at / "figures" / "difference.png" if at else None
        return path.read_bytes() if path is not None and path.is_file() else None

    content = CohortContent(
        title=title,
        tables=tables,
        failures=[(f.subject, f.method, f.reason) for f in failures],
        reports={place: f"{at}/report.html" for place, at in reports.items()},
        pictures=picture,
        notes=notes,
        versions=software_versions(),
    )
    strata = list(dict.fromkeys(name for r in tables.records for name in r.strata))
    files = {
        "figures.csv": _csv(
            ["subject", "method", "fold", *strata, *tables.figures],
            (
                [r.subject, r.method, r.fold or "", *(r.strata.get(s, "") for s in strata),
                 *(r.figures.get(k, math.nan) for k in tables.figures)]
                for r in tables.records
            ),
        ),
        FIGURES: _json(
            {
                "schema": SCHEMA,
                "records": [
                    {**asdict(r), "report": reports.get((r.subject, r.method))}
                    for r in tables.records
                ],
                "failures": [asdict(f) for f in failures],
                "definitions": _definitions(tables.figures),
            }
        ),
        "summary.csv": _csv(
            ["method", "group", "value", "figure", *_names(tables.summaries[0].summary)],
            (
                [row.method, row.group, row.value, row.figure, *asdict(row.summary).values()]
                for row in tables.summaries
            ),
        ),
        "comparisons.csv": _csv(
            ["figure", "first", "second", "n", "mean", "sd", "ci_low", "ci_high", "limits_low",
             "limits_high", "t", "t_p", "w", "w_p", "t_p_holm", "w_p_holm"],
            (
                [row.figure, row.first, row.second, *asdict(row.difference).values(),
                 row.t_p_holm, row.w_p_holm]
                for row in tables.comparisons
            ),
        ),
        STATISTICS: _json(
            {
                "schema": SCHEMA,
                "main": list(tables.main),
                "summaries": [asdict(row) for row in tables.summaries],
                "comparisons": [asdict(row) for row in tables.comparisons],
            }
        ),
        "failures.csv": failures_csv(failures),
        PAGE: cohort_page(content),
    }  # fmt: skip
    try:
        with whole_files(folder) as staged:
            for name, text in files.items():
                (staged / name).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise _unwritten(folder, error) from error
    return folder / PAGE


def _definitions(figures: Sequence[str]) -> dict[str, str]:
    """What each figure is that a subject has."""
    of_pet = {key: sentence(f) for key, f in {**PET_FIGURES, **UPTAKE_FIGURES}.items()}
    every = {**DEFINITIONS, **of_pet}
    held = {key if key in every else key.rpartition(".")[2] for key in figures}
    return {key: text for key, text in every.items() if key in held}


def failures_csv(failures: Sequence[Failure]) -> str:
    """The failures as CSV."""
    return _csv(
        ["subject", "method", "reason"], ([f.subject, f.method, f.reason] for f in failures)
    )


def read_cohort(folder: Path) -> tuple[tuple[Record, ...], dict[tuple[str, str], str]]:
    """The records of a finished cohort, and the folders of its jobs, by subject and method.

    Raises InputError for a folder without a cohort.
    """
    path = folder / FIGURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(content["schema"])
        records, reports = [], {}
        for entry in content["records"]:
            record = Record(
                entry["subject"],
                entry["method"],
                {key: _float(value) for key, value in entry["figures"].items()},
                entry["fold"],
                entry["strata"],
                None if entry["error_curve"] is None else _curve(entry["error_curve"]),
                None if entry["bone_ml"] is None else tuple(entry["bone_ml"]),
            )
            records.append(record)
            if entry["report"]:
                reports[record.subject, record.method] = entry["report"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no finished cohort ({FIGURES}): give the folder of 'synthct evaluate "
            "--manifest' or 'synthct run --manifest'."
        ) from error
    return tuple(records), reports


def write_text(path: Path, text: str) -> None:
    """Write a file whole. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written ({reason_of(error)}).")


def _csv(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Floats with all their digits, nothing where there is no number."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heading)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    return value


def _json(content: Any) -> str:
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _names(summary: Any) -> list[str]:
    return list(asdict(summary))


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _curve(content: Mapping[str, Any]) -> ErrorCurve:
    return ErrorCurve(
        edges_hu=tuple(content["edges_hu"]),
        voxels=tuple(content["voxels"]),
        mean_hu=tuple(_float(v) for v in content["mean_hu"]),
        mae_hu=tuple(_float(v) for v in content["mae_hu"]),
        sd_hu=tuple(_float(v) for v in content["sd_hu"]),
        voxels_outside=content["voxels_outside"],
    )
