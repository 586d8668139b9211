"""A reranker's scores of mined negatives reach the samples, are kept, and are not computed twice."""

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks import HardNegativeMining, RerankerTargets
from data_modules.corpus import PackedCorpus
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import MixtureSettings
from mmretrieval.loss import RerankerDistillation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


class Reranker(torch.nn.Module):
    """Scores by what is said and shown."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def score(self, query, candidates, task):
        shown = [c.content.image and c.content.image.getpixel((0, 0)) for c in candidates]
        texts = [f"{query.content.text} {c.content.text} {p}" for c, p in zip(candidates, shown, strict=True)]
        self.asked += [(task, text) for text in texts]
        return torch.tensor([float(np.random.default_rng([*text.encode()]).random()) for text in texts])

    def score_hash(self, task):
        return f"hash of {task}"

    def load(self):
        pass

    release = load


@pytest.fixture
def distilled(fakes, packed):
    """A data module whose sampler takes negatives and targets, and a module that distils."""

    class Data(fakes.FakeData):
        def __init__(self, corpus):
            super().__init__(corpus)
            self.sampler = MixtureBatchSampler(self.queries("train"), MixtureSettings(batch_size=8))

        def set_negatives(self, table):
            super().set_negatives(table)
            self.sampler.negatives = table

        def set_targets(self, targets):
            self.sampler.targets = targets

    class Module(fakes.FakeModule):
        reranker_distillation = RerankerDistillation()

    return Data(PackedCorpus(packed)), Module()


def fit(fakes, folder, distilled, reranker, **settings):
    callbacks = [HardNegativeMining(), RerankerTargets(reranker)]
    fakes.make_trainer(folder, callbacks, **settings).fit(distilled[1], datamodule=distilled[0])


def test_samples_have_the_scores_of_their_candidates(fakes, distilled, tmp_path):
    data, reranker = distilled[0], Reranker()
    fit(fakes, tmp_path, distilled, reranker, max_epochs=2)
    items = [item for position in range(len(data.sampler)) for item in data.sampler.batch(1, position)]
    assert {bool(item.negatives) for item in items} == {True, False} or all(item.negatives for item in items)
    corpus, queries = data.corpus, data.queries("train")
    for item in items:
        ids = [int(queries.positives(item.query)[0]), *item.negatives] if item.negatives else []
        query = queries.asked(item.query, 0)
        candidates = [corpus.candidate(row) for row in ids]
        expected = Reranker().score(query, candidates, "")
        assert item.targets == pytest.approx(tuple(expected.tolist()))
    tasks = {task for task, _ in reranker.asked}
    assert tasks == {"alpha_task0", "beta_task1"}


def test_nothing_is_scored_twice(fakes, distilled, tmp_path):
    first = Reranker()
    fit(fakes, tmp_path, distilled, first, max_epochs=3)
    assert len(first.asked) > 40
    again = Reranker()  # begins with the last round's negatives, and mines other ones
    fit(fakes, tmp_path, distilled, again, max_epochs=3)
    assert again.asked
    assert len({*first.asked}) + len({*again.asked}) == len({*first.asked, *again.asked})


def test_a_dry_run_scores_nothing(fakes, distilled, tmp_path):
    reranker = Reranker()
    fit(fakes, tmp_path, distilled, reranker, fast_dev_run=True)
    assert not reranker.asked
    assert not (tmp_path / "targets").exists()


def test_what_is_missing_is_said_before_training(fakes, distilled, module, tmp_path):
    data, distilling = distilled
    with pytest.raises(MisconfigurationException, match=r"list callbacks\.HardNegativeMining before"):
        fakes.make_trainer(tmp_path, [RerankerTargets(Reranker())]).fit(distilling, datamodule=data)
    together = Reranker()
    together.independent = False
    with pytest.raises(MisconfigurationException, match="do not depend on what is scored together"):
        fakes.make_trainer(tmp_path, [HardNegativeMining(), RerankerTargets(together)]).fit(
            distilling, datamodule=data
        )
    with pytest.raises(MisconfigurationException, match="give the model a reranker_distillation"):
        fakes.make_trainer(tmp_path, [HardNegativeMining(), RerankerTargets(Reranker())]).fit(
            module, datamodule=data
        )
