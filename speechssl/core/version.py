"""The version of the package; ``speechssl.__version__``."""

__all__ = ["__version__"]

__version__ = "0.2.0"
