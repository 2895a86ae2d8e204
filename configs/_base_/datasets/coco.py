# COCO, Karpathy's split, in BLIP's files; ALBEF's are coco_{part}.json, Karpathy's own file dataset_coco.json.
dataset = dict(type="KarpathyCaptions", name="COCO", root="data/coco", annotations="coco_karpathy_{part}.json")
