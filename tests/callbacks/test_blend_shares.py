"""The shares of the samples that were really trained on, over resumption and ranks' parts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy

from callbacks import BlendShares

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]
SOURCES = {"multimodal": ["alpha_task0"], "text": ["beta_task1"]}


class Saved(Callback):
    """Keeps a checkpoint of the middle of the second epoch."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 7:
            trainer.save_checkpoint(trainer.default_root_dir + "/seven.ckpt")


@pytest.fixture
def ready(fakes, packed):
    data = fakes.RowsOnly(packed, batch_size=8, batches_per_epoch=5)
    data.mixture = replace(data.mixture, sources=SOURCES, weights={"multimodal": 0.7, "text": 0.3})
    return data


@pytest.fixture
def trained(fakes, module, packed, tmp_path, monkeypatch):
    seen = []

    def step(batch, batch_idx):
        seen.append(batch.query_rows)
        return module.encoder.tokens.sum()

    monkeypatch.setattr(module, "training_step", step)

    def run(data, checkpoint=None):
        shares = BlendShares()
        trainer = fakes.make_trainer(tmp_path, [shares, Saved()], max_epochs=2)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return shares, trainer, seen

    return run


def test_shares_are_those_of_the_batches_that_were_consumed(trained, ready, capsys):
    shares, trainer, seen = trained(ready)
    queries = ready.queries("train")
    tasks = np.array(queries.tasks)[queries.task_of[torch.cat(seen).numpy()]]
    expected = {name: int(np.isin(tasks, own).sum()) for name, own in SOURCES.items()}
    assert shares.counts == expected == {"multimodal": 56, "text": 24}
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "blend" in name}
    assert logged == pytest.approx({"blend/share/multimodal": 0.7, "blend/share/text": 0.3})
    assert "Samples trained on: multimodal 70.00% (asked 70.00%), text 30.00%" in capsys.readouterr().out
    assert shares.section().rows[1] == ["text", "24", "30.00%", "30.00%"]


def test_counting_goes_on_after_a_resumption_in_an_epoch(trained, fakes, ready, packed, tmp_path):
    trained(ready)
    again = fakes.RowsOnly(packed, batch_size=8, batches_per_epoch=5)
    again.mixture = ready.mixture
    shares, _, seen = trained(again, checkpoint=tmp_path / "seven.ckpt")
    assert len(seen) == 10 + 3
    assert shares.counts == {"multimodal": 56, "text": 24}


def test_single_tasks_are_sources_where_nothing_else_is_said(trained, fakes, packed):
    shares, *_ = trained(fakes.RowsOnly(packed, batch_size=8, batches_per_epoch=5))
    assert shares.counts == {"alpha_task0": 48, "beta_task1": 32}


def test_other_data_are_refused(fakes, data, module, tmp_path):
    trainer = fakes.make_trainer(tmp_path, [BlendShares()])
    trainer.datamodule = data
    with pytest.raises(MisconfigurationException, match="BlendShares looks at what a"):
        trainer.callbacks[0].setup(trainer, module, "fit")


def _counted(rank, world):
    shares = BlendShares()
    shares.counts, shares._source_of = {"multimodal": 1, "text": 2}, np.array([0, 0, 1, 1, 1])
    trainer = SimpleNamespace(strategy=DDPStrategy())
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda *_, **__: None)
    rows = torch.tensor([0, 2] if rank else [3, 4, 1])
    shares.on_train_batch_end(trainer, module, None, SimpleNamespace(query_rows=rows), 0)
    return torch.tensor([*shares.counts.values()])


def test_all_ranks_samples_count(run_on_ranks):
    assert [counts.tolist() for counts in run_on_ranks(_counted)] == [[1 + 2, 2 + 3]] * 2
