# The schedule of CoOp and of all prompt learners after it; epochs and rate are MaPLe's. The first epoch runs at 1e-5.
schedule = dict(
    epochs=5,
    batch_size=4,
    lr=0.0035,
    optimizer=dict(type="SGD", momentum=0.9, weight_decay=5e-4),
    step="epoch",
    warmup=1,
    warmup_kind="constant",
    warmup_lr=1e-5,
)
