"""The choices of the source. This file imports no library, so that commands can offer them at once."""

from __future__ import annotations

from typing import Literal

VoteRule = Literal["majority", "any", "all", "mean", "none"]
Layout = Literal["auto", "physionet", "kaggle"]
