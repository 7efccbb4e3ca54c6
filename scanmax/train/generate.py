"""python -m scanmax.train.generate RUN --prompt="Once upon a time" [--max_new_tokens=256]

What a trained language model of text says behind a prompt, until its document ends. "-" reads the
prompt from standard input. In Python: scanmax.load("runs/book").generate("Once upon a time").

  --max_new_tokens=256  tokens at most
  --temperature=0.8     0 takes the most probable token
  --top_k, --top_p      restrict the draw to the most probable tokens
  --seed=0              of the draws
  --step=last           a checkpoint: a step, last or best
"""

import sys

from absl import flags

from scanmax import cli
from scanmax.errors import UserError
from scanmax.train.inference import load_for_inference


def main(argv: list[str]) -> int:
    """Prints the prompt and what follows it."""
    if not argv or any(word.lstrip("-") in ("help", "h", "helpfull") for word in argv):
        print(__doc__)
        return 0
    values = flags.FlagValues()
    flags.DEFINE_string("prompt", "", "text to go on from", flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 256, "at most", flag_values=values, lower_bound=1)
    flags.DEFINE_float("temperature", 0.8, "0 is greedy", flag_values=values, lower_bound=0)
    flags.DEFINE_integer("top_k", None, "most probable ones", flag_values=values, lower_bound=1)
    flags.DEFINE_float("top_p", None, "their probability", flag_values=values, lower_bound=0)
    flags.DEFINE_integer("seed", 0, "of the draws", flag_values=values)
    flags.DEFINE_string("step", "last", "a checkpoint", flag_values=values)
    try:
        runs = values(["", *argv])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(runs) != 1:
        raise UserError('name one run: python -m scanmax.train.generate RUN --prompt="..."')
    prompt = sys.stdin.read() if values["prompt"].value == "-" else values["prompt"].value
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
    options = {name: values[name].value for name in names}
    try:
        said = load_for_inference(runs[0], values["step"].value).generate(prompt, **options)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(prompt + said)
    return 0


def run() -> None:
    """Entry of the console script scanmax-generate."""
    sys.exit(cli.run_main(main))


if __name__ == "__main__":
    run()
