"""What a scene is: a background and up to three groups of equal objects, each in a corner of its own."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "moon", "hexagon")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "brown")
SIZES = ("small", "large")
COUNTS = (1, 2, 3)
PLACES = ("top left", "top right", "bottom left", "bottom right")
BACKGROUNDS = ("white", "gray", "pink", "cyan", "beige", "mint")

HELD_OUT_PAIRS = frozenset((colour, SHAPES[(3 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS))
"""(colour, shape) pairs that neither pre-training nor any training split ever shows: one for each colour."""

_GROUP_CODES = 1 + len(SHAPES) * len(COLOURS) * len(SIZES) * len(COUNTS)

Attribute = Literal["shape", "colour", "size", "count", "place", "background"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)


@dataclass(frozen=True, slots=True)
class Group:
    """One to three equal objects that stand together.

    Args:
        shape: One of :data:`SHAPES`.
        colour: One of :data:`COLOURS`.
        size: One of :data:`SIZES`.
        count: One of :data:`COUNTS`.
        place: One of :data:`PLACES`; no two groups of a scene share one.
    """

    shape: str
    colour: str
    size: str
    count: int
    place: str

    @property
    def pair(self) -> tuple[str, str]:
        """The (colour, shape) pair, which is what the benchmark calls an entity."""
        return self.colour, self.shape

    @property
    def row(self) -> int:
        """0 for the upper half of the picture, 1 for the lower."""
        return PLACES.index(self.place) // 2

    @property
    def column(self) -> int:
        """0 for the left half of the picture, 1 for the right."""
        return PLACES.index(self.place) % 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and its groups in reading order (so equal scenes compare equal).

    Args:
        background: One of :data:`BACKGROUNDS`.
        groups: One to three groups with distinct places and distinct (colour, shape) pairs.
    """

    background: str
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.groups, key=lambda group: PLACES.index(group.place)))
        object.__setattr__(self, "groups", ordered)

    @property
    def is_consistent(self) -> bool:
        """Whether no two groups share a place or a (colour, shape) pair."""
        distinct_places = len({group.place for group in self.groups}) == len(self.groups)
        return distinct_places and len({group.pair for group in self.groups}) == len(self.groups)

    @property
    def has_held_out_pair(self) -> bool:
        """Whether a group shows one of :data:`HELD_OUT_PAIRS`."""
        return any(group.pair in HELD_OUT_PAIRS for group in self.groups)


def signature(scene: Scene) -> int:
    """Return an integer that two scenes share iff all their facts are equal."""
    total = 0
    for group in scene.groups:
        code = SHAPES.index(group.shape) * len(COLOURS) + COLOURS.index(group.colour)
        code = (code * len(SIZES) + SIZES.index(group.size)) * len(COUNTS) + COUNTS.index(group.count)
        total += (code + 1) * _GROUP_CODES ** PLACES.index(group.place)
    return total * len(BACKGROUNDS) + BACKGROUNDS.index(scene.background)


def with_group(scene: Scene, old: Group, new: Group) -> Scene:
    """Return the scene with one group put in another's stead."""
    return dataclasses.replace(scene, groups=tuple(new if g == old else g for g in scene.groups))


def other(values: Sequence[str] | Sequence[int], than: object, rng: random.Random) -> str | int:
    """Draw one of ``values`` that differs from ``than``."""
    return rng.choice([value for value in values if value != than])


_VALUES: dict[str, Sequence[str] | Sequence[int]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "count": COUNTS,
    "place": PLACES,
}


def change_group(group: Group, attribute: Attribute, rng: random.Random) -> Group:
    """Return the group with another value of ``attribute``."""
    changed: dict[str, Any] = {attribute: other(_VALUES[attribute], getattr(group, attribute), rng)}
    return dataclasses.replace(group, **changed)


class SceneSampler:
    """Draws scenes of one split.

    Args:
        rng: Source of randomness; equal generators give equal scenes.
        held_out: Whether scenes show held-out pairs: ``False`` never (training), ``True`` in about every
            second scene (test).
        excluded: Signatures of scenes that are never drawn.
    """

    def __init__(self, rng: random.Random, *, held_out: bool, excluded: frozenset[int] = frozenset()) -> None:
        self._rng = rng
        self._held_out = held_out
        self._excluded = excluded

    def scene(self, n_groups: int | None = None) -> Scene:
        """Draw a scene with ``n_groups`` groups (1 to 3, drawn when ``None``)."""
        rng = self._rng
        count = n_groups or rng.randint(1, 3)
        while True:
            scene = Scene(
                rng.choice(BACKGROUNDS), tuple(self._group(place) for place in rng.sample(PLACES, count))
            )
            if self._held_out and rng.random() < 0.5:
                scene = self._with_held_out_pair(scene)
            if self.allows(scene):
                return scene

    def variant(self, scene: Scene, attributes: Sequence[Attribute] = ATTRIBUTES) -> Scene:
        """Return a near-duplicate: the scene with one of ``attributes`` changed."""
        while True:
            changed = self._changed(scene, self._rng.choice(attributes))
            if self.allows(changed):
                return changed

    def distractor(self, scene: Scene) -> Scene:
        """Return a scene that is easily or hardly told apart: one to five attributes are other.

        The background is other only if nothing else is, and seldom: it is seen at a glance, and who learns to
        compare would look at nothing else.
        """
        rng = self._rng
        changes = rng.choice((1, 1, 2, 3, 5))
        if changes == 1:
            return self.variant(scene)
        while True:
            changed = scene
            for attribute in rng.sample(ATTRIBUTES[:-1], changes):
                changed = self._changed(changed, attribute)
            if changed != scene and self.allows(changed):
                return changed

    def family(
        self, n_groups: int, size: int, attributes: Sequence[Attribute] = ATTRIBUTES
    ) -> Iterator[Scene]:
        """Draw ``size`` distinct scenes that differ from the first in one attribute each."""
        first = self.scene(n_groups)
        seen = {first}
        yield first
        while len(seen) < size:
            scene = self.variant(first, attributes)
            if scene not in seen:
                seen.add(scene)
                yield scene

    def _changed(self, scene: Scene, attribute: Attribute) -> Scene:
        rng = self._rng
        if attribute == "background":
            return dataclasses.replace(scene, background=str(other(BACKGROUNDS, scene.background, rng)))
        group = rng.choice(scene.groups)
        return with_group(scene, group, change_group(group, attribute, rng))

    def _group(self, place: str) -> Group:
        rng = self._rng
        return Group(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SIZES), rng.choice(COUNTS), place)

    def _with_held_out_pair(self, scene: Scene) -> Scene:
        colour, shape = self._rng.choice(sorted(HELD_OUT_PAIRS))
        group = self._rng.choice(scene.groups)
        return with_group(scene, group, dataclasses.replace(group, colour=colour, shape=shape))

    def allows(self, scene: Scene) -> bool:
        """Whether a scene may be shown: consistent, of the split's pairs, and not excluded."""
        if not scene.is_consistent or (scene.has_held_out_pair and not self._held_out):
            return False
        return not self._excluded or signature(scene) not in self._excluded
