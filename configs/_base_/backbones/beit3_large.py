# BEiT-3 large, Wang et al. 2022 (arXiv 2208.10442), table 2: the file beit3_large_itc_patch16_224.pth, with beit3.spm
# beside it.
backbone = dict(
    type="BEiT3",
    checkpoint="checkpoints/beit3_large_itc_patch16_224.pth",
    image_size=384,
    patch_size=16,
    width=1024,
    layers=24,
    heads=16,
)
