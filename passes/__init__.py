"""The rewriting passes, one a file."""

if __name__ != "starquant_fx.passes":
    raise ImportError(
        f"{__name__!r} is not a package of its own: import it as 'starquant_fx.passes'",
        name=__name__,
    )

from starquant_fx.pass_base import Pass
from starquant_fx.passes.assign_roles import AssignRoles
from starquant_fx.passes.canonicalize import Canonicalize
from starquant_fx.passes.estimate_means import EstimateMeans
from starquant_fx.passes.fit_sgat import FitSgat
from starquant_fx.passes.fold_sgat import FoldSgat
from starquant_fx.passes.fuse import Fuse
from starquant_fx.passes.gptq import Gptq
from starquant_fx.passes.insert_centering import InsertCentering
from starquant_fx.passes.insert_duquant import InsertDuquant
from starquant_fx.passes.insert_low_rank import InsertLowRank
from starquant_fx.passes.insert_partition import InsertPartition
from starquant_fx.passes.insert_quantizers import InsertQuantizers
from starquant_fx.passes.insert_scaling import InsertScaling
from starquant_fx.passes.insert_sgat import InsertSgat
from starquant_fx.passes.insert_tac import InsertTac
from starquant_fx.passes.insert_token_state import InsertTokenState
from starquant_fx.passes.measure_sites import MeasureSites
from starquant_fx.passes.quantize_embedding import QuantizeEmbedding
from starquant_fx.passes.refine_sgat import RefineSgat
from starquant_fx.passes.round_tables import RoundTables
from starquant_fx.passes.search_clip import SearchClip

REGISTRY: dict[str, type[Pass]] = {
    one.name: one
    for one in (
        Canonicalize,
        AssignRoles,
        InsertTokenState,
        InsertPartition,
        InsertCentering,
        EstimateMeans,
        InsertLowRank,
        InsertScaling,
        InsertDuquant,
        InsertSgat,
        InsertQuantizers,
        FitSgat,
        RefineSgat,
        SearchClip,
        Gptq,
        FoldSgat,
        RoundTables,
        QuantizeEmbedding,
        MeasureSites,
        InsertTac,
        Fuse,
    )
}
"""The passes by name, in the order of a full pipeline."""

__all__ = ["REGISTRY", *(one.__name__ for one in REGISTRY.values())]
