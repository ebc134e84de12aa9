"""The laws of the rewrite, and tests of the default run that would fail if one were broken. A new law is a row here."""

from __future__ import annotations

LAWS: dict[str, tuple[str, ...]] = {
    "size": (
        "models/test_networks.py::test_sizes_of_every_height",
        "core/test_functional.py::test_max_pool",
        "core/test_functional.py::test_avg_pool",
        "core/test_functional.py::test_conv",
    ),
    "identity": (
        "models/test_networks.py::test_laws",
        "models/test_families.py::test_family",
        "core/test_layers.py::test_one_tap_is_plain_subsampling",
    ),
    "placement": (
        "test_reference.py::test_equals_the_published_network",
        "models/test_golden.py::test_plan",
        "core/test_forms.py::test_landing_of_function_forms",
        "core/test_regions.py::test_every_form_is_blurred_after",
        "core/test_regions.py::test_what_mixes_positions_is_blurred_before",
    ),
    "weights": (
        "core/test_antialias.py::test_names_values_ties_and_requires_grad",
        "core/test_antialias.py::test_inplace_shares_the_parameters_and_leaves_the_model",
    ),
    "call site, not module": (
        "core/test_antialias.py::test_a_module_called_twice_is_two_sites",
        "core/test_antialias.py::test_modes_and_rng_are_left_as_found",
    ),
    "train and eval": (
        "core/test_antialias.py::test_train_mode_computes_what_the_original_computes",
        "core/test_antialias.py::test_drop_path_survives",
        "core/test_antialias.py::test_a_frozen_norm_stays_frozen",
    ),
    "idempotence": (
        "core/test_antialias.py::test_a_second_conversion_has_nothing_to_do",
        "core/test_antialias.py::test_blurs_of_others_are_left_alone",
        "core/test_refusals.py::test_blurs_of_all_origins_are_kept",
    ),
    "no silence, no unproved trace": (
        "core/test_recording.py::test_a_graph_that_differs_is_not_returned_and_the_place_is_named",
        "core/test_antialias.py::test_opaque_leaves_are_listed",
        "core/test_kept.py::test_kept_with_a_reason",
        "models/test_families.py::test_the_everyday_families_show_every_decision",
    ),
    "filters": (
        "core/test_filters.py::test_published_sizes",
        "core/test_layers.py::test_per_axis_filter_and_stride",
        "core/test_layers.py::test_a_tiny_map_falls_back_to_replicate_on_its_small_axis",
    ),
    "form": (
        "keep/test_keep_class.py::test_a_family_gives_what_its_graph_form_gives",
        "keep/test_keep_class.py::test_forms_that_modules_cannot_express",
    ),
    "grid": (
        "core/test_grid.py::test_shift_is_what_is_measured",
        "core/test_grid.py::test_a_pixel_or_more_is_a_warning",
    ),
    "what people do next": (
        "verifying/test_rows.py::test_each_row_sees_its_fault",
        "verifying/test_random_networks.py::test_a_few",
        "files/test_read_back.py::test_every_format_is_read_back",
        "core/test_retraced.py::test_tools_take_it",
    ),
}
