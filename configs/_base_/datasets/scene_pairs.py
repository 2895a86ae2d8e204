# Freshly drawn scenes and single objects with captions, for pretraining; length is the images of an epoch.
dataset = dict(
    type="ScenePairs",
    length=25600,
    single_share=0.4,
    twin_share=0.5,
    jitter=0.0,
    ramp=0.5,
)
