"""Healing: a pruned model is trained a little, toward the intact one's predictions or on data.

The intact model is the teacher, the pruned one the student. Everything heavy is
loaded when something is trained.
"""

from replaceme.healing.settings import HealSettings, Training

__all__ = ["HealSettings", "Training"]
