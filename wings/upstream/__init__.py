"""The one room for what other libraries do not promise.

Each module here wraps something that transformers, accelerate, open_clip, timm, huggingface_hub or
lm_eval may change without notice: a private member, or a behaviour that no document states. Beside
its code each module lists `CONTRACTS`: what it relies on, and since which version. The contract
tests verify them all, and docs/upstream.md prints them.
"""
