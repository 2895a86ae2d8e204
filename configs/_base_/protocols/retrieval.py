# Karpathy and Fei-Fei 2015: one split; recall among all test images and texts.
protocol = dict(type="Retrieval")
