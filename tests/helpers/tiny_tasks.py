"""Small tasks of lm-evaluation-harness: likelihood of choices and of a whole text, generation."""

import json

CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
}
# Up to a stop and up to a length.
SAID = {
    "output_type": "generate_until",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


def on_file(task, name, path, docs):
    """A task of that name on documents that are written to a file (JSON Lines)."""
    path.write_text("\n".join(json.dumps(doc) for doc in docs))
    files = {"data_files": {"test": str(path)}}
    where = {"dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    return {"task": name, **task, **where}
