"""speechssl: learn speech from raw, unlabelled audio; recognise it; measure the word error rate.

Importing the package imports nothing heavy: the command line must answer ``--help`` at once.
"""

__version__ = "0.2.0"
