# CoOp, Zhou et al. 2022, section 4.1; 1, 2, 4, 8 or 16 shots.
protocol = dict(type="FewShot", shots=16)
