"""Pictures that the embedded street detector sees much in."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def street_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of the demo's clip, in which people ride bicycles, in a folder."""
    from edgedet.cli import demo
    from edgedet.errors import SourceError

    try:
        clip = demo.find_clip()
    except SourceError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("photos")
    demo.sample_frames(clip, folder, 5)
    return folder
