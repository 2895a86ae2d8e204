# CLIP ViT-B/32, Radford et al. 2021 (arXiv 2103.00020), table 20.
backbone = dict(
    type="CLIP",
    checkpoint="openai/clip-vit-base-patch32",
    tokenizer="openai/clip-vit-base-patch32",
    image_size=224,
    patch_size=32,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    text_width=512,
    text_layers=12,
    text_heads=8,
    embed_dim=512,
)
