# CLIP ViT-L/14, Radford et al. 2021 (arXiv 2103.00020), table 20.
backbone = dict(
    type="CLIP",
    checkpoint="openai/clip-vit-large-patch14",
    tokenizer="openai/clip-vit-large-patch14",
    image_size=224,
    patch_size=14,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    text_width=768,
    text_layers=12,
    text_heads=12,
    embed_dim=768,
)
