"""Mixes of the weights at the start and at the end: what is measured, saved and left as it was."""

import json
from hashlib import sha256

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file, save_file

from callbacks import AdapterCheckpoint, ModelSoup, RetrievalEvaluation
from callbacks.model_soup import interpolated
from mmretrieval.errors import UserError
from mmretrieval.metrics.evaluation import EvaluationRound, with_average

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


class Measuring(RetrievalEvaluation):
    """Says how near one number of the weights is to a goal."""

    def __init__(self, goal, label="", **settings):
        super().__init__(headline="hit@5", **settings)
        self.goal, self.label, self.seen = goal, label, []

    @property
    def state_key(self):
        return self._generate_state_key(label=self.label)

    def evaluate(self, trainer, module, epoch=0):
        tokens = module.encoder.tokens.detach()
        moved = (tokens - module.first).norm() / (module.last - module.first).norm().clamp(min=1e-9)
        self.seen.append(round(float(moved), 6))
        value = {"hit@5": 1 - abs(float(moved) - self.goal)}
        self.latest = EvaluationRound(epoch, trainer.global_step, 0.0, {"local": with_average({"t": value})})
        return self.latest

    def _write(self, *_):
        pass


@pytest.fixture
def started(fakes, tmp_path):
    """A module that starts from saved weights, with what can be saved of it."""

    class Module(fakes.FakeModule):
        def __init__(self):
            super().__init__()
            self.init_from = tmp_path / "start"
            self.start_hash = None
            encoder = self.encoder
            encoder.trained_state = lambda: {"tokens": encoder.tokens.detach()}
            encoder.save_pretrained = self.save_into
            encoder.load_saved = self.load_from
            self.save_into(self.init_from)
            self.first = self.last = encoder.tokens.detach().clone()

        def save_into(self, folder):
            folder.mkdir(exist_ok=True)
            save_file(self.encoder.trained_state(), folder / "weights")
            (folder / "retriever.json").write_text("{}")

        def load_from(self, folder):
            with torch.no_grad():
                self.encoder.tokens.copy_(load_file(folder / "weights")["tokens"])

        def on_train_batch_end(self, *_):
            self.last = self.encoder.tokens.detach().clone()

    return Module()


def fit(fakes, module, data, folder, *callbacks, **settings):
    fakes.make_trainer(folder, callbacks, **settings).fit(module, datamodule=data)


@pytest.mark.parametrize("before", [True, False])
def test_mixes_are_measured_and_the_best_is_saved(fakes, started, data, tmp_path, capsys, before):
    multimodal = Measuring(0.2, before_training=before)
    text = Measuring(0.4, "text", before_training=before)
    soup = ModelSoup([1.0, 0.0, 0.25, 0.7])
    fit(fakes, started, data, tmp_path, multimodal, text, soup, AdapterCheckpoint())
    # In epochs, then the mixes; start and end are not measured again where they are known.
    assert multimodal.seen[-3 + before : None] == [0.25, 0.7] if before else [0.0, 0.25, 0.7]
    document = json.loads((tmp_path / "soup.json").read_text())
    assert document["best"] == 0.25
    assert [mix["share"] for mix in document["mixes"]] == [0.0, 0.25, 0.7, 1.0]
    best = document["mixes"][1]
    assert best == pytest.approx({"share": 0.25, "multimodal": 0.95, "text": 0.85, "mean": 0.9}, abs=1e-6)
    assert document["mixes"][3]["multimodal"] == pytest.approx(0.2, abs=1e-6)
    saved = load_file(tmp_path / "soup/weights")["tokens"]
    assert torch.allclose(saved, started.first + 0.25 * (started.last - started.first), atol=1e-6)
    assert torch.equal(started.encoder.tokens.detach(), started.last), (
        "the run's weights are those of its end"
    )
    assert torch.equal(load_file(tmp_path / "adapter/weights")["tokens"], started.last)
    assert torch.equal(load_file(started.init_from / "weights")["tokens"], started.first)
    assert (tmp_path / "soup.png").stat().st_size > 1000
    assert "│             0.25 │       95.0 │ 85.0 │ 90.0 │" in capsys.readouterr().out
    assert multimodal.latest.step == 9
    assert len(multimodal.history) == 3 + before


def test_the_final_split_is_measured_of_the_best_mix_alone(fakes, started, data, tmp_path):
    multimodal = Measuring(0.2)
    multimodal.final = Measuring(0.9)  # would choose another mix
    fit(fakes, started, data, tmp_path, multimodal, ModelSoup([0.0, 0.25, 0.7, 1.0]))
    assert multimodal.final.seen == [0.0, 1.0, 0.25], "at both ends, and of the best"
    document = json.loads((tmp_path / "soup.json").read_text())
    assert document["best"] == 0.25
    assert document["final"]["multimodal"] == pytest.approx(0.35, abs=1e-6)


def test_the_ends_are_exact():
    start, end = {"w": torch.tensor([0.1, -3.0])}, {"w": torch.tensor([1e8, 0.3])}
    assert torch.equal(interpolated(start, end, 0.0)["w"], start["w"])
    assert torch.equal(interpolated(start, end, 1.0)["w"], end["w"])


def test_what_is_missing_is_said_before_training(fakes, started, data, tmp_path):
    with pytest.raises(MisconfigurationException, match="the trainer has none"):
        fit(fakes, started, data, tmp_path, ModelSoup())
    started.init_from = None
    with pytest.raises(MisconfigurationException, match=r"give a run's folder as model\.init_from"):
        fit(fakes, started, data, tmp_path, Measuring(0.1), ModelSoup())
    for shares in ([0.5], [0.5, 1.5], [0.5, 0.5]):
        with pytest.raises(ValueError, match="at least two numbers between 0 and 1"):
            ModelSoup(shares)


def test_a_start_that_has_changed_meanwhile_is_not_mixed_with(fakes, started, data, tmp_path):
    (started.init_from / "adapter.safetensors").write_bytes(b"others")
    started.start_hash = sha256(b"those of the start").hexdigest()
    with pytest.raises(UserError, match="start has other weights now than when training started from them"):
        fit(fakes, started, data, tmp_path, Measuring(0.1), ModelSoup())
    assert torch.equal(started.encoder.tokens.detach(), started.last)


def test_a_dry_run_writes_nothing(fakes, started, data, tmp_path):
    fit(fakes, started, data, tmp_path, Measuring(0.1), ModelSoup(), fast_dev_run=True)
    assert not list(tmp_path.glob("soup*"))
