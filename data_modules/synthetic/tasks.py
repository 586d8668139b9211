"""Who searches for what: ten data sets with 16 dataset-tasks, which mirror M-BEIR's ids and task types.

== ============= =========== ==========================================================================
id data set      mirrors     tasks: query → target
== ============= =========== ==========================================================================
0  scenenews     VisualNews  0: press caption → image; 3: image → press caption
1  shapecatalog  Fashion200K 0: catalogue entry → image of one group; 3: the reverse
2  sceneqa       WebQA       1: question → passage; 2: question → image with a partial caption
3  scenearticles EDIS        2: article → image with a headline (the images of scenenews)
4  twinscenes    NIGHTS      4: image → another drawing of the same scene
5  entities      OVEN        6: portrait + question → passage; 8: the same → passage with portrait
6  infoscenes    INFOSEEK    6 and 8: like entities, with scenes for portraits and other questions
7  shapeiq       FashionIQ   7: image of one group + change → image
8  scenechange   CIRR        7: image of several groups + change → image
9  scenecaptions MSCOCO      0: caption → image; 3: image → both its captions
== ============= =========== ==========================================================================

What makes it hard: all candidates of a split are in one global pool, and a query's own text and picture stand
there too, as targets of other tasks, so the wrong modality is often nearest. Scenes come in families that
differ from one member in one attribute each. Passages differ from others in the entity or in the topic alone.

What keeps it fair: every scene is used once in the whole benchmark, and a question fits one scene only.
``scenearticles`` alone shows scenes of another data set, with another target modality. Each fact about an
entity is in one split; a third of them stands in ``entities`` and ``infoscenes`` under two ids, and then both
are listed as positives, as in OVEN and INFOSEEK.

A local pool has the candidates of one data set that have its task's target modality; training has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.formats.records import InstructionRecord
from mmretrieval.content import Modality

DATASETS = (
    "scenenews",
    "shapecatalog",
    "sceneqa",
    "scenearticles",
    "twinscenes",
    "entities",
    "infoscenes",
    "shapeiq",
    "scenechange",
    "scenecaptions",
)
"""Names of the data sets at the position of their ids."""

_TEXT, _IMAGE, _BOTH = Modality.TEXT, Modality.IMAGE, Modality.IMAGE_TEXT


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of search in one data set.

    Args:
        dataset: One of :data:`DATASETS`.
        number: The task's number in M-BEIR's list.
        query: Modality of its queries.
        target: Modality of their positives.
        prompts: Four instructions.
    """

    dataset: str
    number: int
    query: Modality
    target: Modality
    prompts: tuple[str, str, str, str]

    @property
    def name(self) -> str:
        """Name of the dataset-task, as ``scenenews_task0``."""
        return f"{self.dataset}_task{self.number}"

    @property
    def instructions(self) -> InstructionRecord:
        """The record of its instructions."""
        number = DATASETS.index(self.dataset)
        return InstructionRecord(self.dataset, number, self.query, self.target, self.prompts)


NEWS_IMAGE = Task(
    "scenenews", 0, _TEXT, _IMAGE,
    (
        "Identify the news photo that goes with this caption.",
        "Find the picture in the newspaper that the caption describes.",
        "Which news picture shows what the text reports?",
        "Display the press photo of the described event.",
    ),
)  # fmt: skip
CATALOGUE_IMAGE = Task(
    "shapecatalog", 0, _TEXT, _IMAGE,
    (
        "Find the product picture for this catalogue entry.",
        "Which image shows the product described here?",
        "Retrieve the photo of the listed product.",
        "Match this product description to its picture.",
    ),
)  # fmt: skip
QUESTION_PASSAGE = Task(
    "sceneqa", 1, _TEXT, _TEXT,
    (
        "Find a passage that answers the question.",
        "Retrieve the text that has the answer to this question.",
        "Which passage tells what is asked?",
        "Provide a written description that answers the question.",
    ),
)  # fmt: skip
QUESTION_PICTURE = Task(
    "sceneqa", 2, _TEXT, _BOTH,
    (
        "Find a picture with a caption that answers the question.",
        "Retrieve the captioned image that has the answer to this question.",
        "Which image with text shows what is asked?",
        "Provide an image and its caption as evidence for the answer.",
    ),
)  # fmt: skip
ARTICLE_PICTURE = Task(
    "scenearticles", 2, _TEXT, _BOTH,
    (
        "Find the news picture with headline that matches this article.",
        "Identify the photo and headline that belong to the report.",
        "Which image and headline tell the same story as the text?",
        "Retrieve the illustrated headline for this article.",
    ),
)  # fmt: skip
NEWS_CAPTION = Task(
    "scenenews", 3, _IMAGE, _TEXT,
    (
        "Find the caption of this news photo.",
        "Which text reports what the news picture shows?",
        "Retrieve the words printed below this press photo.",
        "Identify the news caption that describes the image.",
    ),
)  # fmt: skip
CATALOGUE_ENTRY = Task(
    "shapecatalog", 3, _IMAGE, _TEXT,
    (
        "Find the catalogue entry for this product picture.",
        "Which product description matches the image?",
        "Retrieve the text of the catalogue for the pictured product.",
        "Identify how the catalogue describes this product.",
    ),
)  # fmt: skip
TWIN = Task(
    "twinscenes", 4, _IMAGE, _IMAGE,
    (
        "Find another drawing of the same scene.",
        "Which picture shows the same things as this one?",
        "Retrieve the image that is most similar to this image.",
        "Identify the picture that looks like the given one.",
    ),
)  # fmt: skip
ENTITY_PASSAGE = Task(
    "entities", 6, _BOTH, _TEXT,
    (
        "Find a passage that answers the question about the pictured object.",
        "Retrieve the encyclopedia text with the answer about this image.",
        "Which text tells what is asked about the picture?",
        "Provide a passage about the object that answers the question.",
    ),
)  # fmt: skip
INFO_PASSAGE = Task(
    "infoscenes", 6, _BOTH, _TEXT,
    (
        "Find the text that has the information asked for about this image.",
        "Which passage explains what one wants to know about the picture?",
        "Retrieve written facts that answer this question about the picture.",
        "Provide the passage that supports an answer about what is shown.",
    ),
)  # fmt: skip
SHAPE_CHANGE = Task(
    "shapeiq", 7, _BOTH, _IMAGE,
    (
        "Find the product picture that looks like this one but with the change.",
        "Which image shows this product after the requested change?",
        "Retrieve the picture that results from the change.",
        "Given the product and a wish, find the picture that is wanted.",
    ),
)  # fmt: skip
SCENE_CHANGE = Task(
    "scenechange", 7, _BOTH, _IMAGE,
    (
        "Find the image that shows this scene with the described change.",
        "Which picture is like this one except for the change?",
        "Retrieve the scene as it would look after the modification.",
        "Given the picture and what is different, find the other picture.",
    ),
)  # fmt: skip
ENTITY_ARTICLE = Task(
    "entities", 8, _BOTH, _BOTH,
    (
        "Find a passage with a picture that answers the question about the pictured object.",
        "Retrieve the illustrated encyclopedia article with the answer about this image.",
        "Which image with text tells what is asked about the picture?",
        "Provide a picture and a passage about the object that answer the question.",
    ),
)  # fmt: skip
INFO_ARTICLE = Task(
    "infoscenes", 8, _BOTH, _BOTH,
    (
        "Find the image and text that have the information asked for about this image.",
        "Which illustrated passage explains what one wants to know about the picture?",
        "Retrieve a picture with written facts that answers this question about the picture.",
        "Provide the image with a passage that supports an answer about what is shown.",
    ),
)  # fmt: skip
CAPTION_IMAGE = Task(
    "scenecaptions", 0, _TEXT, _IMAGE,
    (
        "Find an image that matches this caption.",
        "Which picture does the caption describe?",
        "Retrieve the everyday scene described here.",
        "Show me the image with this description.",
    ),
)  # fmt: skip
IMAGE_CAPTION = Task(
    "scenecaptions", 3, _IMAGE, _TEXT,
    (
        "Find a caption that describes this image.",
        "Which text says what the picture shows?",
        "Retrieve a short description of the everyday scene.",
        "Describe the image with the matching caption.",
    ),
)  # fmt: skip

TASKS = (
    NEWS_IMAGE, CATALOGUE_IMAGE, CAPTION_IMAGE, QUESTION_PASSAGE, QUESTION_PICTURE, ARTICLE_PICTURE,
    NEWS_CAPTION, CATALOGUE_ENTRY, IMAGE_CAPTION, TWIN, ENTITY_PASSAGE, INFO_PASSAGE, SHAPE_CHANGE,
    SCENE_CHANGE, ENTITY_ARTICLE, INFO_ARTICLE,
)  # fmt: skip
"""All dataset-tasks, by their numbers."""
