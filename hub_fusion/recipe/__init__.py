"""The recipe: everything that decides a generation, in one YAML file.

`Recipe.load` reads it, `Recipe.template` is the commented file that ``hub-fusion init`` writes. An unknown key is an
error that names the nearest known one. Precedence: flags, then environment (``HUB_FUSION_ROUND__MIN_CONTRIBUTIONS=3``),
then the file, then the defaults below. What is not here: credentials and the Hub's address, which belong to whoever
runs the recipe, not to the recipe.
"""

from __future__ import annotations

from hub_fusion.recipe.budget import Budget
from hub_fusion.recipe.canaries import Canary
from hub_fusion.recipe.contamination import contaminations, trained_on
from hub_fusion.recipe.contributions import Contributions, Round, Screen
from hub_fusion.recipe.evaluation import (
    EarlyStopping,
    Evaluate,
    FewShot,
    Finetune,
    Gate,
    Interpolation,
    LogME,
    Perplexity,
    Pooling,
    Probe,
    Training,
)
from hub_fusion.recipe.license_names import PERMISSIVE
from hub_fusion.recipe.merging import Merge, Search
from hub_fusion.recipe.publishing import Archive, Heads, Publish
from hub_fusion.recipe.recipe import Recipe
from hub_fusion.recipe.section import Section, explain
from hub_fusion.recipe.sources import parse_yaml
from hub_fusion.recipe.tasks import Column, Part, Split, Task

__all__ = [
    "PERMISSIVE",
    "Archive",
    "Budget",
    "Canary",
    "Column",
    "Contributions",
    "EarlyStopping",
    "Evaluate",
    "FewShot",
    "Finetune",
    "Gate",
    "Heads",
    "Interpolation",
    "LogME",
    "Merge",
    "Part",
    "Perplexity",
    "Pooling",
    "Probe",
    "Publish",
    "Recipe",
    "Round",
    "Screen",
    "Search",
    "Section",
    "Split",
    "Task",
    "Training",
    "contaminations",
    "explain",
    "parse_yaml",
    "trained_on",
]
