"""Names, SNOMED CT codes and colours of structures that are often segmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Color: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Code:
    """A term of a coding scheme as DICOM writes it; "SCT" is SNOMED CT."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Term:
    """What a common name stands for; `modifier` tells left from right."""

    code: Code
    modifier: Code | None
    color: Color


ANATOMICAL_STRUCTURE = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
LEFT = Code(scheme="SCT", value="7771000", meaning="Left")
RIGHT = Code(scheme="SCT", value="24028007", meaning="Right")

# name: (SNOMED CT code, meaning, colour); codes as in DICOM PS3.16 and its context groups. The
# organs of the upper abdomen have colours of our own: in the usual ones liver and stomach, or
# kidney and aorta, can hardly be told apart where they touch.
_SINGLE: dict[str, tuple[str, str, Color]] = {
    "liver": ("10200004", "Liver", (150, 75, 60)),
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "kidney": ("64033007", "Kidney", (235, 205, 70)),
    "pancreas": ("15776009", "Pancreas", (255, 130, 60)),
    "stomach": ("69695003", "Stomach", (90, 185, 175)),
    "gallbladder": ("28231008", "Gallbladder", (120, 190, 80)),
    "duodenum": ("38848004", "Duodenum", (255, 253, 229)),
    "small_bowel": ("30315005", "Small intestine", (205, 167, 142)),
    "colon": ("71854001", "Colon", (204, 168, 143)),
    "rectum": ("34402009", "Rectum", (182, 130, 120)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "urinary_bladder": ("89837001", "Urinary bladder", (222, 154, 132)),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
    "uterus": ("35039007", "Uterus", (255, 181, 158)),
    "aorta": ("15825003", "Aorta", (230, 60, 60)),
    "inferior_vena_cava": ("64131007", "Inferior vena cava", (50, 125, 235)),
    "superior_vena_cava": ("48345005", "Superior vena cava", (0, 125, 190)),
    "portal_vein": ("32764006", "Portal vein", (0, 110, 160)),
    "portal_vein_and_splenic_vein": (
        "110765007",
        "Portal vein and splenic vein",
        (0, 112, 165),
    ),
    "hepatic_vein": ("8993003", "Hepatic vein", (60, 140, 190)),
    "pulmonary_artery": ("81040000", "Pulmonary artery", (0, 122, 171)),
    "pulmonary_vein": ("122972007", "Pulmonary vein", (186, 77, 64)),
    "coronary_artery": ("41801008", "Coronary artery", (216, 101, 79)),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "left_ventricle": ("87878005", "Left ventricle of heart", (152, 55, 13)),
    "right_ventricle": ("53085002", "Right ventricle of heart", (181, 85, 57)),
    "left_atrium": ("82471001", "Left atrium", (203, 108, 81)),
    "right_atrium": ("73829009", "Right atrium", (210, 115, 89)),
    "myocardium": ("74281007", "Myocardium", (192, 104, 88)),
    "pericardium": ("76848001", "Pericardium", (255, 244, 209)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "thyroid_gland": ("69748006", "Thyroid gland", (62, 162, 114)),
    "brain": ("12738006", "Brain", (250, 250, 225)),
    "brainstem": ("15926001", "Brain stem", (226, 202, 134)),
    "cerebellum": ("113305005", "Cerebellum", (194, 195, 164)),
    "hippocampus": ("5366008", "Hippocampus", (220, 180, 90)),
    "spinal_cord": ("2748008", "Spinal cord", (244, 214, 49)),
    "skull": ("89546000", "Skull", (241, 213, 144)),
    "mandible": ("91609006", "Mandible", (222, 198, 101)),
    "larynx": ("4596009", "Larynx", (150, 208, 243)),
    "sternum": ("56873002", "Sternum", (244, 217, 154)),
    "sacrum": ("54735007", "Sacrum", (212, 188, 102)),
    "vertebra": ("51282000", "Vertebra", (226, 202, 134)),
    "rib": ("113197003", "Rib", (253, 232, 158)),
    "skeletal_muscle": ("127954009", "Skeletal muscle", (192, 104, 88)),
}
_PAIRED: dict[str, tuple[str, str, Color]] = {
    "kidney": ("64033007", "Kidney", (235, 205, 70)),
    "adrenal_gland": ("23451007", "Adrenal gland", (249, 186, 150)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "lung_upper_lobe": ("45653009", "Upper lobe of lung", (172, 138, 115)),
    "lung_lower_lobe": ("90572001", "Lower lobe of lung", (224, 186, 162)),
    "parotid_gland": ("45289007", "Parotid gland", (231, 194, 107)),
    "submandibular_gland": ("54019009", "Submandibular gland", (215, 176, 90)),
    "eye": ("81745001", "Eye", (194, 142, 250)),
    "femur": ("71341001", "Femur", (255, 238, 170)),
    "humerus": ("85050009", "Humerus", (240, 225, 160)),
    "hip": ("29836001", "Hip", (230, 205, 150)),
    "scapula": ("79601000", "Scapula", (225, 200, 140)),
    "clavicle": ("51299004", "Clavicle", (235, 215, 165)),
    "iliopsoas": ("68455001", "Iliopsoas muscle", (178, 94, 70)),
    "common_carotid_artery": ("32062004", "Common carotid artery", (230, 70, 60)),
    "common_iliac_artery": ("73634005", "Common iliac artery", (214, 75, 70)),
    "common_iliac_vein": ("46027005", "Common iliac vein", (30, 120, 190)),
}
_ALIASES = {
    "bladder": "urinary_bladder",
    "ivc": "inferior_vena_cava",
    "svc": "superior_vena_cava",
    "postcava": "inferior_vena_cava",
    "oesophagus": "esophagus",
    "small_intestine": "small_bowel",
    "thyroid": "thyroid_gland",
    "brain_stem": "brainstem",
    "heart_myocardium": "myocardium",
    "heart_ventricle_left": "left_ventricle",
    "heart_ventricle_right": "right_ventricle",
    "heart_atrium_left": "left_atrium",
    "heart_atrium_right": "right_atrium",
}
# Hues that stay apart on grey images, also for most people who confuse red and green.
PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (148, 203, 236),
    (220, 205, 125),
    (157, 111, 203),
)


def find_term(name: str) -> Term | None:
    """The term of a common name in any spelling ("Left kidney", "kidney_L"); None if unknown."""
    words = name.lower().replace("-", " ").replace("_", " ").split()
    plain = "_".join(words)
    plain = _ALIASES.get(plain, plain)
    if plain in _SINGLE:
        return _term(_SINGLE[plain], None)
    side = next((_SIDES[word] for word in (*words[:1], *words[-1:]) if word in _SIDES), None)
    base = "_".join(word for word in words if word not in _SIDES)
    if side is None or base not in _PAIRED:
        return None
    return _term(_PAIRED[base], side)


def common_names() -> tuple[str, ...]:
    """Every name that `find_term` knows, sides written as a suffix."""
    pairs = (f"{name}_{side}" for name in _PAIRED for side in ("left", "right"))
    return (*_SINGLE, *pairs)


_SIDES = {"left": LEFT, "right": RIGHT, "l": LEFT, "r": RIGHT}


def _term(entry: tuple[str, str, Color], side: Code | None) -> Term:
    value, meaning, (red, green, blue) = entry
    # The right one is darker, so that the two sides can be told apart.
    color = (red * 3 // 4, green * 3 // 4, blue * 3 // 4) if side is RIGHT else (red, green, blue)
    return Term(code=Code(scheme="SCT", value=value, meaning=meaning), modifier=side, color=color)
