head = dict(type="ClassificationHead")
