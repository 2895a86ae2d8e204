# Freshly rendered glyphs with their names, for pretraining; length is the images of an epoch.
dataset = dict(type="GlyphPairs", length=25600, ramp=0.5)
