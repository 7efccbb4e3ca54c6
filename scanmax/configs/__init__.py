"""Experiments, one file each: `python -m scanmax.train --config=scanmax/configs/NAME.py`."""
