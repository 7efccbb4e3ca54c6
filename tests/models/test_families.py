"""Registration: every family file is found, a user's own joins, and wrong tables are refused."""

import pathlib

import flax.linen as nn
import jax
import pytest

from scanmax import models
from scanmax.errors import UserError
from scanmax.models import Variant, create_model, list_models, model_info, register_family, registry


class Own(nn.Module):
    num_classes: int = 2
    widths: tuple[int, ...] = (3,)

    @nn.compact
    def __call__(self, images, train=False):
        x = images.mean((1, 2))
        for width in self.widths:
            x = nn.Dense(width)(x)
        return nn.Dense(self.num_classes)(x)

    @nn.nowrap
    def feature_info(self):
        return ()


def row(params=17, **config):
    return Variant(params, (4, 4, 2), "", config)


@pytest.fixture(autouse=True)
def own_family():
    list_models()
    before = dict(registry._families)
    register_family("own", Own, {"own_tiny": row()})
    yield
    registry._families.clear()
    registry._families.update(before)
    registry._model_info.cache_clear()


def test_every_file_that_registers_is_listed():
    root = pathlib.Path(models.__file__).parent
    registering = {
        ".".join(file.relative_to(root).with_suffix("").parts)
        for file in root.rglob("*.py")
        if "\nregister_family(" in file.read_text()
    }
    assert registering == set(registry.FAMILY_MODULES)


def test_a_users_family_joins_and_may_be_registered_again():
    info = model_info("own_tiny")
    variables = create_model("own_tiny").init(jax.random.key(0), jax.numpy.zeros((1, 4, 4, 2)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == info.params
    register_family("own", Own, {"own_tiny": row(24, widths=(4,))})
    assert model_info("own_tiny").params == 24
    assert list_models(family="own") == ["own_tiny"]


def test_lists_of_config_files_become_hashable():
    hash(create_model("own_tiny", widths=[3, [4]]))


def test_a_wrong_table_is_refused():
    with pytest.raises(ValueError, match="no field \\['width'\\]"):
        register_family("own", Own, {"own_tiny": row(width=3)})
    with pytest.raises(ValueError, match="input_kind='audio'"):
        register_family("own", Own, {}, input_kind="audio")
    with pytest.raises(ValueError, match=r"registered by scanmax\.models\.vision\.vit"):
        register_family("vit", Own, {})
    with pytest.raises(ValueError, match="'own_tiny' of 'other' is a model of 'own'"):
        register_family("other", Own, {"own_tiny": row()})


@pytest.mark.parametrize(
    ("name", "field", "told"),
    [
        ("deit_tiny_patch16_224", "pretrained", "weights are read by scanmax.load_weights"),
        ("resnet18", "in_chans", "channels are those of the images"),
        ("deit_tiny_patch16_224", "embed_dim", "it is dim= here"),
        ("swin_tiny_patch4_window7_224", "embed_dim", "it is dims= here"),
        ("deit_tiny_patch16_224", "global_pool", "it is pool= here"),
        ("convnext_tiny", "global_pool", "num_classes=0 gives the pooled features"),
        ("lm_tiny", "num_heads", "it is heads= here"),
        ("resnet18", "num_heads", "did you mean 'num_classes'"),
    ],
)
def test_words_of_other_libraries_are_answered(name, field, told):
    with pytest.raises(UserError, match=f"has no field '{field}'; {told}"):
        create_model(name, **{field: 64})


def test_what_the_answers_name_is_a_field_of_some_family():
    fields = {
        field
        for family in registry._load().values()
        for field in registry._field_names(family.module)
    }
    for known in registry.OTHER_NAMES.values():
        assert isinstance(known, str) or set(known) <= fields
