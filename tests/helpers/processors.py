"""Processors for the tests: templates as families write them, tokenizers, messages."""

from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from wings.processing.processor import WingsProcessor

TINY = {
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
}

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]",
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<bos>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>",
]  # fmt: skip

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """{{ '<|begin_of_text|>' }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim \
+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

MISTRAL = """{{ '<s>' }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"""

GEMMA = """{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}\
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# Writes an end of text where it writes no prompt, so that no shorter rendering is a prefix.
PHI3 = """{% for message in messages %}\
{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"""

# Writes empty thoughts before the newest answer only.
THINKING = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
{{ message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# Prompts with thoughts that no older answer keeps.
FORGETFUL = """{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""

NO_PROMPT = """{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"""

PLAIN = """{% for message in messages %}{{ message['role'] | upper + ': ' + message['content'] + \
'\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

GENERATION = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}\
{% endgeneration %}{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# template -> what a learned turn reads like
TEMPLATES = {
    "chatml": (CHATML, "{}<|im_end|>"),
    "llama3": (LLAMA3, "{}<|eot_id|>"),
    "mistral": (MISTRAL, " {}</s>"),
    "gemma": (GEMMA, "{}<end_of_turn>"),
    "phi3": (PHI3, "{}<|end|>"),
    "forgetful": (FORGETFUL, "{}<|im_end|>"),
    "no prompt": (NO_PROMPT, "{}<|im_end|>"),
    "plain": (PLAIN, " {}\n"),
    "generation": (GENERATION, "{}<|im_end|>"),
}


def train_tokenizer(special=SPECIAL, vocab_size=420):
    """A byte-level BPE, made on the spot."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(["a red circle is on the left of the image, what is it?"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def metaspace_tokenizer():
    """Llama 2's way: a space is written before every text, so pieces read otherwise than wholes."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Replace("▁", " ")
    special = ["<unk>", *SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    core.train_from_iterator(
        ["▁a▁red▁circle", "▁is▁on▁the▁left?.,\n", "USER:", "ASSISTANT:"] * 4, trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


TOKENIZER = train_tokenizer()


def make_processor(template=CHATML, tokenizer=TOKENIZER, **options):
    processor = WingsProcessor.from_vision_text_pretrained({**TINY, **options}, tokenizer)
    processor.chat_template = template
    return processor


def batch_of(processor, conversation, **options):
    """The padded tensors of one conversation, or of several."""
    given = {"tokenize": True, "return_dict": True, "return_tensors": "pt"} | options
    given["processor_kwargs"] = {"padding": True} | given.get("processor_kwargs", {})
    return processor.apply_chat_template(conversation, **given)


def ask(processor, conversation, **options):
    """As `batch_of`, and the model is asked for an answer."""
    return batch_of(processor, conversation, **{"add_generation_prompt": True} | options)


def picture(colour="red", size=(20, 10)):
    return Image.new("RGB", size, colour)


def user(*parts):
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text):
    return {"role": "assistant", "content": text}


def learned(processor, row):
    """The texts of the runs of labels."""
    runs, labels = [[]], row["labels"].tolist()
    for token, label in zip(row["input_ids"].tolist(), labels, strict=True):
        assert label in (-100, token)
        if label == -100:
            runs.append([])
        else:
            runs[-1].append(label)
    return [processor.tokenizer.decode(run) for run in runs if run]
