/** P4 coords-count: raw scan coordinates where token coordinates belong, 106,328 against 556 (spec.md 3.4, 7). */
#include "../suite.h"

#include "mr3d/ply.h"

enum { POINTS = 556, RAW = 106328, SEQUENCE = 786, FIRST = 25 };

static mr3d_bundle *canonical_scan(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/scene/canonical.ply", getenv("MR3D_GOLDEN"));
  mr3d_error error = {0};
  mr3d_bundle *scan = NULL;
  if (mr3d_ply_open(path, &scan, &error) != MR3D_OK) fail_msg("%s", error.message);
  return scan;
}

/** 786 tokens of a small head, 556 of them points, with the coordinates given. */
static mr3d_bundle *mixed_rope(const mr3d_tensor *coords, int64_t rows) {
  mr3d_bundle *r = request("mixed_rope", CONFIG);
  add_reals(r, "query", 1, SHAPE(1, H, SEQUENCE, D));
  add_reals(r, "key", 1, SHAPE(1, G, SEQUENCE, D));
  bool *mask = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, SHAPE(1, SEQUENCE))->data;
  for (int k = 0; k < POINTS; k++) mask[FIRST + k] = true;
  const size_t width = mr3d_dtype_size(coords->dtype), columns = (size_t)coords->shape[1];
  char *out = mr3d_bundle_add(r, "point_coords", coords->dtype, SHAPE(rows, 3))->data;
  for (int64_t i = 0; i < rows; i++)
    memcpy(out + (size_t)i * 3 * width, (const char *)coords->data + (size_t)i * columns * width, 3 * width);
  add_reals(r, "freqs_q", 2, SHAPE(3, H, F));
  add_reals(r, "axial_weights_q", 0, SHAPE(H, F, 3));
  add_reals(r, "freqs_kv", 2, SHAPE(3, G, F));
  add_reals(r, "axial_weights_kv", 0, SHAPE(G, F, 3));
  return r;
}

static void scan_of_106328_rows_gives_556_token_coordinates(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *scan = canonical_scan(), *voxels = request("voxelize", "{}"), *tokens = request("token_coords", "{}");
  const mr3d_tensor *points = mr3d_bundle_find(scan, "points");
  assert_int_equal(points->shape[0], RAW);
  mr3d_bundle_copy(voxels, "points", points);
  voxels = answer(server, voxels);
  mr3d_bundle_copy(tokens, "grid", mr3d_bundle_find(voxels, "grid"));
  mr3d_bundle_set(tokens, "stages", "4");
  tokens = answer(server, tokens);
  assert_shape(tokens, "coords", SHAPE(556, 3));
  mr3d_bundle *turned = answer(server, mixed_rope(mr3d_bundle_find(tokens, "coords"), POINTS)); /* these fit the 556 points */
  assert_shape(turned, "query", SHAPE(1, H, SEQUENCE, D));
  mr3d_bundle_free(&turned);
  mr3d_bundle_free(&scan);
  mr3d_bundle_free(&voxels);
  mr3d_bundle_free(&tokens);
  mr3d_server_free(&server);
}

static void raw_coordinates_are_refused_with_both_numbers(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *finite = mr3d_bundle_new();
  const mr3d_tensor *coords = add_filled(finite, "coords", 7, SHAPE(RAW, 3)); /* as whole numbers: the count alone is wrong */
  REFUSED(server, mixed_rope(coords, RAW), "point_coords has 106328 rows, point_token_mask marks 556");
  REFUSED(server, mixed_rope(coords, POINTS + 1), "557", "556"); /* one too many is as wrong */
  REFUSED(server, mixed_rope(coords, POINTS - 1), "555", "556");
  mr3d_bundle_free(&finite);
  mr3d_server_free(&server);
}

static void points_check_names_106328_and_556(void **state) {
  (void)state;
  bool *mask = mr3d_allocate(SEQUENCE, sizeof *mask);
  double *coords = mr3d_allocate(RAW * 3, sizeof *coords);
  for (int k = 0; k < POINTS; k++) mask[FIRST + k] = true;
  mr3d_error error = {0};
  assert_int_equal(mr3d_points_check(&(mr3d_points){.mask = mask, .N = RAW, .coords = coords}, 1, SEQUENCE, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "106328"));
  assert_non_null(strstr(error.message, "556"));
  free(coords);
  free(mask);
}

static void grid_coordinates_are_divided_by_79(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("normalize_coords", "{}");
  add_integers(r, "coords", (const int64_t[]){79, 0, 40, 1, 2, 3}, SHAPE(2, 3));
  mr3d_bundle *a = answer(server, r);
  const double expected[] = {1, 0, 40.0 / 79, 1.0 / 79, 2.0 / 79, 3.0 / 79}; /* 1280 / 16 - 1 */
  assert_memory_equal(reals(a, "coords"), expected, sizeof expected);
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

PITFALL_TEST("coords-count", cmocka_unit_test(scan_of_106328_rows_gives_556_token_coordinates),
             cmocka_unit_test(raw_coordinates_are_refused_with_both_numbers), cmocka_unit_test(points_check_names_106328_and_556),
             cmocka_unit_test(grid_coordinates_are_divided_by_79))
