"""`python -m scanmax.papers` prints docs/papers.md."""

from scanmax.papers import table

if __name__ == "__main__":
    print(table())
