"""The page itself, made of Gradio's components."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmretrieval.collection.hits import Hit
from mmretrieval.collection.items import upright
from mmretrieval.collection.searching import Searcher
from mmretrieval.content import MODALITIES, Content, Modality
from mmretrieval.demo.mistakes import Mistakes
from mmretrieval.demo.results import results_html, thumbnail
from mmretrieval.errors import UserError
from mmretrieval.rerank.zero_shot import ZeroShotReranker

MAX_UPLOAD = "10mb"
"""Larger files are refused while they are uploaded."""
MAX_TEXT = 2_000
"""Longer texts are refused, in characters."""
MOST_HITS = 60
_LABELS = {Modality.TEXT: "texts", Modality.IMAGE: "pictures", Modality.IMAGE_TEXT: "pictures with text"}


class Page:
    """Answers what is asked on the page.

    Args:
        searcher: What searches.
        reranker: Loads the MLLM that reorders, when it is first asked for.
        mistakes: What the retriever's own evaluation says.
    """

    def __init__(
        self, searcher: Searcher, reranker: Callable[[], ZeroShotReranker], mistakes: Mistakes | None
    ) -> None:
        self.searcher, self.mistakes = searcher, mistakes
        self.reranker = cache(reranker)

    def preview(self, upload: str | None) -> str:
        """The uploaded picture, small, as HTML; nothing without one.

        Raises:
            UserError: If it is no picture that can be used.
        """
        image = _picture(upload)
        return "" if image is None else f'<img id="query-picture" src="{thumbnail(image)}">'

    def search(self, text: str, upload: str | None, wanted: list[str], k: float, rerank: bool) -> str:
        """What is found, as HTML.

        Args:
            text: The query's text, possibly empty.
            upload: File of the query's picture; ``None`` without one.
            wanted: Modalities to look for, by their codes in M-BEIR.
            k: How many items.
            rerank: Whether an MLLM reorders them.

        Raises:
            UserError: If there is nothing to search with or for, or the picture cannot be used.
        """
        image = _picture(upload)
        if not text.strip() and image is None:
            raise UserError("Give a text, a picture, or both.")
        if len(text) > MAX_TEXT:
            raise UserError(f"The text has {len(text)} characters; at most {MAX_TEXT} are searched with.")
        if not wanted:
            raise UserError("Choose at least one kind of thing to look for.")
        asked = Content(text.strip() or None, image)
        modalities = [Modality(code) for code in wanted]
        hits = self.searcher.search(asked, min(max(int(k), 1), MOST_HITS), modalities)
        if rerank:
            hits = self.searcher.rerank(asked, hits, self.reranker())
        return results_html(self.searcher.collection, hits, self._best(asked))

    def _best(self, asked: Content) -> list[Hit]:
        """The best of each modality, best first: what the filter hides, and what came near."""
        found = [hit for one in MODALITIES for hit in self.searcher.search(asked, 1, [one])[:1]]
        return sorted(found, key=lambda hit: -hit.score)

    def blocks(self) -> Any:  # noqa: ANN401 - gradio is optional
        """Lay the page out.

        Raises:
            UserError: If gradio is not installed.
        """
        gr = gradio()
        counts = self.searcher.collection.catalogue.counts()
        with gr.Blocks(title="mmretrieval", analytics_enabled=False, delete_cache=(600, 3600)) as page:
            gr.Markdown(
                f"# {self.searcher.retriever.name}\n{counts[0]:,} documents with {counts[1]:,} items. "
                "Search by text, by picture, or by both."
            )
            with gr.Tab("Search"), gr.Row():
                self._search_tab(gr)
            with gr.Tab("Mistakes of the run"):
                self._mistakes_tab(gr)
        return page

    def _search_tab(self, gr: Any) -> None:  # noqa: ANN401
        with gr.Column(scale=1, min_width=280):
            text = gr.Textbox(label="Text", lines=2, max_length=MAX_TEXT, elem_id="text")
            upload = gr.File(
                label=f"Picture, up to {MAX_UPLOAD}",
                file_types=[".jpg", ".jpeg", ".png", ".webp", ".gif"],
                type="filepath",
                elem_id="picture",
            )
            preview = gr.HTML()
            choices = [(_LABELS[one], one.value) for one in MODALITIES]
            wanted = gr.CheckboxGroup(
                choices, value=[m.value for m in MODALITIES], label="Look for", elem_id="wanted"
            )
            k = gr.Slider(1, MOST_HITS, value=12, step=1, label="How many")
            rerank = gr.Checkbox(label="Rerank with an MLLM (slower)", elem_id="rerank")
            button = gr.Button("Search", variant="primary", elem_id="search")
        with gr.Column(scale=3):
            results = gr.HTML(elem_id="results")
        inputs = [text, upload, wanted, k, rerank]
        # One search at a time: a second user's waits for the first one's.
        gr.on([button.click, text.submit], _told(gr, self.search), inputs, results, concurrency_limit=1)
        upload.change(_told(gr, self.preview), upload, preview, concurrency_limit=1)

    def _mistakes_tab(self, gr: Any) -> None:  # noqa: ANN401
        if self.mistakes is None:
            gr.Markdown("This retriever's folder has no evaluation: give a training run, not an export.")
            return
        gr.Markdown(
            "How often the best candidate in a pool of all modalities had the modality that was asked for "
            "(modality_accuracy@1), worst tasks first. In the pictures, green is right and red is wrong.\n\n"
            + self.mistakes.table
        )
        gr.Gallery(self.mistakes.pictures, columns=2, label="What was found, by task", interactive=False)


def serve(page: Page, host: str, port: int, *, wait: bool = True) -> Any:  # noqa: ANN401
    """Serve the page.

    Args:
        page: The page.
        host: Address to listen on.
        port: Port to listen on.
        wait: Whether to serve until the process is interrupted, or return what serves.

    Raises:
        UserError: If the port is taken, or gradio is not installed.
    """
    blocks = page.blocks()
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=not wait,
            max_file_size=MAX_UPLOAD,
            footer_links=[],
            css=(files("mmretrieval.demo") / "page.css").read_text("utf-8"),
            theme=gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            quiet=True,
        )
    except OSError as error:
        raise UserError(f"--port {port}: cannot be listened on at {host} ({error})") from None
    return blocks


def gradio() -> Any:  # noqa: ANN401
    """Import gradio, which is optional.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("The page needs gradio: pip install 'mmretrieval[demo]'") from error
    return gr


def _told(gr: Any, answer: Callable[..., str]) -> Callable[..., str]:  # noqa: ANN401
    """Show users' mistakes on the page; others are logged and shown as an error without its text."""

    def told(*inputs: object) -> str:
        try:
            return answer(*inputs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return told


def _picture(upload: str | None) -> Any:  # noqa: ANN401
    if upload is None:
        return None
    file = Path(upload)
    try:
        return upright(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file.name} cannot be used: {error}") from None
