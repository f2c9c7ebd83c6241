"""Texts of the article, word for word: those that `contrib/article` uses."""

from __future__ import annotations

from contrib.walkthrough.texts import CHECKCONFIG, CONF_001, CONF_002, RESOURCES

__all__ = ["CHECKCONFIG", "CONF_001", "CONF_002", "RESOURCES"]
