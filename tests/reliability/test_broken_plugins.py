"""A plugin that breaks its word is named, and takes nothing down but what uses it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from ddfw.config import listing_file
from ddfw.config.named_plugins import _ask_again
from ddfw.kinds import KINDS
from tests.conftest import TINY
