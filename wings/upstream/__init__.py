"""Uses of other libraries that rely on more than they promise.

Each module wraps something that transformers, accelerate, open_clip, timm, peft or lm_eval may
change without notice: a private member, or undocumented behaviour. Each module also lists
`CONTRACTS`: what it relies on, and since which version. The contract tests verify them all, and
docs/upstream.md prints them.
"""
