# For the tiny backbones: retrieval of held-out scenes, in a seen and an unseen style.
protocol = dict(type="ScenePretraining")
