# Freshly rendered glyphs with their names, for pretraining; length is the images of an epoch.
dataset = dict(
    type="GlyphPairs",
    length=25600,
    negatives=160,
    template_share=0.25,
    subgroup_share=0.05,
    jitter=0.0,
    ramp=0.5,
)
