# AdamW with a rate that changes at every step: for training whole towers.
schedule = dict(
    epochs=10,
    batch_size=128,
    lr=1e-3,
    optimizer=dict(type="AdamW", weight_decay=0.05, betas=(0.9, 0.98)),
    step="iteration",
    warmup=1,
    warmup_kind="linear",
    warmup_lr=1e-6,
    recount=False,
    clip_grad=1.0,
    decay_vectors=False,
)
