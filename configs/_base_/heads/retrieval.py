# ITC, and ITM where the backbone has it; k_test is Flickr30K's, COCO has 256.
head = dict(type="RetrievalHead")
