"""Two ranks mine what one process mines from the same weights."""

from functools import partial

import numpy as np
import pytest
from training_runs import as_rank


def _mined(trainer, module, data, folder):
    from callbacks import HardNegativeMining

    trainer.datamodule = data
    mining = HardNegativeMining(folder=folder)
    path, _, report, _ = mining.write_round(trainer, module, 0)
    with np.load(path) as file:
        names = ("query_ids", "offsets", "candidate_ids", "kinds", "ranks", "scores")
        arrays = {name: file[name].tolist() for name in names}
    return {"negatives": arrays, "wrong_modality": report.wrong_modality, "queries": report.queries}


def _worker(packed, folder, rank, world):
    # Only the spawned processes have the repository's root on their path.
    from lightning.pytorch.strategies import DDPStrategy

    from data_modules.corpus import PackedCorpus
    from tests.callbacks import conftest as fakes

    as_rank(rank, world)
    trainer = fakes.make_trainer(folder, devices=world, strategy=DDPStrategy())
    trainer.strategy.setup_environment()
    return _mined(trainer, fakes.FakeModule(), fakes.FakeData(PackedCorpus(packed)), folder / "negatives")


@pytest.mark.slow
def test_two_ranks_mine_the_negatives_of_one(run_on_ranks, tmp_path):
    from data_modules.corpus import PackedCorpus
    from data_modules.packing import pack
    from tests.callbacks import conftest as fakes

    packed = tmp_path / "packed"
    pack(fakes.write(tmp_path / "raw"), packed, progress=False)
    trainer = fakes.make_trainer(tmp_path / "one")
    data = fakes.FakeData(PackedCorpus(packed))
    expected = _mined(trainer, fakes.FakeModule(), data, tmp_path / "one/negatives")
    assert expected["wrong_modality"] > 0
    scores = expected["negatives"].pop("scores")
    for found in run_on_ranks(partial(_worker, packed, tmp_path / "two")):
        # In other batches, the last bits of an embedding may be others.
        np.testing.assert_allclose(found["negatives"].pop("scores"), scores, rtol=0, atol=1e-6)
        assert found == expected
