# ALBEF, Li et al. 2021 (arXiv 2107.07651), section 3.1: the file ALBEF.pth, pretrained on 14M images. There is no large
# one.
backbone = dict(
    type="ALBEF",
    checkpoint="checkpoints/ALBEF.pth",
    tokenizer="bert-base-uncased",
    image_size=384,
    patch_size=16,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    text_width=768,
    text_layers=12,
    text_heads=12,
    fusion_layer=6,
)
