"""``mmretrieval mine`` mines for all training queries, whatever the run had switched off or left out."""

import numpy as np
import pytest
import yaml

from callbacks import HardNegativeMining, RoundSubset
from data_modules.corpus import PackedCorpus
from data_modules.packing import pack
from mmretrieval.errors import UserError
from mmretrieval.tools.offline_mining import _configuration, mine_once
from tests.callbacks import conftest as fakes

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"
)


@pytest.fixture
def mined(tmp_path):
    """Mine once with settings of the trainer and of the callback; returns the file's folder."""
    pack(fakes.write(tmp_path / "raw"), tmp_path / "packed", progress=False)

    def run(subset=None, **settings):
        module, data = fakes.FakeModule(), fakes.FakeData(PackedCorpus(tmp_path / "packed"))
        trainer = fakes.make_trainer(tmp_path, max_epochs=1)
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        mining = HardNegativeMining(subset=subset, folder=tmp_path / "mined")
        trainer = fakes.make_trainer(tmp_path, **settings)
        mine_once(trainer, module, data, mining, tmp_path / "last.ckpt")
        return tmp_path / "mined"

    return run


def test_all_queries_are_mined_for_where_the_rounds_of_the_run_take_turns(mined):
    with np.load(mined(RoundSubset(queries=5, candidates=30)) / "round_0.npz") as part:
        some = {name: part[name] for name in ("query_ids", "offsets", "candidate_ids", "stamp")}
    with np.load(mined() / "round_0.npz") as whole:
        assert (np.diff(whole["offsets"]) > 0).sum() > 5
        for name, values in some.items():
            assert np.array_equal(values, whole[name]), name


def test_a_run_without_validation_can_be_mined_with(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"limit_val_batches": 0}}))
    written = yaml.safe_load(_configuration(tmp_path / "config.yaml", 1))
    assert written["trainer"]["limit_val_batches"] == 1


def test_patterns_of_the_plan_keep_their_order(tmp_path):
    patterns = {"vis*": 1, "*_task1": 2, "c*": 3}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"trainer": {}, "data_sets": patterns}, sort_keys=False)
    )
    written = yaml.safe_load(_configuration(tmp_path / "config.yaml", 1))
    assert [*written["data_sets"]] == [*patterns]


def test_a_trainer_that_does_not_validate_is_an_error_and_no_empty_success(mined, tmp_path):
    with pytest.raises(UserError, match=r"mined: nothing was mined.*limit_val_batches is 0"):
        mined(limit_val_batches=0)
    assert not (tmp_path / "mined").exists()
