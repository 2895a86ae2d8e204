# ALBEF in small, pretrained by configs/pretrain/albef_tiny.py on Glyph scenes; it ships with the project.
backbone = dict(
    type="ALBEF",
    checkpoint="zoo:albef_tiny",
    image_size=64,
    patch_size=8,
    vision_width=128,
    vision_layers=6,
    vision_heads=4,
    text_width=128,
    text_layers=6,
    text_heads=4,
    fusion_layer=3,
    context_length=64,
    vocabulary=2000,
    embed_dim=128,
    caption_length=32,
)
