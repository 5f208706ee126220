"""What the panel remembers in the scene, so that it comes back as it was."""

from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic


@parameterNodeWrapper
class SemiSegParameters:
    """Choices of the user; plain types only, because the scene file holds them as text.

    `scope` is "case" or "all"; `model` 0 is the newest; `formats` is separated by commas. `engine`
    is "here" or "cluster"; of a token only the file that holds it is named, never the token.
    """

    study_folder: str = ""
    current_case: str = ""
    scope: str = "all"
    minutes: float = 10.0
    device: str = "auto"
    method: str = "auto"
    model: int = 0
    seed: int = 0
    watch: bool = False
    start_from: str = ""
    plane: str = "axial"
    follow_views: bool = True
    formats: str = "seg.nrrd"
    export_folder: str = ""
    export_what: str = "combined"
    engine: str = "here"
    cluster_address: str = ""
    cluster_token_file: str = ""
    cluster_ca_file: str = ""
    cluster_workers: int = 1


class SemiSegModuleLogic(ScriptedLoadableModuleLogic):
    """Finds the module's one parameter node in the scene; its name makes that node's name."""

    def getParameterNode(self) -> SemiSegParameters:
        """The parameters in the scene as it is now; made where there are none."""
        return SemiSegParameters(ScriptedLoadableModuleLogic.getParameterNode(self))
