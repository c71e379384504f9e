"""Smaller networks out of trained ones: which channels belong together (a plan), what stays (a choice), and the network."""

from dropfold.compress.apply.apply import apply, masked, prunable
from dropfold.compress.plan.channels import plan_channels
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Group, Plan

__all__ = ["Choice", "Group", "Plan", "apply", "masked", "plan_channels", "prunable"]
