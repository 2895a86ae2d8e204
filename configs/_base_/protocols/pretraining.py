# For the tiny backbones: zero-shot on all concepts, in seen and unseen styles.
protocol = dict(type="Pretraining")
