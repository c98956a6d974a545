"""lrbench: does learning-rate decay make features less transferable?"""

__version__ = "0.1.0"
