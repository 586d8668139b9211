"""``mmretrieval export``: a trained retriever as a folder that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data_modules.atomic import staged_directory


def export(
    run: Path,
    out: Path,
    form: Literal["merged", "adapter", "both"] = "merged",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    modules: Literal["auto", "stock", "own", "none"] = "auto",
    license: str | None = None,
    metrics: Path | None = None,
    device: str = "auto",
    push_to_hub: str | None = None,
    private: bool = True,
) -> None:
    """Write a trained retriever as a folder for transformers, sentence-transformers and this project.

    What was written is loaded again and compared with the trained retriever before the folder appears.

    Args:
        run: A training run, or its 'adapter' folder.
        out: The folder to write; it must not exist, or be empty.
        form: 'merged' has the adapters merged into the base (in single precision), 'adapter' the trained
            weights alone, 'both' the first and, in its folder 'adapter', the second.
        dtype: Type of the merged weights; that of the training by default.
        modules: What sentence-transformers loads. 'stock' are its own modules, which need nothing else; 'own'
            is a module of this project, for options that those lack, and needs trust_remote_code=True; 'auto'
            takes 'stock' where it can; 'none' leaves them out.
        license: The licence's identifier on the hub; that of the base's model card by default.
        metrics: The metrics_test.json of an evaluation, for the model card; else what the run's folder has.
        device: Where to compute: cpu, cuda, or auto for cuda where there is one.
        push_to_hub: Upload the folder to the Hugging Face hub under this name; without it nothing leaves the
            machine.
        private: Whether a new repository there is seen by its owner only.
    """
    # They take seconds, which other sub-commands need not wait for.
    from mmretrieval.export.exporting import Wishes
    from mmretrieval.export.exporting import export as write
    from mmretrieval.export.hub import check_name, push
    from mmretrieval.tools.retrievers import device_of

    if push_to_hub is not None:
        check_name(push_to_hub)
    wishes = Wishes(form, dtype, modules, device_of(device), license, metrics)
    with staged_directory(out) as stage:
        written = write(run, stage, wishes)
    ways = ", ".join(f"{way} {value:.1e}" for way, value in written.differences.items())
    print(f"{out}: {form}, {written.dtype}; largest difference from the trained retriever: {ways}")
    if written.modules == "stock":
        print("SentenceTransformer reads long texts whole, Retriever cuts them as in training: see README.md")
    if written.reason is not None:
        print(
            f"SentenceTransformer(…, trust_remote_code=True) uses this project's module, as its own cannot "
            f"express {written.reason}"
        )
    if push_to_hub is not None:
        push(out, push_to_hub, private=private)
        print(f"Uploaded as {push_to_hub}")
