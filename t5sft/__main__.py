"""Runs the command line as python -m t5sft."""

import sys

from t5sft.cli import main

sys.exit(main())
