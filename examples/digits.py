"""Write 1,797 real handwritten digits as images, one folder per digit: OUT/0 ... OUT/9.

python examples/digits.py demo/digits

digits.csv.gz is the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak 1998, UCI
Machine Learning Repository, CC BY 4.0), as scikit-learn ships it: 64 pixels and the label in each row.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

TABLE = Path(__file__).with_name("digits.csv.gz")
SIZE = 32  # the scans are 8 x 8 pixels, a speck on a screen; at 32 a person who opens one can read it
SUMMARY = ".finished"  # written last: an interrupted run is told from a finished one


def write(out: Path) -> int:
    """Write every digit to out/LABEL/NNNN.png, where NNNN is its row in the table; return how many."""
    digits = np.loadtxt(TABLE, delimiter=",", dtype=np.int64)
    for row, (*image, label) in enumerate(digits):
        pixels = np.round(np.reshape(image, (8, 8)) * (255 / 16)).astype(np.uint8)  # the scans go from 0 to 16
        folder = out / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{row:04d}.png")
    (out / SUMMARY).write_text(f"{len(digits)} digits\n", encoding="utf-8")
    return len(digits)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/digits.py OUT")
    out = Path(sys.argv[1])
    if (out / SUMMARY).is_file():
        print(f"{out} is finished already; nothing to do")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        sys.exit(f"{out} holds something else, or a run that was interrupted: remove it or name another folder")
    else:
        print(f"wrote {write(out):,} images of handwritten digits into {out}")


if __name__ == "__main__":
    main()
