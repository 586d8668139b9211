"""Dialogues about drawn scenes, which a small MLLM learns to continue."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from PIL import Image

from data_modules.synthetic.drawing import draw_entity, draw_scene
from data_modules.synthetic.genres import catalogue_entry, news_caption
from data_modules.synthetic.judgements import Judgement, JudgementSampler
from data_modules.synthetic.phrases import PhraseSampler
from data_modules.synthetic.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, SceneSampler
from data_modules.synthetic.texts import (
    canonical_caption,
    caption,
    change_text,
    passage,
    portrait_caption,
    questions,
)
from mmretrieval.content import Content
from mmretrieval.rerank.prompts import RerankPrompts

CAPTION_PROMPT = "Describe the picture."
CAPTION_PROMPTS = (CAPTION_PROMPT, "What does the picture show?", "Give a caption.")
CHANGE_PROMPT = "Describe the picture after the change."
REWRITE_PROMPT = "Rewrite as a plain description."
_PROMPTS = RerankPrompts()
MATCH_PROMPTS = (
    "Does the picture match the text? True or False",
    "Does the above daily-life image match the caption? True or False",
    "Is this text true of the picture? True or False",
)
SAME_PICTURES_PROMPTS = ("Do both pictures show the same? True or False",)
SAME_TEXTS_PROMPTS = ("Do both texts say the same? True or False",)


KINDS = (
    "captioned",
    "asked",
    "described",
    "rewritten",
    "compared_pictures",
    "compared_texts",
    "compared_simple_texts",
    "compared_phrases",
    "portrait",
    "portrayed",
    "judged",
    "judged_simply",
    "judged_by_name",
    "judged_topic",
    "judged_change_by_phrase",
    "judged_described",
    "judged_described_simply",
    "changed",
)
"""What :class:`DialogueSampler` can draw: the names of its methods."""

PICTURE = "<image>"
"""What a prompt shows in a picture's place."""


FURTHER = ", further"
"""How kinds of turns end that are understood only after the turns before."""


class Turn(NamedTuple):
    """A prompt, its answer, and what the answer is about (for accuracies by kind).

    A prompt may say where pictures stand; if none of a dialogue does, all stand before its first.
    """

    prompt: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Pictures, shown with the first prompt, and turns about them."""

    images: tuple[Image.Image, ...]
    turns: tuple[Turn, ...]

    @property
    def places_pictures(self) -> bool:
        """Whether a prompt says where pictures stand."""
        return any(PICTURE in turn.prompt for turn in self.turns)

    def opening(self, turn: Turn) -> str:
        """The prompt of a turn with all pictures, as for a dialogue that begins with it."""
        marks = "" if self.places_pictures else f"{PICTURE}\n" * len(self.images)
        return marks + turn.prompt


def _said(content: Content) -> str:
    """A content within a prompt, as :class:`mmretrieval.ZeroShotReranker` writes it."""
    if content.image is None:
        return content.text or ""
    return f"{PICTURE}\n{content.text}" if content.text else PICTURE


class DialogueSampler:
    """Draws dialogues of one split, a pure function of its generator.

    Args:
        rng: Source of randomness.
        held_out: Whether scenes show held-out pairs, as in ``SceneSampler``.
        excluded: Signatures of scenes that are never drawn.
    """

    def __init__(self, rng: random.Random, *, held_out: bool, excluded: frozenset[int] = frozenset()) -> None:
        self._rng = rng
        self._held_out = held_out
        self._scenes = SceneSampler(rng, held_out=held_out, excluded=excluded)
        self._phrases = PhraseSampler(rng, self._scenes, held_out=held_out)
        self._judgements = JudgementSampler(rng, self._scenes, held_out=held_out)
        told = partial(JudgementSampler, rng, self._scenes, held_out=held_out, candidates=1, described=True)
        self._told, self._told_simply = told(), told(simple=True)
        self._simple = JudgementSampler(rng, self._scenes, held_out=held_out, candidates=1, simple=True)

    def dialogue(self, kinds: Mapping[str, float]) -> Dialogue:
        """Draw a dialogue.

        Args:
            kinds: Of :data:`KINDS`, and how often each is drawn in proportion to the others.
        """
        (kind,) = self._rng.choices([*kinds], weights=[*kinds.values()])
        made: Dialogue = getattr(self, kind)()
        return made

    def captioned(self) -> Dialogue:
        """A picture and its canonical caption, without a question before it."""
        scene = self._scenes.scene()
        turn = Turn(self._rng.choice(CAPTION_PROMPTS), canonical_caption(scene), "caption")
        return Dialogue((self._picture(scene),), (turn,))

    def asked(self) -> Dialogue:
        """Two questions and a True/False statement about a picture."""
        scene = self._scenes.scene()
        turns = [Turn(q.text, q.answer, str(q.attribute)) for q in questions(scene, self._rng)[:2]]
        turns.append(self._match(scene))
        self._rng.shuffle(turns)
        return Dialogue((self._picture(scene),), tuple(turns))

    def described(self) -> Dialogue:
        """A picture, mostly a question about it, and its canonical caption."""
        scene = self._scenes.scene()
        turns = [Turn(q.text, q.answer, str(q.attribute)) for q in questions(scene, self._rng)[:2]]
        described = Turn(self._rng.choice(CAPTION_PROMPTS), canonical_caption(scene), "caption")
        return Dialogue((self._picture(scene),), (*turns[: self._rng.randint(0, 2)], described))

    def rewritten(self) -> Dialogue:
        """A free text and its canonical wording."""
        scene = self._scenes.scene()
        turn = Turn(f"{self._text(scene)} {REWRITE_PROMPT}", canonical_caption(scene), "rewriting")
        return Dialogue((), (turn,))

    def compared_pictures(self) -> Dialogue:
        """Two pictures, of the same scene or of two."""
        scene = self._scenes.scene()
        other, same = self._same_or_other(scene)
        prompt = self._rng.choice(SAME_PICTURES_PROMPTS)
        turn = Turn(prompt, str(same), "image-image match")
        return Dialogue((self._picture(scene), self._picture(other)), (turn,))

    def compared_texts(self) -> Dialogue:
        """Two texts, about the same scene or about two."""
        return self._compared_texts(self._scenes.scene())

    def compared_simple_texts(self) -> Dialogue:
        """Two texts about a single group of objects: the simplest there is to learn comparing from."""
        return self._compared_texts(self._scenes.scene(1))

    def compared_phrases(self) -> Dialogue:
        """Two phrases that name the same facts of a group: the shortest there is to learn comparing from."""
        left, right, same = self._phrases.compared()
        prompt = f"{left}\n{right}\n{self._rng.choice(SAME_TEXTS_PROMPTS)}"
        return Dialogue((), (Turn(prompt, str(same), "phrase match"),))

    def _compared_texts(self, scene: Scene) -> Dialogue:
        other, same = self._same_or_other(scene)
        prompt = f"{self._text(scene)}\n{self._text(other)}\n{self._rng.choice(SAME_TEXTS_PROMPTS)}"
        return Dialogue((), (Turn(prompt, str(same), "text-text match"),))

    def portrait(self) -> Dialogue:
        """One big object and what it is."""
        colour, shape, picture = self._portrait()
        return Dialogue((picture,), (Turn("What is this?", f"{colour} {shape}", "portrait"),))

    def portrayed(self) -> Dialogue:
        """One big object, described."""
        colour, shape, picture = self._portrait()
        turn = Turn(self._rng.choice(CAPTION_PROMPTS), portrait_caption(colour, shape), "portrait caption")
        return Dialogue((picture,), (turn,))

    def _portrait(self) -> tuple[str, str, Image.Image]:
        rng = self._rng
        pairs = [(c, s) for c in COLOURS for s in SHAPES if self._held_out or (c, s) not in HELD_OUT_PAIRS]
        colour, shape = rng.choice(pairs)
        return colour, shape, draw_entity(colour, shape, rng.getrandbits(32))

    def judged(self) -> Dialogue:
        """A query and candidates as a reranker asks, and what a picture shows."""
        return self._judged(self._judgements.judgement())

    def judged_simply(self) -> Dialogue:
        """A query and one candidate, each of a single group of objects."""
        return self._judged(self._simple.judgement())

    def judged_by_name(self) -> Dialogue:
        """The name of an entity with a question about it, and a passage: what is to be told can be read."""
        return self._judged(self._simple.named_entity_to_passage())

    def judged_topic(self) -> Dialogue:
        """A question about an entity that is not named, and a passage that answers it or another question."""
        return self._judged(self._simple.question_to_topic())

    def judged_change_by_phrase(self) -> Dialogue:
        """A phrase with a change, and the phrase that results or another."""
        return self._judged(self._phrases.change())

    def judged_described(self) -> Dialogue:
        """A query and one candidate, with descriptions in the places of pictures."""
        return self._judged(self._told.judgement())

    def judged_described_simply(self) -> Dialogue:
        """The same, with a single group of objects in each."""
        return self._judged(self._told_simply.judgement())

    def _judged(self, asked: Judgement) -> Dialogue:
        prompt, query = _PROMPTS.of(asked.task), _said(asked.query)
        kind, further = f"judgement, {asked.task}", f"judgement, {asked.task}{FURTHER}"
        contents = [asked.query, *(judged.content for judged in asked.candidates)]
        turns = []
        for number, judged in enumerate(asked.candidates):
            # The first prompt is a reranker's; the others are its end, from where the candidate stands.
            words = prompt if not number else prompt.partition("{query}")[2]
            text = words.format(query=query, candidate=_said(judged.content), instruction="").strip("\n")
            turns.append(Turn(text, str(judged.right), further if number else kind))
        if asked.shown is not None and any(c.image for c in contents) and self._rng.random() < 0.3:
            which = "first" if asked.query.image is not None else "last"
            turns.append(
                Turn(f"Describe the {which} picture.", canonical_caption(asked.shown), f"caption{FURTHER}")
            )
        return Dialogue(tuple(c.image for c in contents if c.image is not None), tuple(turns))

    def changed(self) -> Dialogue:
        """A picture, a change, and the caption of what results."""
        before = self._scenes.scene()
        after = self._scenes.variant(before)
        text = change_text(before, after, self._rng)
        turn = Turn(f"{text}\n{CHANGE_PROMPT}", canonical_caption(after), "change")
        return Dialogue((self._picture(before),), (turn,))

    def _match(self, scene: Scene) -> Turn:
        other, same = self._same_or_other(scene)
        return Turn(f"{self._text(other)}\n{self._rng.choice(MATCH_PROMPTS)}", str(same), "image-text match")

    def _same_or_other(self, scene: Scene) -> tuple[Scene, bool]:
        """The scene itself in half the cases; else one that is other in little or in much."""
        if self._rng.random() < 0.5:
            return scene, True
        return self._scenes.distractor(scene), False

    def _text(self, scene: Scene) -> str:
        return self._rng.choice((caption, caption, passage, news_caption, catalogue_entry))(scene, self._rng)

    def _picture(self, scene: Scene) -> Image.Image:
        return draw_scene(scene, self._rng.getrandbits(32))
