# CoCoOp, Zhou et al. 2022, section 4.1: train on half the classes, test on both halves.
protocol = dict(type="BaseToNew", shots=16)
