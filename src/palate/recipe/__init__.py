"""Recipes: TOML in, frozen models out.

A recipe is one TOML file for one stage. An unknown key is an error that names its nearest neighbour;
``--set a.b=value`` overrides one key; what a run really used is written back to its directory. Every field's
description is its documentation: the reference page is generated from it. A file here holds a family of stages,
`sections` what they share. Nothing here imports torch: a misspelt key is answered at once.

Relative paths in a recipe are relative to the directory the command runs in.
"""

from palate.recipe.agents import AgentOptimizer, AgentRecipe, Labels, RewardNetworks, RewardOptimizer
from palate.recipe.ai_feedback import Constitution, Endpoint, JudgeRecipe, Principle, ReaderJudge, ReviseRecipe
from palate.recipe.data_settings import (
    AbstentionMeasuring,
    AbstentionMining,
    ForumMining,
    Hygiene,
    Quality,
    RefusalMining,
    ThumbMining,
    TreeMining,
)
from palate.recipe.evaluation import CardJudge, CardRecipe, CardSection, CompareRecipe, Taste, WinRateRecipe
from palate.recipe.iteration import DemoRecipe, RoundsRecipe
from palate.recipe.loading import RecipeT, load_recipe, parse_recipe, parse_settings, read_tree
from palate.recipe.own_samples import DistillRecipe, OnlineDPORecipe, RAFTRecipe
from palate.recipe.preferences import ORDER, DPORecipe, KTORecipe, Objective, RewardRecipe, RewardSeeds
from palate.recipe.pretraining import Architecture, PretrainOptimizer, PretrainRecipe, Vocabulary
from palate.recipe.reinforcement import (
    Overoptimization,
    PPORecipe,
    Pretraining,
    ReinforceRecipe,
    RLRecipe,
    RolloutRecipe,
    ScoredRecipe,
)
from palate.recipe.rewarding import Reward, Verifier
from palate.recipe.sampling import BestOfNRecipe, SampleRecipe
from palate.recipe.sections import (
    AUTO,
    Adapter,
    ChatTemplate,
    Cluster,
    Data,
    Decay,
    Engine,
    Fraction,
    Holdout,
    NonNegative,
    Optimizer,
    Positive,
    PositiveInt,
    PromptsLeftOut,
    RLOptimizer,
    RolloutSeeds,
    Sampling,
    Section,
    Seeds,
    StageRecipe,
    TrainingRecipe,
    TwoOrMore,
)
from palate.recipe.supervised import SFTRecipe

__all__ = [
    "AUTO",
    "ORDER",
    "AbstentionMeasuring",
    "AbstentionMining",
    "Adapter",
    "AgentOptimizer",
    "AgentRecipe",
    "Architecture",
    "BestOfNRecipe",
    "CardJudge",
    "CardRecipe",
    "CardSection",
    "ChatTemplate",
    "Cluster",
    "CompareRecipe",
    "Constitution",
    "DPORecipe",
    "Data",
    "Decay",
    "DemoRecipe",
    "DistillRecipe",
    "Endpoint",
    "Engine",
    "ForumMining",
    "Fraction",
    "Holdout",
    "Hygiene",
    "JudgeRecipe",
    "KTORecipe",
    "Labels",
    "NonNegative",
    "Objective",
    "OnlineDPORecipe",
    "Optimizer",
    "Overoptimization",
    "PPORecipe",
    "Positive",
    "PositiveInt",
    "PretrainOptimizer",
    "PretrainRecipe",
    "Pretraining",
    "Principle",
    "PromptsLeftOut",
    "Quality",
    "RAFTRecipe",
    "RLOptimizer",
    "RLRecipe",
    "ReaderJudge",
    "RecipeT",
    "RefusalMining",
    "ReinforceRecipe",
    "ReviseRecipe",
    "Reward",
    "RewardNetworks",
    "RewardOptimizer",
    "RewardRecipe",
    "RewardSeeds",
    "RolloutRecipe",
    "RolloutSeeds",
    "RoundsRecipe",
    "SFTRecipe",
    "SampleRecipe",
    "Sampling",
    "ScoredRecipe",
    "Section",
    "Seeds",
    "StageRecipe",
    "Taste",
    "ThumbMining",
    "TrainingRecipe",
    "TreeMining",
    "TwoOrMore",
    "Verifier",
    "Vocabulary",
    "WinRateRecipe",
    "load_recipe",
    "parse_recipe",
    "parse_settings",
    "read_tree",
]
