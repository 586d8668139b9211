"""How well a pre-trained small MLLM answers about held-out scenes, and saving it with a model card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm  # type: ignore[import-untyped]
from typing_extensions import override

from callbacks.adapter_checkpoint import replaced_directory
from data_modules.synthetic.dialogues import FURTHER, PICTURE, Dialogue, Turn
from data_modules.synthetic.phases import Phase
from data_modules.synthetic.pretraining import DialogueDataModule
from mmretrieval.encoder.small_mllm import ASSISTANT, USER
from mmretrieval.pretraining import GenerativePretraining

Question = tuple[Dialogue, Turn]


class GenerativeEvaluation(Callback):
    """Asks about held-out scenes after training, and saves the model with a card that says how it did.

    Answers come from transformers' own processor and ``generate``, greedily, one turn at a time without the
    dialogue's other turns; right is what equals the expected answer in full.

    Args:
        folder: Where model, processor and card go; what is there is replaced when training ends.
        recipe: The configuration that the card names.
        dialogues: Held-out dialogues to ask, whose scenes show (colour, shape) pairs that training never did.
        batch_size: Answers generated at a time.

    Raises:
        MisconfigurationException: From ``setup``, if module or data module are of other kinds.
    """

    def __init__(
        self,
        folder: Path,
        recipe: str = "configs/pretrain_small_mllm.yaml",
        dialogues: int = 400,
        batch_size: int = 50,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.recipe = recipe
        self._device = "the CPU"
        self.dialogues = dialogues
        self.batch_size = batch_size
        self.accuracies: dict[str, tuple[float, int]] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, GenerativePretraining) or not isinstance(data, DialogueDataModule):
            raise MisconfigurationException(
                "GenerativeEvaluation works with GenerativePretraining and a DialogueDataModule, "
                f"found {type(pl_module).__name__} and {type(data).__name__}."
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            self._device = f"one {torch.cuda.get_device_name(pl_module.device)}"

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, GenerativePretraining):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        count = 8 if trainer.fast_dev_run else self.dialogues  # type: ignore[attr-defined]
        self.accuracies = self.evaluate(pl_module, data, count)
        for logger in trainer.loggers:
            values = {f"held_out/{kind}": share for kind, (share, _) in self.accuracies.items()}
            logger.log_metrics(values, step=trainer.global_step)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save(trainer, pl_module, data)

    @torch.inference_mode()
    def evaluate(
        self, module: GenerativePretraining, data: DialogueDataModule, count: int
    ) -> dict[str, tuple[float, int]]:
        """Return the share of right answers and the number of questions, by kind of answer."""
        questions: list[Question] = [
            (_without_further(dialogue, turn), turn)
            for dialogue in data.held_out(count)
            for turn in dialogue.turns
            if not turn.kind.endswith(FURTHER)
        ]
        # Pictures and texts apart, and by kind, so that prompts of a batch are about equally long.
        questions.sort(key=lambda question: (len(question[0].images), question[1].kind))
        module.eval()
        right, asked = Counter[str](), Counter[str]()
        starts = range(0, len(questions), self.batch_size)
        for start in tqdm(starts, desc="Asking about held-out scenes", unit="batch"):
            batch = questions[start : start + self.batch_size]
            for (_, turn), answer in zip(batch, self._answers(module, data, batch), strict=True):
                asked[turn.kind] += 1
                right[turn.kind] += answer == turn.answer
        return {kind: (right[kind] / asked[kind], asked[kind]) for kind in sorted(asked)}

    def _answers(
        self, module: GenerativePretraining, data: DialogueDataModule, questions: Sequence[Question]
    ) -> list[str]:
        texts = [f"{USER}{dialogue.opening(turn)}{ASSISTANT}" for dialogue, turn in questions]
        images = [image for dialogue, _ in questions for image in dialogue.images]
        inputs = data.processor(
            text=texts, images=images or None, padding=True, padding_side="left", return_tensors="pt"
        ).to(module.device)
        model: Any = module.model  # typed for mixins, not for use
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        said = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in data.tokenizer.batch_decode(said, skip_special_tokens=True)]

    def save(self, trainer: Trainer, module: GenerativePretraining, data: DialogueDataModule) -> None:
        """Write weights (bfloat16 safetensors), processor, tokenizer and model card."""
        with replaced_directory(self.folder, "processor_config.json") as stage:
            module.model.bfloat16().save_pretrained(stage)
            data.processor.save_pretrained(stage)
            (stage / "README.md").write_text(self.card(trainer, module, data))

    def card(self, trainer: Trainer, module: GenerativePretraining, data: DialogueDataModule) -> str:
        """Return the model card."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parameters = sum(parameter.numel() for parameter in module.parameters())
        rows = "\n".join(
            f"| {kind} | {share:.3f} | {asked} |" for kind, (share, asked) in self.accuracies.items()
        )
        return _CARD.format(
            parameters=parameters / 1e6,
            steps=trainer.global_step,
            batch=data.batch_size * trainer.world_size,
            seed=data.seed,
            device=self._device,
            recipe=self.recipe,
            start=_start(data),
            history="" if data.start is None else _history(data.start),
            tiled=data.tiled_every,
            phases="; then ".join(_phase(phase) for phase in data.phases),
            rows=rows,
            train_loss=values.get("train/loss", float("nan")),
            val_loss=values.get("val/loss", float("nan")),
            val_accuracy=values.get("val/token_accuracy", float("nan")),
        )


def _phase(phase: Phase) -> str:
    kinds = ", ".join(f"{kind} {weight:g}" for kind, weight in phase.kinds.items())
    return f"{phase.steps} steps of {kinds}"


def _start(data: DialogueDataModule) -> str:
    if data.start is None:
        return "random weights"
    if data.earlier is None:
        return "weights with a history"
    share = data.start_share
    return (
        f"{share:g} of weights with a history and {1 - share:g} of the earlier ones that they were made from"
    )


def _without_further(dialogue: Dialogue, turn: Turn) -> Dialogue:
    """The dialogue without the pictures of turns that are not asked."""
    if not dialogue.places_pictures:
        return dialogue
    return Dialogue(dialogue.images[: turn.prompt.count(PICTURE)], (turn,))


def _history(start: Path) -> str:
    """How the weights to start from were made, as their own card says; nothing if they have none."""
    card = start / "README.md"
    text = card.read_text("utf-8") if card.is_file() else ""
    made = text.partition(_MADE)[2].partition("\n\n")[0].rpartition(_KINDS)[0].strip()
    earlier = text.partition(_BEFORE)[2].partition("\n\n")[0]
    steps = [part for part in (made, earlier) if part]
    return f"\n{_BEFORE}" + "\n".join(steps) + "\n" if steps else ""


_MADE, _KINDS, _BEFORE = "\nMade by ", "\nKinds are ", "Before that, last first: by "
_CARD = """# The small MLLM that ships

A LLaVA-NeXT (transformers' `LlavaNextForConditionalGeneration`) of {parameters:.2f} M parameters that knows
only drawn scenes: up to three groups of equal objects, each with shape, colour, size, count and place, on a
background. It exists so that every command of this project runs without a download and without a GPU. It is
no general model.

Made by `lightning fit -c {recipe}` from {start}:
{steps} steps of {batch} dialogues on {device}, seed {seed}, every {tiled}th batch with any-resolution tiles,
the others with whole pictures. Drawn were, in these proportions: {phases}.
Kinds are captions, questions about pictures (colour, shape, size, place, count, background, relation),
rewriting of texts, portraits of single objects, what a change makes of a picture, and True/False: two
pictures, two texts, and queries with candidates of the embedded benchmark's kinds in the reranker's prompts.
Loss on the answers' tokens only. No scene and no fact of the embedded benchmark's test split is ever shown.
{history}
Last training loss {train_loss:.4f}. On held-out scenes, half of which show (colour, shape) pairs that
training never did: loss {val_loss:.4f}, token accuracy {val_accuracy:.4f}. Share of held-out answers that are
right in full (greedy generation, transformers' own processor; a caption names every fact of its scene):

| kind | right | asked |
|---|---|---|
{rows}

Prompts: `USER: <image>\\nDescribe the picture. ASSISTANT:`, also as the tokenizer's chat template. The
tokenizer is byte-level BPE and can spell any text. Weights are bfloat16 safetensors.
"""
