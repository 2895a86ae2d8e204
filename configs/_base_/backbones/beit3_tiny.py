# BEiT-3 in small, pretrained by configs/pretrain/beit3_tiny.py on Glyph scenes; it ships with the project.
backbone = dict(
    type="BEiT3",
    checkpoint="zoo:beit3_tiny",
    image_size=64,
    patch_size=8,
    width=128,
    layers=6,
    heads=4,
    context_length=64,
    vocabulary=2002,
    caption_length=32,
)
