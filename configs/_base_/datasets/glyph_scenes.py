# Two to four objects on a background, with five captions on relation or counts.
dataset = dict(type="GlyphScenes", style="flat")
