"""Tiny audio encoders with random weights, as `AudioEncoder` takes them."""

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    AutoConfig,
    AutoModel,
    ClapConfig,
    ClapFeatureExtractor,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
WAVES = {
    **SMALL, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 32,
}  # fmt: skip
# Of one second; the extractor and the positions are for four, as most are for more than a stretch.
SECONDS = 1.0


def _whisper():
    config = WhisperConfig(
        vocab_size=32, num_mel_bins=8, d_model=16, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_source_positions=200, max_target_positions=8, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return config, WhisperFeatureExtractor(feature_size=8, chunk_length=4)


def _clap(is_fused=False):
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_size": 2, "patch_stride": [2, 2],
        "window_size": 4, "patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1],
        "num_attention_heads": [2, 2], "num_hidden_layers": 2, "projection_dim": 8,
        "enable_fusion": is_fused, "aff_block_r": 2,
    }  # fmt: skip
    text = {**SMALL, "vocab_size": 32, "projection_dim": 8}
    config = ClapConfig(audio_config=audio, text_config=text, projection_dim=8)
    extractor = ClapFeatureExtractor(
        feature_size=16, sampling_rate=16000, hop_length=160, fft_window_size=400, max_length_s=2,
        frequency_max=8000, truncation="fusion" if is_fused else "rand_trunc",
    )  # fmt: skip
    return config, extractor


def _ast():
    config = ASTConfig(
        **SMALL, num_mel_bins=16, max_length=400, patch_size=4, frequency_stride=4, time_stride=4
    )
    return config, ASTFeatureExtractor(num_mel_bins=16, max_length=400)


MODELS = {
    "whisper": _whisper,
    "wav2vec2": lambda: (Wav2Vec2Config(**WAVES), Wav2Vec2FeatureExtractor()),
    "wav2vec2-large": lambda: (
        Wav2Vec2Config(**WAVES, do_stable_layer_norm=True, feat_extract_norm="layer"),
        Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
    "hubert": lambda: (HubertConfig(**WAVES), Wav2Vec2FeatureExtractor()),
    "clap": _clap,
    "clap-fused": lambda: _clap(is_fused=True),
    "ast": _ast,
}


def tiny_audio(name, **changes):
    """The config of a tiny encoder, with random weights where a model is made of it."""
    config, extractor = MODELS[name]()
    return {
        "type": "transformers",
        "model_config": config.to_dict(),
        "feature_extractor": extractor.to_dict(),
        "seconds": SECONDS,
        **changes,
    }


def save_tiny_audio(name, folder):
    """Saves a model and its feature extractor as transformers does, and returns the model."""
    config, extractor = MODELS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModel.from_config(AutoConfig.for_model(**config.to_dict())).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # As large as a trained one: what comes in matters for what comes out.
                parameter.data.normal_(std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model
