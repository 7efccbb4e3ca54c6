"""What a compiled step says between devices: collectives by kind, with bytes, loops counted."""

import dataclasses
import math
import re
from collections import defaultdict

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "c64": 64, "c128": 128, "bf16": 16, "token": 0}
_SHAPE = re.compile(r"\b(pred|token|bf16|c64|c128|[suf]\d+\w*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALL = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(([^)]*)\)")
_OPCODE = re.compile(r" [a-z][\w\-]*\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CHAIN = re.compile(r"channel_id=\d+(?=,.*chain_id=)")
_TRIPS = re.compile(r'"?known_trip_count"?\s*:?\s*\{"?n"?\s*:\s*"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of the compiled program, as one device sees it.

    Attributes:
      kind: one of KINDS.
      bytes: of its larger side: what an all-gather gives, what a reduce-scatter takes.
      times: how often a step runs it.
      name: the JAX operation that it came from.
    """

    kind: str
    bytes: int
    times: int
    name: str

    @property
    def moved(self) -> int:
        """Bytes over a device's links in a step; an all-reduce gathers what it has scattered."""
        return self.bytes * self.times * (2 if self.kind == "all-reduce" else 1)


def collectives(text: str) -> list[Collective]:
    """The collectives of an optimised HLO module, those in loops counted by their trips."""
    computations, entry = _computations(text)
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, count: int) -> None:
        times[name] += count
        for _, instruction in computations.get(name, ()):
            trips = 1
            if " while(" in instruction:
                trips = _trips(instruction, computations)
            called = _CALLED.findall(instruction)
            for branches in _BRANCHES.findall(instruction):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for other in called:
                visit(other, count * trips)

    visit(entry, 1)
    found, seen = [], set()
    for name, instructions in computations.items():
        types = dict(instructions)
        for _, instruction in instructions:
            call = _CALL.search(instruction)
            if call is None or not times[name]:
                continue
            kind, is_start = call.group(1), bool(call.group(2))
            chain = _CHAIN.search(instruction)
            if chain:
                # A TPU runs this one beside other work, in pieces that each name it.
                if chain.group(0) in seen:
                    continue
                seen.add(chain.group(0))
            given = _size(instruction[: call.start()])
            operands = re.findall(r"%([\w.\-]+)", call.group(3))
            taken = sum(_size(_OPCODE.split(types[o])[0]) for o in operands if o in types)
            if is_start and kind in ("all-gather", "collective-permute"):
                # The start of these gives what it takes beside what will come.
                given -= taken
            # An all-reduce of which only a slice is kept is what a TPU runs as a reduce-scatter.
            shown = "reduce-scatter" if "all-reduce-scatter" in name else kind
            origin = re.search(r'op_name="([^"]*)"', instruction)
            found.append(
                Collective(shown, max(given, taken), times[name], origin.group(1) if origin else "")
            )
    return sorted(found, key=lambda entry: -entry.moved)


def _trips(instruction: str, computations: dict[str, list[tuple[str, str]]]) -> int:
    """How often a loop runs; 1 where neither the compiler nor its condition says so.

    The TPU compiler does not write it down: there the condition, a count from 0 that is held
    against a constant, does.
    """
    known = _TRIPS.search(instruction)
    if known:
        return int(known.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", instruction)
    lines = dict(computations.get(condition.group(1), ())) if condition else {}
    for line in lines.values():
        compared = re.search(r" compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT", line)
        if compared:
            bound = re.search(r" constant\((\d+)\)", lines.get(compared.group(1), ""))
            return int(bound.group(1)) if bound else 1
    return 1


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Instructions (name, the rest of the line) of every computation, and the entry's name."""
    computations: dict[str, list[tuple[str, str]]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.rstrip().endswith("{") and not line.startswith(" ") and not line.startswith("Hlo"):
            current = line.split("(")[0].replace("ENTRY", "").strip().lstrip("%")
            computations[current] = []
            if line.startswith("ENTRY"):
                entry = current
        elif current is not None:
            found = _INSTRUCTION.match(line)
            if found:
                computations[current].append((found.group(1), found.group(2)))
    return computations, entry


def _size(shapes: str) -> int:
    """Bytes of all arrays of a type."""
    total = 0
    for dtype, dims in _SHAPE.findall(shapes):
        bits = _BITS.get(dtype)
        if bits is None:
            bits = int(re.match(r"[suf](\d+)", dtype).group(1))
        total += math.prod(int(d) for d in dims.split(",") if d) * bits // 8
    return total
