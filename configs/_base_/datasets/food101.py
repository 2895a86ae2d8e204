# Food101 with CoOp's split file; root holds the folders of all data sets.
dataset = dict(type="SplitZhou", name="Food101", root="data")
