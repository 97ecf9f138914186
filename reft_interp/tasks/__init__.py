"""Tasks: where the data that interventions are trained and tested on comes from.

One file a task. A causal task makes `Counterfactuals` (`NumberAgreement`), a labelled one is a
`LabelledTask` (`number_naming`, `sst2`). Tasks know no interventions.
"""

from reft_interp.tasks.labelled import LabelledTask
from reft_interp.tasks.number_agreement import NumberAgreement
from reft_interp.tasks.number_naming import number_naming
from reft_interp.tasks.sst2 import sst2

__all__ = ["LabelledTask", "NumberAgreement", "number_naming", "sst2"]
