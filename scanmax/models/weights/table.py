"""Key tables: rows that say where a tensor of a published checkpoint goes, and in which layout."""

import dataclasses
import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]
# What DataParallel, torch.compile, Lightning and FSDP write into the names of a module's tensors:
# all of it in front, some of it inside where parts were wrapped.
OUTER_WRAPPERS = ("module", "model", "state_dict", "net")
_INNER_WRAPPERS = r"(^|\.)(?:(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
# Our path ("" when there is none), and one line.
Problems = list[tuple[str, str]]
Transform = Callable[[np.ndarray, Shape], np.ndarray]
# `Row.having` of names that are read and not written.
NEVER = ""


def of_shape(theirs: Callable[[Shape], Shape]) -> Callable[[Transform], Transform]:
    """Says which shape of theirs a transform lays out as one of ours, for the way back."""

    def mark(transform: Transform) -> Transform:
        transform.theirs = theirs
        return transform

    return mark


@of_shape(lambda ours: ours)
def same(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    """The same axes in the same order; axes of size one come and go."""
    if shape is None:
        return x
    _expect([n for n in x.shape if n != 1] == [n for n in shape if n != 1], x, shape)
    return x.reshape(shape)


@of_shape(lambda ours: (math.prod(ours[1:]), ours[0]))
def linear(x: np.ndarray, shape: Shape) -> np.ndarray:
    """torch's [out, in] to [in, out]; either may be several axes of ours, as heads and width."""
    prefixes = {math.prod(shape[:split]) for split in range(1, len(shape))}
    _expect(x.ndim == 2 and x.size == math.prod(shape) and x.shape[1] in prefixes, x, shape)
    return x.T.reshape(shape)


@of_shape(lambda ours: (ours[-1], math.prod(ours[:-1])))
def linear_of_heads(x: np.ndarray, shape: Shape) -> np.ndarray:
    """`linear`, where the axes of ours in front of the last are what torch calls in."""
    return linear(x, shape)


@of_shape(lambda ours: (math.prod(ours),))
def bias(x: np.ndarray, shape: Shape) -> np.ndarray:
    """torch's [out] to the several axes that out is of ours."""
    _expect(x.ndim == 1 and x.size == math.prod(shape), x, shape)
    return x.reshape(shape)


@of_shape(lambda ours: (ours[3], ours[2], ours[0], ours[1]))
def conv(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    """torch's [out, in, ky, kx] to [ky, kx, in, out]."""
    if shape is not None:
        _expect(x.ndim == 4 and tuple(x.shape[axis] for axis in (2, 3, 1, 0)) == shape, x, shape)
    return x.transpose(2, 3, 1, 0)


@of_shape(lambda ours: (ours[2], ours[3], ours[0], ours[1]))
def conv_transpose(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    """A transposed convolution, torch's [in, out, ky, kx] to [ky, kx, in, out]."""
    if shape is not None:
        _expect(x.ndim == 4 and tuple(x.shape[axis] for axis in (2, 3, 0, 1)) == shape, x, shape)
    return x.transpose(2, 3, 0, 1)


@of_shape(lambda ours: ours[:-3:-1])
def pointwise(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A 1x1 convolution or a linear layer, [out, in] or [out, in, 1, 1], to either form of ours."""
    matrix = x.reshape(x.shape[:2])
    _expect(x.size == math.prod(shape) and matrix.shape[::-1] == shape[-2:], x, shape)
    return matrix.T.reshape(shape)


@of_shape(lambda ours: (*linear.theirs(ours), 1, 1))
def projection(x: np.ndarray, shape: Shape) -> np.ndarray:
    """A 1x1 convolution [out, in, 1, 1] to [in, out], either several axes of ours, as `linear`."""
    _expect(x.ndim == 4 and x.shape[2:] == (1, 1), x, shape)
    return linear(x[..., 0, 0], shape)


@of_shape(lambda ours: (*linear_of_heads.theirs(ours), 1, 1))
def projection_of_heads(x: np.ndarray, shape: Shape) -> np.ndarray:
    """`projection`, where the axes of ours in front of the last are what torch calls in."""
    return projection(x, shape)


@of_shape(lambda ours: (ours[1] * ours[2], ours[0]))
def relative_bias(x: np.ndarray, shape: Shape | None) -> np.ndarray:
    """Swin's [(2 w - 1) (2 w' - 1), H] to [H, 2 w - 1, 2 w' - 1].

    Places there are differences of query less key, here of key less query. Without a shape the
    window is taken for a square.
    """
    if shape is None:
        side = math.isqrt(x.shape[0])
        shape = (x.shape[-1], side, side)
    _expect(x.ndim == 2 and x.shape == (shape[1] * shape[2], shape[0]), x, shape)
    return x.T.reshape(shape)[:, ::-1, ::-1]


@of_shape(lambda ours: (ours[1], 1, ours[0]))
def causal_conv(x: np.ndarray, shape: Shape) -> np.ndarray:
    """torch's depthwise [channels, 1, width] to [width, channels]."""
    _expect(x.ndim == 3 and x.shape[1] == 1 and (x.shape[2], x.shape[0]) == shape, x, shape)
    return x[:, 0].T


def _expect(condition: bool, x: np.ndarray, shape: Shape) -> None:
    if not condition:
        raise ValueError(f"has shape {tuple(x.shape)}, ours is {tuple(shape)}")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a key table.

    Attributes:
      pattern: regular expression that a tensor's whole name matches.
      paths: where it goes; {0}, {1}, ... are the groups of the pattern, numbers as integers.
        Several paths share the tensor's first axis, in that order; none: nothing to load. A
        function of the groups gives the path where a name does not follow by filling in.
      transform: from the tensor (or its share) and the shape of our array to our array.
      tied: the tensor must repeat the array that another row puts at its path.
      ndim: axes of the tensor, where one name is of a kernel here and of a norm there.
      part: (index, axis): the tensor is that slice of our array, which other tensors complete, as
        keys and values do that are one array of ours and two of the source's. Several indices share
        the tensor's first axis, in that order.
      having: a path, as `paths` says it, that a model must have for its arrays to be written under
        this row's name; where one name has several spellings, or shapes, in one layout.
      lacking: a path that it must not have.
      lead: axes of size one that the tensor has in front of those that `transform` knows.
      trail: those behind them.
    """

    pattern: str
    paths: str | tuple[str, ...] | Callable[..., str]
    transform: Transform = same
    tied: bool = False
    ndim: int | None = None
    part: tuple[int | tuple[int, ...], int] | None = None
    having: str | Callable[..., str] | None = None
    lacking: str | Callable[..., str] | None = None
    lead: int = 0
    trail: int = 0

    def targets(self, name: str) -> tuple[str, ...] | None:
        """Where the tensor of that name goes; None when this row is not about it."""
        match = re.fullmatch(self.pattern, name)
        try:
            return None if match is None else self.places(match.groups(""))
        except IndexError:
            # A stage that the model has not.
            return None

    def places(self, groups: Sequence[str]) -> tuple[str, ...]:
        """Where a tensor goes whose name has these groups."""
        return _filled(self.paths, groups)

    def is_written(self, groups: Sequence[str], ours: Container[str]) -> bool:
        """Whether a model of these paths is written under this row's names."""
        having, lacking = (
            () if path is None else _filled(path, groups) for path in (self.having, self.lacking)
        )
        return all(path in ours for path in having) and not any(path in ours for path in lacking)

    def theirs(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of the tensor whose arrays have these shapes; of a part, the whole array's."""
        count = 1
        if self.part is not None:
            index, axis = self.part
            count = len(index) if isinstance(index, tuple) else 1
            shapes = [(*shape[:axis], *shape[axis + 1 :]) for shape in shapes]
        found = [self.transform.theirs(shape) for shape in shapes]
        shape = found[0]
        if len(found) > 1 or count > 1:
            shape = (count * sum(each[0] for each in found), *shape[1:])
        return (1,) * self.lead + shape + (1,) * self.trail

    def apply(self, x: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Cuts x into the shares of its targets and lays each of them out.

        Raises:
          ValueError: a shape that does not fit; the message tells both.
        """
        if not shapes:
            return []
        if len(shapes) == 1:
            return [self.transform(x, shapes[0])]
        row = x.size // max(1, x.shape[0])
        counts = [math.prod(shape) // row for shape in shapes]
        if sum(counts) != x.shape[0]:
            raise ValueError(f"has shape {tuple(x.shape)}, ours are {[*map(tuple, shapes)]}")
        shares = np.split(x, np.cumsum(counts)[:-1])
        return [self.transform(share, shape) for share, shape in zip(shares, shapes)]


def _filled(paths: str | tuple[str, ...] | Callable[..., str], groups: Sequence[str]):
    values = [int(group) if group.isdigit() else group for group in groups]
    if callable(paths):
        return (paths(*values),)
    paths = (paths,) if isinstance(paths, str) else paths
    return tuple(path.format(*values) for path in paths)


# Of a batch norm, parameters and averages.
_NORM = (
    (r"weight", "params", "scale"),
    (r"bias", "params", "bias"),
    (r"running_mean", "batch_stats", "mean"),
    (r"running_var", "batch_stats", "variance"),
)


def norm_rows(pattern: str, path: str | Callable[..., str], **fields: Any) -> tuple[Row, ...]:
    """Rows of a batch norm, a path below the collection; the count of its steps has no place."""

    def place(collection: str, leaf: str) -> str | Callable[..., str]:
        if callable(path):
            return lambda *groups: f"{collection}/{path(*groups)}/{leaf}"
        return f"{collection}/{path}/{leaf}"

    rows = tuple(Row(rf"{pattern}\.{name}", place(*where), **fields) for name, *where in _NORM)
    return *rows, Row(rf"{pattern}\.num_batches_tracked", ())


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """The rows of a family, and which of our parameters can be adapted to another model.

    Attributes:
      rows: for a name, the first row that matches it and whose target the model has.
      head: paths (regular expression) that depend on the number of classes.
      positions: path of the table of grid positions [N, D].
      relative_positions: paths of tables [H, 2 w - 1, 2 w' - 1] over differences in a window.
      stem: path of the kernel whose third axis is the image's channels.
      layouts: name of each layout that the rows read, and which of them it is where names differ:
        that of the "first" of alternatives in a pattern, and of rows for one path, or the "last".
    """

    rows: tuple[Row, ...]
    head: str = r"(?!)"
    positions: str = r"(?!)"
    relative_positions: str = r"(?!)"
    stem: str = r"(?!)"
    layouts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def bare_names(
    tensors: Mapping[str, np.ndarray], rows: Sequence[Row]
) -> tuple[dict[str, np.ndarray], Problems]:
    r"""Names without what torch's wrappers of modules add, where no row knows them with it.

    >>> bare_names({"module._orig_mod.head.bias": 0}, [Row(r"head\.bias", "params/head/bias")])
    ({'head.bias': 0}, [])
    """
    bare: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    problems: Problems = []
    for name, tensor in tensors.items():
        short = _bare_name(name, rows)
        if short in bare:
            problems.append(("", f"{name}: {origin[short]} is {short} already"))
            continue
        bare[short], origin[short] = tensor, name
    return bare, problems


def _bare_name(name: str, rows: Sequence[Row]) -> str:
    def known(name: str) -> bool:
        return any(re.fullmatch(row.pattern, name) for row in rows)

    short = name if known(name) else re.sub(_INNER_WRAPPERS, r"\1", name)
    while not known(short):
        prefix, dot, rest = short.partition(".")
        if not dot or prefix not in OUTER_WRAPPERS:
            return name
        short = rest
    return short


def _check_values(x: np.ndarray) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"is {x.dtype}, expected floating point")
    if not np.isfinite(x).all():
        raise ValueError("holds values that are not finite")


# Lays a tensor out and fits it to our shape.
Adapter = Callable[[np.ndarray, Shape], np.ndarray]


def row_of(
    name: str, ndim: int, rows: Sequence[Row], shapes: Mapping[str, Shape]
) -> tuple[Row | None, tuple[str, ...]]:
    """The row that a tensor follows, and where it leads; (None, ()) where no row knows it.

    A name may have several rows: the first whose targets the model has counts, else the first.
    """
    found = [
        (row, paths)
        for row in rows
        if row.ndim in (None, ndim) and (paths := row.targets(name)) is not None
    ]
    fitting = [pair for pair in found if all(path in shapes for path in pair[1])]
    return next(iter(fitting + found), (None, ()))


def _both_told(
    name: str, error: str, row: Row, targets: Sequence[str], shapes: Mapping[str, Shape]
) -> str:
    """A line about a tensor and an array of ours: a shape that does not fit in either notation."""
    line = f"{name}: {error}"
    if name in targets or "ours is" not in error:
        return line
    ours = [tuple(shapes[target]) for target in targets]
    theirs = tuple(row.theirs(ours)) if hasattr(row.transform, "theirs") else ours[0]
    there = "" if theirs == ours[0] else f", {theirs} there"
    return f"{line} ({', '.join(targets)}{there})"


def convert(
    tensors: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    shapes: Mapping[str, Shape],
    adapters: Mapping[str, Adapter] | None = None,
) -> tuple[dict[str, np.ndarray], Problems]:
    """Puts every tensor where the table says, once.

    Args:
      tensors: name of each source tensor, and its array.
      rows: the rows of the table.
      shapes: path of each of our arrays, and its shape.
      adapters: for some of our paths, what fits an array in our layout to our shape.

    Returns:
      Our arrays by path; and each mismatch: tensors that no row knows, targets that the model
      lacks, targets filled twice or never, shapes that do not fit, values that are no finite
      floating-point numbers, ties that do not hold.
    """
    adapters = adapters or {}
    arrays: dict[str, np.ndarray] = {}
    tried: dict[str, str] = {}
    problems: Problems = []
    ties = []
    slices: dict[str, dict[int, np.ndarray]] = {}
    axes: dict[str, int] = {}
    for name, tensor in tensors.items():
        row, targets = row_of(name, tensor.ndim, rows, shapes)
        if row is None:
            problems.append(("", f"{name}: no row of the key table knows this tensor"))
            continue
        absent = [target for target in targets if target not in shapes]
        if absent:
            problems.append((absent[0], f"{name}: the model has no {', '.join(absent)}"))
            continue
        try:
            if targets:
                _check_values(tensor)
            if row.part is not None:
                (target,), (index, axis) = targets, row.part
                shape = (*shapes[target][:axis], *shapes[target][axis + 1 :])
                filled, axes[target] = slices.setdefault(target, {}), axis
                indices = index if isinstance(index, tuple) else (index,)
                if tensor.shape[0] % len(indices):
                    raise ValueError(f"has shape {tensor.shape}: not {len(indices)} of one size")
                for index, share in zip(indices, np.split(tensor, len(indices))):
                    if index in filled:
                        raise ValueError(f"slice {index} of {target} is already filled")
                    filled[index] = row.transform(share, shape)
                continue
            if len(targets) == 1 and targets[0] in adapters:
                natural = row.transform(tensor, None)
                shares = [adapters[targets[0]](natural, shapes[targets[0]])]
            else:
                shares = row.apply(tensor, [shapes[target] for target in targets])
        except ValueError as error:
            problems.append((targets[0], _both_told(name, str(error), row, targets, shapes)))
            shares = [None] * len(targets)
        for target, share in zip(targets, shares):
            if row.tied:
                ties.append((name, target, share))
            elif target in tried:
                problems.append((target, f"{name}: {target} is already filled by {tried[target]}"))
            else:
                tried[target] = name
                if share is not None:
                    arrays[target] = share
    for target, filled in slices.items():
        missing = sorted(set(range(shapes[target][axes[target]])) - set(filled))
        tried[target] = "its slices"
        if missing:
            problems.append((target, f"{target}: no tensor fills slice {missing} of it"))
        else:
            arrays[target] = np.stack([filled[index] for index in sorted(filled)], axes[target])
    for name, target, share in ties:
        # A checkpoint may keep either of two tied tensors, or both.
        if target not in tried:
            arrays[target], tried[target] = share, name
        elif target in arrays and share is not None and not np.array_equal(arrays[target], share):
            line = f"{name}: differs from {tried[target]}, but the model ties them"
            problems.append((target, line))
    problems += [(path, f"{path}: no tensor fills it") for path in shapes if path not in tried]
    return arrays, problems
