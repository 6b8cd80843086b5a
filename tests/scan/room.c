/** The room generator: the canonical scene, bit for bit, and its numbers (spec.md section 1). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mr3d/model.h"
#include "mr3d/ply.h"
#include "room.h"

static mr3d_bundle *scan_room(const mr3d_room_parameters *room) {
  mr3d_error error = {0};
  mr3d_bundle *scan = NULL;
  if (mr3d_room_scan(room, &scan, &error)) fail_msg("%s", error.message);
  return scan;
}

static void canonical_scene_is_the_committed_file_byte_for_byte(void **state) {
  (void)state;
  const mr3d_room_parameters room = mr3d_room_canonical();
  mr3d_bundle *scan = scan_room(&room);
  char path[] = "/tmp/mr3d-room-XXXXXX";
  assert_true(mkstemp(path) >= 0);
  mr3d_error error = {0};
  if (mr3d_ply_save(path, mr3d_bundle_find(scan, "points"), "MixedRoPE3D room, made by mr3d scene", &error)) fail_msg("%s", error.message);
  char committed[4096];
  snprintf(committed, sizeof committed, "%s/canonical.ply", getenv("MR3D_SCENE"));
  FILE *ours = fopen(path, "rb"), *theirs = fopen(committed, "rb");
  assert_non_null(ours);
  assert_non_null(theirs);
  long bytes = 0;
  for (int a, b;; bytes++) {
    a = getc(ours);
    b = getc(theirs);
    if (a != b) fail_msg("byte %ld is %d, the committed scene has %d", bytes, a, b);
    if (a == EOF) break;
  }
  assert_true(bytes > 15 * 106328);
  fclose(ours);
  fclose(theirs);
  remove(path);
  mr3d_bundle_free(&scan);
}

static void canonical_scene_has_106328_rows_and_556_tokens(void **state) {
  (void)state;
  const mr3d_room_parameters room = mr3d_room_canonical();
  mr3d_bundle *scan = scan_room(&room);
  const mr3d_tensor *points = mr3d_bundle_find(scan, "points");
  assert_int_equal(points->shape[0], 106328);
  mr3d_config config;
  mr3d_error error = {0};
  assert_int_equal(mr3d_config_parse("{}", &config, &error), MR3D_OK);
  const mr3d_context context = {.op = &mr3d_reference_operators};
  mr3d_voxelize_out cells = {0};
  mr3d_token_coords_out tokens = {0};
  assert_int_equal(mr3d_voxelize(&context, &config, 106328, 6, points->data, &cells, &error), MR3D_OK);
  assert_int_equal(mr3d_token_coords(&context, cells.M, cells.grid, config.downsamplings, &tokens, &error), MR3D_OK);
  assert_int_equal(tokens.N, 556);
  assert_true(cells.dropped > 1000);
  mr3d_voxelize_free(&cells);
  mr3d_token_coords_free(&tokens);
  mr3d_bundle_free(&scan);
}

static void rows_without_return_are_nan_or_infinity_and_others_lie_in_the_room(void **state) {
  (void)state;
  const mr3d_room_parameters room = mr3d_room_canonical();
  mr3d_bundle *scan = scan_room(&room);
  const double *row = mr3d_bundle_find(scan, "points")->data;
  const double size[3] = {room.length, room.width, room.height};
  int64_t nan = 0, infinite = 0;
  for (int64_t i = 0; i < room.rays; i++, row += 6) {
    if (isnan(row[0])) nan++;
    else if (isinf(row[0])) infinite++;
    for (int a = 0; a < 3; a++) {
      assert_true(isfinite(row[a]) == isfinite(row[0]));
      if (!isfinite(row[a])) continue;
      assert_true(row[a] > room.origin[a] - 0.1 && row[a] < room.origin[a] + size[a] + 0.1);
      assert_true(row[a] == (double)(float)row[a]);
      assert_true(row[3 + a] >= 0 && row[3 + a] <= 255 && row[3 + a] == floor(row[3 + a]));
    }
  }
  assert_true(nan > 500 && infinite > 500);
  mr3d_bundle_free(&scan);
}

static void another_seed_gives_another_scan_of_the_same_room(void **state) {
  (void)state;
  mr3d_room_parameters room = mr3d_room_canonical();
  room.rays = 2000;
  mr3d_bundle *first = scan_room(&room), *again = scan_room(&room);
  room.seed = 1;
  mr3d_bundle *other = scan_room(&room);
  const size_t size = 2000 * 6 * sizeof(double);
  assert_memory_equal(mr3d_bundle_find(first, "points")->data, mr3d_bundle_find(again, "points")->data, size);
  assert_memory_not_equal(mr3d_bundle_find(first, "points")->data, mr3d_bundle_find(other, "points")->data, size);
  mr3d_bundle_free(&first);
  mr3d_bundle_free(&again);
  mr3d_bundle_free(&other);
}

static void sizes_out_of_range_are_refused_with_the_number(void **state) {
  (void)state;
  mr3d_bundle *scan = NULL;
  mr3d_error error = {0};
  mr3d_room_parameters room = mr3d_room_canonical();
  room.width = NAN;
  assert_int_equal(mr3d_room_scan(&room, &scan, &error), MR3D_INVALID);
  assert_string_equal(error.message, "width is nan, expected 3 to 30");
  room = mr3d_room_canonical();
  room.rays = 0;
  assert_int_equal(mr3d_room_scan(&room, &scan, &error), MR3D_INVALID);
  assert_string_equal(error.message, "rays is 0, expected 1 to 1e+08");
  assert_null(scan);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(canonical_scene_is_the_committed_file_byte_for_byte),
      cmocka_unit_test(canonical_scene_has_106328_rows_and_556_tokens),
      cmocka_unit_test(rows_without_return_are_nan_or_infinity_and_others_lie_in_the_room),
      cmocka_unit_test(another_seed_gives_another_scan_of_the_same_room),
      cmocka_unit_test(sizes_out_of_range_are_refused_with_the_number),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
