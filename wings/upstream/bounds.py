"""The releases that the tests passed on: the oldest of each library, and the first untested one.

setup.py reads this file by its path, so it imports nothing. To raise a bound, run `make versions`:
it tests the oldest allowed releases and the newest that exist, and writes a table. If the newest
pass, write the release after them here.
"""

BOUNDS = {
    "torch": ("2.11", "2.16"),
    "transformers": ("5.17", "5.25"),
    "accelerate": ("1.13", "1.16"),
    "open_clip_torch": ("3.0", "3.4"),
    "timm": ("1.0.17", "1.1"),
}
