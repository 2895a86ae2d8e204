# Train on one artist's drawings, test on others' too.
protocol = dict(type="StyleShift", shots=16)
