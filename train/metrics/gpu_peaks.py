"""Cards: what a GPU can do at best, for the share of it that a training makes use of."""

# Dense bfloat16 matrix products with float32 sums, in TFLOP/s, as the makers state them (float16
# for those before bfloat16). The first name that is part of the device's own counts.
PEAK_TFLOPS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A30": 165.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
    "MI300X": 1307.4,
    "MI250X": 383.0,
}


def peak_flops(name: str) -> float | None:
    """FLOP/s of the device that calls itself `name`; None for one that is not in the table."""
    words = f" {name.lower().replace('-', ' ')} "
    if " mig " in words:
        # A slice of a card, of which the name does not say what it can do.
        return None
    for card, tflops in PEAK_TFLOPS.items():
        # Whole words: an "L4" is no part of an "L40", nor an "A10" of an "A100".
        if f" {card.lower()} " in words:
            return tflops * 1e12
    return None
