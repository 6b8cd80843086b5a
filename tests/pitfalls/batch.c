/** P6 batch: sample 0's coordinates or point mask used for every sample (spec.md 3.4). */
#include "../suite.h"

enum { S = 9, ROWS = 5 };

/** B samples, sample b with counts[b] points from token 2 on; `rank` 2 gives the coordinates as [N,3]. `first`: the sample taken as sample
 * 0. */
static mr3d_bundle *mixed_rope(const char *config, int64_t B, int64_t N, const int64_t *counts, int rank, int64_t first) {
  mr3d_bundle *r = request("mixed_rope", config);
  double *query = mr3d_bundle_add(r, "query", MR3D_F64, SHAPE(B, H, S, D))->data,
         *key = mr3d_bundle_add(r, "key", MR3D_F64, SHAPE(B, G, S, D))->data;
  for (int64_t i = 0; i < B * H * S * D; i++) query[i] = drawn(1, (uint64_t)(first * H * S * D + i));
  for (int64_t i = 0; i < B * G * S * D; i++) key[i] = drawn(2, (uint64_t)(first * G * S * D + i));
  bool *mask = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, SHAPE(B, S))->data;
  int64_t *coords = mr3d_bundle_add(r, "point_coords", MR3D_I64, rank, rank == 2 ? (int64_t[]){N, 3} : (int64_t[]){B, N, 3})->data;
  for (int64_t b = 0; b < B; b++) {
    for (int64_t k = 0; k < counts[b]; k++) mask[b * S + 2 + k] = true;
    for (int64_t k = 0; k < N * 3 && (rank == 3 || b == 0); k++)
      coords[b * N * 3 + k] = (int64_t)(40 + 39 * drawn(3, (uint64_t)((first + b) * ROWS * 3 + k)));
  }
  if (B > 1 && rank == 3) add_integers(r, "point_counts", counts, SHAPE(B));
  add_reals(r, "freqs_q", 2, SHAPE(3, H, F));
  add_reals(r, "axial_weights_q", 0, SHAPE(H, F, 3));
  add_reals(r, "freqs_kv", 2, SHAPE(3, G, F));
  add_reals(r, "axial_weights_kv", 0, SHAPE(G, F, 3));
  return r;
}

static void coordinates_n_3_and_1_n_3_mean_the_same_for_one_sample(void **state) {
  (void)state;
  const int64_t count = ROWS;
  mr3d_server *server = new_server();
  mr3d_bundle *flat = answer(server, mixed_rope(CONFIG, 1, ROWS, &count, 2, 0)),
              *batched = answer(server, mixed_rope(CONFIG, 1, ROWS, &count, 3, 0));
  assert_same(flat, batched);
  mr3d_bundle_free(&flat);
  mr3d_bundle_free(&batched);
  mr3d_server_free(&server);
}

static void coordinates_n_3_for_two_samples_are_refused(void **state) {
  (void)state;
  const int64_t counts[] = {ROWS, ROWS};
  mr3d_server *server = new_server();
  REFUSED(server, mixed_rope(CONFIG, 2, ROWS, counts, 2, 0), "point_coords", "[5,3]", "= 2");
  mr3d_server_free(&server);
}

/** Three samples with 5, 0 and 2 points, each also alone: the batch changes nothing. */
static void every_sample_of_a_batch_equals_itself_alone(void **state) {
  (void)state;
  const int64_t counts[] = {5, 0, 2};
  const char *const configs[] = {CONFIG, CONFIG_WITH("\"coord_norm\":\"unit_range\""),
                                 CONFIG_WITH("\"coord_norm\":\"none\",\"drift\":\"average\"")};
  mr3d_server *server = new_server();
  for (int c = 0; c < 3; c++) {
    mr3d_bundle *batch = answer(server, mixed_rope(configs[c], 3, ROWS, counts, 3, 0));
    for (int64_t b = 0; b < 3; b++) {
      mr3d_bundle *alone = answer(server, mixed_rope(configs[c], 1, counts[b], &counts[b], 3, b));
      assert_memory_equal(reals(batch, "query") + b * H * S * D, reals(alone, "query"), H * S * D * sizeof(double));
      assert_memory_equal(reals(batch, "key") + b * G * S * D, reals(alone, "key"), G * S * D * sizeof(double));
      mr3d_bundle_free(&alone);
    }
    mr3d_bundle_free(&batch);
  }
  mr3d_server_free(&server);
}

static void count_of_a_sample_is_checked_against_its_own_mask(void **state) {
  (void)state;
  const int64_t counts[] = {5, 3};
  mr3d_server *server = new_server();
  mr3d_bundle *r = mixed_rope(CONFIG, 2, ROWS, counts, 3, 0);
  ((int64_t *)mr3d_bundle_find(r, "point_counts")->data)[1] = 5; /* sample 0's */
  REFUSED(server, r, "5", "3");
  mr3d_server_free(&server);
}

PITFALL_TEST("batch", cmocka_unit_test(coordinates_n_3_and_1_n_3_mean_the_same_for_one_sample),
             cmocka_unit_test(coordinates_n_3_for_two_samples_are_refused), cmocka_unit_test(every_sample_of_a_batch_equals_itself_alone),
             cmocka_unit_test(count_of_a_sample_is_checked_against_its_own_mask))
