"""The Python interface: evaluate and compare networks, and run suites."""

from lrbench.api.evaluation import Comparison, Evaluation, evaluate, recommend
from lrbench.api.suites import pretrain, run
from lrbench.config import load_suite, load_task
from lrbench.models.modules import Model

__all__ = ["Comparison", "Evaluation", "Model", "evaluate", "load_suite", "load_task", "pretrain", "recommend", "run"]
