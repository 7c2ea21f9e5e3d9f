"""A Hugging Face Space with the page of `wings demo`; change MODEL to your checkpoint."""

from wings.serving.demo import demo

# A name on the Hub, or a folder next to this file.
MODEL = "ORG/my-wings"

if __name__ == "__main__":
    # The address at which a Space is expected to answer.
    demo(MODEL, host="0.0.0.0", port=7860)
