# BitFit, Ben Zaken et al. 2022: all biases.
tuner = dict(type="BitFit")
