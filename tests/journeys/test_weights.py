"""A user's weights: arrays in a notebook, out to timm's names, in again under another mixer."""

EXPERIMENT = """
from scanmax.data.config import DataConfig
from scanmax.train.config import Config, ModelConfig, OptimConfig, ScheduleConfig

def get_config(arg=""):
    kwargs = {"img_size": 8, "patch_size": 4, "dim": 32, "depth": 1, "heads": 2}
    kwargs["mixer_options"] = {"nc_ssd": {"expand": 1.0, "groups": 2, "state_size": 16}}
    return Config(
        model=ModelConfig(name="vit_tiny_patch16_224", kwargs=kwargs),
        data=DataConfig(name="arrays", data_dir="stripes.safetensors", image_size=8),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup="2 steps"),
        batch_size=16,
        duration="20 steps",
        eval_every="",
        log_every="20 steps",
    )
"""

NOTEBOOK = """
import numpy as np
from safetensors.numpy import save_file

import scanmax
import scanmax.train
from experiment import get_config

rng = np.random.default_rng(0)
labels = np.arange(80) % 2
images = rng.integers(0, 60, (80, 8, 8, 3))
images[labels == 0, ::4] += 150
images[labels == 1, :, ::4] += 150
images = images.astype(np.uint8)
config = get_config()
config.log.report = False
held_out = scanmax.train.train(config, "runs/softmax", data=(images, labels))
trained = scanmax.load("runs/softmax")
print(f"right: {held_out['accuracy'] == 1}, {trained.predict(images[1]).label}")
scanmax.save_weights(trained.variables, "softmax.safetensors", layout="timm")
save_file({"image": images, "label": labels}, "stripes.safetensors")
"""


def test_weights_of_a_notebook_go_to_timm_and_into_another_mixer(type_in, type_all, tmp_path):
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    status, told = type_in("-c", "import sys; sys.path.insert(0, '.')\n" + NOTEBOOK)
    assert (status, "right: True, 1" in told) == (0, True), told
    train = ("scanmax.train", "--config=experiment.py", "--config.log.report=False")
    swap = (*train, "--workdir=runs/scan", "--config.model.kwargs.mixer=nc_ssd")
    swap += ("--config.model.weights=softmax.safetensors", "--config.model.adapt=('mixer',)")
    mistake = [word.replace("('mixer',)", "()") for word in swap]
    refused, scan, longer = type_all(mistake, swap, (*swap, "--config.duration=30 steps"))
    assert refused[0] == 2
    assert "blocks.0.attn.qkv.weight: the model has no params/block_00/mixer/qkv" in refused[1]
    assert scan[0] == 0, scan[1]
    assert "softmax.safetensors: " in scan[1]
    assert (
        "adapted params/block_00/mixer/in_proj/bias, params/block_00/mixer/in_proj/kernel"
        in scan[1]
    )
    assert "afresh params/block_00/mixer/A_log" in scan[1]
    assert longer[0] == 0, longer[1]
    assert "schedule     cosine over 30 steps, not 20: step 21 is at " in longer[1]
