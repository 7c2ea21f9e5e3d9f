"""The text tasks of the paper by its names, and where the task files that ship are."""

from pathlib import Path

TASKS = Path(__file__).parents[1] / "tasks"

# Group `wings_paper` (`tasks/wings_paper.yaml`). IFEval and MATH are not the paper's: they show
# forgetting that MMLU hides. WSC is the harness's SuperGLUE form; RACE-M has no stock task.
PAPER = {
    "MMLU": "mmlu",
    "CMMLU": "cmmlu",
    "ARC-E": "arc_easy",
    "ARC-C": "arc_challenge",
    "RACE-H": "race",
    "HellaSwag": "hellaswag",
    "Winogrande": "winogrande",
    "WSC": "wsc",
    "PIQA": "piqa",
    "OpenbookQA": "openbookqa",
    "SIQA": "social_iqa",
    "GSM8K": "gsm8k",
    "MBPP": "mbpp",
    "IFEval": "ifeval",
    "MATH": "hendrycks_math",
}
