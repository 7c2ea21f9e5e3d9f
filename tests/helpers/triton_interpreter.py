"""Triton's interpreter without the work whose results it drops: half of the time of a kernel."""

import dataclasses
import functools

from triton.runtime import interpreter


def drop_unused_work():
    """Changes the interpreter of this process; kernels compute the same numbers."""
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        # It computes whether a sum overflows, and asserts it under `debug` only.
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    _look_up_dtypes_once()
    _patch_language_once_a_launch()


def _look_up_dtypes_once():
    whole, known = interpreter._get_np_dtype, {}

    def look_up(kind):
        if kind.name not in known:
            known[kind.name] = whole(kind)
        return known[kind.name]

    interpreter._get_np_dtype = look_up


def _patch_language_once_a_launch():
    """Triton looks through its language for built-in functions at each call within a kernel."""
    whole, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched = set()

    @functools.cache
    def modules(function):
        language = interpreter.tl, interpreter.tl.core
        return tuple(any(v is one for v in function.__globals__.values()) for one in language)

    def patch(function):
        """The changes that the launch takes back; a call within the kernel needs none."""
        if modules(function) in patched:
            return None
        patched.add(modules(function))
        return whole(function)

    def launched(self, *args, **kwargs):
        patched.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch, launched
