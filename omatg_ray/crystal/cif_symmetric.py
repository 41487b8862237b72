"""The items of a CIF for a crystal in a standard cell: space group, symmetry operations and asymmetric unit.

Source: the IUCr core dictionary. A cell in none of the tabulated settings, as the primitive ones of centred groups, has
no symbol: gemmi and ASE would take one for the name of the conventional cell. Its operations say all.
"""

from __future__ import annotations

from omatg_ray.crystal.standard_crystal import StandardCrystal


def symmetric_items(crystal: StandardCrystal) -> str:
    """Return the items of a data block, in lines."""
    structure = crystal.structure
    unit, z = structure.composition.get_reduced_composition_and_factor()
    lattice = structure.lattice
    lengths, angles = zip("abc", lattice.abc, strict=True), zip(("alpha", "beta", "gamma"), lattice.angles, strict=True)
    names = (
        []
        if crystal.symbol is None
        else [
            f"_space_group_name_H-M_alt   '{crystal.symbol}'",
            f"_space_group_name_Hall   {_quoted(crystal.hall or '?')}",
        ]
    )
    sites = []
    for number, (index, multiplicity) in enumerate(crystal.sites):
        symbol = structure[index].specie.symbol
        frac = "  ".join(f"{x:.10f}" for x in structure.frac_coords[index])
        sites.append(f"  {symbol}{number}  {symbol}  {multiplicity}  {frac}  1")
    return "\n".join(
        [
            f"# {crystal.note}",
            f"_chemical_formula_sum   '{unit.formula}'",
            f"_cell_formula_units_Z   {z:g}",
            *(f"_cell_length_{axis}   {value:.10f}" for axis, value in lengths),
            *(f"_cell_angle_{angle}   {value:.10f}" for angle, value in angles),
            f"_cell_volume   {lattice.volume:.10f}",
            *names,
            f"_space_group_IT_number   {crystal.number}",
            "loop_",
            " _space_group_symop_id",
            " _space_group_symop_operation_xyz",
            *(f"  {number}  '{text}'" for number, text in enumerate(crystal.operations, start=1)),
            "loop_",
            " _atom_site_label",
            " _atom_site_type_symbol",
            " _atom_site_symmetry_multiplicity",
            " _atom_site_fract_x",
            " _atom_site_fract_y",
            " _atom_site_fract_z",
            " _atom_site_occupancy",
            *sites,
            "",
        ]
    )


def _quoted(text: str) -> str:
    """Return a symbol in quotes; Hall symbols contain single ones where they name an axis."""
    return f'"{text}"' if "'" in text else f"'{text}'"
