"""``mmretrieval rerank``: reorder what a retriever found with an MLLM as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mmretrieval.errors import UserError
from mmretrieval.tools.retrievers import description

_CONFIGS = ("config_test.yaml", "config_validate.yaml", "config.yaml")
_DATA = ("root", "size", "data_seed")


def rerank(
    run: Path,
    out: Path,
    model: str = "embedded",
    root: Path | None = None,
    split: str = "test",
    top_k: int = 10,
    weight: float = 1.0,
    prompts: Path | None = None,
    qrels: Path | None = None,
    dtype: str = "float32",
    chat: bool = True,
    describe: bool | None = None,
    devices: int = 1,
) -> None:
    """Reorder a run's best candidates by an MLLM's True or False, and say what that gained and lost.

    Scores are kept in OUT/scores: the same command goes on after a kill, and scores nothing twice.

    Args:
        run: Folder of an evaluated run, a folder of .trec files, or one of them; any system's.
        out: Folder for run files, measures, a report and pictures.
        model: The MLLM, a folder or hub name; 'embedded' is the small one that ships.
        root: The data that was searched, in the M-BEIR layout; by default that of the run's configuration,
            or the embedded benchmark.
        split: The split whose queries were asked.
        top_k: How many of each query's best candidates are scored.
        weight: Of the MLLM's score, from 0 to 1; the rest is the retriever's.
        prompts: YAML file of prompts by task.
        qrels: A file of qrels or a folder of them; by default those beside the run files, or the data's.
        dtype: float32, bfloat16 or float16.
        chat: Whether prompts are turns of the model's chat template; false for a model without one.
        describe: Whether the MLLM first puts pictures into words and judges these; by default only the
            embedded one does.
        devices: How many processes or GPUs share the work.
    """
    # They take seconds, which other sub-commands need not wait for.
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import TQDMProgressBar
    from lightning.pytorch.loggers import TensorBoardLogger

    from callbacks import RerankWriter
    from data_modules import RerankDataModule
    from mmretrieval.encoder.backbone import Loading
    from mmretrieval.rerank.module import Reranking
    from mmretrieval.rerank.zero_shot import ZeroShotReranker

    data: dict[str, Any] = {"root": root} if root is not None else _data_of(run)
    try:
        module = RerankDataModule(run, split=split, top_k=top_k, **data)
        writer = RerankWriter(weight=weight, qrels=qrels)
    except ValueError as error:
        raise UserError(str(error)) from error
    reranker = ZeroShotReranker(
        model,
        Loading(dtype=dtype),
        prompts=prompts,
        chat=chat,
        describe=description(model, describe=describe),
    )
    trainer = Trainer(
        devices=devices,
        default_root_dir=out,
        callbacks=[TQDMProgressBar(), writer],
        logger=TensorBoardLogger(out, name="tensorboard"),
        enable_checkpointing=False,
        use_distributed_sampler=False,  # the data module gives each rank its own queries
    )
    trainer.predict(Reranking(reranker), datamodule=module, return_predictions=False)


def _data_of(run: Path) -> dict[str, Any]:
    """What the run's configuration says of its data."""
    file = next((run / name for name in _CONFIGS if (run / name).is_file()), None)
    if file is None:
        return {}
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))["data"]["init_args"]
        found = {name: settings[name] for name in _DATA if settings.get(name) is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: does not say which data were searched ({error}); give --root") from error
    return {**found, "root": Path(found["root"])} if "root" in found else found
