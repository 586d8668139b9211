"""Every overlay in configs/model and configs/pooling, with a tiny stand-in for its weights."""

import re
from inspect import signature
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file
from tiny_families import make_tiny

from mmretrieval.cli import main
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.latent_attention import PREFIX, LatentAttention, LatentAttentionOptions
from mmretrieval.encoder.mllm_encoder import MLLMEncoder

CONFIGS = Path(__file__).parents[2] / "configs"
FAMILY_OF = {
    "gemma3_4b": "gemma3",
    "internvl3_1b": "internvl",
    "llava_next_7b": "llava_next",
    "llava_onevision_0_5b": "llava_onevision",
    "nvembed_llava_next": "llava_next",
    "paligemma2_3b": "paligemma",
    "qwen2_5_vl_3b": "qwen2_5_vl",
    "qwen2_vl_2b": "qwen2_vl",
    "qwen3_vl_2b": "qwen3_vl",
    "smolvlm_256m": "idefics3",  # the first SmolVLMs are of that class, the second ones of their own
}
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
POOLINGS = sorted(path.stem for path in (CONFIGS / "pooling").glob("*.yaml"))


@pytest.fixture
def loaded(monkeypatch):
    """The encoders that a run loads."""
    encoders, load = [], MLLMEncoder.load

    def spy(encoder):
        encoders.append(encoder)
        load(encoder)

    monkeypatch.setattr(MLLMEncoder, "load", spy)
    return encoders


def assert_as_asked(encoder, overlay, replaced=()):
    """Every setting of the overlay, but for those replaced, is the loaded encoder's."""
    for name, value in settings_of(overlay).items():
        found = getattr(encoder, name)
        parts = value if isinstance(value, dict) else {None: value}
        for part, expected in parts.items():
            if (name, part) not in replaced:
                assert (found if part is None else getattr(found, part)) == expected, (name, part)


def dry(overlay, out, options=()):
    configs = ["-c", str(CONFIGS / "stage1.yaml"), "-c", str(CONFIGS / overlay)]
    few = ["--data.init_args.size=32", "--data.init_args.batch_size=4", "--data.init_args.num_workers=0"]
    few += ["--trainer.fast_dev_run=1", "--trainer.callbacks=[]", f"--trainer.default_root_dir={out}"]
    main(["fit", *configs, *few, *options])


def settings_of(overlay):
    model = yaml.safe_load((CONFIGS / overlay).read_text())["model"]
    return model["init_args"]["encoder"]["init_args"]


def nv_embed(folder):
    """A stand-in for NV-Embed: a text model with its latent attention, in one file."""
    encoder = MLLMEncoder(base=str(make_tiny("llava_next", folder / "mllm", seed=3)), lora=None)
    encoder.load()
    language_model = encoder.core.language_model
    language_model.config.save_pretrained(folder)
    latents = LatentAttention(64, LatentAttentionOptions(latents=512, heads=8, head_width=16))
    state = {f"embedding_model.{name}": tensor for name, tensor in language_model.state_dict().items()}
    state |= {f"{PREFIX}{name}": tensor for name, tensor in latents.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_model_overlay_trains_a_tiny_model_of_its_family(name, tmp_path, loaded):
    base = make_tiny(FAMILY_OF[name], tmp_path / "base")
    prefix = "--model.init_args.encoder.init_args"
    options = [f"{prefix}.base={base}"]
    if "language_model" in settings_of(f"model/{name}.yaml")["loading"]:
        folder = tmp_path / "nv_embed"
        folder.mkdir()
        options.append(f"{prefix}.loading.language_model={nv_embed(folder)}")
        options.append(f"{prefix}.latent_attention.head_width=16")  # 4096 take minutes in bfloat16 on a CPU
    dry(f"model/{name}.yaml", tmp_path / "out", options)
    encoder = loaded[-1]
    assert encoder.family is FAMILIES[FAMILY_OF[name]]
    assert any("lora_B" in key and tensor.any() for key, tensor in encoder.trained_state().items())  # a step
    replaced = [("base", None), ("loading", "language_model"), ("latent_attention", "head_width")]
    assert_as_asked(encoder, f"model/{name}.yaml", replaced)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_overlay_trains_the_embedded_model(name, tmp_path, loaded):
    dry(f"pooling/{name}.yaml", tmp_path)
    assert_as_asked(loaded[-1], f"pooling/{name}.yaml")
    assert any("lora_B" in key and tensor.any() for key, tensor in loaded[-1].trained_state().items())


def test_every_overlay_says_how_to_run_it():
    for folder in ("model", "pooling", "continual"):
        for path in (CONFIGS / folder).glob("*.yaml"):
            assert f"-c configs/{folder}/{path.name}" in path.read_text()


@pytest.mark.parametrize("hardware", sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml")))
def test_hardware_overlays_are_understood(hardware, capsys):
    overlay = CONFIGS / "hardware" / f"{hardware}.yaml"
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", str(CONFIGS / "stage1.yaml"), "-c", str(overlay), "--print_config"])
    assert ended.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]
    asked = yaml.safe_load(overlay.read_text())["trainer"]
    for name in {"accelerator", "devices", "precision", "num_nodes"} & asked.keys():
        assert printed[name] == asked[name]
    watched = [entry["class_path"] for entry in printed["callbacks"]]
    assert ("callbacks.RankWatch" in watched) == ("callbacks+" in asked)
    assert "callbacks.ResumeCheckpoint" in watched  # appended to, not replaced


def test_the_cpu_overlay_runs(tmp_path, loaded):
    dry("hardware/cpu.yaml", tmp_path)
    assert len(loaded) == 1


def test_every_key_of_the_encoder_that_the_readme_lists_is_there():
    lines = (CONFIGS.parent / "README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| key of the encoder | what |") + 2
    rows = list(takewhile(lambda line: line.startswith("|"), lines[start:]))
    keys = [key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(keys) > 5
    known = set(signature(MLLMEncoder).parameters)
    assert [key for key in keys if key not in known] == []
