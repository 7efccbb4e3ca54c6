"""python -m scanmax.train --config=NAME [--config.a.b=c ...] --workdir=DIR

Trains what a config says; run again, it continues where the workdir stands.
"""

import pathlib
import re
from typing import Any

from absl import flags

from scanmax import cli
from scanmax.errors import UserError, suggest
from scanmax.train.programs import define_flag, keep_programs


def define_flags(values: flags.FlagValues) -> None:
    """The flags besides --config."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string(
        "from",
        None,
        "a run or a file of weights that a new run starts from, as --config.model.weights; of a "
        "run its optimizer's state too, where it fits (--config.optim.carry)",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator", None, "host:port of process 0, or auto on a cluster", flag_values=values
    )
    flags.DEFINE_integer("num_processes", 1, "processes of the run", flag_values=values)
    flags.DEFINE_integer("process_id", 0, "this process, from 0", flag_values=values)
    flags.DEFINE_float(
        "lost_after",
        60.0,
        "seconds without a sign of life after which a process is lost and all others end",
        flag_values=values,
    )
    flags.DEFINE_string(
        "compile_for",
        None,
        "TPU topology such as v5e:16x16: compile for it and say what it takes, instead of training",
        flag_values=values,
    )
    flags.DEFINE_string(
        "profile", None, "FIRST:LAST, steps to trace into WORKDIR/profile", flag_values=values
    )
    define_flag(values)
    flags.DEFINE_boolean("json", False, "with --compile_for: print JSON", flag_values=values)


def main(argv: list[str]) -> int:
    """Parses flags and trains; returns the exit status."""
    if any(word.lstrip("-") in ("help", "h", "helpfull") for word in argv):
        values = flags.FlagValues()
        define_flags(values)
        print(__doc__)
        print("  --config=NAME[:ARG]  one of", ", ".join(cli.packaged_configs()))
        print("  --config=FILE[:ARG]  a file of yours with get_config(arg)")
        print("  --help_config  every field of the config, its value, range and meaning")
        for name in values:
            print(f"  --{name}  {values[name].help}")
        print("  --config.FIELD=VALUE  any field of scanmax.train.config.Config")
        return 0
    config, values = cli.parse_flags(argv, define=define_flags)
    if values["compile_for"].value:
        return print_pod_report(config, values["compile_for"].value, values["json"].value)
    if not values["workdir"].value:
        raise UserError("--workdir=DIR is required")
    profile = profile_window(values["profile"].value)
    # Imported late: a mistake in the flags should not wait for everything else to load.
    from scanmax.train.config import Config

    if not isinstance(config, Config):
        raise UserError(f"get_config returned {type(config).__name__}, not scanmax.train's Config")
    start = values["from"].value
    if start:
        from scanmax.train.remote import is_remote
        from scanmax.train.starting import run_of

        path = pathlib.Path(start).expanduser()
        if not is_remote(start) and not path.exists():
            near = [str(path.parent / found.name) for found in path.parent.glob("*")]
            raise UserError(f"--from={start} is not there; {suggest(start, near)}")
        # What the config's file names is another start only where nothing else is said.
        if is_typed("model.weights", argv) and config.model.weights != start:
            raise UserError(
                f"--from={start} and config.model.weights={config.model.weights!r} name two starts"
            )
        config.model.weights = start
        if not is_typed("optim.carry", argv):
            config.optim.carry = run_of(start)[0] is not None
    from scanmax.train.processes import start_processes, telling_others

    start_processes(
        values["coordinator"].value,
        values["num_processes"].value,
        values["process_id"].value,
        values["lost_after"].value,
    )
    from scanmax.train.loop import train

    keep_programs(values["compile_cache"].value)
    workdir = values["workdir"].value
    with telling_others():
        held_out = train(config, workdir, profile=profile)
        if held_out and is_first_process():
            tell(workdir, held_out)
    return 0


def is_typed(field: str, argv: list[str]) -> bool:
    """Whether a command line sets a field of the config.

    >>> is_typed("optim.lr", ["--config.optim.lr=0.1"]), is_typed("optim.lr", ["--config=lr"])
    (True, False)
    """
    pattern = rf"-*config\.{re.escape(field)}(=|$)"
    return any(re.match(pattern, word) for word in argv)


def profile_window(text: str | None) -> tuple[int, int] | None:
    """The steps that --profile names."""
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile={text!r}: write FIRST:LAST, such as 20:25")
    return int(first), int(last)


def print_pod_report(config: Any, topology: str, as_json: bool) -> int:
    """Compiles for a pod and prints what it takes; 1 where it does not fit."""
    import jax

    # The pod's devices are described, not opened.
    jax.config.update("jax_platforms", "cpu")
    from scanmax.train import pod

    report = pod.compile_for(config, topology)
    print(report.to_json() if as_json else pod.describe(report))
    return 0 if report.fits else 1


def is_first_process() -> bool:
    """Whether this process speaks for the run."""
    import jax

    return jax.process_index() == 0


def tell(workdir: str, held_out: dict[str, float]) -> None:
    """Says how good the run is and where everything lies."""
    from scanmax.train.remote import is_remote, local_of
    from scanmax.train.report import read_sample

    # What a remote one was copied from says the same.
    folder = local_of(workdir) if is_remote(workdir) else pathlib.Path(workdir)
    sample = read_sample(folder / "sample.json")
    if sample.get("text"):
        print(f"sample, after {sample['prompt'][-40:]!r}:\n{sample['text']}\n")
    figures = "  ".join(f"{name} {value:.4f}" for name, value in sorted(held_out.items()))
    print(f"held out: {figures}")
    for name, value in sample.get("baselines", {}).items():
        print(f"to beat: {name} {value:.4f}")
    for name, what in (
        ("report.html", "report"),
        ("report", "pictures"),
        ("checkpoints", "checkpoints"),
        ("metrics.jsonl", "metrics"),
        ("tensorboard", "tensorboard"),
        ("config.json", "config"),
    ):
        if (folder / name).exists():
            print(f"{what:<12} {workdir.rstrip('/')}/{name}")


def run() -> None:
    """Entry of the console script scanmax-train."""
    cli.leave(cli.run_main(main))


if __name__ == "__main__":
    run()
