"""The paper's Tables 2 to 11 and Figures 1 to 11 from the trained networks that come with Mho, beside its own numbers.

    python benchmarks/paper.py [--table 2] [--figure 11] [--out runs/paper] [--runs 20] [--images 10000] [--device cuda]

Without --table and --figure it makes all of them but Tables 10 and 11, whose attacks are those of attacks.py; with
--page the page docs/paper.md too. --html FILE writes a page for a browser from what is committed. --chips measures
the networks on physical chips instead, for the page. What is measured is kept in the folder, cell by cell: a run that
was interrupted goes on. What the page was made from comes with Mho and is not measured again, unless weights or numbers
of samples and inferences are others, or with --anew: on two cores that takes hours.

--claims writes docs/claims.md, the paper's claims with verdicts, from what has been measured.

Every pair of sigma_train and sigma_val is measured with all --images, and the best is chosen from all of them. Those of
DenseNet-40, which is slow, and the hundred votes of Figure 11 have --quick samples.
"""

import sys

from paper.main import main

if __name__ == "__main__":
    sys.exit(main())
