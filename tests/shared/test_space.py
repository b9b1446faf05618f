"""shared/space.py: one name of a space, everywhere."""

import shutil
from pathlib import Path

import pytest

from shared import space


def test_the_bundled_space_has_the_name_of_its_folder() -> None:
    assert space.load().name == space.DEFAULT_SPACE


def test_a_copied_folder_whose_file_was_not_renamed_is_refused(tmp_path: Path) -> None:
    shutil.copytree(space.SPACES / space.DEFAULT_SPACE, tmp_path / "new-v2")
    with pytest.raises(ValueError, match="give it the name of its folder"):
        space.load("new-v2", tmp_path)
