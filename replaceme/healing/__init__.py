"""Healing: a pruned model is trained for a little while toward the intact one's predictions.

The intact model is the teacher, the pruned one the student; no labels are needed. Everything heavy is
loaded when something is trained.
"""

from replaceme.healing.settings import HealSettings, Training

__all__ = ["HealSettings", "Training"]
