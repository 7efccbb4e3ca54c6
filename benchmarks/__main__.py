"""`python -m benchmarks [CASE ...]`: times named cases against their peers and writes a CSV.

--list names the cases; --quick makes two rounds of the smallest shapes, to see that all is right;
--keep puts the figures into benchmarks/tables and docs/benchmark_tables.md.
`python -m benchmarks zoo` is all networks of images, against timm, on two threads;
`python -m benchmarks gpu` is long sequences on a GPU, beside what others run there.
`python -m benchmarks claims [NAME ...]` measures the claims of papers again, and writes them into
docs/claims.md.
`python -m benchmarks pod [NAME ...]` compiles training steps for a TPU, which need not be there,
and prints what they move, keep and could use of it.
`python -m benchmarks zoo-digits [FAMILY ...] [--seeds 0,1,2]` trains the smallest model of each
family of image models on digits, where that is not measured yet, and writes docs/zoo.md; --again
measures the named families anew, --page only writes the page.
"""

import argparse
import importlib
import os
import pathlib
import pkgutil
import sys


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="*", help="which cases; all without one")
    parser.add_argument("--list", action="store_true", help="name the cases and leave")
    parser.add_argument("--quick", action="store_true", help="two rounds of the smallest shapes")
    parser.add_argument("--seconds", type=float, default=20.0, help="time per row, about")
    parser.add_argument("--threads", type=int, help="CPU threads of both sides; all without")
    parser.add_argument("--keep", action="store_true", help="into docs/benchmark_tables.md")
    parser.add_argument("--csv", type=pathlib.Path, help="default: benchmarks/results/CASE.csv")
    zoo = parser.add_argument_group("zoo-digits")
    zoo.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="default: 0,1,2")
    zoo.add_argument("--again", action="store_true", help="measure again what is measured")
    zoo.add_argument("--page", action="store_true", help="write docs/zoo.md and leave")
    options = parser.parse_args(argv)

    if options.keep and (options.quick or options.csv):
        parser.error("--keep is for whole measurements, in files of its own: no --quick, --csv")
    if options.case == ["zoo"]:
        options.threads = options.threads or 2
    if options.threads and hasattr(os, "sched_setaffinity"):
        # XLA sizes its pool by the affinity of the process when it starts.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.case[:1] == ["claims"]:
        return measure_claims(options.case[1:], options)
    if options.case[:1] == ["pod"]:
        return compile_for_pod(options.case[1:], options)
    if options.case[:1] == ["zoo-digits"]:
        return measure_zoo(options.case[1:], options)
    folder = pathlib.Path(__file__).parent
    for module in pkgutil.walk_packages([str(folder)], "benchmarks."):
        if not module.name.startswith(("benchmarks.__", "benchmarks.claims")):
            importlib.import_module(module.name)
    from benchmarks import harness
    from scanmax.errors import UserError

    if options.list:
        width = 2 + max(map(len, harness.REGISTRY))
        for name, rows in sorted(harness.REGISTRY.items()):
            print(f"{name:<{width}}{(rows.__doc__ or '').strip().splitlines()[0]}")
        for group, names in sorted(harness.GROUPS.items()):
            print(f"{group}: {', '.join(names)}")
        return 0
    for name in options.case:
        if name not in harness.REGISTRY and name not in harness.GROUPS:
            known = ", ".join(sorted({**harness.REGISTRY, **harness.GROUPS}))
            print(f"benchmarks: no case {name!r}; cases: {known}", file=sys.stderr)
            return 2
    chosen = [case for name in options.case for case in harness.GROUPS.get(name, [name])]
    cases = chosen or sorted(set(harness.REGISTRY) - set(harness.GROUPS.get("gpu", ())))
    if options.keep:
        return keep(cases, options.seconds)
    path = options.csv or folder / "results" / f"{'-'.join(options.case) or 'all'}.csv"
    try:
        right = harness.run(cases, seconds=options.seconds, quick=options.quick, path=path)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0 if right else 1


def keep(cases, seconds) -> int:
    """Measures cases into their kept tables; a wrong one keeps what it had."""
    from benchmarks import harness, tables

    right = True
    for case in cases:
        path = tables.kept_path(case, harness.provenance()["device"])
        fresh = path.with_suffix(".new")
        if harness.run([case], seconds=seconds, quick=False, path=fresh):
            fresh.replace(path)
            tables.write_page()
        else:
            fresh.unlink()
            right = False
    return 0 if right else 1


def measure_claims(names, options) -> int:
    """Runs the claims of those names, all without one."""
    from benchmarks import claims

    known = claims.load_claims()
    if options.list:
        for name, entry in sorted(known.items()):
            print(f"{name:<28}{'by hand ' if entry.by_hand else ''}{entry.statement}")
        return 0
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known))
            print(f"benchmarks: no claim {name!r}; claims: {listed}", file=sys.stderr)
            return 2
    return 0 if claims.run_claims(names, quick=options.quick) else 1


def compile_for_pod(names, options) -> int:
    """Prints what training steps take of a TPU, all of them without names."""
    from benchmarks import pod
    from scanmax.errors import UserError

    if options.list:
        print("\n".join(pod.STEPS))
        return 0
    for name in names:
        if name not in pod.STEPS:
            print(f"benchmarks: no step {name!r}; steps: {', '.join(pod.STEPS)}", file=sys.stderr)
            return 2
    try:
        for line in pod.rows(names or pod.STEPS):
            print(line, flush=True)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list "0,1,2"."""
    return tuple(int(word) for word in text.split(","))


def measure_zoo(families, options) -> int:
    """Trains the smallest models of those families on digits, of all without one."""
    from benchmarks import zoo_digits
    from scanmax.errors import UserError

    if options.list:
        zoo_digits.print_list()
        return 0
    if options.page:
        zoo_digits.write_page()
        return 0
    try:
        right = zoo_digits.measure(
            families, seeds=options.seeds, again=options.again, quick=options.quick
        )
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
