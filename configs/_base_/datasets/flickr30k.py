# Flickr30K, Karpathy's split, in BLIP's and ALBEF's files, with the images in root/flickr30k-images. For Karpathy's own
# file: annotations="dataset_flickr30k.json", layout="karpathy", images="flickr30k-images".
dataset = dict(type="KarpathyCaptions", name="Flickr30K", root="data/flickr30k", annotations="flickr30k_{part}.json")
