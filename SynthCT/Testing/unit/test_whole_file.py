from __future__ import annotations

from pathlib import Path

import pytest

from SynthCTLib.whole_file import whole_file, whole_files


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii.gz"
    with whole_file(path) as part:
        assert part.name.endswith(".nii.gz")
        assert part.parent == tmp_path
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")

    def fail() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "none" / "a.txt"):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_was_taken_away_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt") as part:
        part.unlink()
    assert list(tmp_path.iterdir()) == []


def test_files_appear_together_and_replace_those_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("before")
    (folder / "mine.txt").write_text("mine")
    with whole_files(folder) as staged:
        (staged / "a.txt").write_text("a")
        (staged / "b.txt").write_text("b")
        assert (folder / "a.txt").read_text() == "before"
        assert not (folder / "b.txt").exists()
    assert {p.name: p.read_text() for p in folder.iterdir()} == {
        "a.txt": "a",
        "b.txt": "b",
        "mine.txt": "mine",
    }


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_of_files_that_fail_none_appears(
    there: bool, error: type[BaseException], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
        (folder / "a.txt").write_text("before")

    def fail() -> None:
        with whole_files(folder) as staged:
            (staged / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert folder.exists() == there
    if there:
        assert {p.name: p.read_text() for p in folder.iterdir()} == {"a.txt": "before"}
