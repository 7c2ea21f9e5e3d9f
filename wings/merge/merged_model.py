"""Writes a merged model into a folder, tensor by tensor."""

from collections.abc import Callable
from pathlib import Path

from wings.output_folder import make_readable

from .chunks import chunks
from .merge_tensor import MergeTrace, merge_tensor
from .merged_files import write_small_files
from .plan import MergePlan, nothing_to_merge
from .shard_writer import ShardEntry, ShardWriter
from .tensor_store import DTYPES

# Is told how many bytes of how many were written.
Progress = Callable[[int, int], None]


def write_merged_model(plan: MergePlan, folder: Path, progress: Progress) -> None:
    """Merges all tensors and writes the result; memory is that of one tensor of each model.

    Args:
        plan: of the merge.
        folder: an empty one.
        progress: is called after each tensor.

    Raises:
        WingsError: NaN in a source, or a child whose language model is the LLM's.
    """
    trace, done = MergeTrace(), 0
    for file in plan.files:
        path = folder / file.name
        with ShardWriter(path, file.entries, file.metadata) as writer:
            for entry in file.entries:
                if entry.name in file.merged:
                    dtype = DTYPES[entry.code]
                    for part in merge_tensor(plan, file.merged[entry.name], dtype, trace):
                        writer.write(part)
                else:
                    _copy(plan, entry, writer)
                done += entry.size
                progress(done, plan.size)
    for view in plan.views:
        if view.source.given not in trace.moved:
            raise nothing_to_merge(plan, view)
    write_small_files(plan, trace, folder)
    make_readable(folder.rglob("*"))


def _copy(plan: MergePlan, entry: ShardEntry, writer: ShardWriter) -> None:
    stored = plan.kept.source.store[entry.name]
    if entry.code == stored.code:
        for piece in stored.pieces():
            writer.write(piece)
        return
    tensor = stored.read().reshape(-1)
    for part in chunks(tensor.numel()):
        writer.write(tensor[part].to(DTYPES[entry.code]))
