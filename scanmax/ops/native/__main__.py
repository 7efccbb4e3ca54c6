"""`python -m scanmax.ops.native` compiles the kernels for CPUs and says where they are kept."""

import sys

from scanmax.ops import native


def main() -> int:
    try:
        path = native.build()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: {', '.join(native.TARGETS)}")
    print('implementation="cpu" asks for them; SCANMAX_NATIVE=1 takes them wherever they serve')
    return 0


if __name__ == "__main__":
    sys.exit(main())
