"""mteb's own tiny tasks, of every kind that has texts and pictures only."""

import mteb
import numpy as np
import pytest
from mteb.mocks import mock_tasks
from mteb.mocks.mock_tasks import __all__ as names

KINDS = [
    task
    for task in (getattr(mock_tasks, name) for name in names)
    if isinstance(task, type) and {"text", "image"} >= {*task.metadata.modalities}
]

UNDEFINED = {"MockVisualSTS"}  # both of its pairs have the same score: there is no correlation


def test_there_are_tasks_of_many_kinds():
    assert len({kind.metadata.type for kind in KINDS}) > 15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of scikit-learn, for tasks of a handful of inputs
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.metadata.name)
def test_every_kind_of_task_is_evaluated(retriever, kind):
    done = mteb.evaluate(retriever, kind(), cache=None, co2_tracker=False, show_progress_bar=False)
    assert np.isfinite(done.task_results[0].get_score()) or kind.metadata.name in UNDEFINED
