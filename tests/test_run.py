"""Whole runs of the real scripts, on small pictures and a small CLIP with random weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.prepare import prepare_mvtec_style
from models.clip import WindowedEncoder
from tests.clips import write_config
from tests.layouts import make_mvtec
from utils.benchmark import run
from utils.errors import InputError
from utils.scores import load_scores
from utils.settings import PROJECT, Settings

SHOTS, SEEDS = (0, 1, 2), (0, 1)
RUNS = 1 + 2 * 2
