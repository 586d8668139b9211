"""A folder as people have them: drawn pictures, some with a caption beside them, and notes in Markdown."""

from __future__ import annotations

import random
from pathlib import Path

from data_modules.atomic import staged_directory
from data_modules.progress import progress_bar
from data_modules.synthetic.drawing import draw_scene, to_jpeg
from data_modules.synthetic.scenes import Scene, SceneSampler
from data_modules.synthetic.texts import caption, passage

SCENES_A_NOTE = 4
_DESCRIBED = 3  # of so many pictures, one has a caption, and one is of a scene that a note describes


def write_album(out: Path, *, seed: int = 0, size: int = 120, progress: bool = True) -> None:
    """Write ``pictures/*.jpg``, captions as ``pictures/*.txt`` for a third of them, and ``notes/*.md``.

    Notes have a heading and a passage for each of the scenes that they describe, a third of the pictures'.

    Args:
        out: Folder to create.
        seed: The same seed gives the same files.
        size: How many pictures to draw.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If the folder exists and is not empty.
    """
    rng = random.Random(f"album {seed}")
    sampler = SceneSampler(rng, held_out=False)
    described = []
    with staged_directory(out) as stage, progress_bar(disable=not progress) as bar:
        (stage / "pictures").mkdir()
        (stage / "notes").mkdir()
        for number in bar.track(range(size), description="Drawing"):
            scene = sampler.scene()
            name = f"scene-{number:04d}"
            (stage / f"pictures/{name}.jpg").write_bytes(to_jpeg(draw_scene(scene, rng.getrandbits(32))))
            if number % _DESCRIBED == 1:
                (stage / f"pictures/{name}.txt").write_text(f"{caption(scene, rng)}\n")
            elif number % _DESCRIBED == 2:
                described.append((name, scene))
        for first in range(0, len(described), SCENES_A_NOTE):
            note = _note(described[first : first + SCENES_A_NOTE], rng)
            (stage / f"notes/note-{first // SCENES_A_NOTE:03d}.md").write_text(note)


def _note(scenes: list[tuple[str, Scene]], rng: random.Random) -> str:
    return "\n\n".join(f"# {name}\n\n{passage(scene, rng)}" for name, scene in scenes) + "\n"
