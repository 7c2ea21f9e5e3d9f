"""lm-evaluation-harness: its `hf-multimodal` model loads a folder and answers about images."""

import numpy as np
import pytest

from wings import WingsForCausalLM, WingsProcessor

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

TASK = """
task: colours
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_image: images
doc_to_text: "<image>{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_gen_toks: 4
  until: ["<|end|>"]
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.mark.parametrize("chat", [False, True])
def test_the_harness_answers_what_generate_answers(chat, tiny_folder, pictures, tmp_path):
    from lm_eval.tasks import TaskManager

    questions = ["which?", "which one?"]
    processor = WingsProcessor.from_pretrained(tiny_folder)
    model = WingsForCausalLM.from_pretrained(tiny_folder)
    answers = []
    for question, picture in zip(questions, pictures, strict=True):
        text = f"<image>{question}"
        if chat:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(messages, add_generation_prompt=True)
        batch = processor(text=text, images=[picture], return_tensors="pt")
        output = model.generate(**batch, max_new_tokens=4, do_sample=False)
        new = output[0, batch["input_ids"].shape[1] :]
        answers.append(processor.decode(new, skip_special_tokens=True))
    rows = {"question": questions, "images": [[one] for one in pictures]}
    # One right and one wrong, so that a score of the other sample's answer shows.
    rows["answer"] = [answers[0], answers[1] + "x"]
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "colours.yaml").write_text(TASK.format(file=tmp_path / "rows.parquet"))

    found = lm_eval.simple_evaluate(
        model="hf-multimodal",
        model_args={"pretrained": str(tiny_folder), "dtype": "float32", "max_images": 2},
        tasks=["colours"],
        device="cpu",
        batch_size=2,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    said = {sample["doc"]["question"]: sample["resps"] for sample in found["samples"]["colours"]}
    assert said == {q: [[a]] for q, a in zip(questions, answers, strict=True)}
    assert np.isclose(found["results"]["colours"]["exact_match,none"], 0.5)
