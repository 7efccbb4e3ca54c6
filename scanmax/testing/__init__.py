"""The project's test levels as public chex test cases: subclass them for your own op or model."""

from scanmax.testing.model_suite import ModelCase as ModelCase
from scanmax.testing.model_suite import ModelSuite as ModelSuite
from scanmax.testing.op_case import OpCase as OpCase
from scanmax.testing.op_suite import OpSuite as OpSuite
from scanmax.testing.tolerances import Tolerances as Tolerances
