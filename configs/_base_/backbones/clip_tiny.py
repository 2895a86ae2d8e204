# CLIP in small, pretrained by configs/pretrain/clip_tiny.py on Glyphs; it ships with the project.
backbone = dict(
    type="CLIP",
    checkpoint="zoo:clip_tiny",
    image_size=48,
    patch_size=8,
    vision_width=128,
    vision_layers=6,
    vision_heads=4,
    text_width=128,
    text_layers=3,
    text_heads=4,
    context_length=32,
    vocabulary=2000,
    embed_dim=128,
    act="gelu",
)
