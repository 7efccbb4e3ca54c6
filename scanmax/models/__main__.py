"""Lists and shows the registered models, and the token mixers that hosts take.

    python -m scanmax.models list [PATTERN]
    python -m scanmax.models show NAME [--depth=1]
    python -m scanmax.models mixers [PATTERN] [--causal] [--generates] [--packs]

NAME is a model, or a mixer, of which its options are shown.

GFLOPs are billions of multiply-adds for one input of the default size, as papers count them.
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from scanmax.cli import run_main
from scanmax.errors import UserError, suggest
from scanmax.models.analysis import default_multiply_adds, module_table
from scanmax.models.catalog import list_mixers, mixer_info
from scanmax.models.mixers import MIXERS
from scanmax.models.registry import ModelInfo, create_model, list_models, model_info

_HEADER = f"{'name':36} {'parameters':>14} {'GFLOPs':>8}  {'input':14} paper"


def describe(info: ModelInfo) -> str:
    """One line: name, parameters, GFLOPs, input size, paper."""
    size = " x ".join(str(side) for side in info.input_size)
    gflops = default_multiply_adds(info.name) / 1e9
    return f"{info.name:36} {info.params:14,} {gflops:8.2f}  {size:14} {info.paper or '-'}"


def print_list(pattern: str) -> None:
    """Prints a line per model whose name fits the pattern."""
    names = list_models(pattern)
    if not names:
        raise UserError(f"no model fits {pattern!r}; {suggest(pattern, list_models())}")
    print(_HEADER)
    for name in names:
        print(describe(model_info(name)), flush=True)


def print_model(name: str, depth: int) -> None:
    """Prints what the registry knows of a model, its module table and its stage maps."""
    info = model_info(name)
    print(_HEADER)
    print(describe(info))
    model = create_model(name)
    print(module_table(model, info.example(), depth))
    example = info.example()
    maps = jax.eval_shape(
        lambda key, x: model.apply(model.init(key, x), x, method="features"),
        jax.random.key(0),
        example,
    )
    print(f"features of {example.shape}:")
    for feature, entry in zip(info.features, maps, strict=True):
        print(f"  {feature.name:12} stride {feature.stride:3}  {entry.shape}")


def print_mixers(pattern: str, **forms: bool | None) -> None:
    """Prints the mixers that fit: what they can do, cost in T tokens, and formula."""
    names = list_mixers(pattern, **forms)
    if not names:
        if list_mixers(pattern):
            asked = " ".join(f"--{form}" for form, is_asked in forms.items() if is_asked)
            raise UserError(f"no mixer that fits {pattern!r} is {asked}")
        raise UserError(f"no mixer fits {pattern!r}; {suggest(pattern, list_mixers())}")
    print(f"{'mixer':24} {'forms':7} {'cost':12} formula")
    for name in names:
        info = mixer_info(name)
        forms_of = "".join(
            letter if is_so else "-"
            for letter, is_so in (("c", info.causal), ("g", info.generates), ("p", info.packs))
        )
        print(f"{name:24} {forms_of:7} {info.cost:12} {info.formula}")
    print(
        "\nforms: c causal, g generates token by token, p keeps packed sequences apart\n"
        f'create_model("vit_tiny_patch16_224", mixer="{names[0]}"); pictures: docs/gallery.md'
    )


def print_mixer(name: str) -> None:
    """Prints what is known of a mixer, and a line for each of its options."""
    info = mixer_info(name)
    forms = (form for form in ("causal", "generates", "packs") if getattr(info, form))
    print(f"{name}: {info.formula}")
    print(f"cost {info.cost}; {', '.join(forms) or 'no causal form'}; papers: ", end="")
    print(", ".join(info.papers) or "-")
    meanings = info.option_meanings()
    for option, default in info.options.items():
        shown = getattr(default, "__name__", None) or repr(default)
        print(f"  {option} = {shown}" + (f": {meanings[option]}" if meanings[option] else ""))
    print(f'mixer="{name}", mixer_options={{"{name}": {{...}}}}')


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="scanmax-models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="names, parameters, GFLOPs, input size, paper")
    listing.add_argument("pattern", nargs="?", default="*", help="shell wildcards: 'deit_*'")
    showing = commands.add_parser(
        "show", help="the module table and the stage maps of one model, or the options of a mixer"
    )
    showing.add_argument("name")
    showing.add_argument("--depth", type=int, default=1, help="levels of submodules")
    mixing = commands.add_parser("mixers", help="the token mixers, their costs and formulas")
    mixing.add_argument("pattern", nargs="?", default="*", help="shell wildcards: '*attention'")
    for form, meaning in (
        ("causal", "that have a causal form"),
        ("generates", "that go on token by token from a state"),
        ("packs", "that keep the sequences of a packed row apart"),
    ):
        mixing.add_argument(f"--{form}", action="store_true", default=None, help=f"those {meaning}")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as error:
        # argparse has printed the help, or said what is wrong.
        return error.code
    # Shapes alone are looked at: an accelerator would only be taken from others.
    jax.config.update("jax_platforms", "cpu")
    if arguments.command == "list":
        print_list(arguments.pattern)
    elif arguments.command == "mixers":
        forms = {form: getattr(arguments, form) for form in ("causal", "generates", "packs")}
        print_mixers(arguments.pattern, **forms)
    elif arguments.name in MIXERS and arguments.name not in list_models():
        print_mixer(arguments.name)
    else:
        print_model(arguments.name, arguments.depth)
    return 0


def run() -> int:
    """Entry point of `scanmax-models`."""
    return run_main(main)


if __name__ == "__main__":
    sys.exit(run())
