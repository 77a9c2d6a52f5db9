"""What setup.cfg cannot say: the text for a package index, in which no link is relative."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "tools"))

from index_text import index_text  # noqa: E402

setup(long_description=index_text())
