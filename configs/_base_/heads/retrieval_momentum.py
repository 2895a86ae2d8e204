# BLIP's retrieval fine-tuning, Li et al. 2022: a momentum encoder with a queue, and soft targets.
head = dict(type="RetrievalHead", momentum=0.995, queue=57600, alpha=0.4)
