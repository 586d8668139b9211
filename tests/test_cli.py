import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import jsonargparse._common
import pytest
import torch
import yaml

from mmretrieval.cli import ALLOW_IMPORTS_VARIABLE, main
from mmretrieval.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning registers its instantiators the old way.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch"),
]

TOY = dedent(
    """
    import os
    from collections.abc import Callable
    from functools import partial
    from pathlib import Path
    from typing import Any

    import torch
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import OptimizerCallable
    from torch.utils.data import DataLoader, Dataset

    from mmretrieval.errors import UserError

    made = []
    shell = partial(os.system)


    class Numbers(Dataset):
        def __init__(self, bad_row):
            self.bad_row = bad_row

        def __len__(self):
            return 8

        def __getitem__(self, row):
            if row == self.bad_row:
                raise UserError(f"pairs.jsonl:{row}: no picture")
            return torch.full((4,), float(row))


    class ToyData(LightningDataModule):
        def __init__(self, root: Path = Path("."), bad_row: int = -1, num_workers: int = 0) -> None:
            super().__init__()
            self.root, self.bad_row, self.num_workers = root, bad_row, num_workers
            made.append(self)

        def train_dataloader(self):
            return DataLoader(Numbers(self.bad_row), batch_size=4, num_workers=self.num_workers)

        val_dataloader = train_dataloader


    class ToyModel(LightningModule):
        def __init__(
            self,
            width: int = 4,
            optimizer: OptimizerCallable = torch.optim.SGD,
            anything: Any = None,
            hook: Callable | None = None,
            refusal: str = "",
        ) -> None:
            super().__init__()
            if refusal:
                raise UserError(refusal)
            self.save_hyperparameters()
            self.width, self.optimizer, self.anything = width, optimizer, anything
            self.layer = torch.nn.Linear(4, width)
            made.append(self)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).pow(2).mean()

        def validation_step(self, batch, batch_idx):
            self.log("loss", self.layer(batch).pow(2).mean())

        def configure_optimizers(self):
            return self.optimizer(self.parameters())
    """
)

CONFIG = """\
trainer:
  max_steps: 2
  accelerator: cpu
  devices: 1
  log_every_n_steps: 1
  default_root_dir: outputs/toy
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: lightning.pytorch.loggers.TensorBoardLogger
    init_args:
      save_dir: ${trainer.default_root_dir}
      name: null
model:
  class_path: toy.ToyModel
  init_args:
    width: 3
data:
  class_path: toy.ToyData
  init_args:
    root: ${trainer.default_root_dir}/data
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(ALLOW_IMPORTS_VARIABLE, "toy.*")
    monkeypatch.setattr(jsonargparse._common, "parsing_settings", dict(jsonargparse._common.parsing_settings))
    precision = torch.get_float32_matmul_precision()
    yield tmp_path
    torch.set_float32_matmul_precision(precision)
    sys.modules.pop("toy", None)


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``lightning fit`` with an overlay that it must refuse, and return what it prints."""

    def run(overlay: str, *words: str) -> str:
        (folder / "overlay.yaml").write_text(overlay)
        with pytest.raises(SystemExit) as exit_:
            main(["fit", "-c", "config.yaml", "-c", "overlay.yaml", *words])
        assert exit_.value.code == 2
        message = capfd.readouterr().err
        assert "Traceback" not in message
        assert "usage:" not in message
        return message[message.index("lightning: ") :]

    return run


def in_model(setting: str) -> str:
    return f"model:\n  init_args:\n    {setting}\n"


def made(name: str) -> list:
    return [thing for thing in sys.modules["toy"].made if type(thing).__name__ == name]


def test_fit_trains_and_saves_a_configuration_that_can_be_run_again(folder: Path) -> None:
    assert main(["fit", "-c", "config.yaml"]) is None
    saved = folder / "outputs/toy/config.yaml"
    values = yaml.safe_load(saved.read_text())
    assert values["trainer"]["max_steps"] == 2
    assert values["model"]["init_args"]["width"] == 3
    assert values["data"]["init_args"]["root"] == "outputs/toy/data"
    assert values["seed_everything"] == 0
    assert list(folder.glob("outputs/toy/version_0/events*")), "the TensorBoard logger of the configuration"

    main(["fit", "-c", str(saved)])
    first, second = made("ToyModel")
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name])
    assert yaml.safe_load(saved.read_text()) == values
    assert [path.name for path in saved.parent.glob(".*")] == [], "no staged file is left"


def test_evaluation_does_not_replace_the_configuration_of_the_training(folder: Path) -> None:
    (folder / "outputs/toy").mkdir(parents=True)
    (folder / "outputs/toy/config.yaml").write_text("of the training")
    main(["validate", "-c", "config.yaml"])
    assert (folder / "outputs/toy/config.yaml").read_text() == "of the training"
    assert "toy.ToyModel" in (folder / "outputs/toy/config_validate.yaml").read_text()


def test_interpolated_values_follow_an_override_on_the_command_line(folder: Path) -> None:
    main(["fit", "-c", "config.yaml", "--trainer.default_root_dir=elsewhere", "--trainer.max_steps=1"])
    assert made("ToyData")[0].root == Path("elsewhere/data")
    assert (folder / "elsewhere/config.yaml").is_file()
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(("words", "precision"), [([], "highest"), (["medium"], "medium")])
def test_matmul_precision_is_a_setting(folder: Path, words: list[str], precision: str) -> None:
    torch.set_float32_matmul_precision("high")
    words = [f"--float32_matmul_precision={word}" for word in words]
    main(["fit", "-c", "config.yaml", "--trainer.max_steps=1", *words])
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.parametrize(
    ("overlay", "place", "key", "hint"),
    [
        (
            "trainer:\n  # max_step: 1\n  max_step: 1\n",
            "overlay.yaml:3: ",
            "trainer.max_step",
            "trainer.max_steps",
        ),
        ("trainr:\n  max_steps: 1\n", "overlay.yaml:2: ", "trainr.max_steps", "trainer.max_steps"),
        (in_model("widht: 1"), "overlay.yaml:3: model: ", "widht", "'width'"),
        (in_model("width: wide"), "overlay.yaml:3: model: ", "width: ", "wide"),
        (in_model("anything: ${nowhere}"), "overlay.yaml:3: ", "nowhere", "anything"),
        ("data:\n  class_path: toy.Nothing\n", "overlay.yaml:2: data: ", "toy.Nothing", "no attribute"),
        ("data:\n  class_path: toy.ToyModel\n", "overlay.yaml:1: data: ", "toy.ToyModel", "DataModule"),
        (
            "data:\n  class_path: mmretrieval.no.Such\n",
            "overlay.yaml:2: data: ",
            "mmretrieval.no.Such",
            "'no'",
        ),
        ("trainer: {max_steps: [\n", "overlay.yaml:2: ", "", ""),
        ("", "overlay.yaml: no settings", "", ""),
    ],
)
def test_a_mistake_in_a_configuration_names_key_and_line(
    refused: Callable[..., str], overlay: str, place: str, key: str, hint: str
) -> None:
    message = refused(overlay)
    assert message.startswith(f"lightning: {place}"), message
    assert key in message
    assert hint in message


def test_option_names_are_not_completed(refused: Callable[..., str]) -> None:
    assert "--trainer.max_ste" in refused("seed_everything: 0", "--trainer.max_ste=1")


def test_a_mistyped_argument_is_not_blamed_on_a_file(refused: Callable[..., str]) -> None:
    message = refused("seed_everything: 0", "--data.bad_rwo=1")
    assert message.startswith("lightning: data: ")
    assert "did you mean 'bad_row'" in message


ATTACKS = {
    "a shell": "os.system",
    "a shell through a module of ours": "mmretrieval.mining.negatives.os.remove",
    "a shell through an allowed module": "toy.os.system",
    "a shell bound by an allowed module": "toy.shell",
    "a tree's end": "data_modules.atomic.shutil.rmtree",
    "this program": "mmretrieval.cli.main",
    "an exit": "mmretrieval.cli.sys.exit",
    "the tools": "mmretrieval.tools.main.main",
    "a loader of pickles": "toy.torch.load",
    "a builtin without a module": "toy.torch.from_file",
    "a module's loader": "toy.__loader__.set_data",
    "a checkpoint's loader": "toy.ToyModel.load_from_checkpoint",
    "another command line": "lightning.pytorch.cli.LightningCLI",
    "Lightning's internals": "lightning.pytorch.callbacks.model_checkpoint.os.system",
    "a launcher": "lightning.pytorch.strategies.launchers._SubprocessScriptLauncher",
    "a callback that calls anything": "lightning.pytorch.callbacks.LambdaCallback",
    "the policy": "jsonargparse.set_parsing_settings",
    "evaluation": "builtins.eval",
}


@pytest.mark.parametrize("path", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize(
    "form", ["hook: {}", "hook: {{class_path: {}, init_args: {{command: touch pwned}}}}"]
)
def test_what_is_outside_the_allowed_imports_cannot_be_named(
    refused: Callable[..., str], path: str, form: str
) -> None:
    message = refused(in_model(form.format(path)))
    assert "is not among the allowed imports" in message
    assert ALLOW_IMPORTS_VARIABLE in message
    assert not Path("x").exists()


@pytest.mark.parametrize("key", ["model", "data", "trainer.logger", "trainer.strategy", "trainer.plugins"])
def test_no_place_of_a_configuration_runs_a_command(refused: Callable[..., str], key: str) -> None:
    spec = "{class_path: os.system, init_args: {command: touch pwned}}"
    for part in reversed(key.split(".")):
        spec = f"{{{part}: {spec}}}"
    message = refused(spec)
    assert message.startswith("lightning: overlay.yaml:1: ")
    assert "'os.system' is not among the allowed imports" in message
    assert not Path("pwned").exists()


def test_a_callback_in_a_list_is_checked(refused: Callable[..., str]) -> None:
    assert "'subprocess.Popen' is not among" in refused(
        "trainer: {callbacks: [{class_path: subprocess.Popen}]}"
    )


def test_yaml_tags_and_addresses_are_not_followed(refused: Callable[..., str]) -> None:
    refused("model: !!python/object/apply:os.system ['touch pwned']\n")
    refused("model: memory://model.yaml\n")
    assert not Path("pwned").exists()


def test_an_untyped_argument_takes_data_and_no_instance(folder: Path) -> None:
    spec = {"class_path": "toy.ToyData", "init_args": {"bad_row": 5}}
    (folder / "overlay.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"anything": spec}}}))
    main(["fit", "-c", "config.yaml", "-c", "overlay.yaml", "--trainer.max_steps=1"])
    assert len(made("ToyData")) == 1
    assert not isinstance(made("ToyModel")[0].anything, type(made("ToyData")[0]))


def test_own_code_needs_the_environment_variable(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOW_IMPORTS_VARIABLE)
    # The settings only grow, so a variable of an earlier call in the same process must not hide the refusal.
    monkeypatch.setitem(jsonargparse._common.parsing_settings, "import_path_verdicts", {})
    assert "'toy.ToyModel' is not among the allowed imports" in refused("seed_everything: 0")


@pytest.mark.parametrize("value", ["*", "toy.*,", "my package", "jsonargparse", "toy/*.py"])
def test_the_environment_variable_is_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv(ALLOW_IMPORTS_VARIABLE, value)
    if value == "toy.*,":
        main(["fit", "-c", "config.yaml", "--trainer.max_steps=1"])
        assert len(made("ToyModel")) == 1
        return
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "-c", "config.yaml"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f"lightning: {ALLOW_IMPORTS_VARIABLE} lists ")


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_a_run_resumes_from_plain_tensors_only(
    refused: Callable[..., str], folder: Path, address: str
) -> None:
    main(["fit", "-c", "config.yaml"])
    (checkpoint,) = folder.glob("outputs/toy/version_0/checkpoints/*.ckpt")
    main(["fit", "-c", "config.yaml", "--trainer.max_steps=3", f"--ckpt_path={checkpoint}"])
    assert made("ToyModel")[1].global_step == 3, "an honest checkpoint is continued"

    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "bomb": Bomb()}, folder / "bomb.ckpt")
    message = refused("seed_everything: 0", f"--ckpt_path={address.format(folder / 'bomb.ckpt')}")
    assert "plain tensors" in message
    assert "--weights_only" in refused("seed_everything: 0", "--weights_only=false")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_is_one_message(refused: Callable[..., str], workers: int) -> None:
    overlay = f"data:\n  init_args:\n    bad_row: 5\n    num_workers: {workers}\n"
    assert refused(overlay).splitlines()[-1] == "lightning: pairs.jsonl:5: no picture"


def test_a_refusal_while_instances_are_made_is_one_message(refused: Callable[..., str]) -> None:
    message = refused(in_model("refusal: no such model folder"))
    assert message == "lightning: no such model folder\n"


def test_other_errors_keep_their_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("mmretrieval.cli.RetrievalCLI.before_instantiate_classes", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["fit", "-c", "config.yaml"])


def test_errors_of_data_and_mined_negatives_are_user_errors() -> None:
    from data_modules.formats.records import DataError
    from mmretrieval.mining.stamp import DamagedNegativesError, StaleNegativesError

    for error in (DataError, DamagedNegativesError, StaleNegativesError):
        assert issubclass(error, UserError)


def test_help_says_how_to_allow_own_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert ALLOW_IMPORTS_VARIABLE in text
    assert "--float32_matmul_precision" in text
    assert "--ckpt_path" in text
