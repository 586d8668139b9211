"""The report says what evaluation and mining found, in the terminal and in a file."""

import matplotlib.image
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks import HardNegativeMining, RetrievalEvaluation, RunReport
from callbacks.run_report import summary_table
from mmretrieval.mining import MiningPlan

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"
)


def _table(text, heading):
    """Rows of the Markdown table under a heading, as lists of cells."""
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


@pytest.fixture
def fit(fakes, tmp_path, module, data):
    def fit(*callbacks, **settings):
        trainer = fakes.make_trainer(tmp_path, callbacks, **settings)
        trainer.fit(module, datamodule=data)
        return trainer

    return fit


def _arrow(evaluation, pool, task, name):
    return " → ".join(f"{100 * done.metrics[pool][task][name]:.1f}" for done in evaluation.history)


def test_the_report_has_every_round_of_every_task(fit, tmp_path, capsys):
    evaluation, mining = RetrievalEvaluation(), HardNegativeMining()
    fit(RunReport(), evaluation, mining)
    text = (tmp_path / "report.md").read_text()
    heading, *rows = _table(text, "Tasks")
    columns = [("global", n) for n in ("hit@1", "hit@5", "hit@10", "modality_accuracy@1")] + [
        ("local", "hit@5")
    ]
    assert heading == ["task", *(" ".join(column) for column in columns)]
    assert [row[0] for row in rows] == ["alpha_task0", "beta_task1", "average"]
    for task, *cells in rows:
        assert cells == [_arrow(evaluation, pool, task, name) for pool, name in columns]
    averages = _table(text, "Averages")
    assert [row[:2] for row in averages[1:]] == [
        ["start", "0"], ["epoch 1", "3"], ["epoch 2", "6"], ["epoch 3", "9"],
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert _arrow(evaluation, "global", "average", "hit@5") in shown
    assert "start → epoch 1 → epoch 2 → epoch 3" in shown


def test_the_final_split_has_tables_of_its_own(fit, tmp_path, capsys):
    evaluation = RetrievalEvaluation("train", final_split="test")
    fit(evaluation, RunReport())
    text = (tmp_path / "report.md").read_text()
    rounds = "start → epoch 1 → epoch 2 → epoch 3"
    assert f"percentages of the train queries: {rounds} and of the test queries: start → epoch 3." in text
    for split, of in (("train", evaluation), ("test", evaluation.final)):
        rows = {row[0]: row[2] for row in _table(text, f"Tasks, {split}")[1:]}
        assert rows["average"] == _arrow(of, "global", "average", "hit@5")
        assert len(_table(text, f"Averages, {split}")) == 1 + len(of.history)
    shown = capsys.readouterr().out
    assert "Retrieval on train, in percent" in shown
    assert "Retrieval on test, in percent" in shown


def test_mining_settings_and_versions_are_in_the_report(fit, tmp_path):
    mining = HardNegativeMining(MiningPlan(seed=41))
    fit(RetrievalEvaluation(), mining, RunReport())
    text = (tmp_path / "report.md").read_text()
    mined = {row[0]: row[1:] for row in _table(text, "Mined negatives")}
    assert mined["figure"] == ["round 0, step 3", "round 1, step 6"]
    assert mined["wrong_modality"] == [str(done.report.wrong_modality) for done in mining.reports]
    settings = dict(_table(text, "Settings"))
    assert (settings["mining.seed"], settings["model.lr"], settings["trainer.max_epochs"]) == (
        "41",
        "0.5",
        "3",
    )
    environment = dict(_table(text, "Environment"))
    assert {"python", "torch", "lightning", "device", "wall time"} <= set(environment)


def test_the_picture_of_the_report_is_one(fit, tmp_path):
    fit(RetrievalEvaluation(), RunReport(tmp_path / "there"))
    folder = tmp_path / "there"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "report.md"]
    picture = matplotlib.image.imread(folder / "curves.png")
    assert picture.std() > 0
    assert "](curves.png)" in (folder / "report.md").read_text()
    assert "None were mined." in (folder / "report.md").read_text()


def test_many_rounds_are_shortened_in_the_terminal_only(fit, tmp_path):
    evaluation = RetrievalEvaluation()
    fit(evaluation, RunReport(), max_epochs=5)
    cells = list(summary_table(evaluation).columns[2].cells)
    values = _arrow(evaluation, "global", "average", "hit@5").split(" → ")
    assert cells[-1] == " → ".join([values[0], "…", *values[-2:]])
    assert " → ".join(values) in (tmp_path / "report.md").read_text()


def test_a_dry_run_shows_the_table_and_writes_nothing(fit, tmp_path, capsys):
    fit(RetrievalEvaluation(), RunReport(), fast_dev_run=True)
    assert "start → epoch 1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_report_without_evaluation_is_refused(fit):
    with pytest.raises(MisconfigurationException, match="the trainer has none: add it"):
        fit(RunReport())
