# SUN397 with CoOp's split file; root holds the folders of all data sets.
dataset = dict(type="SplitZhou", name="SUN397", root="data")
