# BLIP with ViT-B/16, Li et al. 2022 (arXiv 2201.12086), section 4.1; fine-tuned for COCO retrieval at 384 pixels.
backbone = dict(
    type="BLIP",
    checkpoint="Salesforce/blip-itm-base-coco",
    tokenizer="bert-base-uncased",
    image_size=384,
    patch_size=16,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    text_width=768,
    text_layers=12,
    text_heads=12,
)
