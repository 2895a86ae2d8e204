# BEiT-3 base, Wang et al. 2022 (arXiv 2208.10442), table 2: the file beit3_base_itc_patch16_224.pth, with beit3.spm
# beside it.
backbone = dict(
    type="BEiT3",
    checkpoint="checkpoints/beit3_base_itc_patch16_224.pth",
    image_size=384,
    patch_size=16,
    width=768,
    layers=12,
    heads=12,
)
