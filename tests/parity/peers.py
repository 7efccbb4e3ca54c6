"""Small models of timm and transformers with seeded weights, their logits and their gradients.

The live parity tests and the scripts that make golden files both start here. torch, timm and
transformers are needed (the `parity` extra), scanmax is not.
"""

import dataclasses

import numpy as np
import torch

from benchmarks.peers import import_peer

timm = import_peer("timm")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a peer computed.

    Attributes:
      weights: its parameters, under its own names.
      inputs: images [B, Y, X, C] or tokens [B, T].
      cotangent: the gradients are those of sum(logits * cotangent).
      logits: its outputs in evaluation mode.
      grads: gradient of each parameter, under its own names.
      input_grad: gradient of the images; None for tokens.
      train_logits: of a model with running averages, its outputs in training mode.
      statistics: its buffers after that step, under its own names.
      maps: of an image model of timm, [B, Y, X, C] behind each block or stage as it counts them.
    """

    weights: dict[str, np.ndarray]
    inputs: np.ndarray
    cotangent: np.ndarray
    logits: np.ndarray
    grads: dict[str, np.ndarray]
    input_grad: np.ndarray | None
    train_logits: np.ndarray | None = None
    statistics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    maps: tuple[np.ndarray, ...] = ()


def deit(distilled: bool = False, seed: int = 0, dtype=torch.float32, **own) -> Run:
    """A DeiT of two blocks, width 32, on 32x32 images in patches of 8; `own` are fields of timm."""
    name = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    fields = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, **own}
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10, **fields)
    return _run_images(model, fields["img_size"], seed, dtype)


def convnext(seed: int = 0, dtype=torch.float32) -> Run:
    """A ConvNeXt of four stages, widths 8 to 32, on 64x64 images."""
    torch.manual_seed(seed)
    model = timm.create_model(
        "convnext_tiny", num_classes=10, depths=(1, 1, 1, 1), dims=(8, 12, 16, 32)
    )
    return _run_images(model, 64, seed, dtype)


def image_model(
    model,
    size: int,
    seed: int = 0,
    dtype=torch.float32,
    maps: dict | None = None,
    noise: float = 0.1,
    **own,
) -> Run:
    """Any classifier of timm with ten classes, a name or a class, on square images.

    `own` are its fields; functions behind names may refuse some that classes take. `maps` are those
    of `forward_intermediates`, whose maps the run then has; `noise` is what is added to parameters,
    less where wide layers would make it grow.
    """
    torch.manual_seed(seed)
    if isinstance(model, str):
        model = timm.create_model(model, num_classes=10, **own)
    else:
        model = model(num_classes=10, **own)
    run = _run_images(model, size, seed, dtype, noise)
    if maps is None:
        return run
    # Without the step of training that moved the averages.
    model.load_state_dict({name: torch.from_numpy(x) for name, x in run.weights.items()})
    images = torch.from_numpy(run.inputs).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = model.eval().forward_intermediates(images, intermediates_only=True, **maps)
    found = tuple(x.permute(0, 2, 3, 1).numpy().copy() for x in found)
    return dataclasses.replace(run, maps=found)


def cvt(size: int, seed: int = 0, dtype=torch.float32) -> Run:
    """A CvT of transformers: two stages, widths 8 and 16, the second with the class token."""
    from transformers import CvtConfig, CvtForImageClassification

    torch.manual_seed(seed)
    config = CvtConfig(
        patch_sizes=(7, 3),
        patch_stride=(4, 2),
        patch_padding=(2, 1),
        embed_dim=(8, 16),
        num_heads=(1, 2),
        depth=(1, 2),
        drop_path_rate=(0.0, 0.0),
        cls_token=(False, True),
        num_labels=10,
    )
    model = CvtForImageClassification(config)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    run = _run(model, images, seed, dtype, lambda pixels: model(pixel_values=pixels).logits)
    # Without the step of training that moved the averages.
    model.load_state_dict({name: torch.from_numpy(x) for name, x in run.weights.items()})
    with torch.no_grad():
        found = model.eval().cvt(pixel_values=images.to(dtype), output_hidden_states=True)
    maps = tuple(x.permute(0, 2, 3, 1).numpy().copy() for x in found.hidden_states)
    return dataclasses.replace(run, maps=maps)


def mamba2(
    groups: int = 1, length: int = 37, tied: bool = True, seed: int = 0, dtype=torch.float32, **own
) -> Run:
    """A Mamba-2 language model of two blocks, width 16, with 4 heads of width 8."""
    model = _mamba2(groups, tied, seed, **own)
    # An odd length crosses chunks of both models at different places.
    tokens = torch.randint(0, 24, (2, length), generator=torch.Generator().manual_seed(seed))
    return _run(model, tokens, seed, dtype, lambda inputs: model(inputs, use_cache=False).logits)


def mamba2_generation(new_tokens: int, seed: int = 0) -> tuple[Run, np.ndarray]:
    """A run of `mamba2` with two groups, and its prompts with their greedy continuation."""
    model = _mamba2(2, True, seed)
    tokens = torch.randint(0, 24, (2, 11), generator=torch.Generator().manual_seed(seed))
    run = _run(model, tokens, seed, torch.float32, lambda x: model(x, use_cache=False).logits)
    generated = model.generate(
        tokens, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return run, generated.numpy()


def mamba(length: int = 23, tied: bool = True, seed: int = 0, dtype=torch.float32) -> Run:
    """A Mamba language model of two blocks, width 16, with 32 channels of 4 states."""
    model = _mamba(tied, seed)
    tokens = torch.randint(0, 24, (2, length), generator=torch.Generator().manual_seed(seed))
    return _run(model, tokens, seed, dtype, lambda inputs: model(inputs, use_cache=False).logits)


def mamba_generation(new_tokens: int, seed: int = 0) -> tuple[Run, np.ndarray]:
    """A run of `mamba`, and its prompts with their greedy continuation."""
    model = _mamba(True, seed)
    tokens = torch.randint(0, 24, (2, 11), generator=torch.Generator().manual_seed(seed))
    run = _run(model, tokens, seed, torch.float32, lambda x: model(x, use_cache=False).logits)
    generated = model.generate(
        tokens, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return run, generated.numpy()


def parameters_of_mamba(dim: int, depth: int, vocab_size: int) -> int:
    """Parameters of transformers' Mamba of that size, without their memory."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=vocab_size, hidden_size=dim, num_hidden_layers=depth)
    with torch.device("meta"):
        model = MambaForCausalLM(config)
    return sum(p.numel() for p in model.parameters())


def text_encoder(family: str, seed: int = 0, dtype=torch.float32, **sizes) -> Run:
    """A classifier of three classes over tokens, the second text padded by three zeros."""
    torch.manual_seed(seed)
    model = _text_encoder(family, num_labels=3, **sizes)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, sizes["vocab_size"], (2, 9), generator=generator)
    tokens[1, 6:] = 0

    def logits(tokens):
        return model(tokens, attention_mask=(tokens != 0).long()).logits

    return _run(model, tokens, seed, dtype, logits)


def text_encoder_shapes(name: str, model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of transformers' classifier of a model's sizes."""
    fields = ("vocab_size", "dim", "embedding_dim", "depth", "heads", "mlp_hidden", "mlp_groups")
    sizes = {field: getattr(model, field) for field in fields}
    with torch.device("meta"):
        peer = _text_encoder(name.split("_")[0], num_labels=2, max_length=512, **sizes)
    return {key: tuple(value.shape) for key, value in peer.state_dict().items()}


def t5(gated: bool, seed: int = 0, dtype=torch.float32) -> Run:
    """A T5 of two layers a half that writes its source again, the second one padded."""
    model = _t5(gated, seed)
    tokens = torch.randint(2, 24, (2, 45), generator=torch.Generator().manual_seed(seed))
    tokens[1, 30:] = 0

    def logits(tokens):
        answer = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
        mask = (tokens != 0).long()
        return model(input_ids=tokens, attention_mask=mask, decoder_input_ids=answer).logits

    return _run(model, tokens, seed, dtype, logits)


def t5_generation(new_tokens: int, seed: int = 0) -> tuple[Run, np.ndarray]:
    """A run of `t5`, and the greedy answers to its sources."""
    run, model = t5(False, seed), _t5(False, seed)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in run.weights.items()})
    tokens = torch.from_numpy(run.inputs)
    answers = model.eval().generate(
        input_ids=tokens,
        attention_mask=(tokens != 0).long(),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return run, answers.numpy()


def t5_shapes(model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of transformers' T5 of a model's sizes."""
    with torch.device("meta"):
        peer = _t5(
            model.gated_mlp,
            vocab_size=model.vocab_size,
            d_model=model.dim,
            d_kv=model.head_dim,
            d_ff=model.mlp_hidden,
            num_layers=model.encoder_depth,
            num_heads=model.heads,
        )
    return {key: tuple(value.shape) for key, value in peer.state_dict().items()}


def _t5(gated: bool, seed: int = 0, **own) -> torch.nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    sizes = {"vocab_size": 24, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_layers": 2}
    config = T5Config(
        **{**sizes, "num_heads": 3, **own},
        relative_attention_num_buckets=8 if not own else 32,
        relative_attention_max_distance=24 if not own else 128,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
    )
    model = T5ForConditionalGeneration(config)
    if gated:
        # Published files of this form have a head of their own; transformers 5 ties it at first.
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def _text_encoder(family: str, num_labels: int, **sizes) -> torch.nn.Module:
    import transformers

    common = {
        "vocab_size": sizes["vocab_size"],
        "hidden_size": sizes["dim"],
        "embedding_size": sizes["embedding_dim"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["mlp_hidden"],
        "max_position_embeddings": sizes["max_length"],
        "pad_token_id": 0,
        "num_labels": num_labels,
    }
    if family == "squeezebert":
        config = transformers.SqueezeBertConfig(**common)
        return transformers.SqueezeBertForSequenceClassification(config)
    own = {"conv_kernel_size": sizes.get("kernel_size", 9), "num_groups": sizes["mlp_groups"]}
    config = transformers.ConvBertConfig(**common, **own)
    return transformers.ConvBertForSequenceClassification(config)


def state_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a timm model, without their memory."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _mamba(tied: bool, seed: int) -> torch.nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(seed)
    config = MambaConfig(
        vocab_size=24,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        tie_word_embeddings=tied,
        eos_token_id=None,
    )
    return MambaForCausalLM(config)


def _mamba2(groups: int, tied: bool, seed: int, **own) -> torch.nn.Module:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    torch.manual_seed(seed)
    config = Mamba2Config(
        vocab_size=24,
        hidden_size=16,
        num_heads=4,
        head_dim=8,
        state_size=8,
        n_groups=groups,
        num_hidden_layers=2,
        chunk_size=16,
        tie_word_embeddings=tied,
        eos_token_id=None,
        **own,
    )
    return Mamba2ForCausalLM(config)


def _run_images(model: torch.nn.Module, size: int, seed: int, dtype, noise: float = 0.1) -> Run:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, size, size, generator=generator)
    return _run(model, images, seed, dtype, model, noise)


def _run(
    model: torch.nn.Module, inputs: torch.Tensor, seed: int, dtype, call, scale: float = 0.1
) -> Run:
    generator = torch.Generator().manual_seed(seed + 1)
    # Off their special initial values: a zero bias or a unit scale in the wrong place shows.
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(scale * noise)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.1 * torch.rand(buffer.shape, generator=generator))
    model = model.eval().to(dtype)
    is_image = inputs.is_floating_point()
    if is_image:
        inputs = inputs.to(dtype).requires_grad_()
    logits = call(inputs)
    cotangent = torch.randn(logits.shape, generator=generator).to(dtype)
    (logits * cotangent).sum().backward()
    names = dict(model.named_parameters())

    def array(x: torch.Tensor) -> np.ndarray:
        return x.detach().numpy().copy()

    def image(x: torch.Tensor) -> np.ndarray:
        return array(x.permute(0, 2, 3, 1)) if is_image else array(x)

    weights = {name: array(value) for name, value in model.state_dict().items()}
    trained = {}
    if is_image and hasattr(model, "forward_intermediates"):
        with torch.no_grad():
            maps = model.forward_intermediates(inputs, intermediates_only=True)
        trained["maps"] = tuple(image(x) for x in maps)
    if any(name.endswith("running_mean") for name in weights):
        model.train()
        trained["train_logits"] = array(call(inputs))
        trained["statistics"] = {name: array(buffer) for name, buffer in model.named_buffers()}
    return Run(
        weights=weights,
        inputs=image(inputs),
        cotangent=array(cotangent),
        logits=array(logits),
        grads={name: array(value.grad) for name, value in names.items()},
        input_grad=image(inputs.grad) if is_image else None,
        **trained,
    )
