"""Our mPLUG beside ModelScope's on one folder, stage by stage.

found = verify("damo/mplug_image-captioning_coco_base_en", reference_python="/envs/modelscope/bin/python")
found.equal or found.first      # Difference(stage='vision tower', index=(0, 0, 17), ours=…, reference=…)
"""

from mplug.verification.compare import Difference, StageComparison
from mplug.verification.reference import VerificationError
from mplug.verification.verify import Verification, verify

__all__ = ["Difference", "StageComparison", "Verification", "VerificationError", "verify"]
