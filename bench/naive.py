"""The endpoint that a tutorial would show, FastAPI and PyTorch, for bench/serve.py to compare with.

python bench/naive.py MODEL PORT
"""

import io
import sys

import fastapi
import numpy as np
import torch
import uvicorn
from PIL import Image

from graft.model.classifier import load
from graft.torch.restore import network_to_module

app = fastapi.FastAPI()
classifier = load(sys.argv[1])
network = network_to_module(classifier.network, classifier.card)


@app.post("/predict")
async def predict(request: fastapi.Request) -> dict[str, float]:
    """Class probabilities of the image in the body."""
    image = Image.open(io.BytesIO(await request.body())).convert("RGB")
    prepared = classifier.network.preprocess.prepare(np.asarray(image))[None]
    with torch.inference_mode():
        logits = network(torch.from_numpy(prepared)).numpy()
    return dict(zip(classifier.classes, classifier.calibrate_logits(logits)[0].tolist(), strict=True))


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
