"""NeuroBridge: spike trains in, pictures out, with a shared representation in between.

>>> import neurobridge
>>> neurobridge.__version__
'0.1.0'
"""

__version__ = "0.1.0"
