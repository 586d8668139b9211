"""The data sets about scenes: each function writes one split of one or two data sets.

They write a family at a time, and yield after each which part of their work is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from data_modules.synthetic.drawing import draw_scene
from data_modules.synthetic.families import FamilySource
from data_modules.synthetic.genres import catalogue_entry, headline, news_article, news_caption
from data_modules.synthetic.inquiries import inquiry_text
from data_modules.synthetic.scenes import Scene
from data_modules.synthetic.split_writer import SplitWriter
from data_modules.synthetic.tasks import (
    ARTICLE_PICTURE,
    CAPTION_IMAGE,
    CATALOGUE_ENTRY,
    CATALOGUE_IMAGE,
    IMAGE_CAPTION,
    NEWS_CAPTION,
    NEWS_IMAGE,
    QUESTION_PASSAGE,
    QUESTION_PICTURE,
    SCENE_CHANGE,
    SHAPE_CHANGE,
    TWIN,
    Task,
)
from data_modules.synthetic.texts import caption, change_text, group_phrase, passage, sentence


class Plan(NamedTuple):
    """How much to write of a split.

    Args:
        split: ``train``, ``val`` or ``test``.
        queries: Queries per dataset-task.
        stride: Candidates' scenes per scene that is searched for; above 1 the others are distractors.
    """

    split: str
    queries: int
    stride: int


class Quota:
    """Decides which scenes are searched for: every ``stride``-th, until there are enough.

    Args:
        wanted: Number of scenes to search for.
        stride: Scenes per scene that is searched for.
    """

    def __init__(self, wanted: int, stride: int) -> None:
        self._wanted = wanted
        self._stride = stride
        self._seen = 0

    @property
    def is_open(self) -> bool:
        """Whether more scenes are needed."""
        return self.done < 1

    @property
    def done(self) -> float:
        """The part of the needed scenes that there is, from 0 to 1 or a little more."""
        return self._seen / (self._wanted * self._stride)

    def take(self) -> bool:
        """Say whether the next scene is searched for."""
        taken = self.is_open and self._seen % self._stride == 0
        self._seen += 1
        return taken


def news(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``scenenews`` and ``scenearticles``, which share their pictures."""
    rng, quota = source.rng, Quota(plan.queries, plan.stride)
    while quota.is_open:
        scenes = source.family()
        images = [_picture(out, "scenenews", source, scene) for scene in scenes]
        texts = [news_caption(scene, rng) for scene in scenes]
        photos = [out.candidate("scenenews", image=image) for image in images]
        captions = [out.candidate("scenenews", text=text) for text in texts]
        articles = [
            out.candidate("scenearticles", text=headline(scene, rng), image=image)
            for scene, image in zip(scenes, images, strict=True)
        ]
        for n, scene in enumerate(scenes):
            if quota.take():
                out.query(NEWS_IMAGE, [photos[n]], text=texts[n])
                out.query(NEWS_CAPTION, [captions[n]], image=images[n])
                others = _others(articles, n)
                out.query(ARTICLE_PICTURE, [articles[n]], text=news_article(scene, rng), negatives=others)
        yield quota.done


def catalogue(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``shapecatalog``."""
    quota = Quota(plan.queries, plan.stride)
    while quota.is_open:
        for scene in source.family(groups=(1,)):
            image = _picture(out, "shapecatalog", source, scene)
            text = catalogue_entry(scene, source.rng)
            photo = out.candidate("shapecatalog", image=image)
            entry = out.candidate("shapecatalog", text=text)
            if quota.take():
                out.query(CATALOGUE_IMAGE, [photo], text=text)
                out.query(CATALOGUE_ENTRY, [entry], image=image)
        yield quota.done


def questions(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``sceneqa``: two questions about each scene, to its passage and to its captioned picture."""
    rng, quota = source.rng, Quota(plan.queries // 2, plan.stride)
    while quota.is_open:
        family = source.asked_family(inquiries=2)
        passages = [out.candidate("sceneqa", text=passage(scene, rng)) for scene, _ in family]
        pictures = [
            out.candidate(
                "sceneqa",
                text=sentence(group_phrase(rng.choice(scene.groups), rng)),  # the picture tells the rest
                image=_picture(out, "sceneqa", source, scene),
            )
            for scene, _ in family
        ]
        for n, (_, inquiries) in enumerate(family):
            if quota.take():
                for inquiry in inquiries:
                    for task, targets in ((QUESTION_PASSAGE, passages), (QUESTION_PICTURE, pictures)):
                        text = inquiry_text(inquiry, rng)
                        out.query(task, [targets[n]], text=text, negatives=_others(targets, n))
        yield quota.done


def twins(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``twinscenes``; the drawings searched with are no candidates."""
    quota = Quota(plan.queries, plan.stride)
    while quota.is_open:
        scenes = source.family()
        images = [
            out.candidate("twinscenes", image=_picture(out, "twinscenes", source, scene)) for scene in scenes
        ]
        for n, scene in enumerate(scenes):
            if quota.take():
                image = _picture(out, "twinscenes", source, scene)
                out.query(TWIN, [images[n]], image=image, negatives=_others(images, n))
        yield quota.done


def shape_changes(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``shapeiq``."""
    return _changes(out, source, plan, SHAPE_CHANGE, groups=(1,), with_negatives=False)


def scene_changes(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``scenechange``."""
    return _changes(out, source, plan, SCENE_CHANGE, groups=(2, 3), with_negatives=True)


def _changes(
    out: SplitWriter,
    source: FamilySource,
    plan: Plan,
    task: Task,
    *,
    groups: tuple[int, ...],
    with_negatives: bool,
) -> Iterator[float]:
    """Search for the first of a family with any other and a change, and for all others with the first."""
    rng, quota = source.rng, Quota(plan.queries, plan.stride)
    while quota.is_open:
        scenes = source.family(groups)
        images = [_picture(out, task.dataset, source, scene) for scene in scenes]
        targets = [out.candidate(task.dataset, image=image) for image in images]
        for n, scene in enumerate(scenes):
            start = 0 if n else rng.randrange(1, len(scenes))
            if quota.take():
                text = change_text(scenes[start], scene, rng)
                negatives = _others(targets, n) if with_negatives else []
                out.query(task, [targets[n]], text=text, image=images[start], negatives=negatives)
        yield quota.done


def captions(out: SplitWriter, source: FamilySource, plan: Plan) -> Iterator[float]:
    """Write ``scenecaptions``: each picture has two captions, both right."""
    rng, quota = source.rng, Quota(plan.queries, plan.stride)
    while quota.is_open:
        for scene in source.family():
            image = _picture(out, "scenecaptions", source, scene)
            texts = _two_captions(scene, source)
            photo = out.candidate("scenecaptions", image=image)
            both = [out.candidate("scenecaptions", text=text) for text in texts]
            if quota.take():
                out.query(CAPTION_IMAGE, [photo], text=rng.choice(texts))
                out.query(IMAGE_CAPTION, both, image=image)
        yield quota.done


def _two_captions(scene: Scene, source: FamilySource) -> list[str]:
    first = second = caption(scene, source.rng)
    while second == first:
        second = caption(scene, source.rng)
    return [first, second]


def _picture(out: SplitWriter, dataset: str, source: FamilySource, scene: Scene) -> str:
    return out.image(dataset, draw_scene(scene, source.rng.getrandbits(32)))


def _others(ids: list[str], n: int) -> list[str]:
    return ids[:n] + ids[n + 1 :]
