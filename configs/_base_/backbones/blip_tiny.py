# BLIP in small, pretrained by configs/pretrain/blip_tiny.py on Glyph scenes; it ships with the project.
backbone = dict(
    type="BLIP",
    checkpoint="zoo:blip_tiny",
    image_size=64,
    patch_size=8,
    vision_width=128,
    vision_layers=6,
    vision_heads=4,
    text_width=128,
    text_layers=4,
    text_heads=4,
    context_length=64,
    vocabulary=2002,
    embed_dim=128,
    caption_length=32,
)
