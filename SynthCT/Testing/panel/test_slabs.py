"""Volumes written and read a slab at a time, against ITK's own reader and writer; and the steps."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk

KINDS = ("uint8", "int16", "uint16", "int32", "float32", "float64")


def oblique(kind: str) -> sitk.Image:
    """Random voxels on an anisotropic grid that is turned and far from the origin."""
    rng = np.random.default_rng(3)
    image = sitk.GetImageFromArray((rng.random((9, 12, 15)) * 200).astype(kind))
    image.SetSpacing((0.9, 1.1, 2.3))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.3, -0.2, 0.5)
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin((-112.34567, 55.1234, 907.7))
    return image


def through(steps: Iterator[None]) -> tuple[Any, int]:
    """Work a generator off: what it returns, and its number of steps."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


def elements(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


@pytest.fixture
def slabs(desktop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    from SynthCTSlicer import slabs

    monkeypatch.setattr(slabs, "READ_BYTES", 1000)
    monkeypatch.setattr(slabs, "WRITE_BYTES", 1000)
    monkeypatch.setattr(slabs, "PACK_BYTES", 1000)
    return slabs


@pytest.mark.parametrize("kind", KINDS)
def test_nifti_is_read_as_mrml_reads_it(slabs: Any, tmp_path: Path, kind: str) -> None:
    image = oblique(kind)
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(image, str(path))
    data = vtk.vtkImageData()
    matrix, steps = through(slabs.read(path, data))
    assert steps > 1
    node = slicer.util.loadVolume(str(path), {"show": False})
    expected = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(expected)
    assert np.allclose(elements(matrix), elements(expected), rtol=0, atol=1e-12)
    assert data.GetScalarTypeAsString() == node.GetImageData().GetScalarTypeAsString()
    node.SetAndObserveImageData(data)
    assert (slicer.util.arrayFromVolume(node) == sitk.GetArrayFromImage(image)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nrrd_is_written_as_itk_reads_it(slabs: Any, tmp_path: Path, kind: str) -> None:
    image = oblique(kind)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    node = slicer.util.loadVolume(str(tmp_path / "a.nrrd"), {"show": False})
    path = tmp_path / "b.nrrd"
    _nothing, steps = through(slabs.write(node, path))
    assert steps > 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nrrd", "b.nrrd"]
    back = sitk.ReadImage(str(path))
    assert back.GetPixelID() == image.GetPixelID()
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(image)).all()
    assert np.allclose(back.GetOrigin(), image.GetOrigin(), rtol=0, atol=1e-9)
    assert np.allclose(back.GetSpacing(), image.GetSpacing(), rtol=0, atol=1e-9)
    assert np.allclose(back.GetDirection(), image.GetDirection(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_nifti_is_written_as_itk_and_this_panel_read_it(
    slabs: Any, tmp_path: Path, kind: str
) -> None:
    image = oblique(kind)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    node = slicer.util.loadVolume(str(tmp_path / "a.nrrd"), {"show": False})
    path = tmp_path / "b.nii.gz"
    _nothing, steps = through(slabs.write(node, path))
    assert steps > 1
    back = sitk.ReadImage(str(path))
    assert back.GetPixelID() == image.GetPixelID()
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(image)).all()
    assert np.allclose(back.GetOrigin(), image.GetOrigin(), rtol=0, atol=1e-4)  # float32
    assert np.allclose(back.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    assert np.allclose(back.GetDirection(), image.GetDirection(), rtol=0, atol=1e-6)
    data, expected = vtk.vtkImageData(), vtk.vtkMatrix4x4()
    matrix, _steps = through(slabs.read(path, data))
    node.GetIJKToRASMatrix(expected)
    assert np.allclose(elements(matrix), elements(expected), rtol=0, atol=1e-4)


def test_what_is_written_has_its_name_only_when_whole(slabs: Any, tmp_path: Path) -> None:
    node = slicer.util.addVolumeFromArray(np.zeros((9, 12, 15), "f4"))
    path = tmp_path / "a.nrrd"
    steps = slabs.write(node, path)
    next(steps)
    assert not path.exists()
    steps.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "how", ["short", "cut", "garbage", "scaled", "four dimensions", "unplaced"]
)
def test_damaged_and_foreign_files_are_refused(slabs: Any, tmp_path: Path, how: str) -> None:
    from SynthCTSlicer.signals import PanelError

    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(oblique("int16"), str(path))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    if how == "scaled":
        raw[112:116] = np.float32(2.0).tobytes()
    elif how == "four dimensions":
        raw[40:42] = np.int16(4).tobytes()
    elif how == "unplaced":
        raw[254:256] = np.int16(0).tobytes()
    whole = gzip.compress(bytes(raw[:1000] if how == "short" else raw))
    if how == "cut":
        whole = whole[: len(whole) // 2]
    elif how == "garbage":
        whole = whole[:400] + bytes(200) + whole[600:]
    path.write_bytes(whole)
    kind, words = (
        (OSError, r"a\.nii\.gz is damaged")
        if how in ("short", "cut", "garbage")
        else (PanelError, "no image that SynthCT has written")
    )
    with pytest.raises(kind, match=words):
        through(slabs.read(path, vtk.vtkImageData()))


@pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz"])
def test_numbers_that_cannot_be_held_are_refused(slabs: Any, tmp_path: Path, name: str) -> None:
    from SynthCTSlicer.signals import PanelError

    node = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), "uint64"), name="big")
    with pytest.raises(PanelError, match=r"big holds .* numbers: convert it to float"):
        through(slabs.write(node, tmp_path / name))
    assert list(tmp_path.iterdir()) == []


# -- steps -----------------------------------------------------------------------------------------


class Turns:
    """An event loop: what is to be called later, turn by turn."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []

    def later(self, milliseconds: int, function: Callable[[], None]) -> None:
        self.queue.append(function)

    def run(self) -> None:
        while self.queue:
            self.queue.pop(0)()


def counting(said: list[str], name: str, error: Exception | None = None) -> Iterator[None]:
    try:
        for i in range(3):
            said.append(f"{name}{i}")
            yield
        if error is not None:
            raise error
        return name
    finally:
        said.append(f"{name} ended")


def test_work_is_done_in_its_order_one_step_a_turn() -> None:
    from SynthCTSlicer.steps import Steps

    turns, said = Turns(), []
    steps = Steps(turns.later)
    for name in ("a", "b"):
        steps.add(counting(said, name), said.append, said.append)
    turns.queue.pop(0)()
    assert said == ["a0"]
    assert len(turns.queue) == 1
    turns.run()
    assert said == ["a0", "a1", "a2", "a ended", "a", "b0", "b1", "b2", "b ended", "b"]
    assert not steps.busy


def test_dropped_work_is_closed_and_says_nothing() -> None:
    from SynthCTSlicer.steps import Steps

    turns, said = Turns(), []
    steps = Steps(turns.later)
    first, second, third = (
        steps.add(counting(said, name), said.append, said.append) for name in "abc"
    )
    turns.queue.pop(0)()
    steps.drop(second)
    steps.drop(first)
    assert said == ["a0", "a ended"]
    turns.run()
    assert said[2:] == ["c0", "c1", "c2", "c ended", "c"]
    steps.drop(third)  # over already
    steps.add(counting(said, "d"), said.append, said.append)
    steps.clear()
    turns.run()
    assert not steps.busy
    assert "d0" not in said


def test_failure_is_given_and_a_bug_is_raised_and_the_next_goes_on() -> None:
    from SynthCTSlicer.steps import Steps

    turns, said = Turns(), []
    steps = Steps(turns.later)
    failed: list[Exception] = []
    steps.add(counting(said, "a", OSError("full")), said.append, failed.append)
    steps.add(counting(said, "b", ZeroDivisionError("bug")), said.append, failed.append)
    steps.add(counting(said, "c"), said.append, failed.append)
    with pytest.raises(ZeroDivisionError, match="bug"):
        turns.run()
    turns.run()
    assert [str(error) for error in failed] == ["full"]
    assert said[-1] == "c"
