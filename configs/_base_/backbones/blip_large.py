# BLIP with ViT-L/16 and a BERT-base, Li et al. 2022 (arXiv 2201.12086), section 4.1.
backbone = dict(
    type="BLIP",
    checkpoint="Salesforce/blip-itm-large-coco",
    tokenizer="bert-base-uncased",
    image_size=384,
    patch_size=16,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    text_width=768,
    text_layers=12,
    text_heads=12,
    drop_path=0.1,
)
